"""Vega-Lite specifications of the dynamics figures; the rules of `charts.py` hold here too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from factlife.report.axis import Axis
from factlife.report.charts import (
    Scale,
    Spec,
    _breaks,
    _finish,
    _reference,
    _value_axis,
    _x,
)
from factlife.report.dynamics import MARKS, PHASES
from factlife.report.figures import variable

PHASE_COLOURS = (variable("muted"), variable("spare-2"), variable("stated"))
_ROWS = alt.NamedData("rows")


def _is(field: str, value: str | bool) -> Any:
    return alt.FieldEqualPredicate(field=field, equal=value)


def _series(names: Sequence[str], colours: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(colours))
    return alt.Color("series:N", scale=scale, legend=None)


def _shading() -> list[Any]:
    """Phases as bands over the whole height, moments as lines with their names at the top."""
    base = alt.Chart()
    fill = alt.Fill(
        "series:N", scale=alt.Scale(domain=list(PHASES), range=list(PHASE_COLOURS)), legend=None
    )
    x, x2 = alt.X("x:Q"), alt.X2("x2:Q")
    bands = base.transform_filter(_is("kind", "phase")).mark_rect(opacity=0.14)
    lines = base.transform_filter(_is("kind", "mark")).mark_rule(
        color=variable("muted"), strokeWidth=1, strokeDash=[2, 2]
    )
    return [bands.encode(x=x, x2=x2, fill=fill), lines.encode(x=x)]


def _moments() -> list[Any]:
    """Names of the moments, one line beneath the other so that close ones can be read."""
    base = alt.Chart()
    return [
        base.transform_filter(_is("kind", "mark"))
        .transform_filter(_is("series", name))
        .mark_text(align="left", dx=3, fontSize=10.5, color=variable("ink"))
        .encode(x=alt.X("x:Q"), y=alt.value(8 + 13 * i), text=alt.Text("series:N"))
        for i, name in enumerate(MARKS.values())
    ]


def learning(
    axis: Axis,
    scale: Scale,
    names: Sequence[str],
    colours: Sequence[str],
    *,
    phases: bool = True,
    baseline: bool = False,
    height: int = 280,
) -> Spec:
    """Curves over steps, one a seed and series, over the shaded phases.

    Args:
        names: of the series, with their colours.
        phases: shade the phases and write the moments.
        baseline: draw the level of the rows of kind `baseline`, and cut off what lies above the
            chart.
    """
    place = _x(axis)
    y = alt.Y("value:Q", title=scale.title, scale=_y(scale), axis=_value_axis(scale))
    colour = _series(names, colours)
    base = alt.Chart()
    measured = base.transform_filter(_is("kind", "eval"))
    line = measured.transform_filter(_is("apart", False)).mark_line(
        strokeWidth=1.7, opacity=0.85, clip=baseline
    )
    level = base.transform_filter(_is("kind", "baseline")).mark_rule(
        color=variable("ink"), strokeDash=[5, 4], strokeWidth=1.4
    )
    points = measured.mark_point(filled=True, size=16, opacity=1, clip=baseline)
    layers = [
        *(_shading() if phases else []),
        *_breaks(axis),
        *_reference(scale, "y"),
        *([level.encode(y=alt.Y("value:Q", title=scale.title))] if baseline else []),
        line.encode(x=place, y=y, color=colour, detail=alt.Detail(["dynamics_run:N"])),
        points.encode(x=place, y=y, color=colour, tooltip=_tooltip(scale.precise)),
        *(_moments() if phases else []),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), height)


def _y(scale: Scale) -> alt.Scale:
    assert scale.domain is not None  # layers without a scale of their own would move its ends
    return alt.Scale(domain=list(scale.domain), nice=False)


def _tooltip(precise: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("dynamics_run:N", title="run"),
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("step:Q", title="step", format=",d"),
        alt.Tooltip("value:Q", title="value", format=precise),
    ]


def over_size(sizes: Sequence[int], names: Sequence[str], colours: Sequence[str]) -> Spec:
    """Times against the number of people, both on log scales; a point a seed, lines join means."""
    x = alt.X(
        "n_people:Q",
        title="people (log scale)",
        scale=alt.Scale(type="log", domain=[min(sizes) / 1.25, max(sizes) * 1.25], nice=False),
        axis=alt.Axis(values=list(sizes), format=",d", grid=False, labelOverlap=True),
    )
    scale = alt.Scale(type="log", nice=False, padding=10)
    round_ = [float(m * 10**e) for e in range(7) for m in (1, 2, 5)]
    y = alt.Y("value:Q", title="optimiser steps (log scale)", scale=scale,
              axis=alt.Axis(format=",d", values=round_))  # fmt: skip
    mean = alt.Y("mean(value):Q", title="optimiser steps (log scale)", scale=scale)
    colour = _series(names, colours)
    tooltip = [
        alt.Tooltip("dynamics_run:N", title="run"),
        alt.Tooltip("n_people:Q", title="people", format=",d"),
        alt.Tooltip("series:N", title="moment"),
        alt.Tooltip("value:Q", title="steps", format=",d"),
    ]
    base = alt.Chart()
    layers = [
        base.mark_line(strokeWidth=2).encode(x=x, y=mean, color=colour),
        base.mark_point(filled=True, size=44, opacity=0.85).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 280)


def estimates(scale: Scale, field: str, labels: Sequence[str]) -> Spec:
    """One value with its interval a condition; `field` is the column that holds the labels."""
    y = alt.Y(
        f"{field}:N", title=None, sort=list(labels),
        axis=alt.Axis(labelLimit=210, labelPadding=8, ticks=False, domain=False, grid=True),
    )  # fmt: skip
    title = scale.title
    x = alt.X("value:Q", title=title, scale=_y(scale), axis=_value_axis(scale))
    kinds = alt.Scale(
        domain=["scratch", "patched"], range=[variable("overall"), variable("spare-1")]
    )
    colour = alt.Color("kind:N", scale=kinds, legend=None)
    tooltip = [
        alt.Tooltip("label:N", title="condition"),
        alt.Tooltip("value:Q", title="value", format=scale.precise),
        alt.Tooltip("ci_low:Q", title="interval from", format=scale.precise),
        alt.Tooltip("ci_high:Q", title="interval to", format=scale.precise),
        alt.Tooltip("n:Q", title="n"),
    ]
    base = alt.Chart()
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.55, clip=True).encode(
            x=alt.X("ci_low:Q", title=title), x2="ci_high:Q", y=y, color=colour
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 30 * len(labels))


def replay(scale: Scale, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """Accuracy against the share of replay; a point a seed, lines join means."""
    x = alt.X(
        "share:Q", title="share of old people in the text",
        scale=alt.Scale(domain=[-0.03, 1.0], nice=False),
        axis=alt.Axis(format=".0%", tickCount=5, grid=False),
    )  # fmt: skip
    axis = _value_axis(scale)
    y = alt.Y("value:Q", title=scale.title, scale=_y(scale), axis=axis)
    mean = alt.Y("mean(value):Q", title=scale.title, scale=_y(scale))
    colour = _series(names, colours)
    tooltip = [
        alt.Tooltip("dynamics_run:N", title="run"),
        alt.Tooltip("series:N", title="people"),
        alt.Tooltip("share:Q", title="share of replay", format=".1%"),
        alt.Tooltip("value:Q", title="accuracy", format=".1%"),
    ]
    base = alt.Chart()
    layers = [
        base.mark_line(strokeWidth=2).encode(x=x, y=mean, color=colour),
        base.mark_point(filled=True, size=44, opacity=0.85).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 280)


def swap_back(scale: Scale, states: Sequence[str], colours: Sequence[str]) -> Spec:
    """Bars of mean accuracy in each state of the weights, with a point a seed."""
    y = alt.Y(
        "series:N", title=None, sort=list(states),
        axis=alt.Axis(labelLimit=170, labelPadding=8, ticks=False, domain=False, grid=False),
    )  # fmt: skip
    x = alt.X("value:Q", title=scale.title, scale=_y(scale), axis=_value_axis(scale))
    mean = alt.X("mean(value):Q", title=scale.title, scale=_y(scale))
    colour = _series(states, colours)
    tooltip = [
        alt.Tooltip("dynamics_run:N", title="run"),
        alt.Tooltip("series:N", title="weights"),
        alt.Tooltip("value:Q", title="accuracy", format=".1%"),
    ]
    base = alt.Chart()
    layers = [
        base.mark_bar(height=14, cornerRadiusEnd=3, opacity=0.75).encode(x=mean, y=y, color=colour),
        base.mark_point(size=30, strokeWidth=1.4, color=variable("ink"), opacity=0.8).encode(
            x=x, y=y, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 26 * len(states))


def subject(axis: Axis, scale: Scale, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """A number of each layer over given checkpoints."""
    x = _x(axis)
    y = alt.Y("value:Q", title=scale.title, scale=_y(scale), axis=_value_axis(scale))
    colour = _series(names, colours)
    base = alt.Chart()
    tooltip = [
        alt.Tooltip("series:N", title="layer"),
        alt.Tooltip("value:Q", title="value", format=scale.precise),
    ]
    together = base.transform_filter(_is("apart", False))
    layers = [
        *_breaks(axis),
        together.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=24, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 280)
