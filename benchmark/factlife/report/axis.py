"""The x-axis of every curve: training tokens on a log scale, step 0 drawn apart.

A checkpoint at 0 tokens has no place on a log axis. It gets a slot of its own, left of the first
checkpoint and parted from it by a broken line, and no curve runs into it. Where tokens are not
known for every checkpoint the axis counts steps; where steps do not grow it counts places in the
series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_MANTISSAS = ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
_GAP = 0.12  # of the axis, between the slot of step 0 and the first checkpoint
_MOST_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """Places on the x-axis.

    Attributes:
        kind: tokens, step or position.
        title: of the axis, with its unit.
        values: of the checkpoints, in order, in the unit of `kind`.
        low, high: ends of the log (or, for positions, linear) part.
        slot: place of step 0; None if nothing is drawn there.
    """

    kind: str
    title: str
    values: tuple[float, ...]
    low: float
    high: float
    slot: float | None

    def place(self, value: float) -> float:
        """Where a value stands: log10 of tokens or steps; 0 in the slot of step 0."""
        if self.kind == "position":
            return value
        if value > 0:
            return math.log10(value)
        return self.low if self.slot is None else self.slot

    def is_apart(self, value: float) -> bool:
        """Whether a value is drawn in the slot of step 0."""
        return self.kind != "position" and value <= 0

    def is_alone(self, value: float) -> bool:
        """Whether no curve runs through a value: step 0, or the only checkpoint after it."""
        return self.is_apart(value) or len([v for v in self.values if not self.is_apart(v)]) == 1

    @property
    def domain(self) -> tuple[float, float]:
        """Ends of the axis with a little room on both sides."""
        left = self.low if self.slot is None else self.slot
        room = 0.04 * (self.high - left)
        return left - room, self.high + room

    @property
    def breaks(self) -> list[float]:
        """Where the broken line stands that parts step 0 from the rest."""
        return [] if self.slot is None else [(self.slot + self.low) / 2]

    @property
    def ticks(self) -> list[float]:
        """Places of the axis labels."""
        if self.kind == "position":
            return _whole_ticks(self.low, self.high)
        slot = [] if self.slot is None else [self.slot]
        return slot + _log_ticks(self.low, self.high)

    @property
    def label_expression(self) -> str:
        """Vega expression that writes the label of a tick."""
        if self.kind == "position":
            return "format(datum.value, 'd')"
        written = "replace(format(pow(10, datum.value), '.1~s'), 'G', 'B')"
        written = f"replace({written}, 'k', 'K')"
        if self.slot is None:
            return written
        return f"datum.value < {(self.slot + self.low) / 2!r} ? '0' : {written}"

    def with_slot(self) -> Axis:
        """The same axis with the slot left of the first checkpoint, measured or not."""
        if self.kind == "position" or self.slot is not None:
            return self
        return make_axis_between(self.kind, self.title.split(" (")[0], self.values, zero=True)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 or all digits between where the axis is short."""
    ticks: list[float] = []
    for mantissas in _MANTISSAS:
        places = (
            math.log10(m) + e
            for e in range(math.floor(low), math.ceil(high) + 1)
            for m in mantissas
        )
        found = [p for p in places if low - 1e-9 <= p <= high + 1e-9]
        if len(found) > _MOST_TICKS and ticks:
            break
        ticks = found
        if len(ticks) >= 3:
            break
    stride = math.ceil(len(ticks) / _MOST_TICKS) or 1
    return ticks[::stride] or [low]


def _whole_ticks(low: float, high: float) -> list[float]:
    stride = max(1, math.ceil((high - low) / _MOST_TICKS))
    return [float(i) for i in range(int(low), int(high) + 1, stride)]


def _grows(values: Sequence[float | None]) -> bool:
    if any(v is None for v in values):
        return False
    known = [v for v in values if v is not None]
    return all(a < b for a, b in pairwise(known))


def make_axis(checkpoints: Sequence[dict[str, Any]]) -> Axis:
    """Choose the axis for measured checkpoints (rows of the table, in order; at least one)."""
    tokens = [c["tokens"] for c in checkpoints]
    if None not in tokens and any(tokens):
        return make_axis_between("tokens", "training tokens", tokens, zero=0 in tokens)
    steps = [c["step"] for c in checkpoints]
    if _grows(steps) and any(steps):
        return make_axis_between("step", "optimiser steps", steps, zero=0 in steps)
    positions = [float(c["position"]) for c in checkpoints]
    room = 0.0 if len(positions) > 1 else 1.0
    title = "place in the series (tokens and steps are not known)"
    return Axis(
        "position", title, tuple(positions), positions[0] - room, positions[-1] + room, None
    )


def make_axis_between(kind: str, title: str, values: Sequence[float], zero: bool) -> Axis:
    """A log axis over the positive values, with a slot for step 0 if asked for."""
    logs = [math.log10(v) for v in values if v > 0]
    low, high = min(logs), max(logs)
    if high - low < 0.3:  # one checkpoint, or several close together
        low, high = low - 0.15, high + 0.15
    slot = low - _GAP * (high - low) / (1 - _GAP) if zero else None
    named = f"{title} (log scale{', step 0 apart' if zero else ''})"
    return Axis(kind, named, tuple(map(float, values)), low, high, slot)
