"""The numbers behind the charts, embedded once a page.

A data set is columns of equal length. Text columns are coded (`names` and `codes`), and a column
that is named in `JOINS` holds row numbers of another data set, so that nothing is written twice.
The page's script turns them back into rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from factlife.recall.metrics import SERIES
from factlife.report.view import Row, View
from factlife.scores import METRICS
from factlife.stats import Ints, wilson

JOINS = {"checkpoint": "checkpoints", "metric": "metrics", "fact": "facts"}
KNOWN, NOT_KNOWN, NOT_MEASURED = "known", "not known", "not measured"
EMERGENCE = {"recall.emergence50": "50 % of final", "recall.emergence90": "90 % of final"}


def pack(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Rows as columns; text is coded, numbers keep six significant digits."""
    return {name: _column([r[name] for r in rows]) for name in columns}


def _column(values: list[Any]) -> Any:
    if not any(isinstance(v, str) for v in values):
        return [_short(v) for v in values]
    names = list(dict.fromkeys(v for v in values if v is not None))
    place: dict[Any, int | None] = {n: i for i, n in enumerate(names)} | {None: None}
    return {"names": names, "codes": [place[v] for v in values]}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def all_datasets(view: View) -> dict[str, Any]:
    """Every data set that the figures of the report draw from, by name."""
    if not view.measured:
        return {}
    circuits = {name: pack(*made) for name, made in view.circuit_rows.items()}
    if not view.recalled:
        return {"checkpoints": _checkpoints(view), **circuits}
    metrics = [m for m in METRICS if m.per_revision and not m.name.startswith("circuits.")]
    return {
        "checkpoints": _checkpoints(view),
        "metrics": {
            "metric": {"names": [m.name for m in metrics], "codes": list(range(len(metrics)))},
            "measure": {"names": [m.title for m in metrics], "codes": list(range(len(metrics)))},
            "unit": _column([m.unit for m in metrics]),
        },
        "scores": _scores(view, {m.name: i for i, m in enumerate(metrics)}),
        "emergence": _emergence(view),
        "facts": _facts(view),
        "knowledge": _knowledge(view),
        "templates": _templates(view),
        **circuits,
    }


def _checkpoints(view: View) -> dict[str, Any]:
    axis = view.axis
    rows = [
        {
            **{k: c[k] for k in ("revision", "stage", "step", "tokens")},
            "nth": i,
            "x": axis.place(v),
            "alone": axis.is_alone(v),
        }
        for i, (c, v) in enumerate(zip(view.measured, axis.values, strict=True))
    ]
    columns = ("revision", "stage", "step", "tokens", "nth", "x", "alone")
    return pack(rows, columns)


def _scores(view: View, metrics: Mapping[str, int]) -> dict[str, Any]:
    place = {c["revision"]: i for i, c in enumerate(view.measured)}
    rows = [
        {
            "metric": metrics[r["metric"]],
            "scope": r["scope"],
            "checkpoint": place[r["revision"]],
            **{k: r[k] for k in ("value", "ci_low", "ci_high", "n")},
        }
        for r in view.scores.values()
        if r["value"] is not None and r["metric"] in metrics and r["revision"] in place
    ]
    rows.sort(key=lambda r: (r["metric"], r["scope"], r["checkpoint"]))
    return pack(rows, ("metric", "scope", "checkpoint", "value", "ci_low", "ci_high", "n"))


def _emergence(view: View) -> dict[str, Any]:
    axis = view.axis.with_slot()
    rows: list[Row] = []
    for scope in [*view.scopes.wide, *view.scopes.relations]:
        for metric, share in EMERGENCE.items():
            r = view.score(metric, scope, SERIES)
            if r and r["value"] is not None:
                at = {f"x_{k}": axis.place(r[k]) for k in ("value", "ci_low", "ci_high")}
                kept = {k: r[k] for k in ("value", "ci_low", "ci_high", "n")}
                rows.append({"scope": scope, "share": share, **kept, **at})
    columns = ("scope", "share", "value", "ci_low", "ci_high", "n")
    return pack(rows, (*columns, "x_value", "x_ci_low", "x_ci_high"))


# ---- facts -----------------------------------------------------------------------------------


def learned_at(known: Ints) -> int:
    """Place of the checkpoint since which a fact [C] is known for good; C if not at the end."""
    unknown = np.flatnonzero(known == 0)
    return int(unknown[-1]) + 1 if len(unknown) else 0


def fact_order(view: View) -> list[int]:
    """Places of the facts by relation, then learning time, then first success, then name."""
    relations = list(view.scopes.relations)
    known = _known(view)

    def key(i: int) -> tuple[int, int, int, str]:
        first = np.flatnonzero(known[:, i])
        ever = int(first[0]) if len(first) else len(known)
        return (
            relations.index(view.cube.relations[i]),
            learned_at(known[:, i]),
            ever,
            view.cube.fact_ids[i],
        )

    return sorted(range(len(view.cube.fact_ids)), key=key)


def _known(view: View) -> Ints:
    """[C, n] 1 where the whole answer is right; what was not measured counts as not known."""
    known: Ints = np.nan_to_num(view.cube.source["whole_answer"]).astype(np.int64)
    return known


def _facts(view: View) -> dict[str, Any]:
    rows = []
    taken = set()
    for line, i in enumerate(fact_order(view)):
        fact, relation = view.cube.fact_ids[i], view.cube.relations[i]
        subject = view.subject(fact)
        twin = (relation, subject) in taken
        taken.add((relation, subject))
        rows.append({
            "fact": fact,
            "relation": relation,
            "subject": subject,
            "name": f"{subject} ({fact})" if twin else subject,  # a row of its own in the map
            "answer": view.answers.get(fact),
            "set": view.set_of(fact, relation),
            "line": line,
        })  # fmt: skip
    return pack(rows, ("fact", "relation", "subject", "name", "answer", "set", "line"))


def _knowledge(view: View) -> dict[str, Any]:
    return pack(
        list(_knowledge_rows(view)),
        ("fact", "checkpoint", "state", "shown", "rank", "logprob_sum_nats"),
    )


def _knowledge_rows(view: View) -> Iterator[Row]:
    source = view.cube.source
    for line, i in enumerate(fact_order(view)):
        for c in range(len(view.measured)):
            right = source["whole_answer"][c, i]
            state = NOT_MEASURED if np.isnan(right) else KNOWN if right else NOT_KNOWN
            own = view.set_of(view.cube.fact_ids[i], view.cube.relations[i])
            rank, logprob = source["rank"][c, i], source["logprob_sum_nats"][c, i]
            yield {
                "fact": line,
                "checkpoint": c,
                "state": state,
                "shown": own if state == KNOWN else state,
                "rank": None if np.isnan(rank) else int(rank),
                "logprob_sum_nats": None if np.isnan(logprob) else float(logprob),
            }


def _templates(view: View) -> dict[str, Any]:
    """Whole-answer accuracy of every template at the last checkpoint."""
    rows = view.recall.filter(pc.equal(view.recall["revision"], view.last)).to_pylist()
    kept = set(view.cube.fact_ids)
    grouped: dict[tuple[str, str, str], list[bool]] = {}
    for r in rows:
        if r["fact_id"] in kept and r["whole_answer"] is not None:
            key = (r["relation"], r["template_id"], r["template_role"])
            grouped.setdefault(key, []).append(r["whole_answer"])
    found = [
        {
            "relation": relation,
            "template": template,
            "role": role,
            "value": sum(right) / len(right),
            **dict(zip(("ci_low", "ci_high"), wilson(sum(right), len(right)), strict=True)),
            "n": len(right),
        }
        for (relation, template, role), right in sorted(grouped.items())
    ]
    return pack(found, ("relation", "template", "role", "value", "ci_low", "ci_high", "n"))
