"""Hand in a result: one commit, as a pull request, and never twice.

1. Read the run and check it, as CI and the board do (`submission`).
2. Look whether the results repo has it, or an open pull request of the same account does.
3. Otherwise open a pull request in one commit on the head that was read.

A broken connection leaves nothing by halves: the same command looks again and goes on. Large files
that were uploaded are known to the Hub by their sha256 and are not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from factlife.errors import PartialError, SubmissionError, UsageError
from factlife.hub import client
from factlife.hub.client import Repo, ask
from factlife.hub.submission import RESULT, Submission, check_repo_id, prepare, read_result


@dataclass(frozen=True)
class Outcome:
    """What came of a submission.

    Attributes:
        status: `dry run`, `there` (in the repo already), `waiting` (in an open pull request),
            `opened`, or `updated` (an open pull request got the new files).
        url: of the pull request, or of the folder that is there.
        files: path in the repo -> bytes.
        notes: what the submitter should know.
    """

    status: str
    url: str
    folder: str
    files: Mapping[str, int]
    notes: tuple[str, ...] = ()


def submit(run: Path, to: str, *, dry_run: bool = False) -> Outcome:
    """Check a run and hand it in to the results repo `to`.

    Raises:
        UsageError: no run folder, no token, no such repo, or no right to write.
        SubmissionError: not to the format, or the place is another account's.
        IntegrityError: a table whose checksum is wrong.
        PartialError: the Hub is busy or out of reach; the same command goes on.
    """
    check_repo_id(to, "--to")
    made = prepare(run, None)
    if dry_run:
        return _outcome("dry run", "", made)
    api = client.connect()
    name = client.user_name(api)
    return hand_in(api, prepare(run, name), to, name)


def hand_in(api: HfApi, made: Submission, to: str, user: str) -> Outcome:
    """Bring a checked submission to the results repo as `user`. Raises as `submit`."""
    repo = Repo(api, "dataset", to)

    def attempt() -> Outcome:
        parent = client.head(repo)
        if parent is None:
            raise UsageError(f"{repo.what}: no such repo on the Hub (404): check --to")
        if found := _there(repo, made, parent, user):
            return found
        return _offer(repo, made, parent, user)

    return client.on_newest(attempt, repo.what)


def _there(repo: Repo, made: Submission, parent: str, user: str) -> Outcome | None:
    """Whether the repo's head has the result; another account's is never replaced."""
    held = client.looked_up(repo, list(made.paths), parent)
    if _same(made, held):
        return _outcome("there", f"{_address(repo)}/tree/main/{made.folder}", made)
    path = f"{made.folder}/{RESULT}"
    if path in held and (owner := _owner(repo, path, parent)) != user:
        raise SubmissionError(
            f"{repo.what}: {made.folder} is a result of {owner or 'somebody'}: the same weights "
            "were measured by this protocol already; open a discussion there if yours differs"
        )
    return None


def _same(made: Submission, held: Mapping[str, str]) -> bool:
    return all(client.is_same(data, held.get(path)) for path, data in made.paths.items())


def _owner(repo: Repo, path: str, revision: str) -> str | None:
    """Who handed in the result that lies at a path."""
    file = ask(
        lambda: hf_hub_download(
            repo.name, path, repo_type=repo.kind, revision=revision, token=repo.api.token,
            endpoint=repo.api.endpoint,
        ),
        repo.what,
    )  # fmt: skip
    result, _ = read_result(Path(file).read_bytes(), path)
    found = result.get("submitter") if isinstance(result, dict) else None
    return found if isinstance(found, str) else None


def _offer(repo: Repo, made: Submission, parent: str, user: str) -> Outcome:
    """Open a pull request, or bring the one that is open up to date."""
    if found := _pull_request(repo, made, user):
        number, held = found
        url = f"{_address(repo)}/discussions/{number}"
        if _same(made, held):
            return _outcome("waiting", url, made)
        revision = f"refs/pr/{number}"
        client.commit(
            repo, made.paths, title(made), parent=client.head(repo, revision), revision=revision
        )
        return _outcome("updated", url, made)
    try:
        url = client.commit(
            repo, made.paths, title(made), parent=parent, create_pr=True, description=_words(made)
        )
    except PartialError:
        # The answer may be lost after the commit was made: a second one would be a second row.
        if not (found := _pull_request(repo, made, user)) or not _same(made, found[1]):
            raise
        url = f"{_address(repo)}/discussions/{found[0]}"
    return _outcome("opened", url, made)


def _pull_request(repo: Repo, made: Submission, user: str) -> tuple[int, dict[str, str]] | None:
    """Number of this account's open pull request for this folder, and what it holds of it."""
    found = ask(
        lambda: list(
            repo.api.get_repo_discussions(
                repo.name, repo_type=repo.kind, author=user, discussion_type="pull_request",
                discussion_status="open",
            )
        ),
        repo.what,
    )  # fmt: skip
    for one in found:
        if one.title == title(made) and one.author == user:
            return one.num, client.looked_up(repo, list(made.paths), f"refs/pr/{one.num}")
    return None


def title(made: Submission) -> str:
    """Title of the commit and of its pull request; it names the place, and so finds it again."""
    return f"Add {made.folder}"


def _words(made: Submission) -> str:
    """What a maintainer reads first. Names in it are path segments and hashes only."""
    protocol = made.result["protocol"]
    measured = [r for r in made.result["series"] if not r["reason"]]
    return (
        f"{len(measured)} checkpoints, protocol hash {protocol['hash']}, factlife "
        f"{made.result['benchmark_version']}. Check it with `factlife leaderboard check`."
    )


def _address(repo: Repo) -> str:
    return f"{repo.api.endpoint}/{repo.kind}s/{repo.name}"


def _outcome(status: str, url: str, made: Submission) -> Outcome:
    sizes = {path: len(data) for path, data in made.paths.items()}
    notes = []
    if not made.result["protocol"]["ranked"]:
        notes.append(f"the profile {made.result['protocol']['name']} is not ranked on the board")
    if made.result["env"]["dirty"]:
        notes.append("it was measured with local changes of factlife's source; the board says so")
    return Outcome(status, url, made.folder, sizes, tuple(notes))
