"""The generator of role changes: recovered from simulated chains, refused where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from factlife.circuits.metrics.rates import fit_generator, log_likelihood
from factlife.stats import Floats

Q = np.array(
    [
        [-0.35, 0.10, 0.05, 0.00, 0.20],
        [0.30, -0.80, 0.20, 0.10, 0.20],
        [0.25, 0.15, -0.50, 0.10, 0.00],
        [0.05, 0.25, 0.15, -0.60, 0.15],
        [0.10, 0.05, 0.20, 0.20, -0.55],
    ]
)


def simulate(q: Floats, gaps: Floats, chains: int, seed: int) -> Floats:
    """[G, k, k] transitions of chains that run through the gaps one after the other."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(gaps), *q.shape))
    held = rng.multinomial(chains, np.full(len(q), 1 / len(q)))
    for g, gap in enumerate(gaps):
        p = expm(q * gap)
        counts[g] = [rng.multinomial(m, row / row.sum()) for m, row in zip(held, p, strict=True)]
        held = counts[g].sum(axis=0).astype(int)
    return counts


def test_a_known_generator_is_recovered_over_uneven_gaps() -> None:
    gaps = np.random.default_rng(0).uniform(0.1, 1.5, 20)
    found = fit_generator(simulate(Q, gaps, 4000, 1), gaps)
    assert not isinstance(found, str)
    # about 80,000 changes of rate ~ .2 over .8: relative errors of a few per cent
    assert found == pytest.approx(Q, abs=0.03)
    assert found.sum(axis=1) == pytest.approx(np.zeros(5), abs=1e-12)


def test_exact_expectations_give_the_generator_back() -> None:
    gaps = np.array([0.3, 0.9])
    counts = np.stack([1000 * expm(Q * g) for g in gaps])
    found = fit_generator(counts, gaps)
    assert found == pytest.approx(Q, abs=2e-3)


def test_two_roles_by_hand() -> None:
    # a -> b at rate 1, b -> a at rate 0: P_ab = 1 - exp(-1) over a gap of 1.
    p = 1 - np.exp(-1)
    found = fit_generator([[[1000 * (1 - p), 1000 * p], [0, 500]]], [1.0])
    assert found == pytest.approx(np.array([[-1, 1], [0, 0]]), abs=1e-3)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    gaps = np.array([0.2, 0.7, 1.1])
    counts = simulate(Q, gaps, 300, 2)
    value, gradient = log_likelihood(Q, counts, gaps)
    by_definition = sum(
        n * np.log(expm(Q * gap)[a, b])
        for count, gap in zip(counts, gaps, strict=True)
        for (a, b), n in np.ndenumerate(count)
    )
    assert value == pytest.approx(by_definition)
    for a, b in ((0, 1), (3, 3), (4, 2)):
        step = np.zeros((5, 5))
        step[a, b] = 1e-6
        up, down = (log_likelihood(Q + s * step, counts, gaps)[0] for s in (1, -1))
        assert gradient[a, b] == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_roles_that_nothing_left_have_no_rates() -> None:
    counts = np.zeros((1, 3, 3))
    counts[0, 0] = [90, 10, 0]  # role 1 is only ever arrived at, role 2 never seen
    found = fit_generator(counts, [1.0])
    assert not isinstance(found, str)
    assert found[0, 1] == pytest.approx(-np.log(0.9), abs=1e-3)
    assert np.isnan(found[1:]).all()


def test_a_role_that_all_keep_has_rate_zero() -> None:
    found = fit_generator([[[50, 0], [0, 0]]], [1.0])
    assert not isinstance(found, str)
    assert found[0].tolist() == [0, 0] and np.isnan(found[1]).all()
    still = fit_generator([[[50, 0], [0, 30]]], [1.0])
    assert not isinstance(still, str)
    assert still == pytest.approx(np.zeros((2, 2)), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([[0, 0], [0, 0]], "no component"),
        # Two roles that swap: no generator gives P = [[0, 1], [1, 0]]
        ([[0, 100], [100, 0]], "rates"),
        # Already mixed within one gap: any fast enough rates give [[.5, .5], [.5, .5]]
        ([[500, 500], [500, 500]], "rates"),
    ],
)
def test_what_no_generator_explains_is_refused(counts: list[list[int]], why: str) -> None:
    found = fit_generator([counts], [1.0])
    assert isinstance(found, str)
    assert why in found
