"""The injection track of a run: start revisions, one injection run after another, their tables.

    RUN/injection/<injection run>.jsonl    its plan; written once, and not to be edited after
    RUN/.injection/<injection run>/        states and rows of a run that is not finished

Parts are written in the order of `WRITTEN`; the row in `injection_runs` therefore stands for a run
whose other parts are there.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from factlife.config import Model, Profile, nearest
from factlife.corpora.fact_probes import FactProbes
from factlife.errors import IntegrityError, UsageError
from factlife.injection.audit import Audited, audit
from factlife.injection.corpus import Corpus, load_corpus
from factlife.injection.measure import Means, Place, measure, memory, precision, run_row
from factlife.injection.plan import (
    RunPlan,
    Start,
    check_plan,
    make_plans,
    read_plan,
    write_plan,
)
from factlife.runner.progress import Progress
from factlife.series.blockwise import load_blockwise
from factlife.series.loading import free_memory, load, load_tokenizer
from factlife.series.local import Revision, Series
from factlife.store import RunStore, sha256_file, sha256_json, write_json
from factlife.training import parallel
from factlife.training.loop import DivergedError, StepReport

PLANS, WORK, SETTINGS = "injection", ".injection", "settings.json"
WRITTEN = (
    "injections", "injection_passages", "training_log", "injection_recall", "probes",
    "injection_runs",
)  # fmt: skip
# Shares of the last checkpoint's tokens at which injection-2024 started (177B, 500B, 1.5T).
POSITIONS = {"early": 177 / 1500, "mid": 500 / 1500, "late": 1.0}
FIRST = "first"


@dataclass(frozen=True)
class Files:
    """A start revision's files on this machine; `tokenizer` where it has none of its own."""

    folder: Path
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Source:
    """A revision that training can start from.

    Attributes:
        identity: of its weights.
        files: its files, for as long as the context is open.
    """

    revision: Revision
    identity: str
    files: Callable[[], AbstractContextManager[Files]]


@dataclass(frozen=True)
class Injected:
    """What was done: names of injection runs, and the seconds that they took."""

    measured: tuple[str, ...]
    reused: tuple[str, ...]
    failed: tuple[str, ...]
    seconds: float


# ---- starts ----------------------------------------------------------------------------------


def choose_starts(revisions: Sequence[Revision], wanted: Sequence[str]) -> list[Start]:
    """Start revisions by position or name, each once, in the order of training.

    `late` is the last revision; `early` and `mid` are those nearest (in the logarithm of tokens; of
    steps or places, where tokens are unknown) to 12 % and a third of its tokens, where the
    published runs began. `first` is the first one, step 0 where the series has it. Where two fall
    on one revision, a name stands before a position and `late` before the other ones.

    Raises:
        UsageError: no such revision.
    """
    by_name = {r.name: r for r in revisions}
    chosen: dict[str, Start] = {}
    for word in sorted(wanted, key=lambda w: w in (*POSITIONS, FIRST)):  # names come first
        if word in POSITIONS:
            start = Start(word, _nearest(revisions, POSITIONS[word]))
        elif word == FIRST:
            start = Start(FIRST, revisions[0].name)
        elif word in by_name:
            start = Start("named", word)
        else:
            names = [*POSITIONS, FIRST, *by_name]
            raise UsageError(
                f"injection.starts: {word!r} is no position and no revision{nearest(word, names)}; "
                f"use {', '.join(names)}"
            )
        before = chosen.get(start.revision)
        if before is None or (before.position in POSITIONS and start.position == "late"):
            chosen[start.revision] = start
    order = {r.name: i for i, r in enumerate(revisions)}
    return sorted(chosen.values(), key=lambda s: order[s.revision])


def _nearest(revisions: Sequence[Revision], share: float) -> str:
    axis = _axis(revisions)
    last = max(axis)
    if not last:
        return revisions[-1].name
    goal = math.log(last * share)
    placed = [(abs(math.log(x) - goal), -i) for i, x in enumerate(axis) if x]
    return revisions[-min(placed)[1]].name


def _axis(revisions: Sequence[Revision]) -> list[float]:
    tokens, steps = [r.tokens for r in revisions], [r.step for r in revisions]
    if None not in tokens and any(tokens):
        return [float(t or 0) for t in tokens]
    if None not in steps and any(steps) and len({r.stage for r in revisions}) == 1:
        return [float(s or 0) for s in steps]
    return [float(i + 1) for i in range(len(revisions))]


def study_of(profile: Profile, study: str, starts: Sequence[str]) -> Profile:
    """The profile with its injection track turned into a study; never ranked."""
    injection = replace(profile.injection, study=study)
    if starts:
        injection = replace(injection, starts=tuple(starts))
    return replace(
        profile,
        name=f"{profile.name}-{study}",
        ranked=False,
        badge="study",
        tracks=("recall", "injection"),
        injection=injection,
    )


def only_starts(series: Series, profile: Profile) -> Series:
    """The series cut to the revisions that a study starts from: the others are not measured."""
    names = {s.revision for s in choose_starts(series.revisions, profile.injection.starts)}
    return replace(series, revisions=tuple(r for r in series.revisions if r.name in names))


# ---- running ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """What the injection runs of one run folder share."""

    store: RunStore
    series: Series
    profile: Profile
    corpus: Corpus
    facts: FactProbes
    device: torch.device
    progress: Progress
    trust_remote_code: bool = False
    allow_pickle: bool = False
    flags: tuple[str, ...] = ()  # of every run


def plans_of(profile: Profile, corpus: Corpus, revisions: Sequence[Revision]) -> list[RunPlan]:
    """Every injection run of a profile.

    Raises:
        UsageError: starts that the series lacks, or settings that the corpus cannot hold.
    """
    settings = profile.injection
    return make_plans(corpus, settings, choose_starts(revisions, settings.starts))


def run_injection(track: Track, plans: Sequence[RunPlan], sources: Sequence[Source]) -> Injected:
    """Carry out every run that is not finished; start by start, each from fresh weights.

    A run whose loss is not finite keeps a row in `injection_runs` with the reason; the others go
    on.

    Raises:
        UsageError: a plan edited after its run began, a background that ends, too little memory,
            the optimiser state of another model.
        PartialError: the disk refused a write; the same command goes on.
    """
    began = time.monotonic()
    plans = [_settled(track, replace(plan, flags=track.flags)) for plan in plans]
    by_name = {s.revision.name: s for s in sources}
    done: dict[str, list[str]] = {"measured": [], "reused": [], "failed": []}
    track.progress.start("injection", sum(p.schedule.steps for p in plans), "updates")
    before = 0
    for revision, runs in itertools.groupby(plans, key=lambda p: p.revision):
        with _once(by_name[revision].files) as files:
            for plan in runs:
                outcome = _one(track, plan, by_name[revision], files, before)
                done[outcome].append(plan.name)
                before += plan.schedule.steps
                track.progress.advance(before, plan.name)
    track.progress.finish()
    names = {k: tuple(v) for k, v in done.items()}
    return Injected(**names, seconds=time.monotonic() - began)


@contextmanager
def _once(open_: Callable[[], AbstractContextManager[Files]]) -> Iterator[Callable[[], Files]]:
    """Files that are fetched when they are first asked for, and given back at the end."""
    with ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(open_()))


def forget_work(store: RunStore) -> None:
    """Remove the folder of unfinished runs if it is empty; a sharer's may vanish under others."""
    with suppress(OSError):  # not there, or not empty
        (store.root / WORK).rmdir()


def _settled(track: Track, plan: RunPlan) -> RunPlan:
    """The plan as it lies in the run folder, written there if it does not.

    Raises:
        UsageError: it was edited after the run began, or cannot be carried out.
    """
    path = track.store.root / PLANS / f"{plan.name}.jsonl"
    if not path.is_file():
        write_plan(path, plan.lines)
        return plan
    found = replace(plan, lines=read_plan(path))
    check_plan(found, str(path))
    begun = _begun_with(track.store, plan.name)
    if begun not in (None, found.sha256):
        raise UsageError(
            f"{path} was edited after the run began: put the old plan back, or choose another "
            "--out for the new one"
        )
    return found


def _begun_with(store: RunStore, name: str) -> str | None:
    """The hash of the plan that a run began with; None where it has not begun."""
    partition = {"injection_run": name}
    if store.part_path("injection_runs", partition).is_file():
        (row,) = store.read_part("injection_runs", partition).to_pylist()
        return str(row["plan_sha256"])
    return _work_settings(store.root / WORK / name).get("plan_sha256")


def _work_settings(work: Path) -> dict[str, Any]:
    path = work / SETTINGS
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); remove {work}") from error
    return values


def identity_of(track: Track, plan: RunPlan, weights: str) -> str:
    """Hash of everything that a run's numbers depend on.

    The device is not in it: a run that a GPU has finished stays finished for whoever puts shards
    together without one. Only a run that has been broken off begins anew on another device.
    """
    background = plan.settings.background
    path = Path(background)
    optimiser = Path(plan.settings.optimiser) / "optimiser.safetensors"
    return sha256_json(
        {
            "weights": weights,
            "plan": plan.sha256,
            "settings": asdict(plan.settings),
            "seed": plan.seed,
            "corpus": track.corpus.fingerprint(),
            "facts": track.facts.fingerprint(),
            "background": sha256_file(path) if path.is_file() else background,
            "optimiser": sha256_file(optimiser) if optimiser.is_file() else "",
            "attention": track.profile.model.attention,
            "bos": track.profile.model.bos,
        }
    )


def _one(
    track: Track, plan: RunPlan, source: Source, files: Callable[[], Files], before: int
) -> str:
    """Carry out one run unless it is finished: measured, reused or failed."""
    identity = identity_of(track, plan, source.identity)
    if reused := _finished(track.store, plan.name, identity):
        return reused
    work = track.store.root / WORK / plan.name
    settings = {"identity": identity, "device": track.device.type}
    begun = _work_settings(work)
    if begun and {k: begun.get(k) for k in settings} != settings:
        track.progress.warn(
            f"{plan.name}: begun from other weights or text, or on another device; begins anew"
        )
        shutil.rmtree(work)
    write_json(work / SETTINGS, {**settings, "plan_sha256": plan.sha256})
    place = Place(track.series.name, source.revision.step, source.revision.tokens)
    partition = {"injection_run": plan.name}
    try:
        tables = _measured(track, plan, files(), place, work, before)
    except DivergedError as error:
        reason = str(error)
        track.progress.warn(f"{plan.name}: {reason}")
        row = run_row(
            plan, place, plan.settings.context, precision(plan.settings, track.device.type),
            [*plan.flags, *([] if plan.balanced else ["unbalanced"])], reason,
        )  # fmt: skip
        for name in WRITTEN[:-1]:
            track.store.remove_part(name, partition)
        track.store.write_part("injection_runs", [row], partition, identity)
        shutil.rmtree(work, ignore_errors=True)
        return "failed"
    for name in WRITTEN:
        track.store.write_part(name, tables[name], partition, identity)
    shutil.rmtree(work, ignore_errors=True)
    return "measured"


def _measured(
    track: Track, plan: RunPlan, files: Files, place: Place, work: Path, before: int
) -> dict[str, Any]:
    """Load the start revision and train it. Raises as `measure`."""
    order = _Order(plan, files, place, work)
    parallel.from_first(order)

    def on_step(report: StepReport) -> None:
        track.progress.advance(before + report.step, f"{plan.name}, loss {report.loss:.2f}")

    return _carry_out(order, track.profile, track, on_step)


@dataclass(frozen=True)
class _Order:
    """What the first process tells the others to carry out with it."""

    plan: RunPlan
    files: Files
    place: Place
    work: Path


@dataclass(frozen=True)
class Follower:
    """What every process has without being told: the inputs, the device, and leave."""

    corpus: Corpus
    facts: FactProbes
    device: torch.device
    trust_remote_code: bool = False
    allow_pickle: bool = False


def _carry_out(
    order: _Order,
    profile: Profile,
    inputs: Track | Follower,
    on_step: Callable[[StepReport], Any] | None = None,
) -> dict[str, Any]:
    """Load the start revision and train it. Raises as `measure`."""
    tokenizer = order.files.tokenizer
    wanted = Model(dtype="float32", attention=profile.model.attention)
    how: dict[str, Any] = {
        "trust_remote_code": inputs.trust_remote_code,
        "allow_pickle": inputs.allow_pickle,
        "tokenizer": load_tokenizer(tokenizer) if tokenizer else None,
    }
    free_memory(inputs.device)  # of the run before
    with memory(order.plan.settings):
        if parallel.size() > 1:
            loaded = load_blockwise(order.files.folder, wanted, **how)
        else:
            loaded = load(order.files.folder, wanted, inputs.device, **how)
    execution = profile.execution
    means = Means(
        order.work, inputs.device, execution.batch_tokens, profile.model.bos,
        execution.state_seconds, on_step,
    )  # fmt: skip
    return measure(loaded, order.plan, inputs.corpus, inputs.facts, order.place, means)


def follow(profile: Profile, follower: Follower) -> None:
    """Under torchrun, all processes but the first: train along until there is nothing more."""
    while (order := parallel.from_first(None)) is not None:
        with suppress(DivergedError):  # the first process records it
            _carry_out(order, profile, follower)


def _finished(store: RunStore, name: str, identity: str) -> str | None:
    """`reused` or `failed` where a run need not be done again."""
    partition = {"injection_run": name}
    if not store.find_part("injection_runs", partition, identity):
        return None
    (row,) = store.read_part("injection_runs", partition).to_pylist()
    if row["reason"]:
        return "failed"
    whole = all(store.find_part(t, partition, identity) for t in WRITTEN)
    return "reused" if whole else None


def unfinished(track: Track, plans: Sequence[RunPlan], sources: Sequence[Source]) -> list[str]:
    """Names of the runs that would be carried out; a run that diverged is none of them."""
    weights = {s.revision.name: s.identity for s in sources}
    plans = [_settled(track, plan) for plan in plans]
    return [
        p.name
        for p in plans
        if not _finished(track.store, p.name, identity_of(track, p, weights[p.revision]))
    ]


def audit_start(
    series: Series, start: str, corpus: str, profile: Profile, device: torch.device, *, foils: int
) -> tuple[str, list[Audited]]:
    """Audit a corpus against one local revision; the revision and what was found by passage.

    Raises:
        UsageError: no such revision or corpus, or a revision that is not on this machine.
    """
    (chosen,) = choose_starts(series.revisions, [start])
    revision = next(r for r in series.revisions if r.name == chosen.revision)
    if revision.remote and not revision.path.is_dir():
        raise UsageError(
            f"{revision.name} of {series.name} is not on this machine: download it first, or give "
            "a local folder"
        )
    loaded = load(revision.path, profile.model, device)
    found = audit(
        loaded.model, loaded.tokenizer, load_corpus(corpus), max_length=loaded.max_length,
        bos=profile.model.bos, batch_tokens=profile.execution.batch_tokens,
        foils=foils,
    )  # fmt: skip
    return revision.name, found


def injection_fingerprints(profile: Profile) -> dict[str, str]:
    """What the track adds to the data fingerprints: its corpus; nothing where it does not run."""
    if "injection" not in profile.tracks:
        return {}
    return {"injection corpus": load_corpus(profile.injection.corpus).fingerprint()}
