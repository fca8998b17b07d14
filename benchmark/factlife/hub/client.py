"""Writing to the Hub: requests, their repetition, and what a refusal means. No torch.

Everything that is published goes in one commit on a known parent. What the Hub refuses becomes one
line: what, its status, and what to do. The token comes from HF_TOKEN or the login file and stays in
request headers; server texts, which could hold anything, are not shown.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from factlife.errors import FactlifeError, PartialError, SubmissionError, UsageError
from factlife.series import hub as reading

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSIENT = {408, 429, 500, 502, 503, 504}
ROUNDS = 5  # times that a commit is tried again on a newer parent


class MovedError(Exception):
    """The repo has moved on since it was read (412): read it again."""


@dataclass(frozen=True)
class Repo:
    """A repo on the Hub, and who asks.

    Attributes:
        kind: `dataset` or `space`.
        name: `ORG/NAME`.
    """

    api: HfApi
    kind: str
    name: str

    @property
    def what(self) -> str:
        """Its name in messages."""
        return f"{'data set' if self.kind == 'dataset' else self.kind} {self.name}"


def connect() -> HfApi:
    """A client with the token of HF_TOKEN or of the login file.

    Raises:
        UsageError: no token, or offline mode.
    """
    if reading.offline():
        raise UsageError(
            "the network is off (HF_HUB_OFFLINE): unset it to hand in, or look with --dry-run"
        )
    if get_token() is None:
        raise UsageError(
            "no token: log in with `hf auth login`, or set HF_TOKEN to one that may write "
            "(--dry-run needs none)"
        )
    return HfApi()


def user_name(api: HfApi) -> str:
    """Name of the account that the token belongs to. Raises as `ask`."""
    return str(ask(lambda: api.whoami(cache=True), "who the token belongs to")["name"])


def head(repo: Repo, revision: str = "main") -> str | None:
    """Commit of a branch or pull request; None where there is no such repo. Raises as `ask`."""

    def request() -> str | None:
        try:
            found = repo.api.repo_info(repo.name, repo_type=repo.kind, revision=revision)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return None
            raise
        return str(found.sha)

    return ask(request, repo.what)


def listed(repo: Repo, revision: str) -> dict[str, str]:
    """Path -> identity (see `identity`) of every file of a revision. Raises as `ask`."""
    entries = ask(
        lambda: list(
            repo.api.list_repo_tree(
                repo.name, repo_type=repo.kind, revision=revision, recursive=True
            )
        ),
        repo.what,
    )
    return {e.path: _listed_identity(e) for e in entries if isinstance(e, RepoFile)}


def looked_up(repo: Repo, paths: Sequence[str], revision: str) -> dict[str, str]:
    """Path -> identity of those of `paths` that a revision has. Raises as `ask`."""
    entries = ask(
        lambda: repo.api.get_paths_info(
            repo.name, list(paths), repo_type=repo.kind, revision=revision
        ),
        repo.what,
    )
    return {e.path: _listed_identity(e) for e in entries if isinstance(e, RepoFile)}


def _listed_identity(file: RepoFile) -> str:
    return file.lfs.sha256 if file.lfs else file.blob_id


def is_same(data: bytes, identity: str | None) -> bool:
    """Whether bytes are those of a listed file: sha256 in large-file storage, else git's sha1."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return identity in (blob, hashlib.sha256(data).hexdigest())


def commit(
    repo: Repo,
    files: Mapping[str, bytes],
    message: str,
    *,
    parent: str | None,
    removed: Sequence[str] = (),
    revision: str = "main",
    create_pr: bool = False,
    description: str = "",
) -> str:
    """Write files in one commit and return its address, or that of its pull request.

    The request itself is made once: whoever loses its answer must look whether it went through.

    Raises:
        MovedError: the parent is no longer the head.
        UsageError, SubmissionError, PartialError: as `ask`.
    """
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, data) for path, data in sorted(files.items())
    ]
    operations += [CommitOperationDelete(path) for path in removed]
    try:
        done = repo.api.create_commit(
            repo.name, operations, commit_message=message, commit_description=description,
            repo_type=repo.kind, revision=revision, create_pr=create_pr, parent_commit=parent,
        )  # fmt: skip
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = _cause(error)
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code == 412:
            raise MovedError from error
        raise explain(cause, repo.what) from error
    return str(done.pr_url or done.commit_url)


def _cause(error: Exception) -> Exception:
    """What an upload failed of: the client wraps it."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, Exception) else error


def on_newest(attempt: Callable[[], T], what: str) -> T:
    """Call `attempt` again while the repo moves under it. Raises PartialError if it never rests."""
    for wait in (*reading.WAITS, None)[:ROUNDS]:
        try:
            return attempt()
        except MovedError as error:
            if wait is None:
                raise PartialError(
                    f"{what} changes faster than it can be read (412); nothing was written: run "
                    "the same command again"
                ) from error
            log.info("%s has moved on (412); reading it again", what)
            time.sleep(wait)
    raise AssertionError("unreachable")


# ---- repetition and errors -------------------------------------------------------------------


def ask(request: Callable[[], T], what: str) -> T:
    """Make a request that changes nothing, again where that may help.

    Raises:
        UsageError: refused (401, 403, 404), or not to be asked that way.
        PartialError: busy (409, 429, 5xx) or out of reach; the same command goes on.
    """
    for wait in (*reading.WAITS, None):
        try:
            return request()
        except (httpx2.HTTPError, OSError, EntryNotFoundError, HFValidationError) as error:
            if wait is None or not _may_pass(error):
                raise explain(error, what) from error
            time.sleep(max(wait, _retry_after(error)))
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError))


def _retry_after(error: Exception) -> float:
    """Seconds that the answer asks to wait, within bounds; 0 where it says nothing."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    said = error.response.headers.get("Retry-After", "")
    return min(float(said), reading.LONGEST_WAIT) if said.isdigit() else 0.0


_REFUSED: Mapping[int, tuple[type[FactlifeError], str]] = {
    400: (
        SubmissionError,
        "the Hub takes the files for invalid (400): see that the README's header and the names of "
        "the files are what the Hub allows",
    ),
    401: (
        UsageError,
        "the Hub does not know the token (401): log in with `hf auth login`, or set HF_TOKEN to a "
        "valid one",
    ),
    403: (
        UsageError,
        "the token may not write there (403): make one with the right to write and to open pull "
        "requests, or ask the repo's owners",
    ),
    404: (
        UsageError,
        "no such repo on the Hub, or none that the token may see (404): check its name",
    ),
    409: (
        PartialError,
        "the Hub is busy with another change of it (409); nothing was half written: run the same "
        "command again",
    ),
    413: (SubmissionError, "the files are too large for the Hub (413): hand in fewer"),
    429: (
        PartialError,
        "the Hub asks to slow down (429); nothing was half written: run the same command "
        "again{wait}",
    ),
}


def explain(error: Exception, what: str) -> FactlifeError:
    """One line about a failed request. Server texts and headers stay out of it."""
    if isinstance(error, HFValidationError):
        return UsageError(f"{what}: that is no name on the Hub: give ORG/NAME")
    if isinstance(error, HfHubHTTPError):
        status, wait = error.response.status_code, _retry_after(error)
        later = f" in {wait:.0f} s" if wait else " later"
        if known := _REFUSED.get(status):
            return known[0](f"{what}: {known[1].format(wait=later)}")
        return PartialError(
            f"{what}: the Hub answers {status}; nothing was half written: run the same command "
            f"again{later}"
        )
    if isinstance(error, ValueError):
        return SubmissionError(
            f"{what}: the Hub does not take the README's header, or the upload, as it is "
            f"({_first_line(error)}): mend it"
        )
    return PartialError(
        f"{what}: the connection to {constants.ENDPOINT} broke ({type(error).__name__}); nothing "
        "was half written: run the same command again, what was uploaded is kept"
    )


def _first_line(error: Exception) -> str:
    """The client's own first words, which are no text of the server."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
