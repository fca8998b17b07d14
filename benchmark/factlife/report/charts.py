"""Vega-Lite specifications of the report's charts, made with Altair.

Every chart draws from a data set named `rows`, which the page's script fills. No name from the
data enters an expression; names are only values in rows and scale domains. Colours are CSS
variables (`var(--loc)`) that the script replaces, so that a chart follows the colour scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from factlife.report.axis import Axis
from factlife.report.figures import DASHES, SHAPES, variable

Spec = dict[str, Any]
_ROWS = alt.NamedData("rows")
_NAMES_WIDTH = 112  # pixels left of the knowledge map
MANY = 20  # checkpoints above which points and seams become finer
KNOWLEDGE_ROW, THIN_ROW = 13, 4  # pixels a fact, with its name and without
_SCOPE_LABELS = "datum.label == 'overall' ? 'all facts' : replace(datum.label, /_/g, ' ')"
_BANDED = alt.AutoSizeParams(type="fit-x", contains="padding")


@dataclass(frozen=True)
class Scale:
    """The value axis.

    Attributes:
        format, precise: number formats (d3) of the axis and of tooltips.
        domain: its ends, if they are fixed.
        reference, reference_label: a level drawn across the chart, e.g. chance.
    """

    title: str
    format: str = ".0%"
    precise: str = ".1%"
    domain: tuple[float, float] | None = (0.0, 1.0)
    reference: float | None = None
    reference_label: str = ""
    ticks: int = 5

    def vega(self) -> alt.Scale:
        """As a Vega-Lite scale."""
        if self.domain is None:
            return alt.Scale(zero=False, nice=True)
        return alt.Scale(domain=list(self.domain), nice=False)


SHARE = Scale("share of facts")


def _finish(chart: Any, height: int) -> Spec:
    sized = {"width": "container", "height": height, "autosize": _BANDED}
    spec: Spec = chart.properties(**sized).to_dict()
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


def _level(at: list[float], channel: str, dash: list[int]) -> Any:
    """Straight lines across the chart at fixed places."""
    data = alt.InlineData(values=[{"at": a} for a in at])
    mark = alt.Chart(data).mark_rule(strokeDash=dash, color=variable("muted"), strokeWidth=1.2)
    return mark.encode(alt.Y("at:Q") if channel == "y" else alt.X("at:Q"))


def _breaks(axis: Axis) -> list[Any]:
    """The broken line between step 0 and the log axis."""
    return [_level(axis.breaks, "x", [2, 3])] if axis.breaks else []


def _reference(scale: Scale, channel: str) -> list[Any]:
    """A level such as chance; the legend names it."""
    return [] if scale.reference is None else [_level([scale.reference], channel, [5, 4])]


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
    band = together.mark_area(opacity=0.16).encode(x, low, high, colour, detail)
    bar = alone.mark_rule(strokeWidth=1.5, opacity=0.6).encode(x, low, high, colour, detail)
    line = together.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash)
    size = 34 if len(axis.values) <= MANY else 14
    some_alone = any(axis.is_alone(v) for v in axis.values)
    some_together = not all(axis.is_alone(v) for v in axis.values)
    layers = [
        *_breaks(axis),
        *_reference(scale, "y"),
        *([bar] if some_alone else []),  # a layer without rows would spoil the axis
        *([band, line] if some_together else []),
        base.mark_point(filled=True, size=size, opacity=1).encode(
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


def _names_axis(grid: bool) -> alt.Axis:
    return alt.Axis(labelExpr=_SCOPE_LABELS, labelLimit=150, ticks=False, domain=False, grid=grid)


def _value_axis(scale: Scale) -> alt.Axis:
    return alt.Axis(format=scale.format, tickCount=scale.ticks, labelOverlap=True)


def small_curves(axis: Axis, scale: Scale, scopes: Sequence[str], colours: Sequence[str]) -> Spec:
    """The curve of one scope, small enough to stand among many."""
    spec = curves(axis, replace(scale, title="", ticks=2), scopes, colours, [], height=110)
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
        axis=_names_axis(grid=False),
    )
    x = alt.X("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    low = alt.X("ci_low:Q", title=scale.title)
    offset = alt.YOffset("scope:N", sort=list(scopes)) if field != "scope" else alt.Undefined
    colour = _colour(scopes, colours)
    base = alt.Chart()
    dots = {"y": y, "color": colour, "yOffset": offset}
    layers = [
        *_reference(scale, "x"),
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=low, x2="ci_high:Q", **dots),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=x, tooltip=_estimate_tooltip(scale.precise), **dots
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), step * len(order))


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
        axis=_names_axis(grid=True),
    )
    lane = alt.YOffset("share:N", sort=list(shares))
    strength = alt.Opacity(
        "share:O", scale=alt.Scale(domain=list(shares), range=[0.85, 0.4]), legend=None
    )
    colour = _colour(scopes, colours)
    base = alt.Chart()
    layers = [
        *_breaks(axis),
        base.mark_bar(height=7, cornerRadius=3).encode(
            _x(axis, "x_ci_low"), alt.X2("x_ci_high:Q"), y, lane, colour, strength, tooltip=tooltip
        ),
        base.mark_tick(thickness=2.5, size=12, color=variable("ink"), opacity=1).encode(
            _x(axis, "x_value"), y, lane, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 28 * len(scopes))


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
        axis=_names_axis(grid=True),
    )
    x = alt.X("value:Q", title=SHARE.title, scale=SHARE.vega(), axis=_value_axis(SHARE))
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
    return _finish(alt.layer(*layers, data=_ROWS), 26 * len(relations))


def knowledge(
    labels: Sequence[str], shown: Sequence[str], colours: Sequence[str], named: bool = True
) -> Spec:
    """Fact x checkpoint, coloured where the whole answer is right.

    Args:
        labels: of the checkpoints; numbers written by `text.si`, never names.
        shown: what a cell may show (a set of facts, or one of the other states), with `colours`.
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
    numbers = "[" + ",".join(f"'{label}'" for label in labels) + "]"
    below = alt.Axis(
        labelExpr=f"{numbers}[datum.value]", labelAngle=0, labelOverlap="greedy",
        labelSeparation=6, labelFontSize=10, ticks=False, domain=False,
    )  # fmt: skip
    # Fixed extents: the maps of all relations are equally wide, whatever their names.
    beside = alt.Axis(
        labels=named, labelLimit=_NAMES_WIDTH - 6, minExtent=_NAMES_WIDTH if named else 0,
        maxExtent=_NAMES_WIDTH if named else 0, labelFontSize=10, ticks=False, domain=False,
        labelColor=variable("ink"),
    )  # fmt: skip
    by_line = alt.EncodingSortField("line", op="min")
    seam = 1 if len(labels) <= MANY else 0.4
    scale = alt.Scale(domain=list(shown), range=list(colours))
    chart = alt.Chart(_ROWS).mark_rect(stroke=variable("bg"), strokeWidth=seam)
    chart = chart.encode(
        x=alt.X("nth:O", title=None, axis=below),
        y=alt.Y("name:N", title=None, sort=by_line, axis=beside),
        color=alt.Color("shown:N", scale=scale, legend=None),
        tooltip=tooltip,
    )
    return _finish(chart, KNOWLEDGE_ROW)  # each panel says its own height
