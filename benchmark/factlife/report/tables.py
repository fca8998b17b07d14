"""Tables of the report, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factlife.report import text
from factlife.report.html import Child, Html, h


def table(
    caption: str, head: Sequence[Child], rows: Sequence[Sequence[Child]], classes: str = ""
) -> Html:
    """A table that scrolls inside its own box; the first cell of each row heads it."""
    cells = [h("th", c, scope="col", class_=_side(i, rows)) for i, c in enumerate(head)]
    body = [h("tr", _row(r)) for r in rows]
    inner = h(
        "table",
        h("caption", caption),
        h("thead", h("tr", cells)),
        h("tbody", body),
        class_=classes or None,
    )
    # A box that scrolls must be reachable by keyboard.
    return h("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _side(column: int, rows: Sequence[Sequence[Child]]) -> str | None:
    """`number` where the column's first cell is one: its head stands above it."""
    first = rows[0][column] if rows else None
    is_number = isinstance(first, Html) and first.startswith("<td") and 'class="number"' in first
    return "number" if is_number else None


def _row(cells: Sequence[Child]) -> list[Html]:
    first, *others = cells
    return [
        h("th", first, scope="row"),
        *(c if isinstance(c, Html) and c.startswith("<td") else h("td", c) for c in others),
    ]


def estimate(row: Mapping[str, Any] | None) -> Html:
    """A cell with a value over its interval, or the reason for none."""
    if row is None:
        return h("td", h("span", "not measured", class_="missing"))
    if row["value"] is None:
        reason = row["reason"] or "no reason given"
        return h("td", h("span", "not measured", class_="missing"), h("small", reason))
    value = h("data", text.number(row["value"], row["unit"]), value=repr(row["value"]))
    return h("td", value, between(row), class_="number")


def between(row: Mapping[str, Any]) -> Html | None:
    """The interval as small print."""
    if row["ci_low"] is None or row["ci_high"] is None:
        return None
    if str(row.get("interval_method")).startswith("none: "):
        return h("small", f"no interval: {row['interval_method'][6:]}")
    return h("small", text.interval(row["ci_low"], row["ci_high"], row["unit"]))


def definitions(entries: Sequence[tuple[str, Child]]) -> Html:
    """Names and values, one pair a line."""
    pairs = [h("div", h("dt", name), h("dd", value)) for name, value in entries]
    return h("dl", pairs, class_="pairs")


def number_cell(value: int | None) -> Html:
    """A whole number with separators, or a dash."""
    return h("td", "–" if value is None else f"{value:,}", class_="number")
