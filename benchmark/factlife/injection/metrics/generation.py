"""Does a higher log-probability mean that it is said: exact match against log-probability.

P(exact match) = 1 / (1 + exp(-(intercept + slope * log-probability))), by maximum likelihood.
P = readings, N = passages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from factlife import stats
from factlife.stats import Estimate, Floats, Ints


@dataclass(frozen=True)
class Logistic:
    """A logistic fit.

    Attributes:
        slope: log-odds per nat.
        midpoint: log-probability at which half of the targets are generated, in nats.
    """

    slope: Estimate
    midpoint: Estimate


def logistic(logprob: Floats, exact: Floats, passages: Ints, level: float) -> Logistic:
    """Fit exact match [P] on log-probability [P]; intervals are clustered by passage.

    The covariance is the sandwich over passages (Liang & Zeger 1986); that of the midpoint follows
    by the delta method. Missing where one outcome never occurs, or where log-probability parts the
    two completely and no finite slope is best.
    """
    n = len(np.unique(passages))
    why = _unfit(logprob, exact)
    if why is not None:
        return Logistic(stats.missing(n, why), stats.missing(n, why))
    x = np.column_stack([np.ones(len(logprob)), logprob])
    beta = _fit(x, exact)
    covariance = _sandwich(x, exact, passages, beta)
    z = float(special.ndtri((1 + level) / 2))
    slope, middle = float(beta[1]), float(-beta[0] / beta[1])
    gradient = np.array([-1 / beta[1], beta[0] / beta[1] ** 2])
    reach = z * math.sqrt(float(covariance[1, 1]))
    width = z * math.sqrt(float(gradient @ covariance @ gradient))
    method = "sandwich over passages"
    return Logistic(
        Estimate(slope, slope - reach, slope + reach, n, method),
        Estimate(middle, middle - width, middle + width, n, method),
    )


def _unfit(logprob: Floats, exact: Floats) -> str | None:
    right, wrong = logprob[exact == 1], logprob[exact == 0]
    if not len(right) or not len(wrong):
        return "greedy decoding gives all targets or none"
    if right.min() > wrong.max():
        return "log-probability parts right from wrong completely: no finite slope fits best"
    if right.max() <= wrong.min():
        return "log-probability does not rise with exact match"
    return None


def _fit(x: Floats, exact: Floats) -> Floats:
    """Coefficients [2] by Newton's method on the standardised log-probability."""
    centre, scale = x[:, 1].mean(), x[:, 1].std()
    u = np.column_stack([x[:, 0], (x[:, 1] - centre) / scale])

    def loss(beta: Floats) -> float:
        eta = u @ beta
        return float(np.logaddexp(0, eta).sum() - exact @ eta)

    def slope(beta: Floats) -> Floats:
        found: Floats = u.T @ (special.expit(u @ beta) - exact)
        return found

    def bend(beta: Floats) -> Floats:
        p = special.expit(u @ beta)
        found: Floats = (u * (p * (1 - p))[:, None]).T @ u
        return found

    found = optimize.minimize(loss, np.zeros(2), jac=slope, hess=bend, method="trust-exact").x
    return np.array([found[0] - found[1] * centre / scale, found[1] / scale])


def _sandwich(x: Floats, exact: Floats, passages: Ints, beta: Floats) -> Floats:
    p = special.expit(x @ beta)
    bread = np.linalg.pinv((x * (p * (1 - p))[:, None]).T @ x)
    _, place = np.unique(passages, return_inverse=True)
    scores = np.zeros((place.max() + 1, 2))
    np.add.at(scores, place, x * (exact - p)[:, None])
    m = len(scores)
    found: Floats = bread @ (scores.T @ scores) @ bread * (m / max(m - 1, 1))
    return found
