"""The formulas of injection-2024, beside ours: maxima and ratios of single probes.

l(q) = mean log-probability of a target's tokens (nats per token), W = window.

    t_LAM(q, i) = argmax of l over [T_i + 1, T_i + W]
    E(q, i)     = l[t_LAM(q, i)] - l[T_i]
    R(q, t)     = (l[t_LAM(q, N) + t] - l[0]) / (l[t_LAM(q, N)] - l[0])      N: last injection

Values outside the interquartile range, widened by 1.5 of itself (as printed; 2.0 in the published
code), are left out, then the mean is taken. R's mean is fitted by b - a log10 t, t >= 1,
unweighted. A maximum of noise is positive: E > 0 without any learning. Probes whose denominator is
negative stay in, and the filter leaves out other probes at each t. S, P, N as in `curves`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factlife.injection.metrics.curves import CONTROL, Curves, Mask
from factlife.injection.metrics.effect import windows
from factlife.injection.metrics.retention import log_spaced
from factlife.stats import Floats, Ints

PRINTED, CODE = 1.5, 2.0


def within_quartiles(values: Floats, factor: float) -> Mask:
    """[..., P] which values survive the filter along the last axis; NaN does not."""
    low, high = np.nanquantile(values, [0.25, 0.75], axis=-1, keepdims=True)
    reach = factor * (high - low)
    kept: Mask = (values >= low - reach) & (values <= high + reach)
    return kept


def filtered_mean(values: Floats, factor: float) -> Floats:
    """Mean along the last axis of what survives the filter."""
    kept = within_quartiles(values, factor)
    means: Floats = np.where(kept, values, 0).sum(axis=-1) / np.maximum(kept.sum(axis=-1), 1)
    return means


def per_token(c: Curves, arm: str = CONTROL) -> Floats:
    """l [S, P] in nats per token; passages of the arm that lag behind are moved to its times."""
    found: Floats = c.total / c.n_tokens
    late = c.lags(arm)[c.passage_of]
    for lag in np.unique(late[late > 0]).tolist():
        found[:, late == lag] = c.at(found[:, late == lag], c.steps + lag)
    return found


def maxima(
    c: Curves, level: Floats, probes: Mask, times: Sequence[int]
) -> tuple[Floats, Ints] | None:
    """E [I, p] of some probes at each injection, and the step of each maximum [I, p].

    None where a step of injection was not probed.
    """
    gains, at = [], []
    for start, end in windows(times, c.window):
        base, after = c.place(start), np.flatnonzero((c.steps > start) & (c.steps <= end))
        if base is None or not len(after):
            return None
        change = level[after][:, probes] - level[base, probes]
        best = change.argmax(axis=0)
        gains.append(change.max(axis=0))
        at.append(c.steps[after[best]])
    return np.array(gains), np.array(at)


Retained = tuple[Floats, Floats]


def retainability(c: Curves, level: Floats, probes: Mask, times: Sequence[int]) -> Retained | None:
    """(t [T], R [T, p]) of some probes; None where it cannot be had.

    Times between probed steps are interpolated, where not every step was probed.
    """
    found = maxima(c, level, probes, times)
    base = c.place(0)
    if found is None or base is None:
        return None
    peak = found[1][-1]
    t = log_spaced(int(c.steps[-1] - peak.max()))
    if len(t) < 2:
        return None
    mine = level[:, probes]
    at = peak[None, :] + np.concatenate([[0.0], t])[:, None]
    columns = [np.interp(at[:, i], c.steps, mine[:, i]) for i in range(mine.shape[1])]
    gained = np.array(columns).T - mine[base]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = gained[1:] / gained[0]
    ratio[~np.isfinite(ratio)] = np.nan
    return t, ratio
