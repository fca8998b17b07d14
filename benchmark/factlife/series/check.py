"""`factlife series check`: is every revision of a series what its name says? No torch.

Local files are read whole. Of a Hub repo the listings are read; with `tensors` every checkpoint is
downloaded in turn as well, which finds equal tensors in other files, NaN and zeros.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factlife.errors import IntegrityError, UsageError
from factlife.series.fetch import LEDGER, Fetcher, Ledger, disk_needed, refuse_full_disk
from factlife.series.integrity import Weights, check_weights, read_config
from factlife.series.local import Revision, Series
from factlife.series.survey import Listed, equal_weights, survey

OnDone = Callable[[int, str], None]


@dataclass(frozen=True)
class Verdict:
    """What the check says about one revision.

    Attributes:
        bytes: size of its weight files; None where they could not be read.
        weights_sha256: of each weight file, by name; `git:` ids where the Hub lists no sha256.
        duplicate_of: another revision with the same weights.
        notes: what a reader should know and no reason to stop: aliases, odd sizes, zeros.
        problems: why this revision cannot be trusted.
    """

    revision: str
    repo: str
    stage: str
    step: int | None
    tokens: int | None
    tokens_source: str
    commit_sha: str | None
    bytes: int | None
    weights_sha256: tuple[str, ...] = ()
    tensor_hash: str | None = None
    duplicate_of: str | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The check of a series.

    Attributes:
        tensors: whether the weights themselves were read, not only their listing.
    """

    series: str
    source: str
    tensors: bool
    warnings: tuple[str, ...]
    revisions: tuple[Verdict, ...]

    @property
    def problems(self) -> list[str]:
        """One line a problem."""
        return [f"{v.revision}: {p}" for v in self.revisions for p in v.problems]


def describe(r: Revision) -> Verdict:
    """A revision as its name and commit say, unchecked."""
    aliases = tuple(f"alias: {name}" for name in r.aliases)
    return Verdict(
        r.name,
        r.repo,
        r.stage,
        r.step,
        r.tokens,
        r.tokens_source,
        r.commit_sha,
        None,
        notes=aliases,
    )


def check_series(
    series: Series,
    *,
    tensors: bool = False,
    allow_pickle: bool = False,
    on_done: OnDone = lambda _n, _d: None,
) -> Report:
    """Check every revision; what is wrong is reported, not raised.

    Args:
        tensors: download remote checkpoints, one after another, and read them.
        on_done: told after each revision.

    Raises:
        UsageError: no right to read the repo.
        PartialError: the Hub does not answer.
    """
    remote = [r for r in series.revisions if r.remote]
    listed = {o.revision.name: o for o in survey(remote, allow_pickle=allow_pickle)}
    read = _downloaded(list(listed.values()), allow_pickle, on_done) if tensors else {}
    verdicts = []
    for i, r in enumerate(series.revisions):
        verdict = describe(r)
        if r.remote:
            verdict = _of_listing(verdict, listed[r.name])
            verdict = _of_files(verdict, read[r.name]) if r.name in read else verdict
        else:
            verdict = _of_files(verdict, _read(r.path, allow_pickle))
            on_done(i + 1, r.name)
        verdicts.append(verdict)
    whole = tensors or not remote
    equal = _with_equal(series.revisions, verdicts)
    return Report(series.name, series.source, whole, series.warnings, tuple(equal))


def _of_listing(verdict: Verdict, listed: Listed) -> Verdict:
    notes = tuple(f.replace(":", ": ", 1) for f in listed.flags)
    return replace(
        verdict,
        bytes=listed.bytes,
        weights_sha256=listed.hashes,
        notes=verdict.notes + notes,
        problems=(listed.problem,) if listed.problem else (),
    )


def _of_files(verdict: Verdict, found: Weights | str) -> Verdict:
    if isinstance(found, str):
        return replace(verdict, problems=(*verdict.problems, found))
    return replace(
        verdict,
        bytes=found.bytes,
        weights_sha256=found.sha256,
        tensor_hash=found.tensor_hash,
        notes=verdict.notes + tuple(f.replace(":", ": ", 1) for f in found.flags),
    )


def _read(folder: Path, allow_pickle: bool) -> Weights | str:
    """The weights of a local checkpoint, or what is wrong with them."""
    try:
        read_config(folder)
        return check_weights(folder, allow_pickle=allow_pickle)
    except (IntegrityError, UsageError) as error:
        return str(error)


def _downloaded(
    listed: Sequence[Listed], allow_pickle: bool, on_done: OnDone
) -> dict[str, Weights | str]:
    """Weights of remote revisions, each downloaded, read and removed again."""
    usable = [o for o in listed if not o.problem]
    refuse_full_disk(disk_needed([o.bytes for o in usable]))
    found: dict[str, Weights | str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(Path(scratch) / LEDGER)
        fetcher = Fetcher(usable, ledger, allow_pickle=allow_pickle)
        try:
            for i, one in enumerate(usable):
                name = one.revision.name
                found[name] = _taken(fetcher, name)
                on_done(i + 1, name)
        finally:
            fetcher.close()
            ledger.evict()
    return found


def _taken(fetcher: Fetcher, name: str) -> Weights | str:
    try:
        with fetcher.take(name) as fetched:
            return fetched.weights
    except IntegrityError as error:
        return str(error)


def _with_equal(revisions: Sequence[Revision], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Mark equal weights: by tensors where they were read, else by files."""
    identities = [
        (r, v.tensor_hash or ",".join(v.weights_sha256) or None)
        for r, v in zip(revisions, verdicts, strict=True)
    ]
    duplicates, aliases = equal_weights(identities)
    marked = []
    for v in verdicts:
        if first := duplicates.get(v.revision):
            problem = f"duplicate: the weights are those of {first}"
            v = replace(v, duplicate_of=first, problems=(*v.problems, problem))
        elif first := aliases.get(v.revision):
            v = replace(v, duplicate_of=first, notes=(*v.notes, f"alias of {first}"))
        marked.append(v)
    return marked
