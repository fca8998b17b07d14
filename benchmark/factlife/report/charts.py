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


def _colour(names: Sequence[str], colours: Sequence[str], field: str = "scope") -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(colours))
    return alt.Color(f"{field}:N", scale=scale, legend=None)


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


# ---- circuits --------------------------------------------------------------------------------


def _checkpoint_tooltip(*others: alt.Tooltip) -> list[alt.Tooltip]:
    return [
        *others,
        alt.Tooltip("revision:N", title="checkpoint"),
        alt.Tooltip("tokens:Q", title="training tokens", format=",d"),
    ]


def stacked(
    axis: Axis, scale: Scale, parts: Sequence[str], colours: Sequence[str], height: int = 240
) -> Spec:
    """Bands of roles over training that lie on one another; rows say their ends (low, high).

    Checkpoints in the slot of step 0, or without a neighbour, get a bar instead of a band.
    """
    colour = _colour(parts, colours, "role")
    y = alt.Y("low:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    base = alt.Chart()
    together = base.transform_filter(alt.FieldEqualPredicate(field="alone", equal=False))
    alone = base.transform_filter(alt.FieldEqualPredicate(field="alone", equal=True))
    ends: Spec = {"x": _x(axis), "y": y, "y2": alt.Y2("high:Q"), "color": colour}
    seam: Spec = {"stroke": variable("bg"), "strokeWidth": 0.8}
    tooltip = _checkpoint_tooltip(
        alt.Tooltip("role:N", title="role"),
        alt.Tooltip("share:Q", title="share", format=".1%"),
        alt.Tooltip("count:Q", title="components"),
        alt.Tooltip("of:Q", title="of"),
        alt.Tooltip("ci_low:Q", title="interval from", format=".1%"),
        alt.Tooltip("ci_high:Q", title="interval to", format=".1%"),
    )
    wide = max(4, 16 if len(axis.values) <= MANY else 8)
    some_alone = any(axis.is_alone(v) for v in axis.values)
    some_together = not all(axis.is_alone(v) for v in axis.values)
    layers = [
        *_breaks(axis),
        *([together.mark_area(opacity=1, **seam).encode(**ends)] if some_together else []),
        *([alone.mark_bar(width=wide, **seam).encode(**ends)] if some_alone else []),
        # Seen by the pointer only: a band has no tooltip of its own at each checkpoint.
        base.mark_bar(width=wide, opacity=0).encode(**ends, tooltip=tooltip),
        base.transform_filter("datum.share > 0")
        .mark_point(filled=True, size=10, opacity=1, color=variable("bg"))
        .encode(x=_x(axis), y=alt.Y("high:Q", title=scale.title), tooltip=tooltip),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), height)


def against_null(
    axis: Axis,
    scale: Scale,
    lines: Sequence[str],
    colours: Sequence[str],
    height: int = 280,
    null: bool = True,
) -> Spec:
    """A measure over training with its interval, and its null: dashed, squares, with its band.

    Args:
        scale: with a domain, as some panels may have rows for some of the layers only.
        lines: what colour tells apart; the null is muted.
        null: whether any rows of the null are drawn.
    """
    colour = _colour(lines, colours, "line")
    own = alt.FieldEqualPredicate(field="measure", equal="measured")
    others = alt.FieldEqualPredicate(field="measure", equal="null")
    muted = alt.value(variable("muted"))
    tooltip = [
        alt.Tooltip("line:N", title="set"),
        alt.Tooltip("measure:N", title="number"),
        alt.Tooltip("scope:N", title="facts"),
        *_estimate_tooltip(scale.precise)[2:],
    ]
    layers = [*_breaks(axis), *_reference(scale, "y")]
    if null:
        rows = alt.Chart().transform_filter(others)
        layers += _run(rows, axis, scale, muted, [7, 3], "square", tooltip)
    rows = alt.Chart().transform_filter(own)
    layers += _run(rows, axis, scale, colour, [], "circle", tooltip)
    return _finish(alt.layer(*layers, data=_ROWS), height)


def _run(
    rows: Any, axis: Axis, scale: Scale, paint: Any, dash: list[int], shape: str, tooltip: Any
) -> list[Any]:
    """Band, line and points of one measure."""
    x = _x(axis)
    y = alt.Y("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    low, high = alt.Y("ci_low:Q", title=scale.title), alt.Y2("ci_high:Q")
    together = rows.transform_filter(alt.FieldEqualPredicate(field="alone", equal=False))
    alone = rows.transform_filter(alt.FieldEqualPredicate(field="alone", equal=True))
    size = 30 if len(axis.values) <= MANY else 12
    line: Spec = {"strokeWidth": 2, **({"strokeDash": dash} if dash else {})}
    made = []
    if any(axis.is_alone(v) for v in axis.values):
        made.append(alone.mark_rule(strokeWidth=1.5, opacity=0.6).encode(x, low, high, color=paint))
    if not all(axis.is_alone(v) for v in axis.values):
        made.append(together.mark_area(opacity=0.16).encode(x, low, high, color=paint))
        made.append(together.mark_line(**line).encode(x=x, y=y, color=paint))
    points = rows.mark_point(filled=True, size=size, opacity=1, shape=shape)
    return [*made, points.encode(x=x, y=y, color=paint, tooltip=tooltip)]


def small_against_null(
    axis: Axis, scale: Scale, lines: Sequence[str], colours: Sequence[str]
) -> Spec:
    """The same, small enough to stand among others."""
    small = replace(scale, title="", ticks=3)
    return _without_titles(against_null(axis, small, lines, colours, height=130))


def matrix(roles: Sequence[str], height: int = 270) -> Spec:
    """Role before x role after: a shade, a number, and a note under it, in every cell."""
    tooltip = [
        alt.Tooltip("before:N", title="role before"),
        alt.Tooltip("after:N", title="role after"),
        alt.Tooltip("count:Q", title="changes counted", format=",d"),
        alt.Tooltip("probability:Q", title="probability", format=".1%"),
        alt.Tooltip("ci_low:Q", title="interval from", format=".1%"),
        alt.Tooltip("ci_high:Q", title="interval to", format=".1%"),
        alt.Tooltip("null_mean:Q", title="null, mean", format=".1%"),
        alt.Tooltip("null_low:Q", title="null from", format=".1%"),
        alt.Tooltip("null_high:Q", title="null to", format=".1%"),
        alt.Tooltip("per_log_token:Q", title="per ln(tokens)", format=".3f"),
        alt.Tooltip("rate:Q", title="fitted rate per ln(tokens)", format=".3f"),
        alt.Tooltip("reason:N", title="not measured"),
    ]
    plain = alt.Axis(ticks=False, domain=False, labelAngle=0, labelColor=variable("ink"))
    all_roles = alt.Scale(domain=list(roles))  # a role that nothing held has its row and column too
    x = alt.X("after:N", title="role after", scale=all_roles, axis=plain)
    y = alt.Y("before:N", title="role before", scale=all_roles, axis=plain)
    scale = alt.Scale(domain=[0, 1], range=[variable("shade-low"), variable("shade-high")])
    shade = alt.Color("shade:Q", scale=scale, legend=None)
    on = alt.condition("datum.shade > 0.5", alt.value(variable("bg")), alt.value(variable("ink")))
    base = alt.Chart(_ROWS).encode(x=x, y=y)
    layers = [
        base.mark_rect(stroke=variable("bg"), strokeWidth=2).encode(color=shade, tooltip=tooltip),
        base.mark_text(dy=-6, fontSize=12.5, fontWeight=600).encode(
            text="label:N", color=on, tooltip=tooltip
        ),
        base.mark_text(dy=9, fontSize=10).encode(text="note:N", color=on, tooltip=tooltip),
    ]
    return _finish(alt.layer(*layers), height)


def by_layer(n_layers: int, seams: list[float], top: float) -> Spec:
    """Switches of each layer.

    Args:
        seams: where broken lines part the thirds.
        top: the highest bar of any kind of component.
    """
    x = _layers(n_layers)
    title = "switches per component"
    y = alt.Y("switches:Q", title=title, scale=alt.Scale(domain=[0, 1.05 * top or 1], nice=False))
    tooltip = [
        alt.Tooltip("layer:Q", title="layer"),
        alt.Tooltip("third:N", title="third"),
        alt.Tooltip("switches:Q", title=title, format=".2f"),
    ]
    marks = alt.Chart().mark_rect(color=variable("bar"))
    marks = marks.encode(x=x, x2="right:Q", y=y, y2=alt.Y2(datum=0), tooltip=tooltip)
    parts = [_level(seams, "x", [2, 3])] if seams else []
    return _finish(alt.layer(*parts, marks, data=_ROWS), 200)


def _layers(n_layers: int, field: str = "left") -> alt.X:
    step = max(1, -(-n_layers // 16))
    return alt.X(
        f"{field}:Q", title="layer",
        scale=alt.Scale(domain=[-0.7, n_layers - 0.3], nice=False, zero=False),
        axis=alt.Axis(values=list(range(0, n_layers, step)), format="d", grid=False),
    )  # fmt: skip


def by_third(n_layers: int) -> Spec:
    """Switches of each third of the layers beside their null."""
    x, middle = _layers(n_layers), _layers(n_layers, "middle")
    tooltip = [
        alt.Tooltip("third:N", title="third"),
        alt.Tooltip("measure:N", title="number"),
        alt.Tooltip("value:Q", title="switches per head", format=".2f"),
        alt.Tooltip("ci_low:Q", title="from", format=".2f"),
        alt.Tooltip("ci_high:Q", title="to", format=".2f"),
        alt.Tooltip("n:Q", title="heads"),
    ]
    base = alt.Chart()
    null = base.transform_filter(alt.FieldEqualPredicate(field="measure", equal="null"))
    own = base.transform_filter(alt.FieldEqualPredicate(field="measure", equal="measured"))
    y = alt.Y("value:Q", title="switches per head", scale=alt.Scale(zero=True, nice=True))
    low, high = alt.Y("ci_low:Q", title="switches per head"), alt.Y2("ci_high:Q")
    high_end, name = alt.Y("ci_high:Q", title="switches per head"), alt.Text("third:N")
    layers = [
        null.mark_rect(color=variable("muted"), opacity=0.2).encode(
            x=x, x2="right:Q", y=low, y2=high, tooltip=tooltip
        ),
        null.mark_rule(strokeDash=[7, 3], strokeWidth=1.6, color=variable("muted")).encode(
            x=x, x2="right:Q", y=y, tooltip=tooltip
        ),
        own.mark_rule(strokeWidth=2, color=variable("ink")).encode(
            x=middle, y=low, y2=high, tooltip=tooltip
        ),
        own.mark_point(filled=True, size=70, opacity=1, color=variable("ink")).encode(
            x=middle, y=y, tooltip=tooltip
        ),
        own.mark_text(dy=-12, fontSize=11, color=variable("ink"), baseline="bottom").encode(
            x=middle, y=high_end, text=name
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 240)


def bars(
    scale: Scale, rows: Sequence[str], parts: Sequence[str], colours: Sequence[str], field: str
) -> Spec:
    """Bars from 0 with intervals: one line a row and, within it, one a part (a condition).

    Args:
        field: column of the rows; the column of the parts is `condition`.
    """
    beside = alt.Axis(labelLimit=150, labelPadding=8, ticks=False, domain=False, grid=False)
    y = alt.Y(f"{field}:N", title=None, sort=list(rows), axis=beside)
    several = field != "condition"
    lane: Spec = {"yOffset": alt.YOffset("condition:N", sort=list(parts))} if several else {}
    x = alt.X("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    colour = _colour(parts, colours, "condition")
    tooltip = _checkpoint_tooltip(
        *([alt.Tooltip("role:N", title="role")] if several else []),
        alt.Tooltip("condition:N", title="condition"),
        alt.Tooltip("value:Q", title="value", format=scale.precise),
        alt.Tooltip("ci_low:Q", title="interval from", format=scale.precise),
        alt.Tooltip("ci_high:Q", title="interval to", format=scale.precise),
        alt.Tooltip("n:Q", title="facts, n"),
    )
    base = alt.Chart()
    layers = [
        base.mark_bar(height={"band": 0.82}).encode(
            x=x, x2=alt.X2(datum=0), y=y, color=colour, tooltip=tooltip, **lane
        ),
        *_reference(replace(scale, reference=0.0), "x"),
        base.mark_rule(strokeWidth=2, color=variable("ink")).encode(
            x=alt.X("ci_low:Q", title=scale.title), x2="ci_high:Q", y=y, **lane
        ),
        base.mark_point(filled=True, size=26, opacity=1, color=variable("ink")).encode(
            x=x, y=y, tooltip=tooltip, **lane
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), (46 if several else 34) * len(rows))


def thresholds(
    scale: Scale, values: Sequence[float], own: float | None, lines: Sequence[str],
    colours: Sequence[str],
) -> Spec:  # fmt: skip
    """A measure against a threshold; the protocol's own value is marked by a broken line."""
    low, high = min(values), max(values)
    domain = [low / 1.15, high * 1.15]
    x = alt.X(
        "at:Q", title="threshold (log scale)",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(values=list(values), format=".3~g", grid=False, labelOverlap=True),
    )  # fmt: skip
    y = alt.Y("value:Q", title=scale.title, scale=scale.vega(), axis=_value_axis(scale))
    colour = _colour(lines, colours, "line")
    tooltip = [
        alt.Tooltip("setting:N", title="threshold"),
        alt.Tooltip("line:N", title="heads"),
        *_estimate_tooltip(scale.precise)[2:],
    ]
    base = alt.Chart()
    mark = alt.Chart(alt.InlineData(values=[{"at": own}] if own is not None else []))
    layers = [
        *([mark.mark_rule(strokeDash=[2, 3], color=variable("muted")).encode(x=x)] if own else []),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
            x=x, y=alt.Y("ci_low:Q", title=scale.title), y2="ci_high:Q", color=colour
        ),
        base.mark_point(filled=True, size=36, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 220)


def settings(axis: Axis, scale: Scale, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """A measure over training, one line a setting of a threshold."""
    x = _x(axis)
    y = alt.Y("value:Q", title=None, scale=scale.vega(), axis=_value_axis(scale))
    colour = _colour(names, colours, "setting")
    tooltip = [alt.Tooltip("setting:N", title="threshold"), *_estimate_tooltip(scale.precise)[2:]]
    base = alt.Chart()
    together = base.transform_filter(alt.FieldEqualPredicate(field="alone", equal=False))
    layers = [
        *_breaks(axis),
        together.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=24, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _without_titles(_finish(alt.layer(*layers, data=_ROWS), 130))
