"""Any form of a series -> ordered, pinned revisions. No torch.

FOLDER or FILE.toml               see `series.local`
ORG/NAME                          branches and tags of a Hub repo; offline, of its copy in the cache
…/models--ORG--NAME               a repo in a Hugging Face cache, read without the network
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from factlife.errors import FactlifeError, UsageError
from factlife.series import hub
from factlife.series.integrity import weight_files
from factlife.series.local import (
    SERIES_FILE,
    Revision,
    Series,
    gaps,
    open_series,
    ordered,
    read_series_toml,
)
from factlife.series.names import parse_name
from factlife.series.registry import tokens_of
from factlife.series.survey import settle_main

CACHE_PREFIX = "models--"


def find_series(source: str) -> Series:
    """Find the revisions of a series in any form; only names and commits are read.

    Raises:
        UsageError: no such folder, repo or file; no right to read it; names that say no step.
        PartialError: the Hub does not answer.
    """
    path = Path(source)
    if path.suffix == ".toml":
        return read_series_toml(path, _pin)
    if path.is_dir():
        if (path / SERIES_FILE).is_file():
            return read_series_toml(path / SERIES_FILE, _pin)
        return settle_main(_cached_folder(path)) if _is_cache(path) else open_series(source)
    if path.exists() or not hub.REPO_ID.fullmatch(source):
        return open_series(source)
    return settle_main(_cached_repo(source) if hub.offline() else _hub_repo(source))


def _pin(repo: str, revision: str) -> tuple[str, Path, bool]:
    """Commit and folder of an entry in a series file; offline, from the cache."""
    if not hub.offline():
        sha = hub.resolve(repo, revision)
        return sha, hub.snapshot(repo, sha), True
    refs = cached_refs(hub.storage(repo))
    sha = refs.get(revision, revision)
    folder = hub.snapshot(repo, sha)
    if not folder.is_dir():
        raise UsageError(
            f"{repo}@{revision} is not in the cache {hub.cache_folder()}, and the network is off: "
            "download it first, or run without --offline and HF_HUB_OFFLINE"
        )
    return sha, folder, False


# ---- on the Hub ------------------------------------------------------------------------------


def _hub_repo(repo: str) -> Series:
    refs = hub.list_refs(repo)
    found = [
        _from_ref(repo, name, sha, hub.snapshot(repo, sha), True) for name, sha in refs.items()
    ]
    return _series(repo, repo, [r for r in found if r], sorted(set(refs)))


def _from_ref(repo: str, name: str, sha: str, folder: Path, remote: bool) -> Revision | None:
    """A revision from a branch or tag; None if the name says no place and is not `main`."""
    parsed = parse_name(name)
    if parsed is None:
        if name != "main":
            return None
        return Revision(name, repo, folder, "main", None, None, "unknown", sha, remote)
    tokens, source = tokens_of(parsed, repo)
    return Revision(
        name, repo, folder, parsed.stage, parsed.step, tokens, source, sha, remote
    )  # fmt: skip


def _series(name: str, source: str, found: list[Revision], refs: list[str]) -> Series:
    """Order what was found; `main` comes last, or is an alias where its commit says so.

    Raises:
        UsageError: no revision at all.
    """
    main = next((r for r in found if r.name == "main"), None)
    placed = ordered(_one_per_place([r for r in found if r.name != "main"]))
    if main is None and not placed:
        raise UsageError(
            f"{source} has no revision whose name says a step, and no main: see {refs}"
        )
    unread = [n for n in refs if n != "main" and parse_name(n) is None]
    warnings = list(gaps(placed))
    if unread:
        shown = ", ".join(unread[:5]) + (" …" if len(unread) > 5 else "")
        warnings.append(
            f"{len(unread)} names say no step and were left out ({shown}): list them in a series "
            ".toml file if they belong to the series"
        )
    if main is not None:
        placed = _with_main(placed, main)
    return Series(name, source, placed, warnings=tuple(warnings))


def _one_per_place(revisions: list[Revision]) -> list[Revision]:
    """Fold names of one place and one commit (a tag beside a branch) into one revision."""
    kept: dict[tuple[str, str, str | None], Revision] = {}
    for r in sorted(revisions, key=lambda r: r.name):
        key = (r.stage, str(r.partition["step"]), r.commit_sha)
        if key in kept:
            kept[key] = replace(kept[key], aliases=(*kept[key].aliases, r.name))
        else:
            kept[key] = r
    return list(kept.values())


def _with_main(placed: tuple[Revision, ...], main: Revision) -> tuple[Revision, ...]:
    """Append main, unless a revision has its commit."""
    same = [i for i, r in enumerate(placed) if r.commit_sha == main.commit_sha]
    if not same:
        return (*placed, main)
    last = same[-1]
    alias = replace(placed[last], aliases=(*placed[last].aliases, main.name))
    return (*placed[:last], alias, *placed[last + 1 :])


# ---- in a cache ------------------------------------------------------------------------------


def _is_cache(path: Path) -> bool:
    return path.name.startswith(CACHE_PREFIX) and (path / "snapshots").is_dir()


def _cached_repo(repo: str) -> Series:
    folder = hub.storage(repo)
    if not (folder / "snapshots").is_dir():
        raise UsageError(
            f"{repo} is not in the cache {hub.cache_folder()}, and the network is off (offline "
            "mode): download it first, or run without --offline and HF_HUB_OFFLINE"
        )
    return _cached_folder(folder, repo)


def _cached_folder(folder: Path, repo: str = "") -> Series:
    repo = repo or "/".join(folder.name.removeprefix(CACHE_PREFIX).split("--"))
    refs = cached_refs(folder)
    whole = {n: s for n, s in refs.items() if _complete(folder / "snapshots" / s)}
    found = [_from_ref(repo, n, s, folder / "snapshots" / s, False) for n, s in whole.items()]
    kept = [r for r in found if r]
    if not kept:
        raise UsageError(
            f"{folder} holds no complete checkpoint under a branch or tag: download one with "
            "`factlife run --keep-cache` or `hf download`"
        )
    series = _series(repo, str(folder), kept, sorted(whole))
    missing = len(refs) - len(whole)
    note = (f"{missing} revisions are in the cache without their weights: left out",)
    return replace(series, warnings=series.warnings + note) if missing else series


def cached_refs(folder: Path) -> dict[str, str]:
    """Branches and tags that a repo's cache folder knows, with their commits."""
    files = sorted(p for p in (folder / "refs").rglob("*") if p.is_file())
    return {p.relative_to(folder / "refs").as_posix(): p.read_text("utf-8").strip() for p in files}


def _complete(snapshot: Path) -> bool:
    """Whether a snapshot has its config and all of its weights."""
    if not (snapshot / "config.json").is_file():
        return False
    try:
        return bool(weight_files(snapshot, allow_pickle=True))
    except FactlifeError:
        return False
