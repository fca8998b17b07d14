"""When knowledge came: emergence and the area under the curve."""

from __future__ import annotations

from factlife.recall.metrics import SERIES
from factlife.report import charts
from factlife.report.datasets import EMERGENCE
from factlife.report.figures import Figure
from factlife.report.html import h, join
from factlife.report.sections.base import Section, colours, group_keys, scope_name
from factlife.report.tables import estimate, table
from factlife.report.view import View
from factlife.scores import BY_NAME

_METRICS = (*EMERGENCE, "recall.area")


def emergence(view: View) -> Section | None:
    """Ranges of tokens within which accuracy reached half and nine tenths of its final value."""
    if not view.recalled:
        return None
    scopes = [*view.scopes.wide, *view.scopes.relations]
    rows = [
        [scope_name(s), *(estimate(view.score(m, s, SERIES)) for m in _METRICS)]
        for s in scopes
        if view.score(_METRICS[0], s, SERIES)
    ]
    head = ["facts", *(BY_NAME[m].title for m in _METRICS)]
    about = h(
        "p",
        "Checkpoints are looked at one by one, so the moment itself is never seen: a bar spans the "
        "last checkpoint below the level to the first one that stays above, widened by resampling "
        "the facts. Only scopes whose final accuracy is above chance have one.",
    )
    numbers = h(
        "details",
        h("summary", "Emergence and area of every scope"),
        table("Emergence and area under the curve", head, rows),
    )
    body = join([about, numbers])
    return Section("emergence", "Emergence", "Emergence", body, [_ranges(view, scopes)])


def _ranges(view: View, scopes: list[str]) -> Figure:
    shares = list(EMERGENCE.values())
    shown = [s for s in scopes if any(_has(view, m, s) for m in EMERGENCE)]
    shown = _by_time(view, shown)
    title = "Tokens by which accuracy reached half and nine tenths of its final value"
    explanation = (
        "Strong bars: half of the final accuracy; pale bars: nine tenths; the stroke is the first "
        "checkpoint that stays above. A bar from 0 may have begun before the first checkpoint."
    )
    if len(view.measured) < 2:
        why = "only one checkpoint was measured, so that emergence lies somewhere before it"
        return Figure("emergence-ranges", title, explanation, missing=why)
    if not shown:
        return Figure("emergence-ranges", title, explanation, missing=_why(view, scopes))
    return Figure(
        "emergence-ranges",
        title,
        explanation,
        spec=charts.emergence(view.axis.with_slot(), shares, shown, colours(view, shown)),
        dataset="emergence",
        columns=("scope", "share", "value", "ci_low", "ci_high", "n"),
        legend=group_keys(view, "box"),
        notes=_left_out(view, [s for s in scopes if s not in shown]),
    )


def _has(view: View, metric: str, scope: str) -> bool:
    row = view.score(metric, scope, SERIES)
    return row is not None and row["value"] is not None


def _by_time(view: View, scopes: list[str]) -> list[str]:
    """Wide scopes first as they are, then relations by group and time of emergence."""
    groups = list(view.scopes.groups)

    def key(scope: str) -> tuple[int, float]:
        row = view.score("recall.emergence50", scope, SERIES)
        value = row["value"] if row and row["value"] is not None else float("inf")
        return groups.index(view.scopes.relations[scope]), value

    wide = [s for s in scopes if s not in view.scopes.relations]
    return wide + sorted((s for s in scopes if s in view.scopes.relations), key=key)


def _why(view: View, scopes: list[str]) -> str:
    rows = [view.score(m, s, SERIES) for m in EMERGENCE for s in scopes]
    reasons = dict.fromkeys(r["reason"] for r in rows if r and r["reason"])
    return "; ".join(reasons) or "this profile does not measure it"


def _left_out(view: View, scopes: list[str]) -> list[str]:
    rows = [(s, view.score("recall.emergence50", s, SERIES)) for s in scopes]
    why = [f"{scope_name(s)} ({r['reason']})" for s, r in rows if r]
    return [f"Not shown: {'; '.join(why)}."] if why else []
