"""Beyond which spacing nothing accumulates: the learnability threshold, measured.

The same facts are injected every s steps, for several s. What is left just before the next
injection, G(k), has a slope in k. It is positive while injections come fast enough, and the
threshold is the spacing at which it reaches 0. K = spacings, B = draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factlife.stats import Floats


def falling(slopes: Floats) -> Floats:
    """The closest curve [K] that never rises, by pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for s in slopes.tolist():
        blocks.append((s, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    return np.repeat([b for b, _ in blocks], [m for _, m in blocks])


def threshold(spacings: Sequence[int], slopes: Floats) -> float:
    """Spacing in steps at which accumulation ends.

    Longer spacings cannot help, so that slopes are first made to fall; between two spacings they
    are interpolated over log10 of the spacing.

    Args:
        spacings: [K] increasing.
        slopes: [K] of G in k, in nats per injection.

    Returns:
        inf if the slope is positive at the longest; the shortest spacing if it never is.
    """
    curve, x = falling(slopes), np.log10(np.asarray(spacings, dtype=np.float64))
    ended = np.flatnonzero(curve <= 0)
    if not len(ended):
        return float("inf")
    i = int(ended[0])
    if i == 0:
        return float(spacings[0])
    share = curve[i - 1] / (curve[i - 1] - curve[i])
    return float(10 ** (x[i - 1] + share * (x[i] - x[i - 1])))


def threshold_draws(spacings: Sequence[int], slopes: Floats) -> Floats:
    """`threshold` of every draw: [B, K] -> [B]."""
    return np.array([threshold(spacings, s) for s in slopes])
