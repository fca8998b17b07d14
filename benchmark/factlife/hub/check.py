"""Check a results repo as CI does, on any machine: `factlife leaderboard check FOLDER`.

A results repo holds results and nothing that runs:

    README.md  .gitattributes  LICENSE
    results/<model>/<series id>/<protocol hash>/{result.json, scores.parquet, transitions.parquet}

With the folder as it was before (`base`), the change is checked too: a pull request adds rows, or
changes rows of its own author; it touches nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from factlife.errors import UsageError
from factlife.hub.protocol import profile_problems
from factlife.hub.submission import (
    LARGEST,
    RESULT,
    ROOT,
    contents_problems,
    folder_of,
    is_result_folder,
    read_result,
    series_id,
)
from factlife.result import Problem

OTHERS = {"README.md", ".gitattributes", "LICENSE"}
SKIPPED = {".git", ".cache"}  # of git and of the Hub's downloader, never part of a commit
LARGEST_OTHER = 1 << 20  # bytes


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        results: folders of results that were read.
        problems: sorted by file; empty where all is well.
    """

    results: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_results(folder: Path, base: Path | None = None, author: str | None = None) -> Checked:
    """Check a results repo, and what it changes in `base`.

    Args:
        folder: a checkout of the repo, or of a pull request to it.
        base: a checkout of what it is to be merged into.
        author: account that asks for the change; its own rows it may replace.

    Raises:
        UsageError: no such folder.
    """
    paths, problems = _walk(folder)
    folders = sorted({p.rpartition("/")[0] for p in paths if p.endswith(f"/{RESULT}")})
    results: dict[str, dict[str, Any]] = {}
    for place in folders:
        result, found = _check_one(folder, place, [p for p in paths if _inside(p, place)])
        problems += found
        if result:
            results[place] = result
    problems += _stray_tables(paths, folders)
    problems += _duplicates(results)
    if base is not None:
        problems += _change(folder, base, author, results)
    ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.pointer, p.what))
    return Checked(tuple(folders), tuple(ordered))


def _inside(path: str, folder: str) -> bool:
    return path.rpartition("/")[0] == folder


def _walk(folder: Path) -> tuple[list[str], list[Problem]]:
    """Paths of files that may be there, and a problem for each that may not."""
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; give a checkout of the results repo")
    kept, problems = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in SKIPPED or (path.is_dir() and not path.is_symlink()):
            continue
        if found := _unwanted(path, name):
            problems.append(found)
        else:
            kept.append(name)
    return kept, problems


def _unwanted(path: Path, name: str) -> Problem | None:
    """Why a file may not be in a results repo; None where it may."""
    if path.is_symlink() or not path.is_file():
        return Problem(name, "", "is a link or no plain file", "put the file itself there")
    if name in OTHERS:
        largest = LARGEST_OTHER
    elif is_result_folder(str(PurePosixPath(name).parent)) and path.name in LARGEST:
        largest = LARGEST[path.name]
    else:
        what = "is no file of a result"
        mend = f"a result is {ROOT}/MODEL/SERIES/PROTOCOL/{{{', '.join(LARGEST)}}}: remove it"
        return Problem(name, "", what, mend)
    if (size := path.stat().st_size) > largest:
        return Problem(name, "", f"{size:,} bytes are more than {largest:,}", "make it smaller")
    return None


def _check_one(
    folder: Path, place: str, paths: list[str]
) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Read one result and check it with the files beside it."""
    file = f"{place}/{RESULT}"
    result, found = read_result((folder / file).read_bytes(), file)
    if found:
        return None, found
    files = {PurePosixPath(p).name: (folder / p).read_bytes() for p in paths}
    found = [*contents_problems(result, files, place), *profile_problems(result, file)]
    if result["submitter"] is None:
        found.append(Problem(file, "/submitter", "is null", "hand it in with `factlife submit`"))
    if (expected := folder_of(result)) != place:
        found.append(Problem(file, "", f"belongs into {expected}", "move the folder there"))
    return result, found


def _stray_tables(paths: list[str], folders: list[str]) -> Iterator[Problem]:
    for path in paths:
        if path not in OTHERS and path.rpartition("/")[0] not in folders:
            yield Problem(path, "", f"there is no {RESULT} beside it", "add it, or remove the file")


def _duplicates(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """One row for the same weights under the same protocol, whatever the model is called."""
    first: dict[tuple[str, str], str] = {}
    for place, result in sorted(results.items()):
        key = (series_id(result), str(result["protocol"]["hash"]))
        if key in first:
            what = f"repeats {first[key]}: the same weights under the same protocol"
            yield Problem(f"{place}/{RESULT}", "", what, "remove it")
        first.setdefault(key, place)


# ---- the change ------------------------------------------------------------------------------


def _change(
    folder: Path, base: Path, author: str | None, results: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """What a pull request may not do to what was there."""
    before, _ = _walk(base)
    for name in before:
        new = folder / name
        if new.is_file() and new.read_bytes() == (base / name).read_bytes():
            continue
        owner = _owner(base / PurePosixPath(name).parent / RESULT, name)
        if owner is not None and owner == author and new.is_file():
            continue  # a row that its own submitter brings up to date
        what = "was changed" if new.is_file() else "was removed"
        whose = f", a file of {owner}'s result" if owner else ""
        yield Problem(name, "", what + whose, "leave what was there as it was")
    for name in sorted(set(_walk(folder)[0]) - set(before)):
        if name in OTHERS:
            yield Problem(name, "", "is no part of a result", "leave it out")
    for place, result in results.items():
        added = f"{place}/{RESULT}" not in before
        if author is not None and added and result["submitter"] != author:
            what = f"says {result['submitter']!r}, the change is {author!r}'s"
            yield Problem(f"{place}/{RESULT}", "/submitter", what, "hand in your own runs")


def _owner(result: Path, name: str) -> str | None:
    """Who handed in the result that a file of the base belongs to."""
    if name in OTHERS or not result.is_file():
        return None
    found, _ = read_result(result.read_bytes(), name)
    owner = found.get("submitter") if isinstance(found, dict) else None
    return owner if isinstance(owner, str) else None
