"""Run a profile over a series: measure what is missing, then score and report.

The row of a checkpoint in `checkpoints` is written after the parts of all tracks, and therefore
stands for a checkpoint whose other parts are there.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import factlife
from factlife.config import Profile, nearest
from factlife.corpora.fact_probes import FactProbes, load_fact_probes
from factlife.errors import IntegrityError, PartialError, UsageError
from factlife.injection.background import refuse_unreadable
from factlife.injection.corpus import load_corpus
from factlife.injection.plan import RunPlan
from factlife.runner.audit import audited
from factlife.runner.dynamics_series import dynamics_finished, measure_dynamics
from factlife.runner.injection import (
    Files,
    Follower,
    Injected,
    Source,
    Track,
    follow,
    forget_work,
    injection_fingerprints,
    plans_of,
    run_injection,
    unfinished,
)
from factlife.runner.progress import Progress
from factlife.runner.provenance import environment
from factlife.runner.shards import INJECTION, Shard, SharedChecks, dealt_by_checkpoint, order
from factlife.runner.tracks import MEASURED_TABLES, Tracks, refuse_untraceable, reinitialise
from factlife.series.fetch import (
    LEDGER,
    Fetcher,
    Ledger,
    disk_needed,
    fetch_small,
    has_tokenizer,
    refuse_full_disk,
)
from factlife.series.integrity import Weights, check_weights
from factlife.series.loading import Loaded, check_config, pick_device
from factlife.series.local import Revision, Series
from factlife.series.select import select
from factlife.series.survey import Listed, equal_weights, survey
from factlife.series.swap import Module
from factlife.store import SHARDS, RunStore
from factlife.training import parallel

log = logging.getLogger(__name__)

ALIAS = "alias of"
OTHER_FILES = "the tensors are equal, in other files"
RANDOM_INIT = {"revision": "random-init", "stage": "random-init", "step": None}


@dataclass(frozen=True)
class Options:
    """What a run may do, beside its profile.

    Attributes:
        exclude: revision names that stay as rows but are not measured.
        command: the words that started the run, for the report.
        strict: stop before measuring where a chosen revision repeats another or has no weights.
        keep_cache: keep downloaded weights after their use.
        shard: measure only this share, beside other processes.
        assemble: measure nothing, put together what shards have measured.
    """

    trust_remote_code: bool = False
    allow_pickle: bool = False
    exclude: tuple[str, ...] = ()
    command: str = ""
    strict: bool = False
    keep_cache: bool = False
    shard: Shard | None = None
    assemble: bool = False


@dataclass(frozen=True)
class Checked:
    """A selected revision after its files, or their listing on the Hub, were checked.

    Attributes:
        weights: None where the files are not on this machine yet.
        listed: what the Hub lists; None for local revisions.
        reason: why it is not measured, else None.
    """

    revision: Revision
    position: int
    weights: Weights | None
    duplicate_of: str | None = None
    reason: str | None = None
    listed: Listed | None = None

    @property
    def identity(self) -> str:
        """What a part is measured from: it changes whenever a weight file does."""
        if self.listed is not None:
            return ",".join(self.listed.hashes)
        return self.weights.identity if self.weights else ""


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        measured, reused: revision names.
        warnings: what a reader should know.
        seconds: time spent measuring each track.
        injected: what the injection track did; None where it did not run.
        follower: this process only helped another one, which has written everything.
    """

    root: Path
    measured: tuple[str, ...]
    reused: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())
    seconds: Mapping[str, float] = field(default_factory=dict)
    injected: Injected | None = None
    follower: bool = False


def default_out(series: Series, profile: Profile) -> Path:
    """`runs/<series>/<profile>-<hash>`: another protocol gets another folder."""
    short = protocol_hash(profile, load_fact_probes())[:8]
    name = series.name.replace("/", "__")
    return Path("runs") / name / f"{profile.name}-{short}"


def protocol_hash(profile: Profile, probes: FactProbes) -> str:
    """Hash of everything that a number depends on beside the weights."""
    return profile.protocol_hash(
        {"fact-probes": probes.fingerprint(), **injection_fingerprints(profile)}
    )


def run(
    series: Series, profile: Profile, out: Path, options: Options, progress: Progress
) -> Outcome:
    """Measure every selected revision that has not been measured yet.

    A killed run goes on by the same call: finished parts are kept, damaged ones are
    measured again. Under torchrun the first process measures and writes, and all of them train
    the injection runs together.

    Raises:
        UsageError: a series that cannot be measured, or a folder of another run.
        IntegrityError: broken weights, before anything is measured.
        PartialError: the disk refused a write, or other processes are still at work on a
            shard's pieces; what was finished is kept.
    """
    device = parallel.own_device(pick_device(profile.execution.device))
    with parallel.group(device):
        if parallel.rank():
            corpus = load_corpus(profile.injection.corpus)
            leave = options.trust_remote_code, options.allow_pickle
            follow(profile, Follower(corpus, load_fact_probes(), device, *leave))
            return Outcome(out, (), (), follower=True)
        outcome = _run(series, profile, out, options, progress, device)
        parallel.from_first(None)  # the others may go
    return outcome


def _run(
    series: Series,
    profile: Profile,
    out: Path,
    options: Options,
    progress: Progress,
    device: torch.device,
) -> Outcome:
    """What `run` does in the first process, which alone writes."""
    probes = load_fact_probes()
    refuse_early(series, profile, out, options)
    chosen = select(series.revisions, profile.selection)
    manifest = _manifest(series, profile, probes, device, options)
    opened = RunStore.sharer if options.shard else RunStore.writer
    with opened(out, manifest) as store:
        if options.shard is None:
            store.update_manifest({k: manifest[k] for k in ("series", "subsets")})
        checks = SharedChecks(out) if options.shard or options.assemble else None
        checked = check_revisions(chosen, series, options, progress, checks=checks)
        warnings = [*series.warnings, *_selection_warning(series, chosen)]
        warnings += _kept_warning(store, chosen)
        warnings += [f"{c.revision.name}: {c.reason}" for c in checked if c.reason]
        warnings += [f"{c.revision.name}: {f}" for c in checked if c.listed for f in c.listed.flags]
        for message in warnings:
            progress.warn(message)
        _refuse_nothing(series, checked)
        if options.strict:
            _refuse_findings(checked)
        words = (store, series, profile, probes, device, options, progress)
        if INJECTION in profile.tracks and options.shard is None and not options.assemble:
            _prepare_injection(*words, checked)  # refuses before hours of measuring
        sweep = _Sweep(*words)
        done = sweep.measure_missing(checked)
        sweep.release()  # a model to train takes all the memory there is
        injected = None
        if INJECTION in profile.tracks and any(not c.reason for c in checked):
            injected = _inject(
                options, progress, profile, checked, _prepare_injection(*words, checked)
            )
        if options.shard is None:
            store.forget_shards()
            forget_work(store)
    found = tuple(warnings) + tuple(sweep.found)
    return Outcome(out, *done, found, sweep.seconds, injected)


def refuse_early(series: Series, profile: Profile, out: Path, options: Options) -> None:
    """Refuse what would fail after long work, or on every node of a cluster.

    Raises:
        UsageError: a series, a profile or a background that cannot be used.
    """
    _refuse_unknown(options.exclude, series)
    _check_subsets(series, load_fact_probes())
    for revision in series.revisions:
        if revision.name not in options.exclude and not revision.remote:
            config = check_config(revision.path, trust_remote_code=options.trust_remote_code)
            refuse_untraceable(config, revision.path, profile)
    if INJECTION in profile.tracks and not RunStore(out).parts("injection_runs"):
        refuse_unreadable(profile.injection.background)


def _prepare_injection(
    store: RunStore,
    series: Series,
    profile: Profile,
    probes: FactProbes,
    device: torch.device,
    options: Options,
    progress: Progress,
    checked: Sequence[Checked],
) -> tuple[Track, list[RunPlan], list[Source]]:
    """The injection track, from measured revisions and from those named by the profile.

    Raises:
        IntegrityError: a start revision knows passages of the corpus already.
        UsageError: plans that cannot be made.
        PartialError: no shard has audited the corpus where shards are only put together.
    """
    seen = {c.revision.name for c in checked}
    named = [
        r
        for r in series.revisions
        if r.name in profile.injection.starts and r.name not in {*seen, *options.exclude}
    ]
    checks = SharedChecks(store.root) if options.shard or options.assemble else None
    also = check_revisions(named, series, options, progress, checks=checks) if named else []
    usable = [c for c in (*checked, *also) if not c.reason]
    corpus = load_corpus(profile.injection.corpus)
    track = Track(
        store, series, profile, corpus, probes, device, progress,
        options.trust_remote_code, options.allow_pickle,
    )  # fmt: skip
    order = {r.name: i for i, r in enumerate(series.revisions)}
    usable.sort(key=lambda c: order[c.revision.name])
    with_own = [c for c in usable if c.listed and has_tokenizer(c.listed)]
    sources = [
        Source(c.revision, c.identity, functools.partial(_files, c, with_own, store, options))
        for c in usable
    ]
    revisions = [c.revision for c in usable]
    plans_of(profile, corpus, revisions)  # refuses what cannot be planned before the audit
    track = audited(track, sources, measure=not options.assemble)
    return track, plans_of(profile, track.corpus, revisions), sources


def _inject(
    options: Options,
    progress: Progress,
    profile: Profile,
    checked: Sequence[Checked],
    prepared: tuple[Track, list[RunPlan], list[Source]],
) -> Injected:
    """Carry out the injection runs of this process.

    Raises:
        PartialError: runs that no shard has finished where shards are only put together, or
            another process at work on a shard's runs.
    """
    track, plans, sources = prepared
    starts = list(dict.fromkeys(p.revision for p in plans))
    if (n := len(starts)) < (asked := len(profile.injection.starts)) and options.shard is None:
        progress.warn(f"injection starts from {n} revisions, not {asked}: the series has no more")
    if options.assemble and (left := unfinished(track, plans, sources)):
        raise PartialError(
            f"{len(left)} of {len(plans)} injection runs are not finished yet, first {left[0]}: "
            "run the missing shards, or the same command again"
        )
    if options.shard is None:
        return run_injection(track, plans, sources)
    n = sum(not c.reason for c in checked)
    dealt = dealt_by_checkpoint(profile.tracks, last=True)
    mine = [starts[k] for k in options.shard.starts(len(starts), n, dealt)]
    with contextlib.ExitStack() as stack:
        locks = [(name, track.store.alone(INJECTION, name)) for name in mine]
        claimed = {name for name, lock in locks if stack.enter_context(lock)}
        done = run_injection(track, [p for p in plans if p.revision in claimed], sources)
    if busy := [name for name in mine if name not in claimed]:
        raise PartialError(
            f"another process trains from {', '.join(busy)}, which shard {options.shard} has too: "
            "run the same command once it ends"
        )
    return done


@contextlib.contextmanager
def _files(
    c: Checked, with_tokenizer: Sequence[Checked], store: RunStore, options: Options
) -> Iterator[Files]:
    """A revision's files on this machine, fetched if need be and removed afterwards."""
    if c.listed is None:
        yield Files(c.revision.path)
        return
    ledger = Ledger(None if options.keep_cache else _ledger_path(store, options.shard))
    fetcher = Fetcher(
        [c.listed],
        ledger,
        allow_pickle=options.allow_pickle,
        with_code=options.trust_remote_code,
    )
    try:
        tokenizer = None
        if not has_tokenizer(c.listed) and with_tokenizer:
            other = with_tokenizer[-1].listed
            assert other is not None
            fetch_small(other, with_code=options.trust_remote_code)
            tokenizer = other.revision.path
        with fetcher.take(c.revision.name) as fetched:
            yield Files(fetched.folder, tokenizer)
    finally:
        fetcher.close()


def _ledger_path(store: RunStore, shard: Shard | None) -> Path:
    """Where a process notes what it has downloaded; shards have a cache each."""
    if shard is None:
        return store.root / LEDGER
    return store.root / SHARDS / f"downloads-{shard.index}-of-{shard.total}"


def _refuse_nothing(series: Series, checked: Sequence[Checked]) -> None:
    """A Hub series of which nothing is left to measure."""
    if checked and all(c.reason for c in checked) and any(c.listed for c in checked):
        first = checked[0]
        raise IntegrityError(
            f"{series.name}: none of the {len(checked)} chosen revisions can be measured, first "
            f"{first.revision.name}: {first.reason}; see `factlife series check`"
        )


def _refuse_findings(checked: Sequence[Checked]) -> None:
    seen = [c for c in checked if c.weights or c.listed]
    found = [c for c in seen if c.reason and not c.reason.startswith(ALIAS)]
    if found:
        raise IntegrityError(
            f"--strict: {len(found)} of {len(checked)} revisions cannot count, first "
            f"{found[0].revision.name}: {found[0].reason}; see `factlife series check`, or leave "
            "them out with --exclude"
        )


def _refuse_unknown(exclude: Sequence[str], series: Series) -> None:
    names = [r.name for r in series.revisions]
    for name in exclude:
        if name not in names:
            raise UsageError(
                f"--exclude {name}: no such revision in {series.name}; it has {', '.join(names)}"
            )


def _check_subsets(series: Series, probes: FactProbes) -> None:
    """Refuse subsets that would only fail, or mislead, after everything was measured."""
    ids = {f.fact_id for f in probes.facts}
    taken = {"overall", *(f.group for f in probes.facts), *(r.relation for r in probes.relations)}
    for name, members in series.subsets.items():
        if name in taken or not name:
            raise UsageError(
                f"{series.source}: fact subset {name!r}: the name is taken by another set of "
                "facts; choose another"
            )
        if unknown := sorted(set(members) - ids):
            raise UsageError(
                f"{series.source}: fact subset {name!r}: no fact has the id {unknown[0]!r}"
                f"{nearest(unknown[0], ids)}"
            )


def _selection_warning(series: Series, chosen: Sequence[Revision]) -> list[str]:
    if len(chosen) == len(series.revisions):
        return []
    return [f"{len(chosen)} of {len(series.revisions)} revisions were chosen by the profile"]


def _manifest(
    series: Series, profile: Profile, probes: FactProbes, device: torch.device, options: Options
) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    env = environment(
        f"{device.type} {name}".strip(),
        _seeds(series, profile),
        torch.are_deterministic_algorithms_enabled(),
    )
    digest = protocol_hash(profile, probes)
    return {
        "identity": {"series": series.name, "protocol_hash": digest},
        "protocol": {
            "name": profile.name,
            "version": profile.version,
            "hash": digest,
            "ranked": profile.ranked,
            "badge": profile.badge,
            "params": profile.params(),
        },
        "series": {"name": series.name, "warnings": list(series.warnings)},
        "subsets": {name: list(ids) for name, ids in series.subsets.items()},
        "chance": {r.relation: 1 / len(r.candidates) for r in probes.relations},
        "data": [
            {
                "name": "fact-probes",
                "revision": factlife.__version__,
                "fingerprint": probes.fingerprint(),
            },
            *(
                {"name": name, "revision": profile.injection.corpus, "fingerprint": fingerprint}
                for name, fingerprint in injection_fingerprints(profile).items()
            ),
        ],
        "env": env,
        "command": options.command,
    }


def _seeds(series: Series, profile: Profile) -> dict[str, int]:
    known = {"bootstrap": profile.intervals.seed, "training": series.training_seed}
    return {purpose: seed for purpose, seed in known.items() if seed is not None}


# ---- integrity -------------------------------------------------------------------------------


def check_revisions(
    chosen: Sequence[Revision],
    series: Series,
    options: Options,
    progress: Progress,
    *,
    local_weights: bool = True,
    checks: SharedChecks | None = None,
) -> list[Checked]:
    """Check the weights of every chosen revision; mark duplicates and exclusions.

    Local files are read and hashed, unless `local_weights` is off; of remote ones only the Hub's
    listings are. With `checks`, what another shard has hashed is not hashed again.

    Raises:
        IntegrityError: truncated or corrupt weights, or NaN in them.
        UsageError, PartialError: the Hub refuses, or does not answer.
    """
    place = {r.name: i for i, r in enumerate(series.revisions)}
    listings = _listings(chosen, options, progress)
    checked: dict[int, Checked] = {}
    progress.start("checking weights", len(chosen), "checkpoints")
    for i in order(len(chosen), options.shard):
        revision = chosen[i]
        listed = listings.get(revision.name)
        if listed is None and not local_weights:
            checked[i] = Checked(revision, place[revision.name], None)
        else:
            checked[i] = _check(revision, place[revision.name], listed, options, checks)
        progress.advance(len(checked), revision.name)
    progress.finish()
    return _mark_equal([checked[i] for i in range(len(chosen))])


def _listings(
    chosen: Sequence[Revision], options: Options, progress: Progress
) -> dict[str, Listed]:
    remote = [r for r in chosen if r.remote and r.name not in options.exclude]
    if not remote:
        return {}
    progress.start("reading the Hub's listings", len(remote), "revisions")
    listed = survey(remote, allow_pickle=options.allow_pickle, on_done=progress.advance)
    progress.finish()
    return {one.revision.name: one for one in listed}


def _check(
    revision: Revision,
    position: int,
    listed: Listed | None,
    options: Options,
    checks: SharedChecks | None,
) -> Checked:
    if revision.name in options.exclude:
        return Checked(revision, position, None, reason="excluded by the user")
    if listed is not None:
        return Checked(revision, position, None, reason=listed.problem, listed=listed)
    check = checks.check if checks else check_weights
    return Checked(revision, position, check(revision.path, allow_pickle=options.allow_pickle))


def _mark_equal(checked: Sequence[Checked]) -> list[Checked]:
    """Mark revisions whose weights another one has."""
    identities = [(c.revision, _weights_id(c)) for c in checked]
    duplicates, aliases = equal_weights(identities)
    marked = []
    for c in checked:
        name = c.revision.name
        if first := duplicates.get(name):
            c = replace(
                c, duplicate_of=first, reason=f"duplicate_of {first}: the weights are equal"
            )
        elif first := aliases.get(name):
            c = replace(c, duplicate_of=first, reason=f"{ALIAS} {first}: the weights are equal")
        marked.append(c)
    return marked


def _weights_id(c: Checked) -> str | None:
    if c.reason is not None:
        return None
    return (c.weights and c.weights.tensor_hash) or c.identity or None


# ---- measuring -------------------------------------------------------------------------------


class _Sweep:
    """Measures what is missing, one checkpoint after another, in one module."""

    def __init__(
        self,
        store: RunStore,
        series: Series,
        profile: Profile,
        probes: FactProbes,
        device: torch.device,
        options: Options,
        progress: Progress,
    ) -> None:
        self._store, self._series, self._profile = store, series, profile
        self._options, self._progress = options, progress
        self.tracks = Tracks(probes, profile)
        self._module = Module(
            profile.model,
            device,
            trust_remote_code=options.trust_remote_code,
            allow_pickle=options.allow_pickle,
        )
        self._probes, self._dynamics_seconds = probes, 0.0
        self._tensors: dict[str, str] = {}  # tensor hash -> revision that has it
        self._tokenizer_from: Listed | None = None
        self._last = ""  # the last revision that is measured
        self._random = False  # whether a randomly initialised model stands in for step 0
        self._places: dict[str, int] = {}  # of the revisions that are measured, by all shards
        self._repeated: dict[str, str] = {}  # found measured, with the tensors of another one
        self._busy: list[str] = []  # another process is at work on them
        self.found: list[str] = []

    def release(self) -> None:
        """Give the memory of the model back."""
        self._module.release()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock time spent in each track of the sweep."""
        return {**self.tracks.seconds, "dynamics": self._dynamics_seconds}

    def measure_missing(
        self, checked: Sequence[Checked]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the revisions that were measured, and that were there already."""
        usable = [c for c in checked if not c.reason]
        self._places = {c.revision.name: i for i, c in enumerate(usable)}
        self._last = usable[-1].revision.name if usable else ""
        self._random = "circuits" in self._profile.tracks and all(
            c.revision.step != 0 for c in usable
        )
        mine = [c for c in usable if self._share(c)]
        finished = {c.revision.name for c in mine if self._finished(c, checked)}
        todo = [c for c in mine if c.revision.name not in {*finished, *self._repeated}]
        if todo and self._options.assemble:
            raise PartialError(
                f"{len(todo)} of {len(usable)} checkpoints are not measured yet, first "
                f"{todo[0].revision.name}: run the missing shards, or the same command again"
            )
        listed = [c.listed for c in todo if c.listed is not None]
        keep, shard = self._options.keep_cache, self._options.shard
        ledger = Ledger(None if keep else _ledger_path(self._store, shard))
        self._prepare(listed, checked, ledger)
        fetcher = Fetcher(
            listed,
            ledger,
            allow_pickle=self._options.allow_pickle,
            with_code=self._options.trust_remote_code,
        )
        try:
            measured = self._measure(checked, finished, fetcher)
        finally:
            fetcher.close()
        ledger.evict()
        if self._busy:
            raise PartialError(
                f"another process is at work on {len(self._busy)} of the checkpoints of shard "
                f"{self._options.shard}, first {self._busy[0]}: run the same command once it ends"
            )
        return tuple(measured), tuple(
            c.revision.name for c in checked if c.revision.name in finished
        )

    def _share(self, c: Checked) -> tuple[str, ...]:
        """The tracks to measure at a checkpoint here: all of them but injection, without shards."""
        last = c.revision.name == self._last
        tracks = dealt_by_checkpoint(self._profile.tracks, last=last)
        if (shard := self._options.shard) is None:
            return tracks
        return shard.share(self._places[c.revision.name], len(self._places), tracks)

    def _prepare(self, todo: list[Listed], checked: Sequence[Checked], ledger: Ledger) -> None:
        """Refuse what is known to fail before the first large download."""
        ledger.sweep()
        for folder in {p.parent for p in ledger.files} - {one.revision.path for one in todo}:
            ledger.evict(folder)
        if not todo:
            return
        here = sum(p.stat().st_size for p in ledger.files if p.is_file())
        refuse_full_disk(disk_needed([one.bytes for one in todo]) - here)
        named = [c.listed for c in checked if c.listed and has_tokenizer(c.listed)]
        self._tokenizer_from = named[-1] if named else None
        for one in filter(None, (todo[-1], self._tokenizer_from)):
            fetch_small(one, with_code=self._options.trust_remote_code)
        folder = todo[-1].revision.path
        config = check_config(folder, trust_remote_code=self._options.trust_remote_code)
        refuse_untraceable(config, folder, self._profile)

    def _measure(
        self, checked: Sequence[Checked], finished: set[str], fetcher: Fetcher
    ) -> list[str]:
        measured = []
        shard = self._options.shard
        mine = [c for c in checked if (self._writes_reasons() if c.reason else self._share(c))]
        self._progress.start("measuring", len(mine), "checkpoints")
        for i, c in enumerate(mine):
            if c.reason:
                _write_unmeasured(self._store, c, self._series)
            elif first := self._repeated.get(c.revision.name):
                self._repeats(c, first)
            elif c.revision.name in finished:
                if shard is None:
                    _update_row(self._store, c, self._series)
            elif self._one(c, fetcher):
                measured.append(c.revision.name)
            self._progress.advance(i + 1, c.revision.name)
        self._progress.finish()
        return measured

    def _writes_reasons(self) -> bool:
        """Rows that only say why nothing was measured: one shard writes them all."""
        return self._options.shard is None or self._options.shard.index == 1

    def _one(self, c: Checked, fetcher: Fetcher) -> bool:
        """Measure one checkpoint; False if its tensors turn out to be another's."""
        with self._claim(c) as claimed:
            if c.listed is None:
                if claimed:
                    self._measure_one(c, c.revision.path)
                return claimed
            with fetcher.take(c.revision.name) as fetched:
                if not claimed:  # taken all the same: the fetcher keeps to its order
                    return False
                c = replace(c, weights=fetched.weights)
                first = self._tensors.setdefault(fetched.weights.tensor_hash or "", c.revision.name)
                alone = self._options.shard is None  # else whoever puts the shards together sees it
                if alone and fetched.weights.tensor_hash and first != c.revision.name:
                    self._repeats(c, first)
                    return False
                self._measure_one(c, fetched.folder)
                return True

    @contextlib.contextmanager
    def _claim(self, c: Checked) -> Iterator[bool]:
        """Keep the pieces of a checkpoint for this process; False where another one has them."""
        if self._options.shard is None:
            yield True
            return
        with contextlib.ExitStack() as stack:
            words = [str(v) for v in c.revision.partition.values()]
            locks = [self._store.alone(*words, track) for track in self._share(c)]
            claimed = all(stack.enter_context(lock) for lock in locks)
            if not claimed:
                self._busy.append(c.revision.name)
            yield claimed

    def _repeats(self, c: Checked, first: str) -> None:
        """Equal tensors in other files: seen only now."""
        reason = f"duplicate_of {first}: {OTHER_FILES}"
        message = f"{c.revision.name}: {reason}"
        self.found.append(message)
        self._progress.warn(message)
        _write_unmeasured(self._store, replace(c, duplicate_of=first, reason=reason), self._series)
        if c.revision.name == self._last:
            self._store.remove_part("circuits", RANDOM_INIT)
        if self._options.strict:
            raise IntegrityError(f"--strict: {message}")

    def _measure_one(self, c: Checked, folder: Path) -> None:
        tokenizer = None
        if c.listed is not None and not has_tokenizer(c.listed) and self._tokenizer_from:
            tokenizer = self._tokenizer_from.revision.path
        loaded = self._module.load(folder, tokenizer)
        last, share = c.revision.name == self._last, self._share(c)
        if "dynamics" in share:
            self._dynamics_seconds += measure_dynamics(
                self._store, loaded, self._probes, self._profile, c.revision, c.identity,
                last=last, warn=self._progress.warn,
            )  # fmt: skip
        _measure_one(self._store, c, self.tracks, loaded, share, last=last)
        if last and "circuits" in share and not self._random_found(c):
            reinitialise(loaded.model)
            rows = self.tracks.random_init(loaded, RANDOM_INIT)
            self._store.write_part("circuits", rows, RANDOM_INIT, c.identity)
        if self._options.shard is None:
            _write_measured(self._store, c, self._series, loaded)
        elif self._complete(c):  # whichever shard comes last writes the row
            with self._store.turn(*(str(v) for v in c.revision.partition.values())):
                if not self._row_found(c):
                    _write_measured(self._store, c, self._series, loaded)

    def _row_found(self, c: Checked) -> bool:
        partition = c.revision.partition
        if not self._store.find_part("checkpoints", partition, c.identity):
            return False
        (row,) = self._store.read_part("checkpoints", partition).to_pylist()
        return not row["reason"]

    def _complete(self, c: Checked) -> bool:
        """Whether the parts of all tracks are there, whoever has measured them."""
        return self._parts_found(c, self._profile.tracks)

    def _parts_found(self, c: Checked, share: Sequence[str]) -> bool:
        last = c.revision.name == self._last
        if last and "circuits" in share and not self._random_found(c):
            return False
        if "dynamics" in share and not dynamics_finished(
            self._store, self._profile, c.revision, c.identity, last=last
        ):
            return False
        tables = self.tracks.tables(last=last)
        return all(
            self._store.find_part(t, c.revision.partition, c.identity)
            for track in share
            for t in tables.get(track, ())
        )

    def _random_found(self, last: Checked) -> bool:
        return not self._random or self._store.find_part("circuits", RANDOM_INIT, last.identity)

    def _finished(self, c: Checked, checked: Sequence[Checked]) -> bool:
        """Whether nothing is left to do for a revision; remembers its tensors."""
        if self._options.shard is not None and not self._complete(c):
            return self._parts_found(c, self._share(c))
        partition = c.revision.partition
        if not self._store.find_part("checkpoints", partition, c.identity):
            return False
        (row,) = self._store.read_part("checkpoints", partition).to_pylist()
        if c.listed is not None and row["duplicate_of"]:
            kept = {o.revision.name for o in checked if not o.reason}
            return row["duplicate_of"] in kept
        if row["reason"] or not self._complete(c):
            return False
        if row["tensor_hash"]:
            first = self._tensors.setdefault(row["tensor_hash"], c.revision.name)
            if first != c.revision.name and c.listed is not None and self._options.shard is None:
                self._repeated[c.revision.name] = first  # no shard has seen both
                return False
        return True


def _kept_warning(store: RunStore, chosen: Sequence[Revision]) -> list[str]:
    """Measurements of revisions that are gone or no longer chosen are kept, and said to be."""
    wanted = {store.part_path("checkpoints", r.partition) for r in chosen}
    others = [p for p in store.parts("checkpoints") if p not in wanted]
    if not others:
        return []
    return [f"{len(others)} revisions measured earlier are kept, though not chosen now"]


def _update_row(store: RunStore, c: Checked, series: Series) -> None:
    """Bring up to date what the series says of a finished checkpoint: its tokens, its place.

    What only its files told, which a remote one has no longer here, is kept.
    """
    partition = c.revision.partition
    (old,) = store.read_part("checkpoints", partition).to_pylist()
    kept = ["architecture", "n_parameters", "dtype", "attention"]
    row = _row(c, series)
    if c.weights is None:
        kept += ["weights_sha256", "tensor_hash", "duplicate_of", "reason"]
        row["flags"] += [f for f in old["flags"] if f.startswith("all_zero")]
    row |= {k: old[k] for k in kept}
    if row != old:
        store.write_part("checkpoints", [row], partition, c.identity)


def _measure_one(
    store: RunStore,
    c: Checked,
    tracks: Tracks,
    loaded: Loaded,
    share: Sequence[str],
    *,
    last: bool,
) -> None:
    """Measure the tracks of a share whose parts are not there yet."""
    r, identity = c.revision, c.identity
    keys = {"revision": r.name, "stage": r.stage, "step": r.step}
    open_ = [
        track
        for track, tables in tracks.tables(last=last).items()
        if track in share and not all(store.find_part(t, r.partition, identity) for t in tables)
    ]
    for table, rows in tracks.measure(loaded, keys, open_, last=last):
        store.write_part(table, rows, r.partition, identity)


def _write_measured(store: RunStore, c: Checked, series: Series, loaded: Loaded) -> None:
    row = _row(c, series) | {
        "architecture": loaded.architecture,
        "n_parameters": loaded.n_parameters,
        "dtype": loaded.dtype,
        "attention": loaded.attention,
    }
    store.write_part("checkpoints", [row], c.revision.partition, c.identity)


def _write_unmeasured(store: RunStore, c: Checked, series: Series) -> None:
    partition, row = c.revision.partition, _row(c, series)
    for table in (*MEASURED_TABLES, "subject_attention"):
        store.remove_part(table, partition)
    if c.listed is not None and c.weights is None and c.reason and c.reason.endswith(OTHER_FILES):
        (old,) = store.read_part("checkpoints", partition).to_pylist()
        row |= {k: old[k] for k in ("weights_sha256", "tensor_hash", "flags")}
    store.write_part("checkpoints", [row], partition, c.identity)


def _row(c: Checked, series: Series) -> dict[str, Any]:
    r, w = c.revision, c.weights
    return {
        "series": series.name,
        "revision": r.name,
        "position": c.position,
        "repo": r.repo,
        "stage": r.stage,
        "step": r.step,
        "tokens": r.tokens,
        "tokens_source": r.tokens_source,
        "commit_sha": r.commit_sha,
        "weights_sha256": list(w.sha256) if w else _listed_hashes(c),
        "tensor_hash": w.tensor_hash if w else None,
        "flags": _flags(c),
        "duplicate_of": c.duplicate_of,
        "reason": c.reason,
    }


def _listed_hashes(c: Checked) -> list[str]:
    """Sha256 of the weight files where the Hub lists it for all of them."""
    hashes = c.listed.hashes if c.listed else ()
    return [] if any(h.startswith("git:") for h in hashes) else list(hashes)


def _flags(c: Checked) -> list[str]:
    aliases = [f"alias:{name}" for name in c.revision.aliases]
    listed = c.listed.flags if c.listed else ()
    return [*aliases, *listed, *(c.weights.flags if c.weights else ())]
