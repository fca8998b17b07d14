"""Intervals and agreement from random halves of the facts.

A bootstrap is biased for unions: a resample holds fewer distinct facts, so its union is smaller.
Halves drawn without replacement are smaller too, but their spread is that of the whole sample:
the variance of a half's mean about the whole's, (1/m - 1/n) with m = n/2, is 1/n (half samples:
McCarthy 1969). The shift is removed by moving the draws onto the value. Relations are smaller in a
half too, which tells relation from fact heads less well: agreement on these two is a lower bound.

Shapes: n = facts, K = samples: all facts, then pairs of complementary halves.
"""

from __future__ import annotations

import numpy as np

from factlife.stats import Estimate, Floats, Ints

HALVES = "random halves of the facts within relations, moved onto the value"
AGREEMENT = "quantiles over random halves of the facts"
PAIRS = 50


def samples(relation: Ints, pairs: int, seed: int) -> Floats:
    """[1 + 2 pairs, n] all facts, then halves within relations, each followed by its complement.

    Halves of an odd relation differ by one fact, and chance decides which is the larger. A single
    fact has no halves: only the first row is left.
    """
    n = len(relation)
    out = np.ones((1 + (2 * pairs if n > 1 else 0), n))
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(relation == r) for r in dict.fromkeys(relation.tolist())]
    for k in range(1, len(out), 2):
        chosen = np.zeros(n, dtype=np.bool_)
        for members in groups:
            size = (len(members) + int(rng.integers(2))) // 2
            chosen[rng.permutation(members)[:size]] = True
        out[k], out[k + 1] = chosen, ~chosen
    return out


def spread(
    values: Floats, level: float, n: int, support: tuple[float, float] = (0.0, 1.0)
) -> Estimate:
    """A number and the spread of its value over halves.

    Args:
        values: [K] on all facts, then on the halves; NaN where it could not be had there.
        n: units behind it.
        support: lowest and highest value it can take.
    """
    value, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return Estimate(value, value, value, n, "none: no half of the facts could be measured")
    tail = (1 - level) / 2
    low, high = np.quantile(drawn - drawn.mean() + value, [tail, 1 - tail])
    low, high = max(float(low), support[0]), min(float(high), support[1])
    return Estimate(value, min(low, value), max(high, value), n, HALVES)


def agreement(values: Floats, level: float, n: int) -> Estimate:
    """Mean of a comparison of two halves over pairs of them, with its quantiles.

    Args:
        values: [pairs]; NaN where both halves are empty. At least one is a number.
    """
    usable = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    value = float(usable.mean())
    return Estimate(value, min(float(low), value), max(float(high), value), n, AGREEMENT)
