"""Rows of the injection tables -> metrics: every run's numbers, put together over seeds.

Scopes name where a number belongs: a position (`late`), or study and position (`spacing-late`,
`batch_rows=32-late`), then an arm, a depth or a contrast: `late.paraphrase.semantic`,
`late.duplication-paraphrase`, `early-late`. A single seed is `late-seed0`. `overall` is the last
position of the main runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from factlife import stats
from factlife.injection.metrics import corruption, spacing
from factlife.injection.metrics.curves import CONTROL, POSITIONS, Curves, read_curves
from factlife.injection.metrics.generation import logistic
from factlife.injection.metrics.numbers import Found, Key, Numbers, scope
from factlife.injection.metrics.retention import log_spaced
from factlife.injection.metrics.samples import (
    Bootstrap,
    Sample,
    absent,
    combined,
    difference,
    over_seeds,
    slope_weights,
)
from factlife.stats import Estimate, Measured

SERIES = ""
_PER_SEED = ("injection.effectivity", "injection.gain", "injection.decay_constant")
_MAX_STEPS = 40  # of each run in the fit of generation on log-probability


@dataclass(frozen=True)
class Runs:
    """Injection runs of one study, setting and position, that differ in their seed only."""

    prefix: str
    position: str
    study: str
    value: float | None
    curves: tuple[Curves, ...]
    numbers: tuple[Found, ...]

    @cached_property
    def by_seed(self) -> Mapping[int, Found]:
        """Seed -> numbers."""
        seeds = (int(c.run["seed"]) for c in self.curves)
        return dict(zip(seeds, self.numbers, strict=True))

    def samples(self, key: Key) -> list[Sample]:
        """A number of every run that has it."""
        return [n[key] for n in self.numbers if key in n]


def measure_all(
    tables: Mapping[str, pa.Table], *, draws: int, seed: int, level: float
) -> list[Measured]:
    """Every metric of the injection track; none where nothing was injected.

    Args:
        tables: `injection_runs`, `injection_passages`, `probes`, `injection_recall` and
            `training_log`.
        draws, seed, level: of the bootstrap.
    """
    curves = read_curves(tables)
    runs = tables["injection_runs"].to_pylist()
    found = []
    for i, c in enumerate(curves):
        strata = np.char.add(np.char.add(c.arms, "."), c.halves)
        boot = Bootstrap.make(strata, draws, seed + i, level)
        facts = corruption.read_facts(tables["injection_recall"], c.name)
        background = corruption.background(tables["training_log"], c.name)
        alone, loss_alone = None, []
        if (other := corruption.background_run(runs, c.run)) is not None:
            alone = corruption.read_facts(tables["injection_recall"], other)
            loss_alone = corruption.background(tables["training_log"], other)
        found.append(Numbers(c, boot, facts, background, alone, loss_alone).compute())
    groups = grouped(curves, found)
    measured = [m for g in groups for m in _group(g, level)]
    main = [g for g in groups if g.study == "main"]
    measured += _between_positions(main, level)
    for g in groups:
        if g.study == "spacing":
            measured.append(_spacing_threshold(g, level))
    measured += _slopes(groups, level)
    return [*measured, *(_overall(main[-1].prefix, measured) if main else ())]


def grouped(curves: Sequence[Curves], numbers: Sequence[Found]) -> list[Runs]:
    """Runs by prefix, in the order of `curves`."""
    groups: dict[str, list[int]] = {}
    for i, c in enumerate(curves):
        groups.setdefault(prefix_of(c), []).append(i)
    return [
        Runs(
            prefix,
            str(curves[at[0]].run["position"]),
            str(curves[at[0]].run["study"]),
            curves[at[0]].run["varied_value"],
            tuple(curves[i] for i in at),
            tuple(numbers[i] for i in at),
        )
        for prefix, at in groups.items()
    ]


def prefix_of(c: Curves) -> str:
    """Scope of a run without its seed; a revision that the user named stands in it."""
    position, study = c.run["position"], c.run["study"]
    if position == "named":
        position = f"named({c.run['revision']})"
    if study == "main":
        return str(position)
    if c.run["varied"] is None:
        return f"{study}-{position}"
    return f"{c.run['varied']}={c.run['varied_value']:g}-{position}"


# ---- one group -------------------------------------------------------------------------------


def _group(g: Runs, level: float) -> Iterator[Measured]:
    keys = dict.fromkeys(k for n in g.numbers for k in n)
    for metric, inner in keys:
        unit = _UNITS.get(metric, "bootstrap of passages")
        samples = g.samples((metric, inner))
        estimate = _unvaried(metric, over_seeds(samples, level, unit), samples, level)
        yield Measured(metric, scope(g.prefix, inner), SERIES, estimate)
    if g.study == "main":
        for c, n in zip(g.curves, g.numbers, strict=True):
            for metric in _PER_SEED:
                if (metric, "") in n:
                    estimate = over_seeds([n[metric, ""]], level)
                    where = f"{g.prefix}-seed{c.run['seed']}"
                    yield Measured(metric, where, SERIES, estimate)
        yield from _generation(g, level)


_SUPPORT = {"injection.exact_match": (0.0, 1.0), "injection.facts_lost": (-1.0, 1.0)}


def _unvaried(metric: str, e: Estimate, samples: Sequence[Sample], level: float) -> Estimate:
    """Widen the flat interval of a share by what its units without a change leave open."""
    if metric not in _SUPPORT or e.value is None or e.ci_low is None or e.ci_high is None:
        return e
    if not stats.flat(e.ci_low, e.ci_high):
        return e
    n = max(s.n for s in samples)
    down, up = stats.unvaried(np.full(n, e.value), np.ones(n), _SUPPORT[metric], level)
    return Estimate(e.value, e.value - down, e.value + up, n, "wilson")


_FACTS = "bootstrap of facts within relations"
_UNITS = {
    "injection.facts_lost": _FACTS,
    "injection.facts_lost_nats": _FACTS,
    "injection.facts_lost_background": _FACTS,
    "injection.facts_lost_excess": _FACTS,
    "injection.corruption": "bootstrap of facts within relations and of passages",
    "injection.corruption_uncorrected": "bootstrap of facts within relations and of passages",
}


def _generation(g: Runs, level: float) -> Iterator[Measured]:
    """Exact match against the target's summed log-probability, over all seeds of a position."""
    logprob, exact, passages = [], [], []
    for c in g.curves:
        probes = ~(c.arms == CONTROL)[c.passage_of] & ~np.isnan(c.exact).any(axis=0)
        rows = np.unique(np.searchsorted(c.steps, log_spaced(int(c.steps[-1]))))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MAX_STEPS)).astype(int)]
        names = np.array(c.passages)[c.passage_of[probes]]
        logprob.append(c.total[rows][:, probes].ravel())
        exact.append(c.exact[rows][:, probes].ravel())
        passages.append(np.tile(names, len(rows)))
    _, places = np.unique(np.concatenate(passages), return_inverse=True)
    if not len(places):
        none = stats.missing(0, "exact match was not measured")
        yield Measured("injection.generation_slope", g.prefix, SERIES, none)
        yield Measured("injection.generation_midpoint", g.prefix, SERIES, none)
        return
    found = logistic(np.concatenate(logprob), np.concatenate(exact), places, level)
    yield Measured("injection.generation_slope", g.prefix, SERIES, found.slope)
    yield Measured("injection.generation_midpoint", g.prefix, SERIES, found.midpoint)


# ---- several groups --------------------------------------------------------------------------

_BETWEEN = {
    "injection.effectivity_difference": "injection.effectivity",
    "injection.decay_difference": "injection.decay_constant",
    "injection.fluctuation_difference": "injection.fluctuation",
}


def _between_positions(main: Sequence[Runs], level: float) -> Iterator[Measured]:
    """Every earlier position minus every later one, seed by seed."""
    for i, a in enumerate(main):
        for b in main[i + 1 :]:
            for name, metric in _BETWEEN.items():
                seeds = [s for s in a.by_seed if s in b.by_seed]
                pairs = [
                    difference(a.by_seed[s][metric, ""], b.by_seed[s][metric, ""])
                    for s in seeds
                    if (metric, "") in a.by_seed[s] and (metric, "") in b.by_seed[s]
                ]
                where = f"{a.prefix}-{b.prefix}"
                yield Measured(name, where, SERIES, over_seeds(pairs, level))


def _spacing_threshold(g: Runs, level: float) -> Measured:
    """Where the slope of G in k reaches 0; seeds are averaged before the search."""
    metric = "injection.spacing_threshold"
    arms = [a for a in g.curves[0].injected_arms if a.startswith("every-")]
    keys = [("injection.accumulation", a) for a in arms]
    usable = [k for k in keys if any(s.value is not None for s in g.samples(k))]
    spacings = [int(k[1].removeprefix("every-")) for k in usable]
    if len(usable) < 2:
        estimate = stats.missing(len(usable), "fewer than two spacings with three injections")
        return Measured(metric, g.prefix, SERIES, estimate)
    slopes = []
    for k in usable:
        mine = [s for s in g.samples(k) if s.value is not None]
        slopes.append(combined([1 / len(mine)] * len(mine), mine))
    values = np.array([s.value for s in slopes], dtype=np.float64)
    drawn = spacing.threshold_draws(spacings, np.column_stack([s.draws for s in slopes]))
    n = sum(s.n for s in slopes)
    return Measured(metric, g.prefix, SERIES, _threshold(spacings, values, drawn, n, level))


def _threshold(
    spacings: Sequence[int], slopes: stats.Floats, drawn: stats.Floats, n: int, level: float
) -> Estimate:
    value, longest, tail = spacing.threshold(spacings, slopes), spacings[-1], (1 - level) / 2
    low = float(np.quantile(drawn, tail, method="lower"))
    high = float(np.quantile(drawn, 1 - tail, method="higher"))
    if np.isinf(value):
        least = f"at least {low:.3g}" if np.isfinite(low) else "with all of its interval"
        return stats.missing(n, f"> {longest} steps, the longest tested; {least}")
    method = "bootstrap of passages"
    if np.isinf(high):
        high, method = float(longest), f"{method}; upper end > {longest}, the longest tested"
    if value <= spacings[0]:
        method += f"; {spacings[0]} is the shortest tested"
    return Estimate(value, min(low, value), max(high, value), n, method)


_SLOPES = {
    "injection.effectivity": "injection.effectivity_slope",
    "injection.decay_constant": "injection.decay_slope",
    "injection.threshold_tokens": "injection.threshold_slope",
}


def _slopes(groups: Sequence[Runs], level: float) -> Iterator[Measured]:
    """Slopes over log10 of a setting (batch_rows-late, peak_lr-late) or of exposures."""
    sweeps: dict[str, list[Runs]] = {}
    for g in groups:
        if g.value is not None:
            where = f"{g.curves[0].run['varied']}-{g.position}"
            sweeps.setdefault(where, []).append(g)
        elif g.study == "frequency":
            yield from _frequency_slope(g, level)
    for where, mine in sweeps.items():
        if len({g.value for g in mine}) < 2:
            continue
        w = slope_weights([float(np.log10(g.value)) for g in mine if g.value is not None])
        seeds = [s for s in mine[0].by_seed if all(s in g.by_seed for g in mine)]
        for metric, name in _SLOPES.items():
            none = absent(0, "not measured")
            values = [[g.by_seed[s].get((metric, ""), none) for g in mine] for s in seeds]
            slopes = [combined(w, v) for v in values]
            yield Measured(name, where, SERIES, over_seeds(slopes, level))


def _frequency_slope(g: Runs, level: float) -> Iterator[Measured]:
    """Gain at the end of injection over log10 of the exposures."""
    arms = [a for a in g.curves[0].injected_arms if a.startswith("times-")]
    if len(arms) < 2:
        return
    w = slope_weights([float(np.log10(int(a.removeprefix("times-")))) for a in arms])
    slopes = [combined(w, [n["injection.gain", a] for a in arms]) for n in g.numbers]
    yield Measured("injection.gain_slope", g.prefix, SERIES, over_seeds(slopes, level))


def _overall(prefix: str, measured: Sequence[Measured]) -> Iterator[Measured]:
    """The last position's numbers again, under the name that result.json shows first."""
    inner = dict.fromkeys(
        (
            "injection.corruption", "injection.corruption_uncorrected", "injection.facts_lost",
            "injection.facts_lost_nats", "injection.facts_lost_background",
            "injection.facts_lost_excess", "injection.background_loss_change",
            "injection.background_loss_excess",
        ),
        "during",
    )  # fmt: skip
    for m in measured:
        if m.scope == scope(prefix, inner.get(m.metric, "")):
            yield Measured(m.metric, "overall", m.revision, m.estimate)


def positions_in(scopes: Sequence[str]) -> list[str]:
    """Positions of the main runs among scopes, in the order of training."""
    return [p for p in POSITIONS if p in scopes]
