"""Publish a folder as one repo on the Hub: a data set, or the leaderboard's Space.

What lies in the folder is what the repo holds afterwards: one commit adds, replaces and removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, RepoCard

from factlife.corpora import build
from factlife.errors import PartialError, SubmissionError, UsageError
from factlife.hub import client
from factlife.hub.client import Repo, ask
from factlife.hub.submission import HUB_NAME, check_repo_id

CARD = "README.md"
OWN = (".gitattributes",)  # files that the Hub itself puts into a repo
LARGEST = 1 << 30  # bytes of one file


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        status: `dry run`, `there` (nothing differed) or `pushed`.
        url: of the commit, or of the repo.
        files: path -> bytes, all that the repo holds afterwards.
        changed, removed: paths of the commit.
    """

    repo: str
    status: str
    url: str
    files: Mapping[str, int]
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def push_data_sets(
    root: Path, to: str, names: Sequence[str] | None = None, *, dry_run: bool = False
) -> list[Pushed]:
    """Publish data sets as `to/<name>`, each in one commit, after their suites have passed.

    Args:
        root: the folder of the data sets.
        to: organisation or account on the Hub.
        names: which; None publishes all.

    Raises:
        UsageError: no such data set, no token, or no right to write.
        IntegrityError: a check of a suite does not hold.
        SubmissionError: a card whose header is not to the Hub's format.
        PartialError: the Hub is busy or out of reach; the same command goes on.
    """
    if not HUB_NAME.fullmatch(to):
        raise UsageError(f"--to {to!r} is no account on the Hub: give its name alone")
    checked = build.validate(root, names)
    folders = {name: folder_files(root / name) for name in checked}
    for name, files in folders.items():
        check_data_set_card(files, root / name)
    if dry_run:
        return [_dry(f"{to}/{name}", files) for name, files in folders.items()]
    api = client.connect()
    return [
        push(Repo(api, "dataset", f"{to}/{name}"), files, f"Publish {name}")
        for name, files in folders.items()
    ]


def push_space(folder: Path, to: str, *, dry_run: bool = False) -> Pushed:
    """Publish the static leaderboard as the Space `to`, in one commit.

    Raises:
        UsageError: no page in the folder, no token, or no right to write.
        SubmissionError: a README whose header does not say `sdk: static`.
        PartialError: the Hub is busy or out of reach; the same command goes on.
    """
    check_repo_id(to, "--to")
    if not (folder / "index.html").is_file():
        raise UsageError(
            f"{folder} holds no index.html: make it with `factlife leaderboard build RESULTS "
            f"--out {folder}`"
        )
    files = folder_files(folder)
    if _header(RepoCard, files, folder).get("sdk") != "static":
        raise SubmissionError(f"{folder / CARD}: /sdk: is not `static`; write `sdk: static`")
    if dry_run:
        return _dry(to, files)
    return push(Repo(client.connect(), "space", to), files, "Publish the leaderboard")


def _dry(repo: str, files: Mapping[str, bytes]) -> Pushed:
    return Pushed(repo, "dry run", "", _sizes(files), tuple(files))


def _sizes(files: Mapping[str, bytes]) -> dict[str, int]:
    return {path: len(data) for path, data in files.items()}


def folder_files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by path.

    Raises:
        UsageError: no such folder.
        SubmissionError: a link, a hidden file, or one that is too large.
    """
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise SubmissionError(f"{path}: /: is a link; put the file itself there")
        if path.is_dir():
            continue
        if any(part.startswith(".") for part in Path(name).parts):
            raise SubmissionError(f"{path}: /: is hidden; move it away")
        if path.stat().st_size > LARGEST:
            raise SubmissionError(f"{path}: /: is larger than {LARGEST:,} bytes; split it")
        found[name] = path.read_bytes()
    return found


def check_data_set_card(files: Mapping[str, bytes], folder: Path) -> None:
    """Check a card's header: the Hub's own form, and that it names the files that are there.

    Raises:
        SubmissionError: says file, JSON pointer, what and how to mend.
    """
    header = _header(DatasetCard, files, folder)
    again = f"make it with `factlife datasets build {folder.name}`"
    for key in ("license", "pretty_name", "configs", "dataset_info"):
        if not header.get(key):
            raise SubmissionError(f"{folder / CARD}: /{key}: is missing; {again}")
    for i, config in enumerate(header["configs"]):
        for j, part in enumerate(config["data_files"]):
            if part["path"] not in files:
                at = f"/configs/{i}/data_files/{j}/path"
                raise SubmissionError(
                    f"{folder / CARD}: {at}: names {part['path']!r}, which is not there; {again}"
                )


def _header(kind: type[RepoCard], files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """The card's header as the Hub's own client reads it."""
    if CARD not in files:
        raise SubmissionError(f"{folder / CARD}: /: is missing; the Hub needs a card")
    try:
        data: Any = kind(files[CARD].decode()).data
        header: dict[str, Any] = data.to_dict()
    except Exception as error:  # the YAML reader has errors of its own
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SubmissionError(
            f"{folder / CARD}: /: its header is not what the Hub reads ({words}); mend the YAML "
            "between the two lines of three dashes"
        ) from error
    return header


# ---- one commit ------------------------------------------------------------------------------


def push(repo: Repo, files: Mapping[str, bytes], message: str) -> Pushed:
    """Make a repo hold exactly these files, in one commit; make the repo if it is not there.

    Raises:
        UsageError, SubmissionError, PartialError: as `client.ask`.
    """

    def attempt() -> Pushed:
        parent = client.head(repo)
        if parent is None:
            _create(repo)
            parent = client.head(repo)
        changed, removed = _difference(repo, files, parent)
        if not changed and not removed:
            return Pushed(repo.name, "there", _address(repo), _sizes(files))
        url = _commit(repo, {p: files[p] for p in changed}, removed, parent, files, message)
        return Pushed(repo.name, "pushed", url, _sizes(files), tuple(changed), tuple(removed))

    return client.on_newest(attempt, repo.what)


def _commit(
    repo: Repo,
    changed: Mapping[str, bytes],
    removed: list[str],
    parent: str | None,
    files: Mapping[str, bytes],
    message: str,
) -> str:
    try:
        return client.commit(repo, changed, message, parent=parent, removed=removed)
    except PartialError:
        # The answer may be lost after the commit was made.
        now = client.head(repo)
        if now == parent or any(_difference(repo, files, now)):
            raise
        return _address(repo)


def _difference(
    repo: Repo, files: Mapping[str, bytes], revision: str | None
) -> tuple[list[str], list[str]]:
    """Paths to write and paths to remove, so that the revision holds these files."""
    held = client.listed(repo, revision) if revision else {}
    changed = [p for p, data in files.items() if not client.is_same(data, held.get(p))]
    return changed, sorted(set(held) - set(files) - set(OWN))


def _create(repo: Repo) -> None:
    sdk = "static" if repo.kind == "space" else None
    ask(
        lambda: repo.api.create_repo(repo.name, repo_type=repo.kind, exist_ok=True, space_sdk=sdk),
        repo.what,
    )


def _address(repo: Repo) -> str:
    return f"{repo.api.endpoint}/{repo.kind}s/{repo.name}"
