"""Everything that is asked of a Hugging Face Hub, and what its answers mean. No torch.

A request is repeated where that may help (429, 5xx, a cut connection, a short file); what is
left is one line: refused (401, 403), not there (404), or not answering (the same command goes on).
The token comes from HF_TOKEN or the login file, goes into request headers, and nowhere else.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile

from factlife.errors import FactlifeError, IntegrityError, PartialError, UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
SHA = re.compile(r"[0-9a-f]{40}")
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each repetition
LONGEST_WAIT = 120.0  # seconds of Retry-After that are obeyed
_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repo, as its listing says.

    Attributes:
        path: inside the repo.
        size: bytes.
        identity: sha256 of a file in large-file storage; of a small one the `git:` blob id.
    """

    path: str
    size: int
    identity: str


def offline() -> bool:
    """Whether the network is off limits (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    words = (os.environ.get(n, "") for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(w.upper() in {"1", "ON", "YES", "TRUE"} for w in words)


def cache_folder() -> Path:
    """The Hugging Face cache (HF_HUB_CACHE)."""
    return Path(constants.HF_HUB_CACHE)


def storage(repo: str) -> Path:
    """A model repo's folder in the cache."""
    return cache_folder() / repo_folder_name(repo_id=repo, repo_type="model")


def snapshot(repo: str, sha: str) -> Path:
    """Where a commit's files lie in the cache, there or not."""
    return storage(repo) / "snapshots" / sha


def list_refs(repo: str) -> dict[str, str]:
    """Branches and tags with their commits; a branch wins over a tag of its name.

    Raises:
        UsageError: no such repo, or no right to read it.
        PartialError: the Hub does not answer.
    """
    refs = ask(lambda: HfApi().list_repo_refs(repo), repo)
    return {r.name: r.target_commit for r in [*refs.tags, *refs.branches]}


def resolve(repo: str, revision: str) -> str:
    """The commit that a branch, tag or commit stands for. Raises as `list_refs`."""
    if SHA.fullmatch(revision):
        return revision
    info = ask(lambda: HfApi().model_info(repo, revision=revision), f"{repo}@{revision}")
    if info.sha is None:
        raise IntegrityError(f"{repo}@{revision}: the Hub names no commit: report it to its owner")
    return info.sha


def list_files(repo: str, sha: str) -> tuple[RemoteFile, ...]:
    """Every file of a commit with size and hash. Raises as `list_refs`."""
    entries = ask(
        lambda: list(HfApi().list_repo_tree(repo, revision=sha, recursive=True)), f"{repo}@{sha}"
    )
    files = [e for e in entries if isinstance(e, RepoFile)]
    return tuple(
        RemoteFile(f.path, f.size, f.lfs.sha256 if f.lfs else f"git:{f.blob_id}")
        for f in sorted(files, key=lambda f: f.path)
    )


def download(repo: str, sha: str, file: RemoteFile) -> Path:
    """Fetch one file into the cache; what is there already is not fetched again.

    Raises:
        UsageError: no right to read it.
        IntegrityError: the Hub serves another number of bytes than it lists.
        PartialError: the Hub does not answer, or the disk is full.
    """
    where = f"{repo}@{sha[:12]}/{file.path}"
    pointer = snapshot(repo, sha) / file.path
    if _linked(pointer, storage(repo) / "blobs" / file.identity.removeprefix("git:"), file.size):
        return pointer
    path = Path(ask(lambda: hf_hub_download(repo, file.path, revision=sha), where))
    if (found := path.stat().st_size) != file.size:
        remove(path)
        raise IntegrityError(
            f"{where}: the Hub serves {found} bytes and lists {file.size}: run the same command "
            "again; if it stays so, report it to the repo's owner"
        )
    return path


def _linked(pointer: Path, blob: Path, size: int) -> bool:
    """Link contents that another snapshot has brought already; most configs and tokenizers are.

    The cache names a blob by its hash, which the listing states: no request is needed.
    """
    if pointer.exists():
        return pointer.stat().st_size == size
    if not blob.is_file() or blob.stat().st_size != size:
        return False
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a file system without links
        return False
    return True


def remove(pointer: Path) -> None:
    """Remove a cached file; its blob too, unless another snapshot uses it."""
    blob = pointer.resolve()
    pointer.unlink(missing_ok=True)
    shared = any(p.resolve() == blob for p in pointer.parents[1].glob(f"*/{pointer.name}"))
    if blob != pointer and blob.parent.name == "blobs" and not shared:
        blob.unlink(missing_ok=True)


# ---- repetition and errors -------------------------------------------------------------------


def ask(request: Callable[[], T], what: str) -> T:
    """Make a request, again where that may help. `what` names it in messages.

    Raises:
        UsageError, IntegrityError or PartialError: see `explain`.
    """
    if offline():
        raise UsageError(
            f"{what} is not in the cache {cache_folder()}, and the network is off (offline mode): "
            "download it first, or run without --offline and HF_HUB_OFFLINE"
        )
    for wait in (*WAITS, None):
        try:
            return request()
        except (httpx2.HTTPError, OSError, EntryNotFoundError, HFValidationError) as error:
            if wait is None or not _may_help(error):
                raise explain(error, what) from error
            log.info("%s: %s; once more", what, type(error).__name__)
            time.sleep(max(wait, _retry_after(error)))
    raise AssertionError("unreachable")


def _may_help(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        return False
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError)):
        return False  # huggingface_hub has already repeated it
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError)) or (
        "Consistency check failed" in str(error)
    )


def _retry_after(error: Exception) -> float:
    """Seconds that the answer asks to wait, within bounds; 0 where it says nothing."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    said = error.response.headers.get("Retry-After", "")
    return min(float(said), LONGEST_WAIT) if said.isdigit() else 0.0


def explain(error: Exception, what: str) -> FactlifeError:
    """One line about a failed request. Server texts and headers stay out of it."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return explain(error.__cause__, what)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return PartialError(
            f"{what}: no space left in the cache {cache_folder()}; finished parts are kept: free "
            "space or set HF_HOME to another disk, then run the same command again"
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            f"{what}: cannot write in the cache {cache_folder()} ({error.strerror}): mend the "
            "rights, or set HF_HOME to another folder"
        )
    if isinstance(error, HFValidationError):
        return UsageError(f"{what} is no repo id: give ORG/NAME")
    if isinstance(error, HfHubHTTPError):
        return _refused(error, what)
    if "Consistency check failed" in str(error):
        return IntegrityError(
            f"{what}: the Hub serves fewer bytes than it announces; finished parts are kept: run "
            "the same command again; if it stays so, report it to the repo's owner"
        )
    return PartialError(
        f"{what}: the Hub cannot be reached at {constants.ENDPOINT} ({type(error).__name__}); "
        "finished parts are kept: check the connection, then run the same command again"
    )


def _refused(error: HfHubHTTPError, what: str) -> FactlifeError:
    """The line for an answer that is no success, by status and error code."""
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"{what}: no such revision on the Hub (404): see `factlife series list`")
    if isinstance(error, RemoteEntryNotFoundError):
        return IntegrityError(f"{what}: the Hub lists this file but does not serve it (404)")
    if isinstance(error, GatedRepoError) and status == 401:
        return UsageError(
            f"{what} is gated (401): accept its terms on its page on the Hub, then set HF_TOKEN to "
            "a token of that account"
        )
    if isinstance(error, GatedRepoError) or status == 403:
        return UsageError(
            f"{what}: this token may not read it (403): ask for access on the repo's page, or give "
            "the token the right to read gated repos"
        )
    if isinstance(error, DisabledRepoError):
        return UsageError(f"{what}: the Hub has disabled this repo ({status})")
    if status == 401:
        return UsageError(
            f"{what}: the Hub wants to know who asks (401): the repo is private, its name is "
            "wrong, or HF_TOKEN is not valid"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return UsageError(f"{what}: no such repo on the Hub (404): check its name")
    return PartialError(
        f"{what}: the Hub answers {status}; finished parts are kept: run the same command again "
        "later"
    )
