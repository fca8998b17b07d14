"""What sections share: their type, and figures over the scores table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from factlife.report import charts, text
from factlife.report.charts import SHARE, Scale
from factlife.report.figures import Figure, Key, Panel, colour_of
from factlife.report.html import Html, h, join
from factlife.report.view import OVERALL, View
from factlife.scores import BY_NAME

SCORE_COLUMNS = (
    "metric", "scope", "revision", "stage", "step", "tokens",
    "value", "ci_low", "ci_high", "n", "unit",
)  # fmt: skip
WHOLE = "recall.whole_answer_accuracy"


@dataclass(frozen=True)
class Section:
    """One section of a page; `short` names it in the navigation."""

    id: str
    title: str
    short: str
    body: Html
    figures: Sequence[Figure] = ()

    def html(self) -> Html:
        """The section with its figures in pairs where the page is wide."""
        drawn = [f.html() for f in self.figures]
        grid = h("div", drawn, class_="figures") if drawn else None
        heading = h("h2", self.title, id=f"{self.id}-title")
        label = f"{self.id}-title"
        return h("section", heading, self.body, grid, id=self.id, aria_labelledby=label)


def colours(view: View, scopes: Sequence[str]) -> list[str]:
    """The fixed colour of each scope."""
    return [colour_of(s, view.scopes.relations, view.scopes.subsets) for s in scopes]


def measured_scopes(view: View, metrics: Sequence[str], scopes: Sequence[str]) -> list[str]:
    """Scopes in which at least one of the metrics has a value."""
    return [s for s in scopes if any(view.why_missing(m, s) is None for m in metrics)]


def with_chance(view: View, scale: Scale, scope: str = OVERALL) -> Scale:
    """The scale with the level of guessing drawn, where it is known."""
    chance = view.chance(scope)
    if chance is None:
        return scale
    label = f"chance {text.number(chance, 'share of facts')}"
    return replace(scale, reference=chance, reference_label=label)


def scope_name(scope: str) -> str:
    """A scope for readers."""
    return "all facts" if scope == OVERALL else text.spaced(scope)


def missing_notes(view: View, metrics: Sequence[str], scopes: Sequence[str]) -> list[str]:
    """One sentence for every metric that a chart leaves out of some scope, with the reason."""
    notes = []
    for metric in metrics:
        reasons: dict[str, list[str]] = {}
        for scope in scopes:
            if (why := view.why_missing(metric, scope)) is not None:
                reasons.setdefault(why, []).append(scope_name(scope))
        for why, where in reasons.items():
            title = BY_NAME[metric].title
            notes.append(f"Not shown: {title} of {', '.join(where)} ({why}).")
    return notes


def score_figure(
    view: View,
    id_: str,
    title: str,
    explanation: str,
    metrics: Sequence[str],
    scopes: Sequence[str],
    scale: Scale = SHARE,
    choose: bool = False,
) -> Figure:
    """Metrics over training, in scopes; with one checkpoint, a chart of intervals instead.

    Args:
        choose: show one scope at a time, chosen by the reader, starting with the first.
    """
    shown = measured_scopes(view, metrics, scopes)
    found = [m for m in metrics if shown and any(view.why_missing(m, s) is None for s in shown)]
    notes = missing_notes(view, metrics, [OVERALL] if choose else scopes)
    if not shown:
        why = "; ".join(dict.fromkeys(filter(None, (view.why_missing(m) for m in metrics))))
        return Figure(id_, title, explanation, missing=why)
    first = shown[:1] if choose else shown
    return Figure(
        id_,
        title,
        explanation,
        spec=_score_spec(view, found, shown, scale, choose),
        where={"metric": found, "scope": first},
        columns=SCORE_COLUMNS,
        legend=[*_legend(view, found, shown, choose), *reference_key(scale)],
        choices=[(s, scope_name(s)) for s in shown] if choose else (),
        notes=notes,
    )


def _score_spec(
    view: View, metrics: Sequence[str], scopes: Sequence[str], scale: Scale, choose: bool
) -> charts.Spec:
    titles, tones = [BY_NAME[m].title for m in metrics], colours(view, scopes)
    if len(view.measured) > 1:
        return charts.curves(view.axis, scale, scopes, tones, titles)
    if len(metrics) > 1:
        step = 24 if choose else 12 + 12 * len(scopes)
        return charts.intervals(scale, "measure", titles, scopes, tones, step)
    return charts.intervals(scale, "scope", scopes, scopes, tones)


def _legend(view: View, metrics: Sequence[str], scopes: Sequence[str], choose: bool) -> list[Key]:
    tones = colours(view, scopes)
    keys = []
    if len(scopes) > 1 and not choose:
        keys = [Key(scope_name(s), c) for s, c in zip(scopes, tones, strict=True)]
    if len(metrics) > 1 and len(view.measured) > 1:
        keys += [Key(BY_NAME[m].title, "var(--muted)", i) for i, m in enumerate(metrics)]
    return keys


def reference_key(scale: Scale) -> list[Key]:
    """The legend of a level drawn across a chart."""
    if scale.reference is None:
        return []
    return [Key(scale.reference_label, "var(--muted)", kind="level")]


def group_keys(view: View, kind: str = "line") -> list[Key]:
    """The legend of charts that are coloured by group."""
    groups = view.scopes.groups
    return [Key(g, c, kind=kind) for g, c in zip(groups, colours(view, groups), strict=True)]


def scope_panels(
    view: View, metric: str, groups: Sequence[tuple[str, Sequence[str]]]
) -> list[Panel]:
    """One panel a title, each with some scopes and their final values as a note."""
    panels = []
    for title, scopes in groups:
        row = view.score(metric, scopes[0], view.last) if len(scopes) == 1 else None
        note = text.number(row["value"], row["unit"]) if row and row["value"] is not None else ""
        panels.append(Panel(title, {"metric": [metric], "scope": list(scopes)}, note))
    return panels


def paragraphs(*sentences: str) -> Html:
    """Plain paragraphs."""
    return join(h("p", s) for s in sentences)
