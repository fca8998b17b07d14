"""When a model reaches the plateau, leaves it, and begins to hallucinate. Pure: no torch.

Shapes: E = evaluations of a run, in the order of training.

Source: dynamics-2025, section 3 (three phases); the detector's tolerance, smoothing and the
baseline-free twin are ours. A time that was not reached is no number: it is a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Steps = Sequence[int] | Sequence[float]

TOLERANCE = 0.05  # epsilon of every threshold, as a share of the baseline
LASTING = 3  # evaluations in a row that must agree
PLATEAU_RATIO = 2.0  # t2 / t1 below which there is no plateau


@dataclass(frozen=True)
class Moment:
    """A training step, or why there is none.

    Attributes:
        step: of the first of the evaluations that agree; None where it was not reached.
        reason: why not, else None.
    """

    step: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Phases:
    """The phases of one run.

    Attributes:
        t1: the loss falls to the baseline: the plateau begins.
        t2: it falls below the baseline: facts are learned.
        t2_twin: the same without a baseline: known and held-out people part for good.
        t_held: the loss on held-out people rises above the baseline: hallucination begins.
    """

    t1: Moment
    t2: Moment
    t2_twin: Moment
    t_held: Moment

    @property
    def ratio(self) -> float | None:
        """t2 / t1, at least 1; None where one of them was not reached or t1 is 0."""
        if self.t1.step is None or self.t2.step is None or self.t1.step == 0:
            return None
        return self.t2.step / self.t1.step

    @property
    def plateau(self) -> bool | None:
        """Whether the run has a plateau: t2 >= 2 t1; None where that is not known."""
        return None if self.ratio is None else self.ratio >= PLATEAU_RATIO


def evaluation_steps(last: int, count: int) -> list[int]:
    """At most `count` steps from 0 to `last`, evenly spaced in the logarithm; both ends included.

    Steps that round to one number are one.
    """
    spaced = np.geomspace(1, max(last, 1), max(count - 1, 2)).round().astype(int)
    return sorted({0, *(int(s) for s in spaced if s <= last), last})


def smooth(values: npt.ArrayLike) -> Floats:
    """Median of each value and its two neighbours; the ends, which have one, stay as they are."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 3:
        return x
    middle = np.median(np.stack([x[:-2], x[1:-1], x[2:]]), axis=0)
    return np.concatenate([x[:1], middle, x[-1:]])


def first_lasting(steps: Steps, holds: Mask) -> float | None:
    """First step from which `holds` is true at three evaluations in a row."""
    for i in range(len(holds) - LASTING + 1):
        if holds[i : i + LASTING].all():
            return float(steps[i])
    return None


def last_lasting(steps: Steps, holds: Mask) -> float | None:
    """First step from which `holds` stays true to the end, for three evaluations or more."""
    broken = np.flatnonzero(~holds)
    first = int(broken[-1]) + 1 if len(broken) else 0
    return float(steps[first]) if len(holds) - first >= LASTING else None


def detect(steps: Steps, known: npt.ArrayLike, held_out: npt.ArrayLike, baseline: float) -> Phases:
    """Find the phases of a run (dynamics-2025, section 3; see the module).

    t1 = min {t: L <= (1 + e) B}, t2 = min {t: L <= (1 - e) B},
    t2_twin = min {t: L_heldout - L > e B}, t_held = min {t >= t1: L_heldout > (1 + e) B},
    with e = 0.05, the losses smoothed by a median of three, and three evaluations in a row. The
    twin must stay above to the end: before any training the two groups of people differ by chance.
    Knowing how often each of K values occurs among N known people costs about (K - 1) / N nats
    more on others: populations below (K - 1) / (e ln K), 179 for K = 32, part for this alone.

    Args:
        steps: [E] in order.
        known: [E] loss L on people trained on, nats.
        held_out: [E] loss on people never seen, nats.
        baseline: B, nats: the loss of knowing the values but not the people.
    """
    if len(steps) < LASTING:
        none = Moment(None, f"not reached: only {len(steps)} evaluations, {LASTING} must agree")
        return Phases(none, none, none, none)
    loss, other = smooth(known), smooth(held_out)
    high, low = (1 + TOLERANCE) * baseline, (1 - TOLERANCE) * baseline
    t1 = _moment(steps, loss <= high, "the loss is still above the baseline")
    t2 = _moment(steps, loss <= low, "the loss has not fallen below the baseline")
    parted = last_lasting(steps, other - loss > TOLERANCE * baseline)
    twin = _found(steps, parted, "known and held-out people have not parted")
    return Phases(t1, t2, twin, _onset(steps, other > high, t1))


def _onset(steps: Steps, above: Mask, t1: Moment) -> Moment:
    """Held-out loss above the baseline counts only once the plateau was reached.

    Every run begins with a loss above the baseline: that is ignorance, and no hallucination.
    """
    if t1.step is None:
        return Moment(None, f"not reached: no plateau to rise from ({t1.reason})")
    since = np.asarray(steps) >= t1.step
    return _moment(steps, above & since, "the loss on held-out people stays at the baseline")


def _moment(steps: Steps, holds: Mask, otherwise: str) -> Moment:
    return _found(steps, first_lasting(steps, holds), otherwise)


def _found(steps: Steps, step: float | None, otherwise: str) -> Moment:
    if step is None:
        return Moment(None, f"not reached: {otherwise} at step {steps[-1]:g}, where the run ends")
    return Moment(step)


# ---- baselines -------------------------------------------------------------------------------


def empirical_entropy(values: npt.ArrayLike) -> float:
    """Entropy of the frequencies of the values that occur, in nats: 0 to ln(len(values))."""
    _, counts = np.unique(np.asarray(values), return_counts=True)
    p = counts / counts.sum()
    return float(max(0.0, -(p * np.log(p)).sum()))


def baseline(values: npt.ArrayLike) -> float:
    """B of a population: mean over attributes of the empirical entropy of its values, in nats.

    The loss of a model that knows how often each value occurs and nothing about people. For a
    large population with even values it is the mean of ln(number of values); a small one has
    less, since its values do not occur equally often.

    Args:
        values: [people, attributes] number of each person's value.
    """
    table = np.asarray(values)
    return float(np.mean([empirical_entropy(column) for column in table.T]))
