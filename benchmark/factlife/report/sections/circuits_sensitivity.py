"""How far roles and overlaps depend on the thresholds, and on the facts that were asked."""

from __future__ import annotations

from factlife.report import charts, text
from factlife.report.charts import Scale
from factlife.report.circuit_data import SETS, THRESHOLDS, threshold_values
from factlife.report.circuit_roles import ACTIVE
from factlife.report.figures import Figure, Key, Panel
from factlife.report.sections.base import Section, paragraphs
from factlife.report.sections.circuits_base import (
    absent,
    has_roles,
    line_colour,
    percent,
    rows,
    why_not,
)
from factlife.report.sections.circuits_change import reference
from factlife.report.sections.circuits_roles import SCORE_COLUMNS
from factlife.report.view import OVERALL, View

_COLUMNS = ("threshold", "at", "family", "line", "revision", "tokens", "value", "ci_low",
            "ci_high", "n")  # fmt: skip
_ABOUT = {
    "tau": "τ is the share of a write below which a contribution is dropped",
    "theta": "θ is the share of circuits that a component must be in to hold a role",
}
_SWEPT = ("general", "active")  # sets whose overlap is drawn for every setting


def sensitivity(view: View) -> Section | None:
    """Role shares and IoU at other thresholds; agreement of halves of the facts."""
    if not has_roles(view):
        return None
    body = paragraphs(
        "Both thresholds are choices. What holds at one setting only says more about the setting "
        "than about the model."
    )
    figures = [_shares(view, name) for name in THRESHOLDS]
    figures += [_overlaps(view, name) for name in THRESHOLDS]
    figures.append(_halves(view))
    return Section("thresholds", "How far the thresholds decide", "Thresholds", body, figures)


def _shares(view: View, name: str) -> Figure:
    sign, last = THRESHOLDS[name], len(view.measured) - 1
    id_, about = f"circuit-sensitivity-{name}", (
        f"Share of heads in each role at the last checkpoint; {_ABOUT[name]}. The broken line is "
        "the protocol's own setting."
    )  # fmt: skip
    found = rows(view, "circuit_sensitivity", threshold=name, family="share", checkpoint=last)
    if not found:
        return absent(id_, f"Shares of roles against {sign}", about, _why(sign))
    values = sorted({r["at"] for r in found})
    own = threshold_values(view, name).get(OVERALL)
    lines = [s for s in SETS if any(r["line"] == s for r in found)]
    active = {r["at"]: r["value"] for r in found if r["line"] == "active"}
    title = f"Shares of roles against {sign}"
    if len(active) > 1:
        low, high = min(active), max(active)
        title = (
            f"Active heads: {percent(active[low])} at {sign} = {low:g}, "
            f"{percent(active[high])} at {sign} = {high:g}"
        )
    return Figure(
        id_, text.tight(title), about,
        spec=charts.thresholds(Scale("share of heads"), values, own, lines,
                               [line_colour(s) for s in lines]),
        dataset="circuit_sensitivity",
        where={"threshold": [name], "family": ["share"],
               "revision": [view.measured[last]["revision"]]},
        columns=_COLUMNS,
        legend=[Key(s, line_colour(s)) for s in lines],
    )  # fmt: skip


def _overlaps(view: View, name: str) -> Figure:
    sign = THRESHOLDS[name]
    against = reference(view)
    id_, title = f"circuit-sensitivity-iou-{name}", f"Overlap with {against}, by {sign}"
    about = (
        f"IoU of heads with {against} over training, one line a setting of {sign}; each setting is "
        "held against its own roles there."
    )
    found = [r for r in rows(view, "circuit_sensitivity", threshold=name, family="iou")
             if r["line"] in _SWEPT]  # fmt: skip
    if not found:
        metrics = [f"iou_last_{s}" for s in _SWEPT]
        why = why_not(view, metrics) if len(view.measured) < 2 else _why(sign)
        return absent(id_, title, about, why)
    settings = list(dict.fromkeys(r["setting"] for r in sorted(found, key=lambda r: r["at"])))
    tones = [f"var(--ramp-{1 + i % 5})" for i in range(len(settings))]
    return Figure(
        id_, title, about,
        spec=charts.settings(view.axis, Scale("IoU", ".1f", ".2f"), settings, tones),
        dataset="circuit_sensitivity",
        where={"threshold": [name], "family": ["iou"]},
        columns=_COLUMNS,
        legend=[Key(s, t) for s, t in zip(settings, tones, strict=True)],
        panels=[Panel(f"{s} heads", {"line": [s]}) for s in _SWEPT
                if any(r["line"] == s for r in found)],
    )  # fmt: skip


def _why(sign: str) -> str:
    return f"no other setting of {sign} was measured"


def _halves(view: View) -> Figure:
    id_, about = "circuit-split-half", (
        "IoU of the sets that two random halves of the facts give: where it is low, the set "
        "depends on which facts were asked, and no overlap over training can be higher for long."
    )  # fmt: skip
    found = rows(view, "circuit_scores", family="split_half", scope=OVERALL)
    if not found:
        why = why_not(view, [f"split_half_{s}" for s in ACTIVE])
        return absent(id_, "Agreement of halves of the facts", about, why)
    lines = [s for s in SETS if any(r["line"] == s for r in found)]
    last = {r["line"]: r["value"] for r in found}
    low = min(last, key=lambda s: last[s])
    return Figure(
        id_, f"Halves of the facts agree least on {low} heads: IoU {last[low]:.2f}", about,
        spec=charts.against_null(
            view.axis, Scale("IoU", ".1f", ".2f"), lines, [line_colour(s) for s in lines],
            null=False,
        ),
        dataset="circuit_scores",
        where={"family": ["split_half"], "scope": [OVERALL]},
        columns=SCORE_COLUMNS,
        legend=[Key(s, line_colour(s)) for s in lines],
    )  # fmt: skip
