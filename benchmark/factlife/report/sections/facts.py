"""Single facts: learned, flipped, forgotten."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from factlife.recall.metrics import SERIES
from factlife.report import charts, text
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
    rows = [[scope_name(s), *(estimate(view.score(m, s, SERIES)) for m in _METRICS)] for s in scopes]
    numbers = table("Flips and forgotten facts", ["facts", *(BY_NAME[m].title for m in _METRICS)], rows)
    body = join(
        [
            h("p", meanings),
            h("details", h("summary", "Flips and forgotten facts of every scope"), numbers),
            h("details", h("summary", "Every fact at the last checkpoint"), _last_facts(view)),
        ]
    )
    return Section("facts", "Learned, flipped, forgotten", "Facts", body, [_map(view)])


def _map(view: View) -> Figure:
    sets = list(view.scopes.subsets) if view.members else []
    sets = [*sets, *view.scopes.groups]
    sizes = Counter(view.cube.relations)
    labels = [_tick(view, i) for i in range(len(view.measured))]
    used = {view.subset_of(f) or view.scopes.relations[r]
            for f, r in zip(view.cube.fact_ids, view.cube.relations, strict=True)}  # fmt: skip
    tones = dict(zip(sets, colours(view, sets), strict=True))
    keys = [Key(f"known ({s})", tones[s], box=True) for s in sets if s in used]
    return Figure(
        "knowledge-map",
        "Which facts are known at which checkpoint",
        "One row a fact, one column a checkpoint, coloured where the whole answer is right; facts "
        "are sorted by the checkpoint since which they are known for good.",
        spec=charts.knowledge(labels, sets, list(tones.values()), max(sizes.values()) <= _MOST_NAMED),
        dataset="knowledge",
        columns=("fact", "relation", "subject", "answer", "set", "revision", "tokens", "state",
                 "rank", "logprob_sum_nats"),
        legend=[*keys, Key("not known", "var(--off)", box=True)],
        panels=[
            Panel(text.spaced(r), {"relation": [r]}, text.counted(sizes[r], "fact"))
            for r in view.scopes.relations
        ],
    )  # fmt: skip


def _tick(view: View, i: int) -> str:
    value = view.axis.values[i]
    return text.si(value) if view.axis.kind != "position" else str(int(value))


def _last_facts(view: View) -> Html:
    rows = view.recall.filter(
        pc.and_(
            pc.equal(view.recall["revision"], view.last),
            pc.equal(view.recall["template_role"], "source"),
        )
    ).to_pylist()
    head = ["fact", "answer", "whole answer", "first-token rank", "log-probability (nats)", "generation"]
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
