"""Statistics shared by every track: intervals, emergence, areas, set overlap, rank statistics.

Shapes: n = facts (the unit that is resampled), B = bootstrap draws, C = checkpoints.

Facts are resampled within relations and relations stay fixed: a benchmark's relations are not
a sample of anything, and a bootstrap over 3 NAME relations would cover far less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as sps

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate; None when it could not be had, and `reason` says why.
        ci_low, ci_high: ends of the interval, in the unit of the value.
        n: independent units behind it.
        method: how the interval was made.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    method: str | None = None
    reason: str | None = None


def missing(n: int, reason: str) -> Estimate:
    """An estimate that could not be had."""
    return Estimate(None, None, None, n, None, reason)


@dataclass(frozen=True)
class Resampler:
    """Bootstrap draws of n facts within strata, shared by all metrics of a run.

    Sharing the draws pairs them: a difference of two metrics, or of one metric at two
    checkpoints, keeps the correlation between the two.

    Attributes:
        counts: [B, n] how often each fact is in each draw; every stratum keeps its size.
        level: coverage, e.g. 0.95.
    """

    counts: Ints
    level: float

    @classmethod
    def make(cls, strata: Sequence[Any], draws: int, seed: int, level: float = 0.95) -> Resampler:
        """Draw with replacement inside each stratum.

        Args:
            strata: [n] label of each fact (its relation).
            draws: B, at least 1.
            seed: of the one generator used here.
        """
        rng = np.random.default_rng(seed)
        labels = np.asarray(strata)
        counts = np.zeros((draws, len(labels)), dtype=np.int64)
        for label in dict.fromkeys(labels.tolist()):  # first-seen order: not the hash order
            members = np.flatnonzero(labels == label)
            p = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), p, size=draws)
        return cls(counts, level)

    def subset(self, keep: npt.NDArray[np.bool_]) -> Resampler:
        """The same draws, seen through a subset of the facts."""
        return replace(self, counts=self.counts[:, keep])

    def means(self, values: Floats, weights: Floats) -> Floats:
        """Weighted mean of `values` [n] in every draw -> [B]; NaN where a draw has no weight."""
        w = self.counts * weights
        total = w.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Floats = np.where(total > 0, (w @ values) / total, np.nan)
        return means

    def interval(self, draws: Floats, value: float) -> tuple[float, float]:
        """Percentile interval of draws [B]; draws that could not be had (NaN) are left out.

        It always holds `value` itself: rounding, or draws that are all but constant, may leave
        it just outside.
        """
        tail = (1 - self.level) / 2
        usable = draws[~np.isnan(draws)]
        low, high = np.quantile(usable if len(usable) else [value], [tail, 1 - tail])
        return min(float(low), value), max(float(high), value)


Support = tuple[npt.ArrayLike, npt.ArrayLike]


def bootstrap_mean(
    values: npt.ArrayLike,
    resampler: Resampler,
    weights: npt.ArrayLike | None = None,
    support: Support | None = (0.0, 1.0),
) -> Estimate:
    """Weighted mean with a percentile bootstrap interval (facts within relations).

    Args:
        values: [n] one number a fact.
        weights: [n], default equal (micro); `macro_weights` gives the mean over relations.
        support: lowest and highest value that each fact can take, or None where it has none.

    Degenerate case: when no relation varies (all its values are equal), or all facts are at one
    end of their support, the bootstrap would say too little of the uncertainty, or none.
    `unvaried` stands in, which for values that are all 0 or all 1 is the Wilson score interval
    of n trials. Without a support the interval has no width, and the method says so.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return missing(0, "no measured facts")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    value = float(np.average(x, weights=w))
    low, high = resampler.interval(resampler.means(x, w), value)
    if not flat(low, high) and not (support and _at_one_end(x, support)):
        return Estimate(value, low, high, len(x), "bootstrap of facts within relations")
    if support is None:
        return Estimate(value, value, value, len(x), "none: no relation varies")
    down, up = unvaried(x, w, support, resampler.level)
    return Estimate(value, value - down, value + up, len(x), "wilson")


def _at_one_end(values: Floats, support: Support) -> bool:
    """Whether every fact lies at the lowest, or every fact at the highest, it can take.

    Then nothing was observed to vary, even where these ends differ between facts (as those of
    chance-corrected accuracy do between relations) and draws therefore do.
    """
    return any(bool(np.all(np.isclose(values, end, rtol=0, atol=1e-12))) for end in support)


def flat(low: float, high: float) -> bool:
    """Whether an interval has no width beyond rounding."""
    return high - low <= 1e-12 * max(1.0, abs(low), abs(high))


def unvaried(
    values: npt.ArrayLike, weights: npt.ArrayLike, support: Support, level: float
) -> tuple[float, float]:
    """How far the interval of a weighted mean reaches down and up when its draws do not vary.

    Facts at one place of their support (all right, say) are m trials without an exception, of
    which Wilson's interval (Wilson 1927) leaves a share z²/(m + z²) possible. An exception
    costs at most the way to the end of the support. The sides of several such
    places add up as squares (MOVER; Zou & Donner 2008). Right or wrong answers only: Wilson's
    interval itself where all are alike.
    """
    x, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    lowest, highest = (np.broadcast_to(np.asarray(s, dtype=np.float64), x.shape) for s in support)
    share = w / w.sum()
    place = np.round((x - lowest) / (highest - lowest), 9)
    down = up = 0.0
    for p in np.unique(place):
        at = place == p
        exceptions = 1 - wilson(int(at.sum()), int(at.sum()), level)[0]
        down = math.hypot(down, exceptions * float(share[at] @ (x - lowest)[at]))
        up = math.hypot(up, exceptions * float(share[at] @ (highest - x)[at]))
    return down, up


def macro_weights(strata: Sequence[Any] | npt.NDArray[Any]) -> Floats:
    """Weights [n] that make a weighted mean the unweighted mean over relations."""
    labels, inverse, counts = np.unique(np.asarray(strata), return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / (counts[inverse] * len(labels))
    return weights


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, in 0…1."""
    ci = sps.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(ci.low), float(ci.high)


def difference(
    a: npt.ArrayLike, b: npt.ArrayLike, resampler_a: Resampler, resampler_b: Resampler
) -> Estimate:
    """mean(a) - mean(b) over two disjoint sets of facts, with a bootstrap interval.

    When a side is degenerate (nothing varies in its draws) the intervals of both sides are
    combined by Newcombe's method 10 (Newcombe 1998), so that neither side passes for exact.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(x) or not len(y):
        return missing(len(x) + len(y), "one side has no measured facts")
    value, n = float(x.mean() - y.mean()), len(x) + len(y)
    p, q = bootstrap_mean(x, resampler_a), bootstrap_mean(y, resampler_b)
    if "wilson" in (p.method, q.method):
        assert p.ci_low is not None and p.ci_high is not None
        assert q.ci_low is not None and q.ci_high is not None
        down = math.hypot(x.mean() - p.ci_low, q.ci_high - y.mean())
        up = math.hypot(p.ci_high - x.mean(), y.mean() - q.ci_low)
        return Estimate(value, value - down, value + up, n, "newcombe")
    draws = resampler_a.means(x, np.ones(len(x))) - resampler_b.means(y, np.ones(len(y)))
    low, high = resampler_a.interval(draws, value)
    return Estimate(value, low, high, n, "bootstrap of facts within relations")


def statistic(
    value: float | None,
    draw: Callable[[Floats], float | None],
    resampler: Resampler,
    n: int,
    reason: str = "not defined here",
) -> Estimate:
    """Interval of any statistic that is a function of the facts' weights.

    Args:
        value: the statistic on the sample itself; None gives a missing estimate with `reason`.
        draw: takes one draw's counts [n] and gives the statistic, or None.
    """
    if value is None:
        return missing(n, reason)
    drawn = [draw(c.astype(np.float64)) for c in resampler.counts]
    usable = np.array([d for d in drawn if d is not None], dtype=np.float64)
    if not len(usable):
        return missing(n, reason)
    low, high = resampler.interval(usable, float(value))
    return Estimate(float(value), low, high, n, "bootstrap of facts within relations")


# ---- sets ------------------------------------------------------------------------------------


def iou(a: set[Any] | frozenset[Any], b: set[Any] | frozenset[Any]) -> float | None:
    """Intersection over union, 0…1; None when both sets are empty."""
    union = a | b
    return len(a & b) / len(union) if union else None


# ---- curves over training --------------------------------------------------------------------


def area_over_log_tokens(tokens: npt.ArrayLike, values: npt.ArrayLike) -> float | None:
    """Mean height of a curve over ln(tokens), by trapezoids: the unit of the values.

    Points at 0 tokens have no place on a log axis and are left out. Two points at one token count
    are a step, which has no area. None with fewer than two distinct token counts left, or where
    tokens go back from one checkpoint to the next: branches have no common curve.
    """
    t, v = np.asarray(tokens, dtype=np.float64), np.asarray(values, dtype=np.float64)
    x, y = np.log(t[t > 0]), v[t > 0]
    if len(x) < 2 or x[-1] <= x[0] or goes_back(t):
        return None
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def goes_back(tokens: npt.ArrayLike) -> bool:
    """Whether tokens shrink from one checkpoint to the next, as where training branches."""
    return bool(np.any(np.diff(np.asarray(tokens, dtype=np.float64)) < 0))


def emergence(
    tokens: npt.ArrayLike, accuracy: npt.ArrayLike, share: float
) -> tuple[float, float] | None:
    """Interval-censored emergence: the last upward crossing of `share` of the final accuracy.

    Args:
        tokens: [C] cumulative training tokens, not decreasing.
        accuracy: [C], 0…1.
        share: e.g. 0.5 or 0.9.

    Returns:
        (tokens of the last checkpoint below, tokens of the first one that stays at or
        above). A curve that is never below was there by its first checkpoint: (0, tokens[0]).
        None when the final accuracy is 0, or where tokens go back.
    """
    t, a = np.asarray(tokens, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if not len(a) or a[-1] <= 0 or goes_back(t):
        return None
    below = np.flatnonzero(a < share * a[-1] - 1e-12)
    if not len(below):
        return 0.0, float(t[0])
    last = int(below[-1])
    return float(t[last]), float(t[last + 1])


def flips(known: npt.ArrayLike) -> Ints:
    """Changes of state of each fact over the checkpoints: [C, n] of 0/1 -> [n] counts."""
    k = np.asarray(known, dtype=np.int64)
    changes: Ints = np.abs(np.diff(k, axis=0)).sum(axis=0)
    return changes


# ---- ranks -----------------------------------------------------------------------------------


def auroc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float | None:
    """P(a positive scores above a negative), ties counted half: 0…1; None if a side is empty."""
    p, q = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if not len(p) or not len(q):
        return None
    ranks = sps.rankdata(np.concatenate([p, q]))
    u = ranks[: len(p)].sum() - len(p) * (len(p) + 1) / 2
    return float(u / (len(p) * len(q)))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation, -1…1; None with fewer than 3 points or a constant side."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 3 or np.all(a == a[0]) or np.all(b == b[0]):
        return None
    return float(sps.spearmanr(a, b).statistic)


def permutation_p(observed: float, null: npt.ArrayLike, alternative: str = "greater") -> float:
    """Permutation p-value with the observed value counted in, so that it is never 0.

    Args:
        null: [B] the statistic under permuted labels; NaN (could not be had) is left out.
        alternative: greater, less, or two-sided (twice the smaller tail, at most 1).
    """
    d = np.asarray(null, dtype=np.float64)
    d = d[~np.isnan(d)]
    greater = (1 + np.sum(d >= observed)) / (1 + len(d))
    less = (1 + np.sum(d <= observed)) / (1 + len(d))
    tails = {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}
    return float(tails[alternative])


# ---- what metrics hand to scores -------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One metric in one scope, at one revision or over the series (empty revision)."""

    metric: str
    scope: str
    revision: str
    estimate: Estimate
