"""The numbers behind the injection charts; curves of several seeds are averaged.

S = probed steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from factlife.injection.metrics import corruption, decay, effect
from factlife.injection.metrics.curves import CONTROL, Curves
from factlife.report.datasets import pack
from factlife.report.injection_data import DRAWS, LAWS, LEVEL, Injection, Row
from factlife.stats import Floats, Resampler

MOST_STEPS = 120


def curve_rows(found: Injection) -> Iterator[Row]:
    """Change of log-probability since before the first injection, by start, arm and depth."""
    for prefix in found.main:
        runs = found.groups[prefix]
        steps = _common_steps(runs)
        first = min(runs[0].run["injection_steps"], default=0)
        for arm in (*runs[0].injected_arms, CONTROL):
            for depth in runs[0].known_depths:
                change = np.mean([_mean_curve(c, arm, depth, steps) for c in runs], axis=0)
                base = change[np.flatnonzero(steps <= first)[-1]]
                for step, value in zip(steps.tolist(), (change - base).tolist(), strict=True):
                    yield {"scope": prefix, "arm": arm, "depth": depth, "kind": "curve",
                           "step": step, "value": value}  # fmt: skip
            marks = runs[0].times(arm) or tuple(runs[0].run["injection_steps"])
            for t in marks:
                yield {"scope": prefix, "arm": arm, "depth": None, "kind": "injection",
                       "step": int(t), "value": None}  # fmt: skip


def _common_steps(runs: Sequence[Curves]) -> Any:
    """Steps that all seeds probed; thinned out, but with those just before and after injections."""
    shared = runs[0].steps
    for c in runs[1:]:
        shared = np.intersect1d(shared, c.steps)
    if len(shared) <= MOST_STEPS:
        return shared
    wanted = {0, len(shared) - 1}
    for t in runs[0].run["injection_steps"]:
        at = int(np.searchsorted(shared, t))
        wanted |= {at, min(at + 1, len(shared) - 1), min(at + 3, len(shared) - 1)}
    even = np.linspace(0, len(shared) - 1, MOST_STEPS).astype(int)
    return shared[sorted(wanted | set(even.tolist()))]


def _mean_curve(c: Curves, arm: str, depth: str, steps: Any) -> Floats:
    rows = np.searchsorted(c.steps, steps)
    curve: Floats = c.by_passage(depth)[rows][:, c.arms == arm].mean(axis=1)
    return curve


def score_rows(found: Injection) -> Iterator[Row]:
    """Effectivity of every arm and depth with its null, and the published numbers."""
    for prefix in found.main:
        c = found.groups[prefix][0]
        for arm in c.injected_arms:
            for depth in c.known_depths:
                yield from _score(found, "effectivity", prefix, arm, depth, f"{arm}: {depth}")
            label = f"{arm}: nothing injected"
            yield from _score(found, "effectivity_placebo", prefix, arm, None, label)
        for arm in (*c.injected_arms, CONTROL):
            label = "never injected" if arm == CONTROL else arm
            yield from _score(found, "effectivity_published", prefix, arm, None, label)


def _score(
    found: Injection, metric: str, prefix: str, arm: str, depth: str | None, label: str
) -> Iterator[Row]:
    row = found.score(metric, ".".join(p for p in (prefix, arm, depth) if p))
    if row is not None:
        kept = {k: row[k] for k in ("value", "ci_low", "ci_high", "n")}
        kind = depth or ("control" if arm == CONTROL else "null")
        if metric == "effectivity_published":
            kind = "null" if arm == CONTROL else "published"
        yield {"scope": prefix, "measure": metric, "label": label, "kind": kind, **kept}


def retention_rows(found: Injection) -> Iterator[Row]:
    """R(t) with its interval, and the three laws at the same times."""
    for (prefix, arm), k in found.kept.items():
        for i, t in enumerate(k.t.tolist()):
            yield {"scope": prefix, "arm": arm, "law": "measured", "t": t, "x": np.log10(t).item(),
                   "value": float(k.curve[i]), "ci_low": float(k.low[i]),
                   "ci_high": float(k.high[i])}  # fmt: skip
        for name, law in zip(LAWS, decay.LAWS, strict=True):
            for t, value in zip(k.t.tolist(), k.fits.predicted(law, k.t).tolist(), strict=True):
                yield {"scope": prefix, "arm": arm, "law": name, "t": t, "x": np.log10(t).item(),
                       "value": value, "ci_low": None, "ci_high": None}  # fmt: skip


def spacing_rows(found: Injection) -> Iterator[Row]:
    """G(k) of every spacing, seeds averaged, and its slope with an interval."""
    for prefix in found.study("spacing"):
        runs = found.groups[prefix]
        for arm in runs[0].injected_arms:
            steps = int(arm.removeprefix("every-"))
            row = found.score("accumulation", f"{prefix}.{arm}")
            if row is not None:
                kept = {k: row[k] for k in ("value", "ci_low", "ci_high")}
                yield {"scope": prefix, "arm": arm, "kind": "slope", "spacing": steps, "k": None,
                       "x": np.log10(steps).item(), **kept}  # fmt: skip
            g = [effect.before_next(c, c.by_passage(), arm) for c in runs]
            values = [z.sum(axis=1) for z in g if not isinstance(z, str)]
            if values:
                for k, value in enumerate(np.mean(values, axis=0).tolist(), start=1):
                    yield {"scope": prefix, "arm": arm, "kind": "left", "spacing": steps, "k": k,
                           "x": None, "value": value, "ci_low": None, "ci_high": None}  # fmt: skip


def old_rows(found: Injection) -> Iterator[Row]:
    """Real facts and background loss over the steps, seeds averaged."""
    for prefix in found.main:
        runs = found.groups[prefix]
        asked = found.tables["injection_recall"]
        facts = [f for c in runs if (f := corruption.read_facts(asked, c.name))]
        for measure, column in (("facts_nats", "logprob"), ("facts_share", "whole")):
            yield from _fact_rows(prefix, measure, [(f, getattr(f, column)) for f in facts])
        losses: dict[int, list[float]] = {}
        for c in runs:
            for step, loss in corruption.background(found.tables["training_log"], c.name):
                losses.setdefault(step, []).append(loss)
        for step, values in sorted(losses.items()):
            if len(values) == len(runs):
                yield {"scope": prefix, "measure": "background", "step": step,
                       "value": float(np.mean(values)), "ci_low": min(values),
                       "ci_high": max(values)}  # fmt: skip


def _fact_rows(
    prefix: str, measure: str, found: Sequence[tuple[corruption.Facts, Floats]]
) -> Iterator[Row]:
    """Means over facts with intervals; the same facts are asked in every run."""
    if not found:
        return
    f = found[0][0]
    shape = found[0][1].shape
    same = [v for g, v in found if np.array_equal(g.steps, f.steps) and v.shape == shape]
    values = np.mean(same, axis=0)
    sampler = Resampler.make(f.relations, DRAWS, 0, LEVEL)
    for step, row in zip(f.steps.tolist(), values, strict=True):
        value = float(row.mean())
        low, high = sampler.interval(sampler.means(row, np.ones(len(row))), value)
        yield {"scope": prefix, "measure": measure, "step": step, "value": value, "ci_low": low,
               "ci_high": high}  # fmt: skip


def log10(value: float) -> float:
    """Place of a value on a log axis."""
    return float(np.log10(value))


_SPAN = ("value", "ci_low", "ci_high")
_DATASETS = {
    "injection_curves": (curve_rows, ("scope", "arm", "depth", "kind", "step", "value")),
    "injection_scores": (score_rows, ("scope", "measure", "label", "kind", *_SPAN, "n")),
    "injection_retention": (retention_rows, ("scope", "arm", "law", "t", "x", *_SPAN)),
    "injection_spacing": (
        spacing_rows, ("scope", "arm", "kind", "spacing", "k", "x", *_SPAN),
    ),
    "injection_old": (old_rows, ("scope", "measure", "step", *_SPAN)),
}  # fmt: skip


def injection_datasets(found: Injection | None) -> dict[str, Any]:
    """The numbers behind the injection charts, by name; none where nothing was injected."""
    if found is None:
        return {}
    return {name: pack(list(rows(found)), columns) for name, (rows, columns) in _DATASETS.items()}
