"""The plan of a run: which text stands in which batch, and when probes are read.

A plan is JSON lines, `{"step": 50, "row": 3, "passage": "fk-public-00012", "variant": 2}`: batch
of update 50 (from 0), place 3 among its passages, second paraphrase. It holds no tokens, so that
one plan serves every tokenizer, and it is hashed into the identity of its run.

Step s everywhere else means "after s updates": a text in the batch of update T is read last
before it at s = T and first after it at s = T + 1.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from factlife.config import Injection
from factlife.errors import UsageError
from factlife.injection.arms import ARMS, Assignment, assign, balanced, grouped
from factlife.injection.corpus import Corpus
from factlife.store import canonical_json, write_text

BACKGROUND = "background"


@dataclass(frozen=True, order=True)
class Line:
    """One text in one batch: `variant` 0 is the passage, k its k-th paraphrase."""

    step: int
    row: int
    passage: str
    variant: int


@dataclass(frozen=True)
class Schedule:
    """When a run injects and reads.

    Attributes:
        steps: updates in all.
        injection_steps: steps before which a batch holds passages (their first, where a batch
            study spreads an injection over several).
        placebo_steps: steps treated as injections where nothing was injected.
        window: steps probed densely after both.
        probe_steps: steps at which the probes are read.
        corruption_steps: steps at which facts and held-out background are read.
    """

    steps: int
    injection_steps: tuple[int, ...]
    placebo_steps: tuple[int, ...]
    window: int
    probe_steps: tuple[int, ...]
    corruption_steps: tuple[int, ...]


@dataclass(frozen=True)
class RunPlan:
    """Everything one injection run follows from, beside the model.

    Attributes:
        name: `late-seed0`, `lr-0.0003-late-seed0`, `background-late-seed0`.
        study: as in the settings, or BACKGROUND: the main run of a start without its passages.
        varied, value: what a batch or lr study sets, else None.
        flags: what is unusual about it before it begins.
    """

    name: str
    study: str
    position: str
    revision: str
    seed: int
    balanced: bool
    varied: str | None
    value: float | None
    settings: Injection
    schedule: Schedule
    assignments: tuple[Assignment, ...]
    lines: tuple[Line, ...]
    flags: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hex sha256 of the plan's lines."""
        return hashlib.sha256(to_jsonl(self.lines).encode()).hexdigest()

    def steps_of(self) -> Mapping[str, tuple[int, ...]]:
        """The injection steps of every injected passage."""
        found: dict[str, list[int]] = defaultdict(list)
        for line in self.lines:
            found[line.passage].append(line.step)
        return {k: tuple(sorted(v)) for k, v in found.items()}


def to_jsonl(lines: Iterable[Line]) -> str:
    """One line of JSON a text, in order of step and row."""
    rows = ({"step": x.step, "row": x.row, "passage": x.passage, "variant": x.variant}
            for x in sorted(lines))  # fmt: skip
    return "".join(canonical_json(r) + "\n" for r in rows)


def write_plan(path: Path, lines: Iterable[Line]) -> None:
    """Write a plan. Raises PartialError when the disk refuses it."""
    write_text(path, to_jsonl(lines))


def read_plan(path: Path) -> tuple[Line, ...]:
    """Read a plan.

    Raises:
        UsageError: a line that is no JSON object of step, row, passage and variant.
    """
    lines = []
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
            line = Line(row["step"], row["row"], row["passage"], row["variant"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}, line {number}: no plan line ({error!r}); it holds step, row, passage and "
                "variant"
            ) from error
        if not all(type(v) is int and v >= 0 for v in (line.step, line.row, line.variant)):
            raise UsageError(f"{path}, line {number}: step, row and variant are numbers from 0")
        lines.append(line)
    return tuple(sorted(lines))


def check_plan(plan: RunPlan, where: str) -> None:
    """Refuse a plan that cannot be carried out, or says other than the arms.

    Raises:
        UsageError: a step outside the run, two texts in one row, an unknown or control passage, or
            a paraphrase that is not there.
    """
    known = {a.passage.passage_id: a for a in plan.assignments}
    places = set()
    for line in plan.lines:
        problem = ""
        if line.passage not in known:
            problem = "the run has no such passage"
        elif known[line.passage].control:
            problem = "it is a control"
        elif line.variant >= len(known[line.passage].passage.texts):
            problem = f"it has no paraphrase {line.variant}"
        elif line.step >= plan.schedule.steps:
            problem = f"the run has {plan.schedule.steps} steps"
        elif (line.step, line.row) in places:
            problem = f"row {line.row} is taken"
        places.add((line.step, line.row))
        if problem:
            raise UsageError(f"{where}: step {line.step}, passage {line.passage}: {problem}")


# ---- making plans ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A revision that training starts from, and what it stands for."""

    position: str
    revision: str


def make_plans(corpus: Corpus, settings: Injection, starts: Sequence[Start]) -> list[RunPlan]:
    """All runs of a profile, start by start; a start's background-only run is its last one.

    Raises:
        UsageError: settings that the corpus or the batch cannot hold.
    """
    alone = {"none": [], "last": list(starts)[-1:], "each": list(starts)}[settings.background_runs]
    plans = []
    for start in starts:
        mine = [
            _make(corpus, settings, start, varied, value, seed)
            for varied, value in _varied(settings)
            for seed in range(settings.seeds)
        ]
        plans += mine
        if settings.study == "main" and start in alone:
            plans.append(background_only(mine[0]))
    return plans


def background_only(plan: RunPlan) -> RunPlan:
    """The same updates on the same background rows, with none of the passages; no probes are read.

    What continuing to train does by itself (another text, a fresh optimiser, its warm-up) happens
    here too. It reads facts and background loss at the steps of `plan`.
    """
    schedule = replace(plan.schedule, injection_steps=(), placebo_steps=(), probe_steps=())
    return replace(
        plan,
        name=f"{BACKGROUND}-{plan.name}",
        study=BACKGROUND,
        balanced=True,
        schedule=schedule,
        assignments=(),
        lines=(),
    )


def _varied(settings: Injection) -> list[tuple[str | None, float | None]]:
    if settings.study == "batch":
        return [("batch_rows", float(b)) for b in settings.batches]
    if settings.study == "lr":
        return [("peak_lr", r) for r in settings.rates]
    return [(None, None)]


def _make(
    corpus: Corpus,
    settings: Injection,
    start: Start,
    varied: str | None,
    value: float | None,
    seed: int,
) -> RunPlan:
    spread = 1
    name = f"{start.position if start.position != 'named' else start.revision}-seed{seed}"
    changed = settings
    if varied == "batch_rows" and value is not None:
        changed, spread = _at_batch(settings, int(value))
    elif varied == "peak_lr" and value is not None:
        changed = replace(settings, peak_lr=value)
    if value is not None:
        name = f"{settings.study}-{value:g}-{name}"
    elif settings.study != "main":
        name = f"{settings.study}-{name}"
    assignments, times = _times(corpus, changed, seed, spread)
    variants = {
        a.passage.passage_id: (lambda k: k) if a.arm == ARMS[0] else (lambda _: 0)
        for a in assignments
    }
    lines = _lines(times, variants, seed)
    made = RunPlan(
        name=name.replace("/", "_"),
        study=settings.study,
        position=start.position,
        revision=start.revision,
        seed=seed,
        balanced=balanced(settings),
        varied=varied,
        value=value,
        settings=changed,
        schedule=_schedule(changed, times, spread),
        assignments=assignments,
        lines=lines,
    )
    check_plan(made, made.name)
    return made


def _at_batch(settings: Injection, batch: int) -> tuple[Injection, int]:
    """A smaller batch at equal tokens and injected share: more steps, an injection spread thin.

    With a batch of 1/f of the largest, an injection takes f steps, each with 1/f of the passages.
    """
    largest = max(settings.batches)
    if largest % batch:
        raise UsageError(f"batches: {batch} does not divide the largest, {largest}")
    f = largest // batch
    scaled = {k: getattr(settings, k) * f for k in ("lead_in", "interval", "after", "window")}
    scaled |= {"warmup_steps": settings.warmup_steps * f, "dense_every": settings.dense_every * f}
    return replace(settings, batch_rows=batch, **scaled), f


_Times = Mapping[str, tuple[int, ...]]


def _times(
    corpus: Corpus, settings: Injection, seed: int, spread: int
) -> tuple[tuple[Assignment, ...], _Times]:
    """Assignments, and the injection steps of every passage that has any."""
    if settings.study == "spacing":
        return _spacing(corpus, settings, seed)
    if settings.study == "frequency":
        return _frequency(corpus, settings, seed)
    assignments = assign(corpus, settings, seed)
    every = [settings.lead_in + k * settings.interval for k in range(settings.injections)]
    injected = [a for a in assignments if not a.control]
    order = np.random.default_rng((seed, 1)).permutation(len(injected))
    times = {}
    for place, i in enumerate(order):
        late, a = place % spread, injected[i]
        steps = every[:1] if a.arm == "once" else every
        times[a.passage.passage_id] = tuple(t + late for t in steps)
    return assignments, times


def _spacing(
    corpus: Corpus, settings: Injection, seed: int
) -> tuple[tuple[Assignment, ...], _Times]:
    """Every group `exposures` times, each with its own spacing, all from the first injection on."""
    by_name = {f"every-{n}": n for n in settings.spacings}
    assignments = grouped(corpus, settings, list(by_name), seed)
    times = {
        a.passage.passage_id: tuple(
            settings.lead_in + k * by_name[a.arm] for k in range(settings.exposures)
        )
        for a in assignments
        if not a.control
    }
    return assignments, times


def _frequency(
    corpus: Corpus, settings: Injection, seed: int
) -> tuple[tuple[Assignment, ...], _Times]:
    """Every group another number of times, spread evenly over the same span of steps."""
    by_name = {f"times-{n}": n for n in settings.frequencies}
    assignments = grouped(corpus, settings, list(by_name), seed)
    span = settings.injections * settings.interval
    if span < max(settings.frequencies):
        raise UsageError(
            f"frequencies: {max(settings.frequencies)} times do not fit into {span} steps "
            "(injections x interval)"
        )
    times = {
        a.passage.passage_id: tuple(
            settings.lead_in + k * span // by_name[a.arm] for k in range(by_name[a.arm])
        )
        for a in assignments
        if not a.control
    }
    return assignments, times


def _lines(times: _Times, variants: Mapping[str, object], seed: int) -> tuple[Line, ...]:
    """Rows are dealt at random within a step."""
    by_step: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for passage, steps in times.items():
        for k, step in enumerate(steps):
            variant = variants[passage]
            by_step[step].append((passage, variant(k) if callable(variant) else 0))
    rng = np.random.default_rng((seed, 2))
    lines = []
    for step in sorted(by_step):
        texts = sorted(by_step[step])
        for row, i in enumerate(rng.permutation(len(texts))):
            lines.append(Line(step, row, *texts[i]))
    return tuple(lines)


def _schedule(settings: Injection, times: _Times, spread: int) -> Schedule:
    own = sorted({t for steps in times.values() for t in steps})
    last = own[-1]
    if settings.study in ("spacing", "frequency"):
        main, dense = tuple(own), tuple(own[-1:])
        steps = last + 1 + settings.after
    else:
        main = tuple(settings.lead_in + k * settings.interval for k in range(settings.injections))
        dense = main
        steps = settings.lead_in + settings.injections * settings.interval + settings.after
    placebo = (0,) if settings.lead_in >= settings.window else ()
    read = set(_dense(sorted({*placebo, *dense}), settings, steps, spread))
    if main != dense or spread > 1:  # what a passage is read by just before and after its own steps
        read |= {t + d for t in own for d in (0, 1)}
    if settings.probing == "every":
        read = set(range(steps + 1))
    corruption = {
        0,
        *dense,
        last + settings.window,
        *_logs(last + settings.window, steps, settings),
    }
    if len(main) > 100:  # a spacing of one step would read the facts at every step
        corruption = {t for t in corruption if t not in main or t in (0, last)}
    return Schedule(
        steps=steps,
        injection_steps=main,
        placebo_steps=placebo,
        window=settings.window,
        probe_steps=tuple(sorted(t for t in read | {0, steps} if t <= steps)),
        corruption_steps=tuple(sorted(t for t in corruption | {steps} if t <= steps)),
    )


def _dense(times: Sequence[int], settings: Injection, steps: int, spread: int) -> Iterable[int]:
    """Every `dense_every`-th step of each window, then log-spaced ones up to the next."""
    for i, t in enumerate(times):
        end = times[i + 1] if i + 1 < len(times) else steps
        yield t
        yield from range(t + 1, min(t + settings.window + spread, end), settings.dense_every)
        if t + settings.window <= end:
            yield t + settings.window
        yield from _logs(t + settings.window, end, settings)


def _logs(after: int, end: int, settings: Injection) -> Iterable[int]:
    """Steps in (after, end], log-spaced from `after`, counted in windows."""
    k = 1
    start = max(1, settings.window)
    while True:
        step = after - start + round(start * 10 ** (k / settings.log_points))
        if step > end:
            return
        yield step
        k += 1
