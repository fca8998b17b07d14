"""The report of a run: one HTML file that works offline.

view.py      tables of a run folder -> what the sections ask for
datasets.py  the numbers behind the charts, embedded once
charts.py    Vega-Lite specifications; figures.py: title, legend, chart, data table
circuit_*.py role maps, their numbers, and packed circuits; drawn by assets/circuits.js
dynamics*.py runs on biographies: their curves, phases and fine-tunings
sections/    one function a section; a new track adds its own to SECTIONS
page.py      the shell that the leaderboard shares
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factlife.report import circuit_view, text
from factlife.report.datasets import JOINS, all_datasets
from factlife.report.dynamics import dynamics_datasets
from factlife.report.html import Html, h, join
from factlife.report.injection_rows import injection_datasets
from factlife.report.page import asset, vega_bundle, whole_page
from factlife.report.sections import SECTIONS, Section
from factlife.report.view import View, load_view
from factlife.store import RunStore, write_text

__all__ = ["render", "write_report"]


def write_report(run: RunStore) -> Path:
    """Write `report.html` of a scored run and return its path.

    Raises:
        UsageError: the run has no result.json yet.
        SubmissionError: its result.json is not to the format.
        IntegrityError: a damaged table or manifest.
        PartialError: the disk refuses the file.
    """
    path = run.root / "report.html"
    write_text(path, render(load_view(run)))
    return path


def render(view: View) -> str:
    """The report as HTML; equal views give equal bytes."""
    sections = [s for make in SECTIONS if (s := make(view)) is not None]
    figures = [f for s in sections for f in s.figures if f.missing is None]
    charts: dict[str, Any] = {
        "joins": JOINS,
        "tables": {
            **all_datasets(view),
            **injection_datasets(view.injection),
            **dynamics_datasets(view),
        },
        "figures": {f.id: f.description() for f in figures},
    }
    data, styles, drawings = {"charts": charts}, [], []
    if view.measured and view.role_maps:
        data["drawings"] = circuit_view.embedded(view, view.circuit_selection)
        styles = [asset("factlife.report", "circuits.css")]
        drawings = [asset("factlife.report", "circuits.js")]  # before the charts: they take longer
    code = [vega_bundle(), *(asset("factlife.report", f"{n}.js") for n in ("theme", "charts"))]
    return whole_page(
        title=f"{view.result['series_name']}: factlife report",
        header=_header(view, sections),
        navigation=[(s.id, s.short) for s in sections],
        main=join(s.html() for s in sections),
        data=data,
        styles=styles,
        scripts=[*drawings, *(code if figures else [])],
    )


def _header(view: View, sections: list[Section]) -> Html:
    result, protocol = view.result, view.result["protocol"]
    badge = h("span", protocol["badge"], class_="chip badge") if protocol["badge"] else None
    profile = f"profile {protocol['name']} version {protocol['version']}"
    warned = len(result["integrity"]["warnings"]) + len(result["integrity"]["duplicates"])
    hint = h("p", h("a", text.counted(warned, "warning"), href="#warnings"), class_="warned")
    return h(
        "div",
        h("p", "factlife report", class_="kicker"),
        h("h1", result["series_name"], " ", badge),
        h("p", _subtitle(view), " · ", profile, class_="subtitle"),
        hint if warned and any(s.id == "warnings" for s in sections) else None,
    )


def _subtitle(view: View) -> str:
    model = view.result["model"]
    parts = [model["architecture"], f"{text.si(model['parameters'])} parameters"]
    trained = len(view.dynamics.get("dynamics_runs", ()))
    if view.measured or not trained:
        parts.append(text.counted(len(view.measured), "checkpoint"))
    if trained:
        parts.append(text.counted(trained, "run on biographies", "runs on biographies"))
    if view.measured and view.axis.kind == "tokens":
        first, last = view.axis.values[0], view.axis.values[-1]
        span = text.si(last) if first == last else f"{text.si(first)} to {text.si(last)}"
        parts.append(f"{span} training tokens")
    if facts := len(view.cube.fact_ids) or len(view.circuit_facts):
        parts.append(text.counted(facts, "fact"))
    return " · ".join(parts)
