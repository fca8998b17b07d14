"""Whom each sequence is about: distributions over people, as functions of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factlife.corpora.biographies.population import Ids
from factlife.errors import UsageError

Weights = NDArray[np.float64]
MAX_ALPHA = 1.0


class Distribution(Protocol):
    """Weights over people; piecewise constant in the step."""

    def phase(self, step: int) -> int:
        """Which stretch of constant weights the step (0, 1, …) falls into."""
        ...

    def weights(self, phase: int) -> Weights:
        """[n] weights, at least one above 0; they need not sum to 1."""
        ...


class Constant:
    """Base of the distributions that do not change."""

    def phase(self, step: int) -> int:  # noqa: ARG002
        """Always 0."""
        return 0


@dataclass(frozen=True)
class Uniform(Constant):
    """Everybody is equally likely."""

    n: int

    def weights(self, phase: int) -> Weights:  # noqa: ARG002
        """[n] ones."""
        return np.ones(_people(self.n))


@dataclass(frozen=True)
class PowerLaw(Constant):
    """p_i proportional to i^-alpha, i = 1 … n (dynamics-2025); alpha 0 is uniform."""

    n: int
    alpha: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= MAX_ALPHA:
            raise UsageError(f"alpha must be between 0 and 1, got {self.alpha}")

    def weights(self, phase: int) -> Weights:  # noqa: ARG002
        """[n] weights, falling."""
        return np.arange(1, _people(self.n) + 1, dtype=np.float64) ** -self.alpha


@dataclass(frozen=True)
class Celebrities(Constant):
    """The first `celebrities` people are `weight` times as likely as the others."""

    n: int
    celebrities: int
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.celebrities <= self.n:
            raise UsageError(f"celebrities must be 1 to {self.n} people, got {self.celebrities}")
        if not 0 < self.weight < float("inf"):
            raise UsageError(f"the weight of a celebrity must be above 0, got {self.weight}")

    def weights(self, phase: int) -> Weights:  # noqa: ARG002
        """[n] `weight` for celebrities, 1 for the others."""
        return np.where(np.arange(_people(self.n)) < self.celebrities, self.weight, 1.0)


@dataclass(frozen=True)
class WarmUp:
    """Uniform over the first `first` people for `steps` steps, then over all n."""

    n: int
    first: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.n:
            raise UsageError(f"a warm-up needs 1 to {self.n} people, got {self.first}")
        if self.steps < 0:
            raise UsageError(f"a warm-up takes 0 steps or more, got {self.steps}")

    def phase(self, step: int) -> int:
        """0 while warming up, then 1."""
        return int(step >= self.steps)

    def weights(self, phase: int) -> Weights:
        """[n] ones for who is in it, 0 for the rest."""
        return (np.arange(_people(self.n)) < (self.n if phase else self.first)).astype(np.float64)


@dataclass(frozen=True)
class Sequential:
    """`groups` equal parts of the n people one after another, `steps` steps each, the last on."""

    n: int
    groups: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.groups <= self.n:
            raise UsageError(f"groups must be 1 to {self.n}, got {self.groups}")
        if self.steps < 1:
            raise UsageError(f"a group takes 1 step or more, got {self.steps}")

    def phase(self, step: int) -> int:
        """The group whose turn it is."""
        return min(step // self.steps, self.groups - 1)

    def weights(self, phase: int) -> Weights:
        """[n] ones in the group, 0 elsewhere; sizes of groups differ by one at most."""
        group = np.arange(_people(self.n)) * self.groups // self.n
        return np.asarray(group == phase, np.float64)


@dataclass(frozen=True)
class Replay(Constant):
    """Fine-tuning: new people at weight 1 each, old ones replayed at weight `weight` each.

    The people are the n_old known ones, then n_unseen held-out ones (weight 0), then n_new.
    Share of replay: w·n_old / (w·n_old + n_new).
    """

    n_old: int
    n_new: int
    weight: float
    n_unseen: int = 0

    def __post_init__(self) -> None:
        if self.n_new < 1 or self.n_unseen < 0:
            raise UsageError(f"fine-tuning needs new people, got {self.n_new}")
        if not 0 <= self.weight < float("inf"):
            raise UsageError(f"the weight of replay must be 0 or more, got {self.weight}")

    @property
    def share(self) -> float:
        """Expected share of old people in the text, 0 to 1."""
        old = self.weight * self.n_old
        return old / (old + self.n_new)

    def weights(self, phase: int) -> Weights:  # noqa: ARG002
        """[n_old + n_unseen + n_new] weights."""
        old = np.full(_people(self.n_old), self.weight)
        return np.concatenate([old, np.zeros(self.n_unseen), np.ones(self.n_new)])


def _people(n: int) -> int:
    if n < 1:
        raise UsageError(f"a distribution needs at least 1 person, got {n}")
    return n


class Sampler:
    """Draws people for batches; the weights' sums are kept between steps of one phase."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution
        self._phase = -1
        self._cumulative = np.empty(0)
        self._active = 0

    def people(self, step: int, batch: int, rng: np.random.Generator) -> Ids:
        """[batch] ids, drawn with replacement after the weights of this step.

        Raises:
            UsageError: a batch below 1 or larger than the people that the step can draw from.
        """
        phase = self.distribution.phase(step)
        if phase != self._phase:
            weights = self.distribution.weights(phase)
            self._phase, self._active = phase, int(np.count_nonzero(weights))
            self._cumulative = np.cumsum(weights)
        if not 1 <= batch <= self._active:
            raise UsageError(
                f"a batch of {batch} does not fit the {self._active} people that step {step} "
                "draws from; use a smaller batch or more people"
            )
        at = rng.random(batch) * self._cumulative[-1]
        # Below the total even for the largest draw, 1 - 2^-53; right of equal sums, so that a
        # person of weight 0 is never met.
        return np.asarray(np.searchsorted(self._cumulative, at, side="right"), np.int64)
