"""Numbers with their bootstrap draws, and how seeds are put together.

N = passages, B = draws. Passages are what is resampled: the probes of one passage rise together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from factlife import stats
from factlife.injection.metrics.curves import Names
from factlife.stats import Estimate, Floats, Resampler

BOOTSTRAP = "bootstrap of passages"
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Sample:
    """A number of one run with its draws.

    Attributes:
        value: None when it could not be had, and `reason` says why.
        draws: [B]; NaN where a draw could not be had. Empty without resampling units.
        n: passages (or facts) behind it.
    """

    value: float | None
    draws: Floats
    n: int
    reason: str | None = None


def absent(n: int, reason: str) -> Sample:
    """A number that could not be had."""
    return Sample(None, np.empty(0), n, reason)


@dataclass(frozen=True)
class Bootstrap:
    """Draws of passages within arm and half, shared by all numbers of a run.

    A statistic is given as contributions z [..., N] whose sum over passages is its value. Within
    each stratum deviations are widened by sqrt(m / (m - 1)), m its passages, so that the draws have
    the variance of the mean and not (m - 1) / m of it (Davison & Hinkley 1997, section 3.2), and by
    Student's t over the normal quantile with the 4 (m - 1) degrees of freedom of a contrast between
    the halves of an arm and those of the controls: a variance from few passages is uncertain.

    The only passage of a stratum varies as those of the other half of its arm.

    Attributes:
        strata: [N] arm and half, the half as the last letter.
    """

    resampler: Resampler
    strata: Names

    @classmethod
    def make(cls, strata: Names, draws: int, seed: int, level: float) -> Bootstrap:
        """Draws within each stratum; see `stats.Resampler.make`."""
        return cls(Resampler.make(strata.tolist(), draws, seed, level), strata)

    def draws(self, z: Floats, halves: bool = True) -> Floats:
        """Contributions [N] or [T, N] -> draws of their sum, [B] or [B, T].

        Args:
            halves: contributions weigh the two halves of an arm equally, however many passages
                are in each.
        """
        widened = np.array(z, dtype=np.float64)
        extra: float | Floats = 0.0
        for label in np.unique(self.strata):
            inside = self.strata == label
            m = int(inside.sum())
            if m > 1:
                part = widened[..., inside]
                mean = part.mean(axis=-1, keepdims=True)
                widened[..., inside] = mean + self._wider(m) * (part - mean)
            else:
                extra = extra + self._single(np.asarray(z, dtype=np.float64), label, halves)
        drawn: Floats = self.resampler.counts @ widened.T + extra
        return drawn

    def _single(self, z: Floats, label: str, halves: bool) -> Floats:
        """What the only passage of a stratum may vary by: as those of the other half do.

        Taken from the draw before, which is independent of this one.
        """
        other = label[:-1] + ("B" if label.endswith("A") else "A")
        inside = self.strata == other
        m = int(inside.sum())
        if m < 2:
            return np.zeros((len(self.resampler.counts), *z.shape[:-1]))
        part = z[..., inside] - z[..., inside].mean(axis=-1, keepdims=True)
        scale = self._wider(m) * (m if halves else 1) / math.sqrt(m)
        before = np.roll(self.resampler.counts[:, inside], 1, axis=0)
        found: Floats = before @ (scale * part).T
        return found

    def _wider(self, m: int) -> float:
        tail = (1 + self.resampler.level) / 2
        student = float(sps.t.ppf(tail, 4 * (m - 1)) / sps.norm.ppf(tail))
        return student * math.sqrt(m / (m - 1))

    def sample(self, z: Floats, n: int | None = None, halves: bool = True) -> Sample:
        """The sum of contributions [N], with draws; `n` passages, or those that contribute."""
        count = int(np.count_nonzero(z)) if n is None else n
        if self.bare(z):
            return absent(count, "one passage in each half: nothing to take an interval from")
        return Sample(float(z.sum()), self.draws(z, halves), count)

    def bare(self, z: Floats) -> bool:
        """Whether some arm that contributes has no half with two passages."""
        arms = {label[:-1] for label in self.strata[np.asarray(z) != 0].tolist()}
        sizes = {a: max(int((self.strata == a + h).sum()) for h in "AB") for a in arms}
        return any(size < 2 for size in sizes.values())

    def ratio(self, top: Floats, bottom: Floats) -> Sample:
        """Ratio of two sums of contributions [N]; draws with a bottom not above 0 are left out."""
        below = self.draws(bottom)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.where(below > 0, self.draws(top) / below, np.nan)
        n = int(np.count_nonzero(bottom))
        return Sample(float(top.sum() / bottom.sum()), drawn, n)


def combined(weights: Sequence[float], samples: Sequence[Sample]) -> Sample:
    """A weighted sum of samples; absent if one of them is.

    Draws of one run are paired; those of different runs are independent.
    """
    for s in samples:
        if s.value is None:
            return absent(s.n, s.reason or "not measured")
    value = sum(w * s.value for w, s in zip(weights, samples, strict=True) if s.value is not None)
    drawn = sum(w * s.draws for w, s in zip(weights, samples, strict=True))
    return Sample(float(value), np.asarray(drawn, dtype=np.float64), max(s.n for s in samples))


def mean_of(samples: Sequence[Sample]) -> Sample:
    """Unweighted mean of samples."""
    return combined([1 / len(samples)] * len(samples), samples)


def difference(a: Sample, b: Sample) -> Sample:
    """a - b."""
    return combined([1.0, -1.0], [a, b])


def interval(sample: Sample, level: float) -> tuple[float, float]:
    """Percentile interval of a sample that has a value."""
    assert sample.value is not None
    return Resampler(np.empty((0, 0), dtype=np.int64), level).interval(sample.draws, sample.value)


def over_seeds(samples: Sequence[Sample], level: float, unit: str = BOOTSTRAP) -> Estimate:
    """Mean over seeds with its interval.

    From three seeds on the interval is Student's t over seeds with S - 1 degrees of freedom. One
    or two seeds cannot carry one (with one degree of freedom it is 12.7 standard errors wide): then
    the draws of the runs are averaged, and the method tells what t gives for two.

    Args:
        unit: how the draws were made, for the method.
    """
    found = [s for s in samples if s.value is not None]
    if not found:
        n = max((s.n for s in samples), default=0)
        reasons = dict.fromkeys(s.reason for s in samples if s.reason)
        return stats.missing(n, "; ".join(reasons) or "not measured")
    values = np.array([s.value for s in found], dtype=np.float64)
    if len(found) >= FEWEST_SEEDS:
        low, high = t_interval(values, level)
        method = f"t over {len(found)} seeds, {len(found) - 1} degrees of freedom"
        if len(found) < len(samples):
            method += f"; {len(found)} of {len(samples)} runs"
        return Estimate(float(values.mean()), low, high, len(found), method)
    mean = mean_of(found)
    value = float(values.mean())
    if not len(mean.draws):
        method = f"none: one number a run, {len(found)} of them"
        return Estimate(value, float(values.min()), float(values.max()), max(mean.n, 1), method)
    low, high = interval(mean, level)
    method = unit if len(found) == len(samples) else f"{unit}; {len(found)} of {len(samples)} runs"
    if len(found) == 2:
        t_low, t_high = t_interval(values, level)
        method = f"{method}; t over the 2 seeds: {t_low:.3g} to {t_high:.3g}"
    return Estimate(value, low, high, mean.n, method)


def t_interval(values: Floats, level: float) -> tuple[float, float]:
    """Student's t interval of a mean, with n - 1 degrees of freedom; n at least 2."""
    n = len(values)
    reach = sps.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return float(values.mean() - reach), float(values.mean() + reach)


def slope_weights(x: Sequence[float]) -> list[float]:
    """Weights that turn values at x into their least-squares slope; x must vary."""
    at = np.asarray(x, dtype=np.float64)
    centred = at - at.mean()
    weights: list[float] = (centred / (centred @ centred)).tolist()
    return weights


def mapped(sample: Sample, f: Callable[[Floats], Floats]) -> Sample:
    """A function of a sample's value and of each of its draws."""
    if sample.value is None:
        return sample
    value = float(f(np.array([sample.value]))[0])
    return Sample(value, f(sample.draws), sample.n)
