"""Which revisions of a series a profile measures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from factlife.config import Selection
from factlife.series.local import Revision


def select(revisions: Sequence[Revision], selection: Selection) -> list[Revision]:
    """Choose at most `max_checkpoints` revisions, first and last included.

    With `log` spacing the others lie nearest to points spaced evenly in the logarithm of
    tokens (of steps, else of places, where tokens are unknown). With `all` spacing, evenly by place.
    """
    n, wanted = len(revisions), selection.max_checkpoints
    if n <= wanted:
        return list(revisions)
    if wanted == 1:
        return [revisions[-1]]
    x = _log_axis(revisions) if selection.spacing == "log" else [float(i) for i in range(n)]
    first, last = x[1], x[-1]
    chosen = {0, n - 1}
    inner = wanted - 2
    targets = [first + (last - first) * i / (inner + 1) for i in range(inner + 1)][:inner]
    for target in targets:
        free = [i for i in range(n) if i not in chosen]
        chosen.add(min(free, key=lambda i: (abs(x[i] - target), i)))
    return [revisions[i] for i in sorted(chosen)]


def _log_axis(revisions: Sequence[Revision]) -> list[float]:
    """Place of each revision on the log axis; step 0 lies left of everything."""
    tokens, steps = [r.tokens for r in revisions], [r.step for r in revisions]
    raw: Sequence[int | None]
    if None not in tokens:
        raw = tokens
    elif None not in steps and len({r.stage for r in revisions}) == 1:
        raw = steps
    else:
        raw = [i + 1 for i in range(len(revisions))]
    return [math.log(v) if v else -math.inf for v in raw]
