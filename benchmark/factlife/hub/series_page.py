"""What the page of one series is made from: curves, changes of role, provenance."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from factlife.hub.collect import Entry
from factlife.hub.curves import Tables, pack, read_tables
from factlife.hub.special import phases, retention
from factlife.report import text
from factlife.report.circuit_data import transition_rows
from factlife.report.datasets import pack as pack_rows
from factlife.report.html import Html, h
from factlife.report.identity import identity
from factlife.report.tables import definitions, table

_CELL = (
    "kind", "before", "after", "shade", "label", "note", "count", "probability", "ci_low",
    "ci_high", "null_mean", "null_low", "null_high", "per_log_token", "rate", "reason",
)  # fmt: skip
_RETAINED = ("start", "law", "t", "x", "value", "ci_low", "ci_high", "n")
_CHECKPOINT = ("revision", "stage", "step", "tokens")


def series_data(entry: Entry) -> dict[str, Any]:
    """Everything about a result that the page reads on demand.

    `curves` is metric -> scope -> [values, lows, highs, n] over `checkpoints`; `missing` says why a
    metric has no value; `about` and `provenance` are HTML, whose every text is escaped.
    """
    tables = read_tables(entry)
    revisions = [r["revision"] for r in entry.measured]
    return {
        "slug": entry.slug,
        "name": entry.series,
        "badge": entry.badge,
        "ranked": entry.ranked,
        "own": tables.own,
        "checkpoints": [{k: r[k] for k in _CHECKPOINT} for r in entry.measured],
        "curves": pack(tables.scores, revisions),
        "missing": _missing(entry),
        "transitions": _transitions(tables),
        "retention": _retention(tables),
        "phases": phases(tables.scores, entry),
        "about": _about(entry),
        "provenance": _provenance(entry, tables),
    }


def _missing(entry: Entry) -> dict[str, str]:
    found = entry.result["metrics"].values()
    return {
        m["metric"]: m["reason"] for m in found if m["value"] is None and m["scope"] == "overall"
    }


def _transitions(tables: Tables) -> dict[str, Any] | None:
    """Cells of the heat map, over all relations."""
    overall = tables.transitions.filter(pc.equal(tables.transitions["scope"], "overall"))
    rows = [r for r in transition_rows(overall.to_pylist()) if r["what"] == "probability"]
    return pack_rows(rows, _CELL) if rows else None


def _retention(tables: Tables) -> dict[str, Any] | None:
    rows = retention(tables.scores)
    full = [{**dict.fromkeys(_RETAINED), **r} for r in rows]
    return pack_rows(full, _RETAINED) if rows else None


def _about(entry: Entry) -> Html:
    model, protocol = entry.result["model"], entry.protocol
    badge = h("span", entry.badge, class_="chip badge") if entry.badge else None
    parts = [
        model["architecture"], f"{text.si(model['parameters'])} parameters",
        text.counted(len(entry.measured), "checkpoint"),
        f"profile {protocol['name']} version {protocol['version']}",
    ]  # fmt: skip
    flags = [h("span", f, class_="chip warn") for f in entry.flags]
    return h(
        "div",
        h("h2", entry.series, " ", badge, tabindex=-1),
        h("p", " · ".join(parts), class_="subtitle"),
        h("p", flags) if flags else None,
    )


def _provenance(entry: Entry, tables: Tables) -> Html:
    warnings = [*entry.result["integrity"]["warnings"], *tables.problems]
    source = (
        "The curves come from the table of scores beside the result, whose sha256 the result names."
        if tables.own
        else "No table of scores lies beside this result: only its last checkpoint is known here."
    )
    return h(
        "div",
        h("p", "To measure it again:"),
        h("pre", h("code", entry.command), tabindex=0, class_="command"),
        h("p", source),
        h("div", h("p", "Warnings:"), h("ul", [h("li", w) for w in warnings]))
        if warnings
        else None,
        definitions(identity(entry.result)),
        h("details", h("summary", "Checkpoints and hashes"), _checkpoints(entry)),
    )


def _checkpoints(entry: Entry) -> Html:
    rows = [
        [
            r["revision"],
            "–" if r["step"] is None else f"{r['step']:,}",
            "–" if r["tokens"] is None else f"{r['tokens']:,}",
            r["tokens_source"],
            text.prefix(r["commit_sha"]),
            ", ".join(text.prefix(s) for s in r["weights_sha256"]) or "–",
            r["reason"] or ", ".join(r["flags"]) or "–",
        ]
        for r in entry.result["series"]
    ]
    head = ("revision", "step", "tokens", "tokens from", "commit", "weights sha256", "notes")
    return table(f"Checkpoints of {entry.series}", head, rows)
