"""How fast it is forgotten: three laws fitted to retention over time.

    log           R(t) = b - a log10 t       a: share of the gain lost per decade of steps
    power         R(t) = c t^-p
    exponential   R(t) = c exp(-t / tau)

All are fitted to R itself, unweighted, on log-spaced t, so that their residuals compare. A straight
line in log t is a logarithmic law, not a power law. T = times, B = curves fitted at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from factlife.stats import Floats

Exponent = Callable[[Floats], Floats]
LAWS = ("log", "power", "exponential")
_GRID = 400


@dataclass(frozen=True)
class Fits:
    """The three laws, fitted to curves.

    Attributes:
        a, b: [B] of the logarithmic law.
        power_scale, power: [B] c and p of the power law.
        exponential_scale, tau: [B] c and tau (steps) of the exponential law.
        aicc: law -> [B] Akaike's criterion with the small-sample correction.
    """

    a: Floats
    b: Floats
    power_scale: Floats
    power: Floats
    exponential_scale: Floats
    tau: Floats
    aicc: dict[str, Floats]

    @property
    def log_advantage(self) -> Floats:
        """[B] AICc of the better other law minus that of the logarithmic one; above 0: log fits."""
        others = np.minimum(self.aicc["power"], self.aicc["exponential"])
        better: Floats = others - self.aicc["log"]
        return better

    @property
    def chosen(self) -> str:
        """The law with the lowest AICc for the first curve."""
        return min(LAWS, key=lambda law: float(self.aicc[law][0]))

    @property
    def intercept(self) -> Floats:
        """[B] x-intercept b / a in log10 steps, where the line reaches 0; inf without decay."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(self.a > 0, self.b / self.a, np.inf)
        return found

    def predicted(self, law: str, t: Floats) -> Floats:
        """[T] the first curve's fit of a law at t."""
        if law == "log":
            line: Floats = self.b[0] - self.a[0] * np.log10(t)
            return line
        if law == "power":
            falling: Floats = self.power_scale[0] * t ** -self.power[0]
            return falling
        decaying: Floats = self.exponential_scale[0] * np.exp(-t / self.tau[0])
        return decaying


def fit(t: Floats, r: Floats) -> Fits:
    """Fit all three laws by least squares.

    The log law is linear. In the other two the scale is, given the rate, so that only the rate is
    searched: on a grid, refined twice.

    Args:
        t: [T] steps since the maximum, positive, at least 5 of them (AICc needs more points than
            parameters).
        r: [B, T] share of the gain kept.
    """
    if len(t) < 5:
        raise ValueError(f"three-parameter AICc needs at least 5 points, got {len(t)}")
    a, b, rss_log = line(np.log10(t), r)
    p, c, rss_power = _search(r, np.linspace(-1.0, 4.0, _GRID), lambda q: -np.log(t) * q[:, None])
    rates = np.linspace(math.log(0.01 / t[-1]), math.log(10 / t[0]), _GRID)
    k, e, rss_exp = _search(r, rates, lambda q: -t * np.exp(q)[:, None])
    aicc = {
        law: _aicc(rss, len(t))
        for law, rss in zip(LAWS, (rss_log, rss_power, rss_exp), strict=True)
    }
    return Fits(a, b, c, p, e, np.exp(-k), aicc)


def line(x: Floats, r: Floats) -> tuple[Floats, Floats, Floats]:
    """(a, b, RSS), each [B], of r = b - a x."""
    centred = x - x.mean()
    a = -(r @ centred) / (centred @ centred)
    b = r.mean(axis=1) + a * x.mean()
    rest = r - b[:, None] + a[:, None] * x
    return a, b, (rest**2).sum(axis=1)


def _search(r: Floats, grid: Floats, exponent: Exponent) -> tuple[Floats, Floats, Floats]:
    """(rate, scale, RSS), each [B], of r = scale * exp(exponent(rate))."""
    rate, _ = _best(r, np.broadcast_to(grid, (len(r), len(grid))), exponent, shared=True)
    step = grid[1] - grid[0]
    for _ in range(2):
        local = rate[:, None] + np.linspace(-step, step, 41)
        rate, _ = _best(r, local, exponent)
        step /= 20
    basis = np.exp(np.clip(exponent(rate), -700, 700))
    scale = (basis * r).sum(axis=1) / (basis**2).sum(axis=1)
    rest = r - scale[:, None] * basis
    return rate, scale, (rest**2).sum(axis=1)


def _best(
    r: Floats, rates: Floats, exponent: Exponent, shared: bool = False
) -> tuple[Floats, Floats]:
    """Of candidate rates [B, G], the one of each curve that leaves the least, and what is left."""
    total = (r**2).sum(axis=1)[:, None]
    if shared:
        basis = np.exp(np.clip(exponent(rates[0]), -700, 700))
        explained = (r @ basis.T) ** 2 / (basis**2).sum(axis=1)
    else:
        flat = np.exp(np.clip(exponent(rates.reshape(-1)), -700, 700))
        basis = flat.reshape(*rates.shape, -1)
        explained = np.einsum("bgt,bt->bg", basis, r) ** 2 / (basis**2).sum(axis=2)
    at = np.argmin(total - explained, axis=1)
    every = np.arange(len(r))
    return rates[every, at], (total - explained)[every, at]


def _aicc(rss: Floats, n: int) -> Floats:
    """AICc of least squares with two coefficients and a variance (Hurvich & Tsai 1989)."""
    k = 3
    floor = np.finfo(float).tiny
    found: Floats = n * np.log(np.maximum(rss, floor) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return found


def theil_sen(t: Floats, r: Floats) -> Floats:
    """[B] median slope of r [B, T] over log10 t, with the sign of a decay constant.

    Not moved by outliers (Theil 1950, Sen 1968).
    """
    x = np.log10(t)
    i, j = np.triu_indices(len(x), 1)
    slopes: Floats = -np.median((r[:, j] - r[:, i]) / (x[j] - x[i]), axis=1)
    return slopes
