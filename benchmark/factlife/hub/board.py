"""The leaderboard page: one table a section, one row a result, no score over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factlife.hub.collect import SECTIONS, Entry
from factlife.hub.ranks import rank
from factlife.report import text
from factlife.report.html import Child, Html, h, join
from factlife.report.identity import identity
from factlife.report.marks import interval_mark
from factlife.report.page import asset, whole_page
from factlife.report.tables import definitions, estimate, table
from factlife.scores import METRICS, Metric

HEADLINES = tuple(m for m in METRICS if m.headline)
SCOPES = ("overall", "LOC", "NAME", "stated", "unstated")
_TITLES = {
    "standard": "Standard",
    "reference": "Reference: small budgets",
    "demo": "Demo: a preview, not ranked",
    "other": "Other profiles",
}
_ABOUT = {
    "standard": "The profile that is made for ranking. A rank stands beside a number, counts "
    "within that metric and one protocol hash only, and is given to results without a badge; in "
    "brackets, the places that the intervals allow.",
    "reference": "The metrics of the standard profile at a small budget, for models trained with "
    "factlife. Never ranked.",
    "demo": "Made in minutes on a CPU to show what the benchmark does: no measurement of a "
    "published model, and never ranked.",
    "other": "Profiles as published in papers, or of one's own. Never ranked.",
}


def render(entries: Sequence[Entry]) -> str:
    """The board as HTML; equal entries give equal bytes."""
    groups = {s: [e for e in entries if e.section == s] for s in SECTIONS}
    shown = [(s, found) for s, found in groups.items() if found]
    return whole_page(
        title="factlife leaderboard",
        header=_header(entries),
        navigation=[(s, _TITLES[s].partition(":")[0]) for s, _ in shown],
        main=join([_controls(), *(_section(s, found) for s, found in shown), _meanings()]),
        sidebar=False,
        data={"board": {"rows": [_record(e, entries) for e in entries]}},
        styles=[asset("factlife.hub", "board.css")],
        scripts=[asset("factlife.hub", "board.js")],
    )


def _header(entries: Sequence[Entry]) -> Html:
    series = len({e.series for e in entries})
    counts = f"{text.counted(len(entries), 'result')} of {text.counted(series, 'series', 'series')}"
    only_demo = all(e.section == "demo" for e in entries)
    banner = h(
        "p",
        h("strong", "Demo only."),
        " This board is a local preview: every row was made by the demo and none is ranked.",
        class_="banner",
    )
    return h(
        "div",
        h("p", "factlife: the life of a fact inside a language model", class_="kicker"),
        h("h1", "Leaderboard"),
        h("p", counts, " · no single score: each column asks its own question", class_="subtitle"),
        banner if only_demo else None,
    )


def _controls() -> Html:
    search = h("input", type="search", id="filter", autocomplete="off", disabled=True,
               placeholder="series, architecture, profile …")  # fmt: skip
    buttons = [
        h("button", f"Download {kind.upper()}", type="button", data_download=kind, disabled=True)
        for kind in ("json", "csv")
    ]
    return h(
        "div",
        h("label", h("span", "Filter rows"), search),
        buttons,
        h("p", id="status", role="status", aria_live="polite"),
        class_="controls",
    )


# ---- one section -----------------------------------------------------------------------------


def _section(name: str, entries: Sequence[Entry]) -> Html:
    label = f"{name}-title"
    caption = h("caption", f"{_TITLES[name]}: {text.counted(len(entries), 'result')}")
    bodies = [_body(f"{name}-{i}", e, entries) for i, e in enumerate(entries)]
    inner = h("table", caption, _head(), bodies, class_="board")
    box = h("div", inner, class_="scroll", tabindex=0, role="region", aria_labelledby=label)
    return h(
        "section", h("h2", _TITLES[name], id=label), h("p", _ABOUT[name]), box,
        id=name, aria_labelledby=label,
    )  # fmt: skip


def _head() -> Html:
    cells = [
        _column(0, "Series", "", "up"),
        _column(1, "Model", "sorts by parameters", "down"),
        _column(2, "Training covered", "sorts by last tokens", "down"),
        _column(3, "Protocol", "profile and hash", "up"),
    ]
    for i, m in enumerate(HEADLINES, len(cells)):
        note = f"{m.unit}, {text.direction(m.direction)}"
        cells.append(_column(i, m.title, note, "up" if m.direction == "lower" else "down"))
    return h("thead", h("tr", cells))


def _column(i: int, title: str, note: str, first: str) -> Html:
    """A column head; without JavaScript its button does nothing and says so by being disabled."""
    name = text.tight(title)
    button = h("button", name, type="button", data_column=i, data_first=first, disabled=True)
    return h("th", button, h("small", note) if note else None, scope="col", aria_sort="none")


def _body(row_id: str, entry: Entry, entries: Sequence[Entry]) -> Html:
    """A result: its row, and a second row with everything behind it."""
    model, protocol = entry.result["model"], entry.protocol
    flags = [h("span", f, class_="chip warn") for f in entry.flags]
    badge = h("span", entry.badge, class_="chip badge") if entry.badge else None
    parameters = f"{text.si(model['parameters'])} parameters"
    cells = [
        h("th", h("span", entry.series, class_="name"), badge, h("div", flags),
          scope="row", data_key=entry.series.casefold()),
        h("td", model["architecture"], h("small", parameters), data_key=model["parameters"]),
        _coverage(entry),
        h("td", f"{protocol['name']} version {protocol['version']}",
          h("small", h("code", text.prefix(protocol["hash"]), title=protocol["hash"])),
          data_key=f"{protocol['name']} {protocol['version']:06d}"),
        *(_metric(entry, m, entries) for m in HEADLINES),
    ]  # fmt: skip
    details = h("td", _details(entry, row_id), colspan=len(cells))
    return h("tbody", h("tr", cells, class_="row"), h("tr", details, class_="more"), id=row_id)


def _coverage(entry: Entry) -> Html:
    first, last = entry.tokens
    counts = text.counted(len(entry.measured), "checkpoint")
    if first is None or last is None:
        return h("td", "tokens not known", h("small", counts), data_key="")
    span = text.si(last) if first == last else f"{text.si(first)} to {text.si(last)}"
    return h("td", f"{span} tokens", h("small", counts), data_key=last)


def _metric(entry: Entry, metric: Metric, entries: Sequence[Entry]) -> Html:
    row = entry.metric(metric.name)
    if row is None or row["value"] is None:
        reason = row["reason"] if row else "not part of this result"
        return h("td", h("span", "not measured", class_="missing"), h("small", reason), data_key="")
    place = rank(entry, metric, entries)
    ends, log = _ends(metric, entries)
    return h(
        "td",
        h("data", text.number(row["value"], metric.unit), value=repr(row["value"])),
        h("small", text.interval(row["ci_low"], row["ci_high"], metric.unit)),
        interval_mark(row, ends, log),
        _apart(entry, metric),
        h("span", str(place), class_="rank") if place else None,
        class_="number",
        data_key=repr(row["value"]),
        data_metric=metric.name,
    )


def _apart(entry: Entry, metric: Metric) -> Html | None:
    """Facts that the training text states and those it does not: one number would hide it."""
    found = {s: entry.metric(metric.name, s) for s in ("stated", "unstated")}
    parts = [
        f"{scope} {text.number(row['value'], metric.unit)}"
        for scope, row in found.items()
        if row and row["value"] is not None
    ]
    return join(h("small", p) for p in parts) if parts else None


def _ends(metric: Metric, entries: Sequence[Entry]) -> tuple[tuple[float, float], bool]:
    """Ends of the line that all intervals of a column are drawn on, and whether it is a log one."""
    found = [m for e in entries if (m := e.metric(metric.name)) and m["value"] is not None]
    if metric.unit == "tokens":
        seen = [b for m in found for b in (m["ci_low"], m["value"], m["ci_high"]) if b > 0]
        return (min(seen, default=1.0) / 2, max(seen, default=1.0)), True
    if metric.unit.startswith("share "):
        return (0.0, 1.0), False
    return (0.0, max((m["ci_high"] for m in found), default=1.0) or 1.0), False


# ---- behind a row ----------------------------------------------------------------------------


def _details(entry: Entry, row_id: str) -> Html:
    warnings = [h("li", w) for w in entry.result["integrity"]["warnings"]]
    inner = h(
        "div",
        h("p", "To measure it again:"),
        h("pre", h("code", entry.command), tabindex=0, class_="command"),
        definitions(identity(entry.result)),
        h("div", h("p", "Warnings:"), h("ul", warnings)) if warnings else None,
        _all_metrics(entry),
        class_="behind",
    )
    name = h("span", f" of {entry.series}", class_="hidden")
    summary = h("summary", "All numbers and provenance", name)
    return h("details", summary, inner, id=f"{row_id}-more")


def _all_metrics(entry: Entry) -> Html:
    scopes = [s for s in SCOPES if any(entry.metric(m.name, s) for m in METRICS)]
    rows: list[list[Child]] = []
    for m in METRICS:
        found = [entry.metric(m.name, s) for s in scopes]
        if any(found):
            cells = [estimate(f) if f else h("td", "–", class_="number") for f in found]
            rows.append([join([m.title, h("small", m.unit)]), *cells])
    head = ["metric", *("all facts" if s == "overall" else s for s in scopes)]
    return table(f"Metrics of {entry.series} at its last checkpoint", head, rows)


def _meanings() -> Html:
    entries = [
        (m.title, f"{m.meaning} In {m.unit}; {text.direction(m.direction)}.") for m in HEADLINES
    ]
    about = "Small print under a value is its interval, drawn beneath on the column's own scale."
    return h(
        "section",
        h("h2", "What the columns mean", id="meanings-title"),
        h("p", about),
        definitions(entries),
        id="meanings",
        aria_labelledby="meanings-title",
    )


def _record(entry: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    """A row as data, for the downloads."""
    r, p, env = entry.result, entry.protocol, entry.result["env"]
    return {
        "series": entry.series,
        **{k: r["model"][k] for k in ("repo", "architecture", "parameters", "dtype", "attention")},
        "checkpoints": len(entry.measured),
        "first_tokens": entry.tokens[0],
        "last_tokens": entry.tokens[1],
        "section": entry.section,
        "profile": p["name"],
        "profile_version": p["version"],
        "badge": entry.badge,
        "ranked": entry.ranked,
        "protocol_hash": p["hash"],
        "data": "; ".join(f"{d['name']} {d['revision']} {d['fingerprint']}" for d in r["data"]),
        "benchmark_version": r["benchmark_version"],
        "git_sha": env["git_sha"],
        "dirty": env["dirty"],
        "device": env["device"],
        "submitter": r["submitter"],
        "command": entry.command,
        "flags": "; ".join(entry.flags),
        "metrics": {m.name: _number(entry, m, entries) for m in METRICS if entry.metric(m.name)},
    }


def _number(entry: Entry, m: Metric, entries: Sequence[Entry]) -> Mapping[str, Any]:
    row = entry.metric(m.name) or {}
    place = rank(entry, m, entries) if m.headline else None
    kept = {k: row.get(k) for k in ("value", "ci_low", "ci_high", "n", "unit", "reason")}
    return {**kept, "rank": str(place) if place else None}
