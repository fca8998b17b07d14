"""The leaderboard page: one table a section, one row a result, no score over all.

The page holds the first rows of every section; the others lie in a file beside it that is read
when a reader sorts, filters or asks for them. So do the curves of each series, and what draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from factlife.circuits.metrics.registry import ROLE_NAMES
from factlife.hub.collect import SECTIONS, Entry
from factlife.hub.families import families, registry, track
from factlife.hub.published import PUBLISHED
from factlife.hub.ranks import Rank, ranks
from factlife.report import charts, dynamics_charts, injection_charts, text
from factlife.report.axis import make_axis_between
from factlife.report.charts import SHARE, Scale
from factlife.report.dynamics import PHASES
from factlife.report.html import Child, Html, h, join
from factlife.report.injection_data import LAWS
from factlife.report.marks import interval_mark
from factlife.report.page import asset, whole_page
from factlife.report.tables import definitions, table
from factlife.scores import BY_NAME, METRICS, Metric

HEADLINES = tuple(m for m in METRICS if m.headline)
FIRST = 40  # rows of a section in the page itself
MOST = 8  # series in one chart: as many as there are colours
ROLES = ("inactive", *ROLE_NAMES)
EMERGENCE = "recall.emergence50"
_NATS = Scale("nats", ".3~g", ".4~g", (0.0, 1.0))
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
_FOOTING = "It loads nothing from anywhere but the folder that it lies in."


def page(entries: Sequence[Entry]) -> tuple[str, dict[str, str]]:
    """The board as HTML, and for each section the rows that it leaves to a file beside it.

    Equal entries give equal bytes.
    """
    groups = {s: [e for e in entries if e.section == s] for s in SECTIONS}
    shown = [(s, found) for s, found in groups.items() if found]
    rows = {s: _rows(s, found, entries) for s, found in shown}
    sections = [_section(s, found, rows[s][:FIRST]) for s, found in shown]
    overview = h("div", _controls(), sections, _published(), _meanings(), id="view-table")
    empty = [h("div", id=f"view-{v}", class_="view", hidden=True) for v in ("series", "compare")]
    html = whole_page(
        title="factlife leaderboard",
        header=_header(entries),
        navigation=[(s, _TITLES[s].partition(":")[0]) for s, _ in shown] + _ALWAYS,
        main=join([overview, *empty]),
        sidebar=False,
        data={"board": _board(entries)},
        styles=[asset("factlife.report", "circuits.css"), asset("factlife.hub", "board.css")],
        scripts=[
            asset("factlife.report", "theme.js"),
            asset("factlife.hub", "plots.js"),
            asset("factlife.hub", "board.js"),
        ],
        footing=_FOOTING,
        own_files=True,
    )
    return html, {s: join(found[FIRST:]) for s, found in rows.items()}


_ALWAYS = [("published", "Published figures"), ("meanings", "Columns")]


def _board(entries: Sequence[Entry]) -> dict[str, Any]:
    """What the page's script needs: names, the registry, and the charts that reports draw too."""
    return {
        "series": [
            {"slug": e.slug, "name": e.series, "section": e.section, "badge": e.badge}
            for e in entries
        ],
        "metrics": registry(),
        "families": families(),
        "most": MOST,
        "first": FIRST,
        "roles": list(ROLES),
        **_charts(),
    }


@cache
def _charts() -> dict[str, Any]:
    """Charts of the report, into which the script puts axis, scale and colours."""
    axis = make_axis_between("tokens", "", [0, 1, 10], zero=True)
    return {
        "curves": charts.curves(axis, SHARE, ["all"], ["ink"], ["one", "two"]),
        "intervals": charts.intervals(SHARE, "scope", ["all"], ["all"], ["ink"]),
        "matrix": charts.matrix(ROLES),
        "retention": injection_charts.retention(LAWS, 1.0, (0.0, 1.05)),
        "phases": dynamics_charts.learning(axis, _NATS, ["facts", "names"], ["ink", "ink"],
                                           baseline=True),
        "laws": list(LAWS),
        "phase_names": list(PHASES),
    }  # fmt: skip


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
               placeholder="series, architecture, profile, flag …")  # fmt: skip
    tracks = list(dict.fromkeys(track(m) for m in HEADLINES))
    options = [h("option", t.capitalize(), value=t) for t in tracks]
    columns = h("select", h("option", "all headlines", value=""), options, id="columns",
                autocomplete="off", disabled=True)  # fmt: skip
    links = [
        h("a", kind, href=f"leaderboard.{kind.lower()}", download=True)
        for kind in ("JSON", "CSV", "Parquet")
    ]
    compare = h("button", "Compare", type="button", id="compare", disabled=True)
    return h(
        "div",
        h("label", h("span", "Filter rows"), search, class_="grow"),
        h("label", h("span", "Columns"), columns),
        compare,
        h("p", "Download all: ", [[link, " "] for link in links]),
        h("p", id="status", role="status", aria_live="polite"),
        class_="board-controls",
    )


# ---- one section -----------------------------------------------------------------------------


def _section(name: str, entries: Sequence[Entry], rows: Sequence[Html]) -> Html:
    label = f"{name}-title"
    caption = h("caption", f"{_TITLES[name]}: {text.counted(len(entries), 'result')}")
    inner = h("table", caption, _head(), h("tbody", rows), class_="board", data_section=name)
    box = h("div", inner, class_="scroll", tabindex=0, role="region", aria_labelledby=label)
    left = len(entries) - len(rows)
    more = h("button", f"Show all {len(entries):,} rows", type="button", class_="show-all",
             data_section=name, disabled=True)  # fmt: skip
    return h(
        "section", h("h2", _TITLES[name], id=label), h("p", _ABOUT[name], _together(entries)), box,
        more if left else None, id=name, aria_labelledby=label, class_="rows",
    )  # fmt: skip


def _together(entries: Sequence[Entry]) -> Html | None:
    """A link that charts the first rows of a section together."""
    if len(entries) < 2:
        return None
    chosen = [e.slug for e in entries[:MOST]]
    words = f"Compare these {len(chosen)}" if len(entries) <= MOST else f"Compare the first {MOST}"
    target = f"#compare/{'+'.join(chosen)}"
    return join([" ", h("a", f"{words} over training", href=target), "."])


def _head() -> Html:
    cells = [
        _column(0, "Series", "", "up"),
        _column(1, "Model", "sorts by parameters", "down"),
        _column(2, "Training covered", "sorts by last tokens", "down"),
        _column(3, "Protocol", "profile and hash", "up"),
    ]
    for i, m in enumerate(HEADLINES, len(cells)):
        note = f"{m.unit}, {text.direction(m.direction)}"
        cells.append(_column(i, m.title, note, "up" if m.direction == "lower" else "down", m))
    return h("thead", h("tr", cells))


def _column(i: int, title: str, note: str, first: str, metric: Metric | None = None) -> Html:
    """A column head; without JavaScript its button does nothing and says so by being disabled."""
    name = text.tight(title)
    button = h("button", name, type="button", data_column=i, data_first=first, disabled=True)
    small = h("small", note) if note else None
    of = track(metric) if metric else None
    return h("th", button, small, scope="col", aria_sort="none", data_track=of)


def _rows(section: str, found: Sequence[Entry], entries: Sequence[Entry]) -> list[Html]:
    """The rows of a section; intervals of one metric are drawn on one scale on the whole board."""
    columns = [(m, *_ends(m, entries), ranks(m, entries)) for m in HEADLINES]
    return [_row(f"{section}-{i}", e, columns) for i, e in enumerate(found)]


Column = tuple[Metric, tuple[float, float], bool, Mapping[int, Rank]]


def _row(row_id: str, entry: Entry, columns: Sequence[Column]) -> Html:
    model, protocol = entry.result["model"], entry.protocol
    parameters = f"{text.si(model['parameters'])} parameters"
    cells = [
        _name(entry),
        h("td", model["architecture"], h("small", parameters), data_key=model["parameters"]),
        _coverage(entry),
        h("td", f"{protocol['name']} version {protocol['version']}",
          h("small", h("code", text.prefix(protocol["hash"]), title=protocol["hash"])),
          data_key=f"{protocol['name']} {protocol['version']:06d}"),
        *(_metric(entry, *c) for c in columns),
    ]  # fmt: skip
    kind = "row ranked" if entry.ranked else "row unranked"
    return h("tr", cells, class_=kind, id=row_id, data_slug=entry.slug)


def _name(entry: Entry) -> Html:
    """The series: a box that picks it for comparison, its name, badge and flags."""
    box = h("input", type="checkbox", class_="pick", autocomplete="off", disabled=True,
            aria_label=f"compare {entry.series}", title="pick for comparison")  # fmt: skip
    before, slash, after = entry.series.rpartition("/")
    owner = [h("small", before, slash), h("wbr")] if slash else None
    name = h("a", owner, after, class_="name", href=f"#series/{entry.slug}")
    badge = h("span", entry.badge, class_="chip badge") if entry.badge else None
    flags = [h("span", f, class_="chip warn") for f in entry.flags]
    return h(
        "th", h("div", box, name, class_="who"), badge, h("div", flags) if flags else None,
        scope="row", data_key=entry.series.casefold(),
    )  # fmt: skip


def _coverage(entry: Entry) -> Html:
    first, last = entry.tokens
    counts = text.counted(len(entry.measured), "checkpoint")
    if first is None or last is None:
        return h("td", "tokens not known", h("small", counts), data_key="")
    span = text.si(last) if first == last else f"{text.si(first)} to {text.si(last)}"
    return h("td", f"{span} tokens", h("small", counts), data_key=last)


def _metric(
    entry: Entry, metric: Metric, ends: tuple[float, float], log: bool, places: Mapping[int, Rank]
) -> Html:
    row = entry.metric(metric.name)
    cell = partial(h, "td", data_track=track(metric), data_metric=metric.name)
    if row is None or row["value"] is None:
        reason = row["reason"] if row else "not part of this result"
        return cell(h("span", "not measured", class_="missing"), h("small", reason), data_key="")
    place = places.get(id(entry))
    return cell(
        h("data", text.number(row["value"], metric.unit), value=repr(row["value"])),
        *_interval(row, metric, ends, log),
        _apart(entry, metric),
        h("span", str(place), class_="rank best" if place.place == 1 else "rank")
        if place
        else None,
        class_="number",
        data_key=repr(row["value"]),
    )


def _interval(
    row: Mapping[str, Any], metric: Metric, ends: tuple[float, float], log: bool
) -> list[Html | None]:
    """The interval in words and drawn; where there is none, a point would pass for an exact one."""
    if str(row["interval_method"]).startswith("none: "):
        return [h("small", f"no interval: {row['interval_method'][6:]}")]
    drawn = interval_mark(row, ends, log)
    return [h("small", text.interval(row["ci_low"], row["ci_high"], metric.unit)), drawn]


def _apart(entry: Entry, metric: Metric) -> Html | None:
    """Sets of facts that one number would hide: stated and not, and where they emerge."""
    sets = ("LOC", "NAME") if metric.name == EMERGENCE else ("stated", "unstated")
    found = {s: entry.metric(metric.name, s) for s in sets}
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


# ---- under the table -------------------------------------------------------------------------


def _published() -> Html:
    rows: list[list[Child]] = [
        [
            p.quantity,
            p.figure,
            p.subject,
            p.source,
            BY_NAME[p.beside].title if p.beside in BY_NAME else "none",
        ]
        for p in PUBLISHED
    ]
    head = ("quantity", "figure", "measured on", "published in", "nearest metric here")
    about = (
        "From the papers that this benchmark follows: other code, other facts, other models. "
        "They are not rows of this board, were not measured by factlife, and are not ranked. "
        "What a paper does not print as a number is not guessed here."
    )
    return h(
        "section",
        h("h2", "Published figures", id="published-title"),
        h("p", h("span", "not measured here", class_="chip badge"), " ", about),
        table("Figures published in the papers", head, rows, "published"),
        id="published",
        aria_labelledby="published-title",
    )


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
