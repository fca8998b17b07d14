"""Is a result, a run, a data set or a results folder what it claims to be? No model, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factlife.errors import SubmissionError, UsageError
from factlife.hub.check import check_results
from factlife.hub.submission import (
    RESULT,
    TABLE_FILES,
    contents_problems,
    counted,
    is_result_folder,
    read_result,
)
from factlife.result import Problem
from factlife.schema import TABLES
from factlife.store import MANIFEST, RunStore

SUITE = "expectations.json"


@dataclass(frozen=True)
class Validated:
    """What was looked at, and what is wrong with it.

    Attributes:
        kind: `result`, `run`, `data set`, `results` or `results repo`.
        checked: how many results, or checks of a data set, were gone through.
        protocol: protocol hash of a single result.
    """

    kind: str
    checked: int
    problems: tuple[Problem, ...] = ()
    protocol: str | None = None


def examine(path: Path) -> Validated:
    """Check whatever lies at a path against its published format.

    A result.json, a run folder, a data set (a folder with its suite), a results repo (a folder
    with `results/`), or any folder of results.

    Raises:
        UsageError: no such path, or nothing of these in it.
        SubmissionError: a single result or run that is not to the format.
        IntegrityError: a part whose checksum is wrong; a data set whose suite does not hold.
    """
    bare = path.is_dir() and not (path / RESULT).is_file() and not (path / MANIFEST).is_file()
    files = sorted(path.rglob(RESULT)) if bare else []
    if bare and (path / SUITE).is_file():
        return Validated("data set", _data_set(path))
    if any(is_result_folder(f.parent.relative_to(path).as_posix()) for f in files):
        found = check_results(path)
        return Validated("results repo", len(found.results), found.problems)
    if files:
        return _results(files)
    result = validate(path)
    kind = "run" if (path / MANIFEST).is_file() else "result"
    return Validated(kind, 1, protocol=result["protocol"]["hash"])


def _data_set(folder: Path) -> int:
    from factlife.corpora import build

    name = folder.resolve().name
    return build.validate(folder.resolve().parent, [name])[name]


def _results(files: list[Path]) -> Validated:
    """Every result under a folder, wherever it lies; not as strict as a results repo."""
    problems: list[Problem] = []
    for file in files:
        problems += _result_problems(file)[1]
    return Validated("results", len(files), tuple(problems))


def _result_problems(file: Path) -> tuple[dict[str, Any], list[Problem]]:
    """A result and what is wrong with it and with the tables that lie beside it."""
    try:
        result, found = read_result(file.read_bytes(), str(file))
    except OSError as error:
        return {}, [Problem(str(file), "", f"not readable ({error.strerror})", "mend the rights")]
    beside = {n: file.with_name(n).read_bytes() for n in _beside(file)}
    if not found and beside:
        found = contents_problems(result, {RESULT: file.read_bytes(), **beside}, str(file.parent))
    return result, found


def _beside(file: Path) -> list[str]:
    return [n for n in TABLE_FILES.values() if file.with_name(n).is_file()]


def validate(path: Path) -> dict[str, Any]:
    """Check a result.json with what lies beside it, or a run folder against its result.json.

    Returns:
        The validated result.

    Raises:
        UsageError: no such path.
        SubmissionError: not to the format, or the tables are not those the result names.
        IntegrityError: a part whose checksum is wrong.
    """
    if not path.exists():
        raise UsageError(
            f"no such file or folder: {path}; give a result.json, a run folder, a data set or a "
            "folder of results"
        )
    file = path if path.is_file() else path / RESULT
    if not file.is_file():
        hint = "run `factlife score` on it" if (path / MANIFEST).is_file() else "give a run folder"
        raise SubmissionError(f"{path}: it has no {RESULT}; {hint}")
    result, found = _result_problems(file)
    if found:
        raise SubmissionError(counted(found))
    if path.is_dir() and (path / MANIFEST).is_file():
        _check_tables(RunStore(path), result, path)
    return result


def _check_tables(store: RunStore, result: dict[str, Any], path: Path) -> None:
    for name, claimed in result["tables"].items():
        where = f"{path / RESULT}: /tables/{name}"
        if name not in TABLES:
            raise SubmissionError(f"{where}: no such table; known: {', '.join(TABLES)}")
        store.read(name)  # every checksum and every schema
        found = store.digest(name)
        for key in ("path", "rows", "sha256"):
            if found[key] != claimed[key]:
                raise SubmissionError(
                    f"{where}/{key}: says {claimed[key]}, the folder has {found[key]}; "
                    "run `factlife score` on the folder and hand in its result.json unchanged"
                )
