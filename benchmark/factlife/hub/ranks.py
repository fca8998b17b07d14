"""Places within one metric. There is no place over several metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factlife.hub.collect import Entry
from factlife.scores import Metric


@dataclass(frozen=True)
class Rank:
    """A place among the results of one protocol hash.

    Attributes:
        place: 1 is best; equal values share a place.
        best, worst: places that the intervals allow: only results whose interval lies
            entirely on the better (worse) side count before (behind) this one.
        of: results compared.
    """

    place: int
    best: int
    worst: int
    of: int

    def __str__(self) -> str:
        span = f" ({self.best} to {self.worst})" if self.best != self.worst else ""
        return f"rank {self.place}{span} of {self.of}"


def rank(entry: Entry, metric: Metric, entries: Sequence[Entry]) -> Rank | None:
    """The place of an entry within one metric, or None.

    Only ranked entries with one protocol hash are compared, and only if there are two or more.
    """
    mine = _span(entry, metric)
    if not entry.ranked or mine is None:
        return None
    same = [e for e in entries if e.ranked and e.protocol["hash"] == entry.protocol["hash"]]
    spans = [s for e in same if (s := _span(e, metric)) is not None]
    if len(spans) < 2:
        return None
    low, value, high = mine
    return Rank(
        place=1 + sum(v > value for _, v, _ in spans),
        best=1 + sum(other_low > high for other_low, _, _ in spans),
        worst=len(spans) - sum(other_high < low for _, _, other_high in spans),
        of=len(spans),
    )


def _span(entry: Entry, metric: Metric) -> tuple[float, float, float] | None:
    """(low, value, high), turned so that more is better."""
    m = entry.metric(metric.name)
    if m is None or m["value"] is None or metric.direction == "neither":
        return None
    if metric.direction == "lower":
        return -m["ci_high"], -m["value"], -m["ci_low"]
    return m["ci_low"], m["value"], m["ci_high"]
