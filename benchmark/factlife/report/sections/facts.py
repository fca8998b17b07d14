"""Single facts: learned, flipped, forgotten."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from factlife.recall.metrics import SERIES
from factlife.report import charts, text
from factlife.report.datasets import NOT_KNOWN, NOT_MEASURED
from factlife.report.figures import Figure, Key, Panel
from factlife.report.html import Child, Html, h, join
from factlife.report.sections.base import Section, colours, scope_name
from factlife.report.tables import estimate, number_cell, table
from factlife.report.view import View
from factlife.scores import BY_NAME

_METRICS = ("recall.flip_rate", "recall.forgotten_share")
_MOST_NAMED = 60  # facts a relation beside which a name still has room


def facts(view: View) -> Section | None:
    """Which facts are known when; how often they flip; which are forgotten."""
    if not view.measured or not view.cube.fact_ids:
        return None
    meanings = " ".join(BY_NAME[m].meaning for m in _METRICS)
    scopes = [*view.scopes.wide, *view.scopes.relations]
    rows = [
        [scope_name(s), *(estimate(view.score(m, s, SERIES)) for m in _METRICS)] for s in scopes
    ]
    head = ["facts", *(BY_NAME[m].title for m in _METRICS)]
    numbers = table("Flips and forgotten facts", head, rows)
    body = join(
        [
            h("p", meanings),
            h("details", h("summary", "Flips and forgotten facts of every scope"), numbers),
            h("details", h("summary", "Every fact at the last checkpoint"), _last_facts(view)),
        ]
    )
    return Section("facts", "Learned, flipped, forgotten", "Facts", body, [_map(view)])


def _map(view: View) -> Figure:
    pairs = zip(view.cube.fact_ids, view.cube.relations, strict=True)
    used = {view.set_of(fact, relation) for fact, relation in pairs}
    sets = [s for s in (*view.scopes.subsets, *view.scopes.groups) if s in used]
    tones = colours(view, sets)
    keys = [Key(f"known ({s})", c, kind="box") for s, c in zip(sets, tones, strict=True)]
    sizes = Counter(view.cube.relations)
    labels = [_tick(view, i) for i in range(len(view.measured))]
    shown = [*sets, NOT_KNOWN, NOT_MEASURED]
    named = max(sizes.values()) <= _MOST_NAMED
    row = charts.KNOWLEDGE_ROW if named else charts.THIN_ROW
    spec = charts.knowledge(labels, shown, [*tones, "var(--off)", "var(--bg)"], named)
    return Figure(
        "knowledge-map",
        "Which facts are known at which checkpoint",
        "One row a fact, one column a checkpoint, coloured where the whole answer is right; facts "
        "are sorted by the checkpoint since which they are known for good.",
        spec=spec,
        dataset="knowledge",
        columns=("fact", "relation", "subject", "answer", "set", "revision", "tokens", "state",
                 "rank", "logprob_sum_nats"),
        legend=[*keys, Key(NOT_KNOWN, "var(--off)", kind="box")],
        panels=[
            Panel(text.spaced(r), {"relation": [r]}, text.counted(sizes[r], "fact"), row * sizes[r])
            for r in view.scopes.relations
        ],
    )  # fmt: skip


def _tick(view: View, i: int) -> str:
    value = view.axis.values[i]
    return text.compact(value) if view.axis.kind != "position" else str(int(value))


def _last_facts(view: View) -> Html:
    rows = view.recall.filter(
        pc.and_(
            pc.equal(view.recall["revision"], view.last),
            pc.equal(view.recall["template_role"], "source"),
        )
    ).to_pylist()
    head = ["fact", "answer", "whole answer", "first-token rank", "log-probability (nats)",
            "generation"]  # fmt: skip
    cells: list[list[Child]] = [
        [
            f"{text.spaced(r['relation'])}: {view.subject(r['fact_id'])}",
            view.answers.get(r["fact_id"], "–"),
            _outcome(r["whole_answer"], r["reason"]),
            number_cell(r["rank"]),
            _nats(r["logprob_sum_nats"]),
            r["generation"] or "–",
        ]
        for r in rows
    ]
    return table(f"Facts at {view.last}, source template", head, cells, "facts")


def _outcome(right: bool | None, reason: str | None) -> str:
    if right is None:
        return f"not measured: {reason or 'no reason given'}"
    return "right" if right else "wrong"


def _nats(value: float | None) -> Html:
    return h("td", "–" if value is None else text.number(value, "nats"), class_="number")
