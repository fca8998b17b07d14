"""Vega-Lite specifications of the report's charts, made with Altair.

Every chart draws from a data set named `rows`, which the page's script fills. No name from the
data enters an expression; names are only values in rows and scale domains. Colours are CSS
variables (`var(--loc)`) that the script replaces, so that a chart follows the colour scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from factlife.report.axis import Axis
from factlife.report.figures import DASHES, SHAPES, variable

Spec = dict[str, Any]
_ROWS = alt.NamedData("rows")
_NAMES_WIDTH = 112  # pixels left of the knowledge map
_AXIS_LABELS = "replace(datum.label, /_/g, ' ')"


@dataclass(frozen=True)
class Scale:
    """The value axis: its title, unit and number format, and its ends if they are fixed."""

    title: str
    format: str = ".0%"
    precise: str = ".1%"
    domain: tuple[float, float] | None = (0.0, 1.0)
    reference: float | None = None
    reference_label: str = ""

    def vega(self) -> alt.Scale:
        """As a Vega-Lite scale."""
        if self.domain is None:
            return alt.Scale(zero=False, nice=True)
        return alt.Scale(domain=list(self.domain), nice=False)


SHARE = Scale("share of facts")


def _finish(chart: Any, height: int | alt.Step) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page's script gives the theme
    return spec


def _x(axis: Axis, field: str = "x") -> alt.X:
    return alt.X(
        f"{field}:Q",
        title=axis.title,
        scale=alt.Scale(domain=list(axis.domain), nice=False, zero=False),
        axis=alt.Axis(
            values=axis.ticks, labelExpr=axis.label_expression, labelOverlap=True, grid=False
        ),
    )


def _colour(names: Sequence[str], colours: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(colours))
    return alt.Color("scope:N", scale=scale, legend=None)


def _estimate_tooltip(precise: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("measure:N", title="number"),
        alt.Tooltip("scope:N", title="facts"),
        alt.Tooltip("revision:N", title="checkpoint"),
        alt.Tooltip("tokens:Q", title="training tokens", format=",d"),
        alt.Tooltip("value:Q", title="value", format=precise),
        alt.Tooltip("ci_low:Q", title="interval from", format=precise),
        alt.Tooltip("ci_high:Q", title="interval to", format=precise),
        alt.Tooltip("n:Q", title="n"),
    ]


def _breaks(axis: Axis) -> alt.Chart:
    """The broken line between step 0 and the log axis."""
    data = alt.InlineData(values=[{"at": at} for at in axis.breaks])
    mark = alt.Chart(data).mark_rule(strokeDash=[2, 3], color=variable("muted"), opacity=0.7)
    return mark.encode(x=alt.X("at:Q"))


def _reference(scale: Scale) -> list[alt.Chart]:
    """A labelled level, e.g. chance."""
    if scale.reference is None:
        return []
    data = alt.InlineData(values=[{"at": scale.reference, "label": scale.reference_label}])
    rule = alt.Chart(data).mark_rule(strokeDash=[5, 4], color=variable("muted"), strokeWidth=1.2)
    text = alt.Chart(data).mark_text(
        align="right", baseline="bottom", dy=-3, dx=-2, color=variable("muted"), fontSize=11
    )
    return [
        rule.encode(y=alt.Y("at:Q")),
        text.encode(y=alt.Y("at:Q"), x=alt.value("width"), text="label:N"),
    ]


def curves(
    axis: Axis,
    scale: Scale,
    scopes: Sequence[str],
    colours: Sequence[str],
    measures: Sequence[str],
    height: int = 280,
) -> Spec:
    """Values over training with interval bands.

    Colour stands for the scope, dash and point shape for the number. Checkpoints in the slot of
    step 0, or without a neighbour, get an interval bar instead of a band.
    """
    x, colour = _x(axis), _colour(scopes, colours)
    y = alt.Y("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    low, high = alt.Y("ci_low:Q", title=scale.title), alt.Y2("ci_high:Q")
    dash, shape = _styles(measures)
    base = alt.Chart()
    together = base.transform_filter(alt.FieldEqualPredicate(field="alone", equal=False))
    alone = base.transform_filter(alt.FieldEqualPredicate(field="alone", equal=True))
    detail = alt.Detail(["measure:N"])
    layers = [
        _breaks(axis),
        *_reference(scale),
        together.mark_area(opacity=0.16).encode(x, low, high, colour, detail),
        alone.mark_rule(strokeWidth=1.5, opacity=0.6).encode(x, low, high, colour, detail),
        together.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(filled=True, size=34, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=_estimate_tooltip(scale.precise)
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), height)


def _styles(measures: Sequence[str]) -> tuple[Any, Any]:
    """Dash and point shape of each number; a single number needs neither."""
    if len(measures) < 2:
        return alt.Undefined, alt.Undefined
    dashes = alt.Scale(domain=list(measures), range=[list(d) for d in DASHES[: len(measures)]])
    shapes = alt.Scale(domain=list(measures), range=list(SHAPES[: len(measures)]))
    return (
        alt.StrokeDash("measure:N", scale=dashes, legend=None),
        alt.Shape("measure:N", scale=shapes, legend=None),
    )


def _value_axis(scale: Scale) -> alt.Axis:
    return alt.Axis(format=scale.format, tickCount=5)


def small_curves(axis: Axis, scale: Scale, scopes: Sequence[str], colours: Sequence[str]) -> Spec:
    """The curve of one scope, small enough to stand among many."""
    plain = Scale("", scale.format, scale.precise, scale.domain, scale.reference)
    spec = curves(axis, plain, scopes, colours, [], height=120)
    return _without_titles(spec)


def _without_titles(spec: Spec) -> Spec:
    """Panels share their axis titles: the figure's text says them once."""
    for layer in spec["layer"]:
        for channel in ("x", "y"):
            if "title" in layer.get("encoding", {}).get(channel, {}):
                layer["encoding"][channel]["title"] = None
    return spec


def intervals(
    scale: Scale,
    field: str,
    order: Sequence[str],
    scopes: Sequence[str],
    colours: Sequence[str],
    step: int = 24,
) -> Spec:
    """Values with intervals, one line a scope or number: for one checkpoint."""
    y = alt.Y(
        f"{field}:N",
        title=None,
        sort=list(order),
        axis=alt.Axis(labelExpr=_AXIS_LABELS, labelLimit=150, ticks=False, domain=False),
    )
    x = alt.X("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    low = alt.X("ci_low:Q", title=scale.title)
    offset = alt.YOffset("scope:N", sort=list(scopes)) if field != "scope" else alt.Undefined
    colour = _colour(scopes, colours)
    base = alt.Chart()
    dots = {"y": y, "color": colour, "yOffset": offset}
    layers = [
        *_reference_across(scale),
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=low, x2="ci_high:Q", **dots),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=x, tooltip=_estimate_tooltip(scale.precise), **dots
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), alt.Step(step))


def _reference_across(scale: Scale) -> list[alt.Chart]:
    if scale.reference is None:
        return []
    data = alt.InlineData(values=[{"at": scale.reference}])
    rule = alt.Chart(data).mark_rule(strokeDash=[5, 4], color=variable("muted"), strokeWidth=1.2)
    return [rule.encode(x=alt.X("at:Q"))]


def emergence(
    axis: Axis, shares: Sequence[str], scopes: Sequence[str], colours: Sequence[str]
) -> Spec:
    """When accuracy came: a range of tokens a scope and share, with its value as a tick."""
    tooltip = [
        alt.Tooltip("scope:N", title="facts"),
        alt.Tooltip("share:N", title="accuracy reached"),
        alt.Tooltip("ci_low:Q", title="after (tokens)", format=",.0f"),
        alt.Tooltip("value:Q", title="by (tokens)", format=",.0f"),
        alt.Tooltip("ci_high:Q", title="at the latest (tokens)", format=",.0f"),
        alt.Tooltip("n:Q", title="facts, n"),
    ]
    y = alt.Y(
        "scope:N",
        title=None,
        sort=list(scopes),
        axis=alt.Axis(labelExpr=_AXIS_LABELS, labelLimit=150, ticks=False, domain=False, grid=True),
    )
    lane = alt.YOffset("share:N", sort=list(shares))
    strength = alt.Opacity(
        "share:N", scale=alt.Scale(domain=list(shares), range=[0.85, 0.4]), legend=None
    )
    colour = _colour(scopes, colours)
    base = alt.Chart()
    layers = [
        _breaks(axis),
        base.mark_bar(height=7, cornerRadius=3).encode(
            _x(axis, "x_ci_low"), alt.X2("x_ci_high:Q"), y, lane, colour, strength, tooltip=tooltip
        ),
        base.mark_tick(thickness=2.5, size=12, color=variable("ink"), opacity=1).encode(
            _x(axis, "x_value"), y, lane, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), alt.Step(14, **{"for": "offset"}))


def templates(relations: Sequence[str], colours: Sequence[str]) -> Spec:
    """Accuracy with every template of a relation at one checkpoint."""
    tooltip = [
        alt.Tooltip("template:N", title="template"),
        alt.Tooltip("role:N", title="role"),
        alt.Tooltip("value:Q", title="accuracy", format=".1%"),
        alt.Tooltip("ci_low:Q", title="Wilson interval from", format=".1%"),
        alt.Tooltip("ci_high:Q", title="Wilson interval to", format=".1%"),
        alt.Tooltip("n:Q", title="facts, n"),
    ]
    y = alt.Y(
        "relation:N",
        title=None,
        sort=list(relations),
        axis=alt.Axis(labelExpr=_AXIS_LABELS, labelLimit=150, ticks=False, domain=False, grid=True),
    )
    x = alt.X(
        "value:Q", title=SHARE.title, scale=SHARE.vega(), axis=alt.Axis(format=".0%", tickCount=5)
    )
    scale = alt.Scale(domain=list(relations), range=list(colours))
    colour = alt.Color("relation:N", scale=scale, legend=None)
    base = alt.Chart()
    source = base.transform_filter(alt.FieldEqualPredicate(field="role", equal="source"))
    extra = base.transform_filter("datum.role != 'source'")
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.35).encode(
            x=alt.X("min(value):Q", title=SHARE.title), x2="max(value):Q", y=y, color=colour
        ),
        extra.mark_point(size=60, strokeWidth=1.8, fill=variable("bg")).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
        source.mark_point(size=80, filled=True, opacity=1, shape="diamond").encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), alt.Step(26))


def knowledge(
    labels: Sequence[str], sets: Sequence[str], colours: Sequence[str], named: bool = True
) -> Spec:
    """Fact x checkpoint, coloured where the whole answer is right.

    Args:
        labels: of the checkpoints; numbers written by `text.si`, never names.
        sets: names of the sets that facts are coloured by, with their `colours`.
        named: write each fact's subject beside its row; else rows are thin.
    """
    tooltip = [
        alt.Tooltip("subject:N", title="subject"),
        alt.Tooltip("answer:N", title="answer"),
        alt.Tooltip("set:N", title="set"),
        alt.Tooltip("revision:N", title="checkpoint"),
        alt.Tooltip("tokens:Q", title="training tokens", format=",d"),
        alt.Tooltip("state:N", title="whole answer"),
        alt.Tooltip("rank:Q", title="rank of first token"),
        alt.Tooltip("logprob_sum_nats:Q", title="log-probability (nats)", format=".2f"),
    ]
    names = "[" + ",".join(f"'{label}'" for label in labels) + "]"
    x = alt.X(
        "nth:O",
        title=None,
        axis=alt.Axis(
            labelExpr=f"{names}[datum.value]", labelAngle=0, labelOverlap="greedy", ticks=False,
            domain=False,
        ),
    )  # fmt: skip
    y = alt.Y(
        "line:O",
        title=None,
        sort=alt.EncodingSortField("line"),
        axis=alt.Axis(labels=False, ticks=False, domain=False),
    )
    scale = alt.Scale(domain=list(sets), range=list(colours))
    colour = alt.Color("set:N", scale=scale, legend=None)
    base = alt.Chart().encode(x=x, y=y, tooltip=tooltip)
    known = base.transform_filter(alt.FieldEqualPredicate(field="state", equal="known"))
    other = base.transform_filter(alt.FieldEqualPredicate(field="state", equal="not known"))
    names_left = alt.Chart().transform_filter(alt.FieldEqualPredicate(field="nth", equal=0))
    layers = [
        other.mark_rect(color=variable("off"), stroke=variable("bg"), strokeWidth=1),
        known.mark_rect(stroke=variable("bg"), strokeWidth=1).encode(color=colour),
    ]
    subjects = names_left.mark_text(
        align="right", x=-6, limit=_NAMES_WIDTH - 8, fontSize=10, color=variable("ink")
    ).encode(y=y, text="subject:N")
    chart = alt.layer(*layers, *([subjects] if named else []), data=_ROWS)
    spec = _finish(chart, alt.Step(13 if named else 4))
    spec["padding"] = {"left": _NAMES_WIDTH if named else 4, "right": 4, "top": 2, "bottom": 2}
    return spec
