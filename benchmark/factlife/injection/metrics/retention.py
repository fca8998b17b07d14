"""What is kept after the last injection: retainability as a ratio of means.

R(t) = sum of gain(t) / sum of gain(LAM) over one fixed set of probes, LAM the local maximum after
the last injection. A ratio of sums has no negative denominators to filter, and the probes are the
same at every t. T = times looked at, N = passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factlife.injection.metrics.curves import Curves, Mask
from factlife.injection.metrics.effect import aligned, contributions, half_masks, readings
from factlife.injection.metrics.samples import Bootstrap, Sample, absent, interval
from factlife.stats import Floats

PER_DECADE = 8


@dataclass(frozen=True)
class Retention:
    """Gains of an arm after its last injection.

    Attributes:
        t: [T] steps since the local maximum, log-spaced from 1.
        peak: [N] contributions to the gain at the maximum, in nats, null-corrected.
        later: [T, N] contributions to the gain at t.
    """

    t: Floats
    peak: Floats
    later: Floats

    @property
    def curve(self) -> Floats:
        """[T] share of the gain that is kept."""
        kept: Floats = self.later.sum(axis=1) / self.peak.sum()
        return kept


def retention(c: Curves, y: Floats, arm: str) -> Retention | str:
    """Gains after the last injection, or why they cannot be had.

    The maximum of each half is the one picked on the other half, so that it is no lucky reading;
    gains are over the state before the arm's first injection, minus those of the controls. Between
    probed steps the curve is interpolated over the logarithm of the steps since the injection.
    """
    halves, times = half_masks(c, arm), c.times(arm)
    if isinstance(halves, str):
        return halves
    y = aligned(c, y, arm)
    found = readings(c, y, arm, times)
    if isinstance(found, str):
        return found
    base = c.place(times[0])
    assert base is not None  # `readings` needed it
    peaks = found.peaks[-1][::-1]  # half A is read at the peak of half B
    room = int(c.steps[-1]) - int(peaks.max())
    t = log_spaced(room)
    if len(t) < 4:
        return "too few steps after the last injection"
    own = [
        _gains(c, y, (base, times[-1], int(p)), t, m)
        for p, m in zip(peaks, _both(halves), strict=True)
    ]
    gains = own[0] + own[1]
    z = contributions(gains, *halves)
    return Retention(t, z[0], z[1:])


def pooled(found: Sequence[Retention | str]) -> Retention | str:
    """Several arms as one: the ratio of their mean gains, as far as all of them were followed."""
    usable = [r for r in found if not isinstance(r, str)]
    for r in found:
        if isinstance(r, str):
            return r
    t = min((r.t for r in usable), key=len)
    later = [np.array([np.interp(t, r.t, z) for z in r.later.T]).T for r in usable]
    peak = np.mean([r.peak for r in usable], axis=0)
    return Retention(t, peak, np.mean(later, axis=0))


def _both(halves: tuple[list[Mask], list[Mask]]) -> list[Mask]:
    treated, control = halves
    return [t | k for t, k in zip(treated, control, strict=True)]


def _gains(c: Curves, y: Floats, marks: tuple[int, int, int], t: Floats, members: Mask) -> Floats:
    """[1 + T, N] log-probability at the peak and at t after it, over that at the base.

    Args:
        marks: place of the base; step of the last injection; step of the peak.
    """
    base, origin, peak = marks
    at = peak + np.concatenate([[0.0], t])
    gains = np.zeros((len(at), y.shape[1]))
    gains[:, members] = at_steps(c, y[:, members], at, origin) - y[base, members]
    return gains


def at_steps(c: Curves, y: Floats, at: Floats, origin: int) -> Floats:
    """Curves [S, n] at steps [T] after `origin`: [T, n]; between probed steps as a log law."""
    later = c.steps > origin
    x, grid = np.log(c.steps[later] - origin), y[later]
    wanted = np.log(at - origin)
    right = np.clip(np.searchsorted(x, wanted), 1, len(x) - 1)
    w = np.clip((wanted - x[right - 1]) / (x[right] - x[right - 1]), 0.0, 1.0)[:, None]
    values: Floats = (1 - w) * grid[right - 1] + w * grid[right]
    return values


def log_spaced(longest: int) -> Floats:
    """Whole numbers from 1 to `longest`, about eight a decade."""
    if longest < 1:
        return np.empty(0)
    count = 1 + round(PER_DECADE * np.log10(max(longest, 2)))
    found: Floats = np.unique(np.rint(np.geomspace(1, longest, count)))
    return found


def shared_times(longest: float) -> Floats:
    """Steps 1, 2, 3, 4, 6, 8, 11, 16, …: whole powers of the square root of 2, up to `longest`."""
    powers = np.arange(int(2 * np.log2(max(longest, 1))) + 2)
    found: Floats = np.unique(np.rint(2.0 ** (powers / 2)))
    return found[found <= longest]


def over_log(t: Floats, curves: Floats, at: Floats) -> Floats:
    """Curves [B, T] at other times [U] between the first and the last: straight over log t."""
    x, wanted = np.log(t), np.log(at)
    right = np.clip(np.searchsorted(x, wanted), 1, len(x) - 1)
    w = (wanted - x[right - 1]) / (x[right] - x[right - 1])
    found: Floats = (1 - w) * curves[:, right - 1] + w * curves[:, right]
    return found


def has_gain(r: Retention, boot: Bootstrap) -> bool:
    """Whether the gain at the maximum is above 0 with its interval.

    A share of a gain that may be nothing means nothing.
    """
    peak = boot.sample(r.peak)
    if peak.value is None:
        return False
    return peak.value > 0 and interval(peak, boot.resampler.level)[0] > 0


def kept_at_end(r: Retention, boot: Bootstrap) -> Sample:
    """Share of the gain that is left at the last step."""
    if not has_gain(r, boot):
        return absent(len(boot.strata), NOTHING)
    return boot.ratio(r.later[-1], r.peak)


def curve_draws(r: Retention, boot: Bootstrap) -> Floats:
    """[B, T] draws of the curve; NaN where a draw gained nothing."""
    bottom = boot.draws(r.peak)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn: Floats = np.where(bottom > 0, boot.draws(r.later) / bottom, np.nan)
    return drawn


NOTHING = "the gain after the last injection is not above 0, so there is nothing to forget"
