"""Places within one metric. There is no place over several metrics."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from factlife.hub.collect import Entry
from factlife.scores import Metric

Span = tuple[float, float, float]


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


def ranks(metric: Metric, entries: Sequence[Entry]) -> dict[int, Rank]:
    """The places of entries within one metric, by `id` of the entry; others have none.

    Only ranked entries with one protocol hash are compared, and only if there are two or more.
    """
    groups: dict[str, list[tuple[int, Span]]] = {}
    for e in entries:
        if e.ranked and (span := _span(e, metric)) is not None:
            groups.setdefault(str(e.protocol["hash"]), []).append((id(e), span))
    return {
        key: place
        for same in groups.values()
        if len(same) > 1
        for key, place in zip((k for k, _ in same), _places([s for _, s in same]), strict=True)
    }


def _places(spans: Sequence[Span]) -> list[Rank]:
    lows, values, highs = (sorted(column) for column in zip(*spans, strict=True))
    n = len(spans)
    return [
        Rank(
            place=1 + n - bisect_right(values, value),
            best=1 + n - bisect_right(lows, high),
            worst=n - bisect_left(highs, low),
            of=n,
        )
        for low, value, high in spans
    ]


def _span(entry: Entry, metric: Metric) -> Span | None:
    """(low, value, high), turned so that more is better."""
    m = entry.metric(metric.name)
    if m is None or m["value"] is None or metric.direction == "neither":
        return None
    if metric.direction == "lower":
        return -m["ci_high"], -m["value"], -m["ci_low"]
    return m["ci_low"], m["value"], m["ci_high"]
