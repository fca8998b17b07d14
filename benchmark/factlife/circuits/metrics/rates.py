"""Transition rates between roles: a generator Q with P = expm(Q x difference in ln(tokens)).

Shapes: k = roles, G = gaps between checkpoints.
Source: recall and circuits spec, section 6; likelihood of a Markov process that is seen at
uneven times: Kalbfleisch & Lawless 1985.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import expm
from scipy.optimize import minimize

from factlife.stats import Floats

_SMALLEST = 1e-7  # changes per unit that count as none, relative to the largest rate tried
_LARGEST = 20.0  # rate x smallest gap at which a role keeps no trace from gap to gap


def fit_generator(counts: npt.ArrayLike, gaps: npt.ArrayLike) -> Floats | str:
    """Fit Q by maximum likelihood.

    Args:
        counts: [G, k, k] components that went from role a to role b over each gap.
        gaps: [G] lengths of the gaps, in ln(tokens), above 0.

    Returns:
        [k, k] rates per unit of ln(tokens), rows summing to 0; or why there is no fit. Rows are
        NaN for roles that nothing held before a gap; whatever came to hold one keeps it. Q need
        not exist for what was seen (not every stochastic matrix is a matrix exponential): then
        the rates run to infinity, or several Q are equally likely.
    """
    n, dt = _merged(np.asarray(counts, dtype=np.float64), np.asarray(gaps, dtype=np.float64))
    seen = n.sum(axis=(0, 2)) > 0
    if not seen.any():
        return "no component was seen on both sides of a gap"
    known = seen | (n.sum(axis=(0, 1)) > 0)
    inner = n[:, known][:, :, known]
    if len(inner[0]) < 2:  # one role that all components keep
        return np.where(seen[:, None], np.zeros(n.shape[1:]), np.nan)
    free = seen[known][:, None] & ~np.eye(len(inner[0]), dtype=np.bool_)
    fits = [_maximise(inner, dt, free, start) for start in _starts(inner, dt)]
    best = max(fits, key=lambda f: f[1])
    if best[0] is None or not np.isfinite(best[1]):
        return "the likelihood has no maximum that could be found"
    q = _without_dust(best[0], dt)
    if _mixed(best[0], best[1], inner, dt):
        return "the rates run to infinity: roles mix completely between checkpoints"
    if any(_rival(f, best) for f in fits):
        return "several rates fit equally well: the checkpoints are too far apart to tell"
    out = np.zeros(n.shape[1:])
    out[np.ix_(known, known)] = q
    out[~seen] = np.nan
    return out


_Fit = tuple[Floats | None, float]


def _merged(n: Floats, dt: Floats) -> tuple[Floats, Floats]:
    """Counts over equal gaps added up: one matrix exponential a distinct gap."""
    gaps, place = np.unique(np.round(dt, 12), return_inverse=True)
    out = np.zeros((len(gaps), *n.shape[1:]))
    np.add.at(out, place, n)
    return out, gaps


def _starts(n: Floats, dt: Floats) -> list[Floats]:
    """Two places to start from: rates as if no change were hidden in a gap, and ten times those."""
    exposure = np.einsum("gab,g->a", n, dt)
    changed = n.sum(axis=0) + 0.5
    plain = changed / np.maximum(exposure, dt.min())[:, None]
    return [plain, 10 * plain]


def _maximise(n: Floats, dt: Floats, free: npt.NDArray[np.bool_], start: Floats) -> _Fit:
    """The Q of the highest likelihood found from a start, and its log-likelihood in nats.

    Args:
        free: [k, k] entries of Q that may differ from 0, off the diagonal.
    """
    top = _LARGEST / dt.min()
    bounds = [(np.log(_SMALLEST * top), np.log(top))] * int(free.sum())
    total = n.sum()

    def objective(x: Floats) -> tuple[float, Floats]:
        value, gradient = log_likelihood(_generator(x, free), n, dt)
        rates = np.exp(x)
        slope = (gradient - np.diag(gradient)[:, None])[free] * rates
        return -value / total, -slope / total

    x0 = np.clip(np.log(start[free]), bounds[0][0], bounds[0][1])
    found = minimize(
        objective, x0, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 500, "ftol": 1e-11, "gtol": 1e-7},
    )  # fmt: skip
    if not np.isfinite(found.fun):
        return None, -np.inf
    return _generator(found.x, free), float(-found.fun * total)


def _generator(x: Floats, free: npt.NDArray[np.bool_]) -> Floats:
    q = np.zeros(free.shape)
    q[free] = np.exp(x)
    np.fill_diagonal(q, -q.sum(axis=1))
    return q


def log_likelihood(q: Floats, n: Floats, dt: Floats) -> tuple[float, Floats]:
    """sum_g sum_ab n_gab ln expm(Q dt_g)_ab in nats, and its gradient [k, k] by the entries of Q.

    The gradient is the adjoint of the exponential's Fréchet derivative, which is a corner of the
    exponential of a block matrix (Van Loan 1978).
    """
    k = len(q)
    a = q[None] * dt[:, None, None]
    p = np.maximum(expm(a), 1e-300)
    value = float((n * np.log(p)).sum())
    block = np.zeros((len(dt), 2 * k, 2 * k))
    block[:, :k, :k] = block[:, k:, k:] = a.transpose(0, 2, 1)
    scale = np.maximum(np.abs(n / p).max(axis=(1, 2)), 1e-300)
    block[:, :k, k:] = n / p / scale[:, None, None]
    corner = expm(block)[:, :k, k:] * scale[:, None, None]
    gradient: Floats = (corner * dt[:, None, None]).sum(axis=0)
    return value, gradient


def _without_dust(q: Floats, dt: Floats) -> Floats:
    """Rates next to the lower bound are none."""
    out: Floats = np.where(q > 10 * _SMALLEST * _LARGEST / dt.min(), q, 0.0)
    np.fill_diagonal(out, -out.sum(axis=1))
    return out


def _mixed(q: Floats, best: float, n: Floats, dt: Floats) -> bool:
    """Whether changes are so fast that no trace is left after a gap: faster ones do as well."""
    fastest = float(-np.diag(q).min())
    if fastest * dt.min() > 0.5 * _LARGEST:
        return True
    return bool(fastest * dt.max() > 1) and best - log_likelihood(1.5 * q, n, dt)[0] < 0.01


def _rival(fit: _Fit, best: _Fit) -> bool:
    """Whether a fit is as likely as the best (within 0.01 nats) but has other rates (by 20 %)."""
    if fit[0] is None or best[0] is None or best[1] - fit[1] > 0.01:
        return False
    return bool(np.abs(fit[0] - best[0]).max() > 0.2 * -np.diag(best[0]).min())
