"""Every metric at the end of the series."""

from __future__ import annotations

from factlife.report.html import h, join
from factlife.report.sections.base import Section, scope_name
from factlife.report.tables import estimate, table
from factlife.report.text import direction
from factlife.report.view import View
from factlife.scores import METRICS


def numbers(view: View) -> Section:
    """One row a metric, one column a scope that spans relations."""
    scopes = view.scopes.wide
    rows = []
    for m in METRICS:
        found = {s: view.final(m.name, s) for s in scopes}
        cells = [estimate(found[s]) if found[s] else h("td", "–") for s in scopes]
        n = (found["overall"] or {}).get("n")
        rows.append([
            join([m.title, h("small", m.name)]),
            *cells,
            h("td", "–" if n is None else f"{n:,}", class_="number"),
            m.unit,
            direction(m.direction),
            h("td", m.meaning, class_="long"),
        ])  # fmt: skip
    head = ["metric", *(scope_name(s) for s in scopes), "n", "unit", "direction", "meaning"]
    where = f"at {view.last}" if view.measured else "of the series"
    body = join(
        [
            h("p", "Values with intervals beneath; a dash stands where a metric has no such scope."),
            table(f"All metrics {where}", head, rows, "metrics"),
        ]
    )
    return Section("numbers", "All numbers at the last checkpoint", "All numbers", body)
