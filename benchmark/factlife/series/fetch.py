"""Download checkpoints one after another, ahead of their use, and remove them after it. No torch.

At most `DISK_BOUND` checkpoints lie on the disk at once: the one in use and those fetched ahead.
One background thread downloads checkpoints, a second one compares every file with the Hub's listing
and checks the tensors, while the one before is measured. What was in the cache before stays there.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from factlife.errors import IntegrityError, UsageError
from factlife.series import hub
from factlife.series.hub import RemoteFile
from factlife.series.integrity import TOKENIZER_FILES, Weights, check_weights
from factlife.series.survey import Listed
from factlife.store import sha256_file

DISK_BOUND = 3
LEDGER = ".downloads"


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on the disk, checked.

    Attributes:
        folder: its snapshot in the cache.
    """

    folder: Path
    weights: Weights


class Ledger:
    """Which cached files this run has put there, kept in its folder so that a kill loses nothing.

    None for `path`: nothing is noted, so that nothing is removed (`--keep-cache`).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._files: dict[Path, str] = {}  # pointer in a snapshot -> identity of its contents
        self._lock = threading.Lock()  # two threads note files, a third evicts
        if path is not None and path.is_file():
            lines = [line.rpartition("\t") for line in path.read_text("utf-8").splitlines()]
            self._files = {Path(pointer): identity for pointer, _, identity in lines if pointer}

    @property
    def files(self) -> list[Path]:
        """Noted files."""
        return list(self._files)

    def note(self, pointer: Path, identity: str) -> None:
        """Note a file that is about to be downloaded."""
        with self._lock:
            if self._path is not None and pointer not in self._files:
                self._files[pointer] = identity
                self._write()

    def evict(self, folder: Path | None = None) -> None:
        """Remove noted files, of one snapshot or of all."""
        with self._lock:
            gone = [p for p in self._files if folder is None or p.parent == folder]
            for pointer in gone:
                hub.remove(pointer)
                del self._files[pointer]
            if gone:
                self._write()

    def sweep(self) -> None:
        """Remove the halves that a killed download of ours left."""
        for pointer, identity in self._files.items():
            for half in (pointer.parents[2] / "blobs").glob(f"{identity}.*.incomplete"):
                half.unlink(missing_ok=True)

    def _write(self) -> None:
        assert self._path is not None
        if self._files:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(f"{p}\t{i}\n" for p, i in self._files.items()), "utf-8")
        else:
            self._path.unlink(missing_ok=True)


_Jobs = queue.SimpleQueue["tuple[Listed, Future[Fetched]] | None"]


class Fetcher:
    """Checkpoints in their order, each fetched while those before it are in use."""

    def __init__(
        self,
        wanted: Sequence[Listed],
        ledger: Ledger,
        *,
        allow_pickle: bool = False,
        with_code: bool = False,
    ) -> None:
        self._queue, self._ledger = list(wanted), ledger
        self._allow_pickle, self._with_code = allow_pickle, with_code
        self._folders = {one.revision.name: one.revision.path for one in wanted}
        self._closed = False
        self._ahead: dict[str, Future[Fetched]] = {}
        self._jobs: _Jobs = queue.SimpleQueue()
        self._arrived: _Jobs = queue.SimpleQueue()
        # Daemons: the end of the process does not wait for a download of many gigabytes.
        for work in (self._download, self._check):
            threading.Thread(target=work, name="fetch", daemon=True).start()

    @contextlib.contextmanager
    def take(self, name: str) -> Iterator[Fetched]:
        """The checked files of a revision; on leaving, they are removed again.

        Raises:
            IntegrityError: other bytes than listed, twice; truncated weights; NaN.
            UsageError, PartialError: see `hub.ask`.
        """
        while self._queue and len(self._ahead) < DISK_BOUND:
            self._submit(self._queue.pop(0))
        try:
            fetched = self._ahead[name].result()
        except IntegrityError:
            self._release(name)
            raise
        yield fetched
        self._release(name)

    def _release(self, name: str) -> None:
        """Remove a checkpoint's files; only then do they no longer count."""
        del self._ahead[name]
        self._ledger.evict(self._folders[name])

    def _submit(self, listed: Listed) -> None:
        future: Future[Fetched] = Future()
        self._ahead[listed.revision.name] = future
        self._jobs.put((listed, future))

    def _download(self) -> None:
        """First thread: keep the line to the Hub busy."""
        while job := self._jobs.get():
            listed, future = job
            if self._closed:
                return
            try:
                fetch_small(listed, with_code=self._with_code)
                self._fetch(listed)
            except BaseException as error:  # raised again where the checkpoint is taken
                future.set_exception(error)
            else:
                self._arrived.put(job)

    def _check(self) -> None:
        """Second thread: hash what has arrived while the next is on its way."""
        while job := self._arrived.get():
            listed, future = job
            try:
                weights = self._checked(listed)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(Fetched(listed.revision.path, weights))

    def _fetch(self, listed: Listed) -> None:
        r = listed.revision
        for file in listed.weights:
            if not (r.path / file.path).is_file():
                self._ledger.note(r.path / file.path, file.identity.removeprefix("git:"))
            hub.download(r.repo, r.commit_sha or "", file)

    def _checked(self, listed: Listed) -> Weights:
        """Check what has arrived; a file that is not as listed is fetched once more."""
        try:
            return check_listed(listed, self._allow_pickle)
        except _OtherBytesError as first:
            hub.remove(first.pointer)
            self._fetch(listed)
        try:
            return check_listed(listed, self._allow_pickle)
        except _OtherBytesError as second:
            hub.remove(second.pointer)
            raise IntegrityError(
                f"{listed.revision.repo}@{listed.revision.name}: {second.pointer.name} has another "
                "sha256 than the Hub lists, twice: leave the revision out with --exclude, and "
                "report it to the repo's owner"
            ) from second

    def close(self) -> None:
        """Fetch nothing more; a download in progress ends with its checkpoint or the process."""
        self._closed = True
        self._jobs.put(None)
        self._arrived.put(None)


def fetch_small(listed: Listed, *, with_code: bool = False) -> None:
    """Fetch config, tokenizer and index files, and note the revision's name in the cache."""
    r = listed.revision
    assert r.commit_sha is not None
    for file in (*listed.small, *(listed.code if with_code else ())):
        hub.download(r.repo, r.commit_sha, file)
    for name in (r.name, *r.aliases):
        ref = hub.storage(r.repo) / "refs" / name
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(r.commit_sha, "utf-8")


class _OtherBytesError(Exception):
    """A file whose bytes are not those of the listing."""

    def __init__(self, pointer: Path) -> None:
        super().__init__(str(pointer))
        self.pointer = pointer


def check_listed(listed: Listed, allow_pickle: bool) -> Weights:
    """Check downloaded weights against their listing, then their tensors."""
    folder = listed.revision.path
    try:
        weights = check_weights(folder, allow_pickle=allow_pickle)
    except IntegrityError:
        for file in listed.weights:  # broken in transit, or broken on the Hub?
            _refuse_other(folder / file.path, file)
        raise
    for file, sha in zip(listed.weights, weights.sha256, strict=True):
        _refuse_other(folder / file.path, file, sha)
    return weights


def _refuse_other(path: Path, file: RemoteFile, sha: str | None = None) -> None:
    if file.identity.startswith("git:"):
        return  # small files carry another kind of hash; their size has been compared
    if (sha or sha256_file(path)) != file.identity:
        raise _OtherBytesError(path)


def has_tokenizer(listed: Listed) -> bool:
    """Whether a revision brings its own tokenizer."""
    return any(f.path in TOKENIZER_FILES for f in listed.small)


def disk_needed(sizes: Sequence[int]) -> int:
    """Bytes of disk for a sweep: the largest `DISK_BOUND` checkpoints in a row."""
    windows = [sizes[i : i + DISK_BOUND] for i in range(max(1, len(sizes) - DISK_BOUND + 1))]
    return max((sum(w) for w in windows), default=0)


def refuse_full_disk(needed: int) -> None:
    """Raise UsageError when the cache's disk cannot hold what a sweep needs at once."""
    folder = hub.cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"the cache {hub.cache_folder()} needs {needed / 1e9:.1f} GB at once for "
            f"{DISK_BOUND} checkpoints, its disk has {free / 1e9:.1f} GB free: free some, or set "
            "HF_HOME to a larger disk"
        )
