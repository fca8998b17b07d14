"""Every metric at the end of the series."""

from __future__ import annotations

from factlife.report.html import Child, h, join
from factlife.report.sections.base import Section, scope_name
from factlife.report.tables import estimate, number_cell, table
from factlife.report.text import direction
from factlife.report.view import OVERALL, View
from factlife.scores import Metric


def numbers(view: View) -> Section:
    """One row a metric, one column a scope that spans relations."""
    scopes = view.scopes.wide
    head = ["metric", *(scope_name(s) for s in scopes), "n", "unit", "direction"]
    rows = [_row(view, m, scopes) for m in view.metrics]
    where = f"at {view.last}" if view.measured else "of the series"
    about = "Values with intervals beneath; a dash stands where a metric has no such scope."
    body = join([h("p", about), table(f"All metrics {where}", head, rows, "metrics")])
    return Section("numbers", "All numbers at the last checkpoint", "All numbers", body)


def _row(view: View, m: Metric, scopes: list[str]) -> list[Child]:
    found = [view.final(m.name, s) for s in scopes]
    overall = view.final(m.name, OVERALL)
    name = join([m.title, h("small", m.meaning), h("small", h("code", m.name))])
    return [
        name,
        *(estimate(row) if row else h("td", "–", class_="number") for row in found),
        number_cell(overall["n"] if overall else None),
        m.unit,
        direction(m.direction),
    ]
