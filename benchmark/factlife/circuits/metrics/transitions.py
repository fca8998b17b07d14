"""Rows of `transitions`: probabilities and rates of going from one role to another.

Shapes: C = checkpoints, S = components of a kind, M = strata, B = bootstrap draws, D = null draws,
G = gaps with a distance in ln(tokens).
Source: recall and circuits spec, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from factlife import stats
from factlife.circuits.metrics import nulls
from factlife.circuits.metrics.evolution import DIFFERENT, Evolution
from factlife.circuits.metrics.rates import fit_generator
from factlife.circuits.metrics.roles import ROLE_CODES, Codes
from factlife.circuits.metrics.series import BRANCHES, ONLY_ONE, Series
from factlife.config import Circuits, Intervals
from factlife.stats import Floats, Ints

_N = nulls.N_ROLES


def transition_rows(
    e: Evolution, series: Series, settings: Circuits, intervals: Intervals
) -> Iterator[dict[str, Any]]:
    """P(after | before), its interval and null, and its two forms per unit of ln(tokens).

    P is pooled over components and consecutive checkpoints; checkpoints whose tokens go back
    follow none. Its interval resamples components within layers: heads, not facts.
    """
    reason = ONLY_ONE if len(series.checkpoints) < 2 else "" if e.alike else DIFFERENT
    reason = reason or ("" if series.pairs else BRANCHES)
    if reason:
        for scope in e.codes:
            for a, b in np.ndindex(_N, _N):
                yield _row(e.kind, scope, a, b, 0) | {"reason": reason}
        return
    strata = e.layouts[0].strata(e.kind)
    resampler = stats.Resampler.make(
        strata.tolist(), intervals.draws, intervals.seed, intervals.level
    )
    rng = np.random.default_rng(intervals.seed)
    for scope in e.codes:
        codes = e.whole(scope)
        drawn = nulls.permuted_changes(codes, series.pairs, strata, settings.null_draws, rng)
        yield from _rows(e.kind, scope, codes, strata, drawn.sum(axis=1), series, resampler)


def _rows(
    kind: str, scope: str, codes: Codes, strata: Ints, drawn: Ints, series: Series,
    resampler: stats.Resampler,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The 25 rows of one scope; `drawn` is [D, 25]."""
    per_component = nulls.changes(codes, series.pairs)
    count = per_component.sum(axis=0)
    tail = (1 - resampler.level) / 2
    sides = _sides(count, resampler.counts @ per_component, resampler)
    mean = shares(nulls.expected_changes(codes, series.pairs, strata).sum(axis=0))
    low, high = np.quantile(shares(drawn), [tail, 1 - tail], axis=0)  # counts before are kept
    per_log, rate, why = _per_log_token(codes, series)
    probability = shares(count)
    for place in range(_N * _N):
        a, b = divmod(place, _N)
        row = _row(kind, scope, a, b, int(count[place]))
        if np.isnan(probability[place]):
            yield row | {"reason": "no component held this role before another checkpoint"}
            continue
        yield row | {
            "probability": float(probability[place]),
            "ci_low": sides[place][0],
            "ci_high": sides[place][1],
            "null_mean": float(mean[place]),
            "null_low": min(float(low[place]), float(mean[place])),
            "null_high": max(float(high[place]), float(mean[place])),
            "per_log_token": None if a == b else _number(per_log, a, b),
            "rate": _number(rate, a, b),
            "reason": why or None,
        }


def _row(kind: str, scope: str, a: int, b: int, count: int) -> dict[str, Any]:
    names = {"role_before": ROLE_CODES[a], "role_after": ROLE_CODES[b]}
    return {"kind": kind, "scope": scope, **names, "count": count}


def _number(table: Floats | None, a: int, b: int) -> float | None:
    return None if table is None or np.isnan(table[a, b]) else float(table[a, b])


def shares(counts: np.typing.NDArray[Any]) -> Floats:
    """[..., 25] counts -> P(after | before); NaN where nothing held the role before."""
    table = counts.reshape(*counts.shape[:-1], _N, _N).astype(np.float64)
    total = table.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        p: Floats = np.where(total > 0, table / total, np.nan)
    return p.reshape(counts.shape)


def _sides(count: Ints, drawn: Ints, resampler: stats.Resampler) -> list[tuple[float, float]]:
    """Ends of each probability's interval; Wilson's where no resample differs."""
    p, draws = shares(count), shares(drawn)
    total = np.repeat(count.reshape(_N, _N).sum(axis=1), _N)
    sides = []
    for place in range(_N * _N):
        if np.isnan(p[place]):
            sides.append((np.nan, np.nan))
            continue
        low, high = resampler.interval(draws[:, place], float(p[place]))
        if stats.flat(low, high):
            low, high = stats.wilson(int(count[place]), int(total[place]), resampler.level)
        sides.append((low, high))
    return sides


def _per_log_token(codes: Codes, series: Series) -> tuple[Floats | None, Floats | None, str]:
    """Changes per component and unit of ln(tokens), the generator Q, and why one is missing."""
    if series.no_gaps:
        return None, None, series.no_gaps
    gaps = {i: gap for i in series.pairs if (gap := series.log_gap(i)) is not None}
    counts = np.stack([nulls.changes(codes, (i,)).sum(axis=0).reshape(_N, _N) for i in gaps])
    length = np.array(list(gaps.values()))
    exposure = np.einsum("gab,g->a", counts, length)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        per_log: Floats = np.where(exposure > 0, counts.sum(axis=0) / exposure, np.nan)
    q = fit_generator(counts, length)
    return (per_log, None, f"rate: {q}") if isinstance(q, str) else (per_log, q, "")
