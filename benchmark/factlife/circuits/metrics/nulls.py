"""Nulls: what comparisons would show if identities, or relation labels, meant nothing.

Permuting facts would be no null for c^g, c^e or unions: they are invariant to it.

Shapes: S = components of a kind, M = strata (layers) of exchangeable components, C = checkpoints,
D = draws, n = facts, R = relations.
Source: recall and circuits spec, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats as sps

from factlife.circuits.metrics.activity import Activity, Bools, Facts
from factlife.circuits.metrics.roles import ROLE_CODES, Codes, above, mean_activity
from factlife.stats import Estimate, Floats, Ints

IDENTITIES = {
    "head": "null quantiles (identities permuted within layer)",
    "ffn": "null quantiles (identities permuted among layers)",
    "expert": "null quantiles (identities permuted within layer)",
}
LABELS = "null quantiles (relation labels permuted)"
N_ROLES = len(ROLE_CODES)


def excess(value: float, mean: float, low: float, high: float, n: int, method: str) -> Estimate:
    """A value above the mean of its null; the interval is the value above the null's quantiles.

    It leaves out 0 where the value lies outside the null's quantiles.
    """
    return Estimate(value - mean, value - max(high, mean), value - min(low, mean), n, method)


def band(mean: float, low: float, high: float, n: int, method: str) -> Estimate:
    """The mean of a null, with its quantiles as the interval."""
    return Estimate(mean, min(low, mean), max(high, mean), n, method)


# ---- overlap of two sets ---------------------------------------------------------------------


@dataclass(frozen=True)
class OverlapNull:
    """Exact distribution of an IoU under permuted identities.

    Attributes:
        values: [m] IoU that can occur, ascending.
        p: [m] their probabilities.
    """

    values: Floats
    p: Floats

    @property
    def mean(self) -> float:
        """Expected IoU."""
        return float(self.values @ self.p)

    def quantiles(self, level: float) -> tuple[float, float]:
        """Lowest values that at least (1 - level)/2, and (1 + level)/2, of the null reach."""
        cumulative = np.cumsum(self.p)
        tails = np.array([(1 - level) / 2, (1 + level) / 2]) - 1e-12
        low, high = np.minimum(np.searchsorted(cumulative, tails), len(self.p) - 1)
        return float(self.values[low]), float(self.values[high])

    def draw(self, rng: np.random.Generator, draws: int) -> Floats:
        """[D] independent draws."""
        drawn: Floats = rng.choice(self.values, size=draws, p=self.p / self.p.sum())
        return drawn


def overlap_null(a: Bools, b: Bools, strata: Ints) -> OverlapNull | None:
    """Null of the IoU of two sets [S] of components; None when both are empty.

    Permuting identities within a stratum of N components, of which a are in one set and b in the
    other, makes the intersection there hypergeometric (N, a, b). Strata are independent, so the
    whole intersection I is their convolution, and IoU = I / (A + B - I).
    """
    in_a, in_b = (np.bincount(strata, weights=s).astype(int) for s in (a, b))
    total = int(in_a.sum() + in_b.sum())
    if not total:
        return None
    p = np.ones(1)
    for size, x, y in zip(np.bincount(strata).tolist(), in_a.tolist(), in_b.tolist(), strict=True):
        if x and y:
            p = np.convolve(p, _hypergeometric(size, min(x, y), max(x, y)))
    shared = np.arange(len(p))
    return OverlapNull(shared / (total - shared), p)


@lru_cache(maxsize=100_000)
def _hypergeometric(size: int, a: int, b: int) -> Floats:
    """Probabilities of 0…a in common of a and b things out of `size`; a <= b."""
    p: Floats = sps.hypergeom.pmf(np.arange(a + 1), size, a, b)
    return p


# ---- changes of role -------------------------------------------------------------------------


def changes(codes: Codes, pairs: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """[S, 25] how often each component goes from role a to b, at place 5 a + b.

    Args:
        codes: [C, S] roles.
        pairs: places of the checkpoints that have one before them.
    """
    at = np.array(pairs, dtype=np.int64)
    moves = codes[at - 1].astype(np.int64) * N_ROLES + codes[at]
    size = N_ROLES * N_ROLES
    found = moves + np.arange(codes.shape[1]) * size
    return np.bincount(found.ravel(), minlength=codes.shape[1] * size).reshape(-1, size)


def permuted_changes(
    codes: Codes, pairs: tuple[int, ...], strata: Ints, draws: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """[D, M, 25] changes of role in each stratum when its components are shuffled.

    Every checkpoint is shuffled by itself, so counts of roles are kept and identities lost.

    Args:
        codes: [C, S] roles; strata are runs of equal length.
    """
    m = int(strata.max()) + 1
    by_stratum = codes.reshape(len(codes), m, -1)
    size = N_ROLES * N_ROLES
    offsets = (np.arange(m) * size)[:, None]
    at = np.array(pairs, dtype=np.int64)
    out = np.empty((draws, m, size), dtype=np.int64)
    for d in range(draws):
        shuffled = rng.permuted(by_stratum, axis=2)
        moves = shuffled[at - 1].astype(np.int16) * N_ROLES + shuffled[at] + offsets
        out[d] = np.bincount(moves.ravel(), minlength=m * size).reshape(m, size)
    return out


def expected_changes(codes: Codes, pairs: tuple[int, ...], strata: Ints) -> Floats:
    """[M, 25] mean of `permuted_changes`: sum over pairs of n_a n_b / N in each stratum."""
    m = int(strata.max()) + 1
    by_stratum = codes.reshape(len(codes), m, -1)
    held = np.stack([(by_stratum == r).sum(axis=2) for r in range(N_ROLES)], axis=2)  # [C, M, 5]
    at = np.array(pairs, dtype=np.int64)
    products = np.einsum("pma,pmb->mab", held[at - 1].astype(float), held[at].astype(float))
    mean: Floats = products.reshape(m, -1) / by_stratum.shape[2]
    return mean


# ---- relation labels -------------------------------------------------------------------------


def permuted_relation_heads(
    act: Activity, facts: Facts, wider: Bools, theta: float, variant: str, draws: int,
    rng: np.random.Generator,
) -> Ints:  # fmt: skip
    """[D] size of H_r overall when the facts are dealt to the relations anew, sizes kept.

    Args:
        wider: [S] J_g or J_e, which no permutation of labels changes.
    """
    hits, sizes = act.hits["head"]["answer"], act.sizes["answer"]
    open_to = ~wider & hits.any(axis=0)  # others can never be in H_r
    hits = hits[:, open_to]
    dealt = np.stack([rng.permutation(facts.relation) for _ in range(draws)])  # [D, n]
    high = np.zeros((draws, hits.shape[1]), dtype=np.bool_)
    for r in range(len(facts.names)):
        inside = (dealt == r).astype(np.float64)
        high |= above(mean_activity(hits, sizes, inside, variant), theta)
    counts: Ints = high.sum(axis=1)
    return counts
