"""One fact's circuit at one checkpoint, drawn as tokens x layers."""

from __future__ import annotations

from factlife.report import text
from factlife.report.circuit_view import BUDGET, Selection
from factlife.report.html import h, join
from factlife.report.sections.base import Section, scope_name
from factlife.report.sections.circuits_base import has_roles
from factlife.report.sections.circuits_widgets import (
    fact_choice,
    fact_circuit,
    least_choice,
    slider,
)
from factlife.report.view import View


def one_fact(view: View) -> Section | None:
    """The interactive drawing, where edges were kept."""
    if not has_roles(view) or (chosen := view.circuit_selection) is None or not chosen.facts:
        return None
    names = [_name(view, f, view.circuit_facts.get(f)) for f in chosen.facts]
    about = (
        "Tokens from left to right, layers from the bottom up. A line is as wide as its share of "
        "what is written there; only what reaches the positions that predict the answer is drawn. "
        "Point at a line or a dot, or focus the drawing and use the arrow keys, to read it."
    )
    places = slider(view, chosen.places) if len(chosen.places) > 1 else None
    drawn = fact_circuit(
        "From the tokens to the answer", about, [fact_choice(names), places, least_choice()]
    )
    notes = [h("p", _kept(chosen), class_="note")]
    if chosen.too_long:
        left = text.counted(chosen.too_long, "fact")
        notes.append(h("p", f"Not shown: {left} with more than 255 tokens.", class_="note"))
    intro = h(
        "p",
        "Information flow routes: how much each attention head, each FFN and the residual stream "
        "bring into every write, followed back from the answer.",
    )
    return Section("one-circuit", "One fact's circuit", "One circuit", join([intro, drawn, notes]))


def _name(view: View, fact: str, relation: str | None) -> str:
    subject = view.subject(fact)
    return f"{scope_name(relation)}: {subject}" if relation else subject


def _kept(s: Selection) -> str:
    """Which circuits are in the page."""
    facts, places = text.counted(s.of_facts, "fact"), text.counted(s.of_places, "checkpoint")
    if s.whole:
        return f"All circuits of the run's table are here: {facts} at {places}."
    return (
        f"Of {facts} at {places} in the run's table of edges, {len(s.facts)} at {len(s.places)} "
        f"are here, so that the edges take at most {text.si(BUDGET)} characters of this page: "
        "facts from all over the relations; the first and the last checkpoint, and others spread "
        "over the log axis. The table circuit_edges has them all."
    )
