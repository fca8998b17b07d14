"""Which revisions of a series a profile measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from factlife.config import Selection
from factlife.series.local import Revision


def select(revisions: Sequence[Revision], selection: Selection) -> list[Revision]:
    """Choose at most `max_checkpoints` revisions, first and last included.

    With `log` spacing the others lie nearest to points spaced evenly in the logarithm of
    tokens (of steps, else of places, where tokens are unknown). With `all` spacing they are spaced
    evenly by place. A branch main that is no listed step is chosen as well.
    """
    n, wanted = len(revisions), selection.max_checkpoints
    if n <= wanted:
        return list(revisions)
    if wanted == 1:
        return [revisions[-1]]
    if _unplaced_main(revisions[-1]):
        return [
            *select(revisions[:-1], replace(selection, max_checkpoints=wanted - 1)),
            revisions[-1],
        ]
    x = _log_axis(revisions) if selection.spacing == "log" else [float(i) for i in range(n)]
    chosen = {0, n - 1}
    for target in _targets(x, wanted - 2):
        free = [i for i in range(n) if i not in chosen]
        chosen.add(min(free, key=lambda i: (abs(x[i] - target), i)))
    return [revisions[i] for i in sorted(chosen)]


def _unplaced_main(revision: Revision) -> bool:
    """A branch main that is no listed step: it comes last, whatever its tokens are."""
    return revision.name == "main" and revision.step is None and revision.tokens is None


def _targets(x: Sequence[float], inner: int) -> list[float]:
    """Evenly spaced points between the first place (the first after step 0) and the last."""
    placed = [v for v in x if not math.isinf(v)]
    low, high = min(placed), max(placed)
    if math.isinf(x[0]):  # step 0 is chosen beside the axis, so that its first point is wanted too
        return [low + (high - low) * i / inner for i in range(inner)]
    return [low + (high - low) * (i + 1) / (inner + 1) for i in range(inner)]


def _log_axis(revisions: Sequence[Revision]) -> list[float]:
    """Place of each revision on the log axis; step 0 lies left of everything."""
    tokens, steps = [r.tokens for r in revisions], [r.step for r in revisions]
    raw: Sequence[int | None] = [i + 1 for i in range(len(revisions))]
    if None not in tokens and any(tokens):
        raw = tokens
    elif None not in steps and any(steps) and len({r.stage for r in revisions}) == 1:
        raw = steps
    return [math.log(v) if v else -math.inf for v in raw]
