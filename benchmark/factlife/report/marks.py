"""Tiny drawings that stand beside a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from factlife.report.html import Html, h

_WIDTH = 120


def interval_mark(
    row: Mapping[str, Any] | None, ends: tuple[float, float] | None = None, log: bool = False
) -> Html | None:
    """A value and its interval on a line from `ends[0]` to `ends[1]` (shares: 0 to 1).

    None where there is nothing to draw: no value, or a scale with no natural ends.
    """
    if row is None or row["value"] is None or row["ci_low"] is None or row["ci_high"] is None:
        return None
    if ends is None:
        if not row["unit"].startswith(("share ", "mean share ")):
            return None
        ends = (0.0, 1.0)
    low, value, high = (_place(row[k], ends, log) for k in ("ci_low", "value", "ci_high"))
    base = h("line", x1=0, x2=_WIDTH, y1=6, y2=6, class_="scale")
    bar = h("line", x1=low, x2=max(high, low + 1), y1=6, y2=6, class_="bar")
    dot = h("circle", cx=value, cy=6, r=3.5, class_="point")
    view = f"-4 0 {_WIDTH + 8} 12"
    return h(
        "svg",
        base,
        bar,
        dot,
        class_="interval",
        viewBox=view,
        aria_hidden="true",
        preserveAspectRatio="xMinYMid",
    )


def _place(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high = ends
    if log:
        value = max(value, low)
        value, low, high = math.log(value), math.log(low), math.log(high)
    share = (value - low) / (high - low) if high > low else 0.5
    return round(_WIDTH * min(max(share, 0.0), 1.0), 1)
