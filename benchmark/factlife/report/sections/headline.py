"""Headline numbers as cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factlife.report import text
from factlife.report.figures import colour_of
from factlife.report.html import Html, h, join
from factlife.report.marks import interval_mark
from factlife.report.sections.base import Section, scope_name
from factlife.report.view import View
from factlife.scores import Metric

Row = dict[str, Any]


def headline(view: View) -> Section:
    """The metrics that the registry calls headlines, at the end of the series."""
    parts = {s: scope_name(s) for s in (*view.scopes.groups, *view.scopes.subsets)}
    cards = [card(view, m, view.final(m.name), parts) for m in _shown(view)]
    intro = h("p", _FROM_SCRATCH if _is_study(view) else _SERIES)
    return Section(
        "headline", "Headline numbers", "Headline", join([intro, h("div", cards, class_="cards")])
    )


_SERIES = (
    "The state of the last measured checkpoint, and when it was reached. There is no single "
    "score: each number answers a question of its own."
)
_FROM_SCRATCH = (
    "Models trained from nothing: of the largest population met evenly, and of fine-tuning "
    "without replay. There is no single score: each number answers a question of its own."
)
_STUDY = (
    "dynamics.plateau_end",
    "dynamics.plateau_ratio",
    "dynamics.final_accuracy",
    "dynamics.hallucination_onset",
    "dynamics.auroc",
    "dynamics.corruption",
)


def _is_study(view: View) -> bool:
    return not view.measured and bool(view.dynamics.get("dynamics_runs"))


def _shown(view: View) -> list[Metric]:
    """The headline metrics; of a study without checkpoints, those it was made for."""
    if _is_study(view):
        return [m for name in _STUDY for m in view.metrics if m.name == name]
    return [m for m in view.metrics if m.headline]


def card(view: View, metric: Metric, row: Row | None, parts: Mapping[str, str]) -> Html:
    """One number: value, interval, n, unit, direction and its meaning.

    Args:
        row: from `View.final`; None or a null value gives a card that says why.
        parts: scopes that are listed beneath, and what they are called there.
    """
    reason = None
    if row is None or row["value"] is None:
        reason = (row or {}).get("reason") or "this profile does not measure it"
        number = h("p", "not measured", class_="value missing")
        between = h("p", reason, class_="between")
    else:
        shown = text.number(row["value"], row["unit"])
        unit = h("span", " ", text.unit_word(row["unit"]), class_="unit")
        number = h("p", h("data", shown, value=repr(row["value"])), unit, class_="value")
        between = _between(row, view.interval_name)
    footing = [text.direction(metric.direction)]
    if row is not None and row["n"]:
        footing.insert(0, f"n = {row['n']:,}")
    return h(
        "article",
        h("h3", text.tight(metric.title)),
        number,
        between,
        interval_mark(row),
        h("p", metric.meaning, class_="meaning"),
        breakdown(view, metric.name, parts, reason),
        h("p", metric.unit, " · ", " · ".join(footing), class_="footing"),
        class_="card",
        data_metric=metric.name,
        data_scope=row["scope"] if row else "overall",
    )


def _between(row: Row, name: str) -> Html:
    if str(row["interval_method"]).startswith("none: "):
        return h("p", f"no interval: {row['interval_method'][6:]}", class_="between")
    label, word = ("reached between", "and") if row["unit"] == "tokens" else (name, "to")
    span = text.interval(row["ci_low"], row["ci_high"], row["unit"], word)
    return h("p", f"{label} {span}", class_="between", title=row["interval_method"])


def breakdown(view: View, metric: str, parts: Mapping[str, str], known: str | None) -> Html | None:
    """The same number in some scopes, one line each; a reason that is `known` is not repeated."""
    lines = []
    for scope, name in parts.items():
        row = view.final(metric, scope)
        if row is not None and (row["value"] is not None or row["reason"] != known):
            kind = name if name in view.scopes.groups else scope
            tone = colour_of(kind, view.scopes.relations, view.scopes.subsets)
            dot = h("span", class_="dot", style=f"--swatch:{tone}")
            lines.append(h("li", h("span", dot, name), _part(row)))
    return h("ul", lines, class_="breakdown") if lines else None


def _part(row: Row) -> Html:
    if row["value"] is None:
        return h("small", row["reason"] or "not measured")
    value = h("data", text.number(row["value"], row["unit"]), value=repr(row["value"]))
    span = text.interval(row["ci_low"], row["ci_high"], row["unit"])
    return join([value, h("small", span)])
