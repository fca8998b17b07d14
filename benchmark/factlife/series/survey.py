"""What the Hub's listings say about a series before anything of it is downloaded. No torch.

A listing gives every file's size and sha256: enough to see equal weights under two names, shards
that are missing, revisions without weights, and odd sizes. Of the contents only the small shard
index is read, once for each distinct one.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from factlife.errors import IntegrityError
from factlife.series import hub
from factlife.series.hub import RemoteFile
from factlife.series.integrity import INDEX, PICKLED, is_trainer_state, weight_files
from factlife.series.local import Revision, Series

ODD_SIZE = 0.02  # of the median: more than headers and sharding can make
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_LARGEST_SMALL = 64 << 20
WORKERS = 8


@dataclass(frozen=True)
class Listed:
    """One remote revision as its listing describes it.

    Attributes:
        weights: weight files, by name.
        small: config, tokenizer and index files.
        code: Python files at the root, wanted only with --trust-remote-code.
        problem: why it cannot be measured, else None.
        flags: `size_anomaly:…`.
    """

    revision: Revision
    weights: tuple[RemoteFile, ...]
    small: tuple[RemoteFile, ...]
    code: tuple[RemoteFile, ...] = ()
    problem: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return sum(f.size for f in self.weights)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Identity of each weight file."""
        return tuple(f.identity for f in self.weights)


def survey(
    revisions: Sequence[Revision],
    *,
    allow_pickle: bool = False,
    on_done: Callable[[int, str], None] = lambda _n, _d: None,
) -> list[Listed]:
    """List remote revisions, a few at a time, and judge what they hold.

    Raises:
        UsageError: no right to read the repo.
        PartialError: the Hub does not answer.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        listings = []
        jobs = [pool.submit(_files, r) for r in revisions]
        try:
            for i, (job, r) in enumerate(zip(jobs, revisions, strict=True)):
                listings.append(job.result())
                on_done(i + 1, r.name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    read = _IndexReader()
    listed = [
        _judge(r, f, allow_pickle, read) for r, f in zip(revisions, listings, strict=True)
    ]  # fmt: skip
    return flag_sizes(listed)


def _files(revision: Revision) -> tuple[RemoteFile, ...]:
    assert revision.commit_sha is not None
    return hub.list_files(revision.repo, revision.commit_sha)


class _IndexReader:
    """Shard names of an index, downloaded once for each distinct content."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[str]] = {}

    def __call__(self, revision: Revision, index: RemoteFile) -> frozenset[str]:
        if index.identity not in self._known:
            path = hub.download(revision.repo, revision.commit_sha or "", index)
            self._known[index.identity] = shard_names(path.read_text("utf-8"))
        return self._known[index.identity]


def shard_names(index: str) -> frozenset[str]:
    """Files that a shard index names. Raises IntegrityError when it is damaged."""
    try:
        return frozenset(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError(f"its {INDEX} is damaged ({error!r})") from error


def _judge(
    revision: Revision, files: Iterable[RemoteFile], allow_pickle: bool, read: _IndexReader
) -> Listed:
    root = {f.path: f for f in files if "/" not in f.path}
    small = tuple(
        f for n, f in sorted(root.items()) if n.endswith(_SMALL) and f.size <= _LARGEST_SMALL
    )
    code = tuple(f for n, f in sorted(root.items()) if n.endswith(".py"))
    names, problem = _weight_names(revision, root, allow_pickle, read)
    if problem is None and "config.json" not in root:
        problem = "no config.json"
    weights = tuple(root[n] for n in names if n in root)
    if problem is None and any(f.size == 0 for f in weights):
        problem = "empty weight file"
    return Listed(revision, weights, small, code, problem)


def _weight_names(
    revision: Revision, root: dict[str, RemoteFile], allow_pickle: bool, read: _IndexReader
) -> tuple[list[str], str | None]:
    """Names of the weight files, and what is wrong with them."""
    if INDEX in root:
        try:
            wanted = sorted(read(revision, root[INDEX]))
        except IntegrityError as error:
            return [], f"damaged index: {error}"
        return wanted, _missing(wanted, root)
    if "model.safetensors" in root:
        return ["model.safetensors"], None
    if shards := sorted(n for n in root if _SHARD.fullmatch(n)):
        return shards, f"no {INDEX} beside {len(shards)} shards"
    pickled = sorted(n for n in root if n.endswith(PICKLED) and not is_trainer_state(n))
    if pickled and allow_pickle:
        return pickled, None
    if pickled:
        return pickled, f"only pickled weights ({pickled[0]}), which can run code when read"
    return [], "no weights"


def _missing(wanted: Sequence[str], root: dict[str, RemoteFile]) -> str | None:
    absent = [n for n in wanted if n not in root]
    if not absent:
        return None
    return f"missing shards: {len(absent)} of {len(wanted)}, first {absent[0]}"


def flag_sizes(listed: Sequence[Listed]) -> list[Listed]:
    """Flag revisions of a repo whose weights are larger or smaller than its others'."""
    flagged = []
    for one in listed:
        peers = [o.bytes for o in listed if o.revision.repo == one.revision.repo and not o.problem]
        typical = statistics.median(peers) if len(peers) > 2 else 0
        odd = typical and not one.problem and abs(one.bytes / typical - 1) > ODD_SIZE
        flags = (f"size_anomaly:{one.bytes} bytes where {typical:.0f} are usual",) if odd else ()
        flagged.append(replace(one, flags=flags))
    return flagged


def settle_main(series: Series) -> Series:
    """Fold a branch main whose files are those of the last step into that step, as its alias.

    A main without weights is left out, with a warning.

    Raises:
        UsageError, PartialError: see `survey`.
    """
    *placed, main = series.revisions
    if main.name != "main" or main.step is not None or not placed:
        return series
    if not main.remote:
        same = _blobs(placed[-1]) == _blobs(main)
        return _folded(series) if same else series
    last, listed = survey([placed[-1], main], allow_pickle=True)
    if not listed.weights:
        note = "main holds no weights: left out"
        return replace(series, revisions=tuple(placed), warnings=(*series.warnings, note))
    return _folded(series) if listed.hashes == last.hashes else series


def _folded(series: Series) -> Series:
    *placed, main = series.revisions
    placed[-1] = replace(placed[-1], aliases=(*placed[-1].aliases, main.name))
    return replace(series, revisions=tuple(placed))


def _blobs(revision: Revision) -> list[str]:
    """Names of the cache's blobs that hold a revision's weights: their hashes."""
    return [f.resolve().name for f in weight_files(revision.path, allow_pickle=True)]


def equal_weights(
    identities: Sequence[tuple[Revision, str | None]],
) -> tuple[dict[str, str], dict[str, str]]:
    """Which revisions hold weights that another one holds.

    Of equal revisions the first counts, except where main has the same weights: then the last one
    does, because main is the end of training and an earlier equal name serves the wrong weights.

    Args:
        identities: revisions in order, with what their weights are; None is equal to nothing.

    Returns:
        Revision -> the one it repeats; and alias -> the revision that it names (main only).
    """
    groups: dict[str, list[str]] = {}
    for revision, identity in identities:
        if identity is not None:
            groups.setdefault(identity, []).append(revision.name)
    main = {r.name for r, _ in identities if r.name == "main" and r.remote}
    ends = main | {r.name for r, _ in identities if "main" in r.aliases}
    duplicates: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for names in groups.values():
        places = [n for n in names if n not in main] or names
        holder = places[-1] if ends & set(names) else places[0]
        duplicates |= {n: holder for n in names if n != holder and n not in main}
        aliases |= {n: holder for n in names if n in main and n != holder}
    return duplicates, aliases
