"""Vega-Lite specifications of the injection charts; see `charts`."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from factlife.report.charts import Spec, _finish, _level
from factlife.report.figures import DASHES, variable

_ROWS = alt.NamedData("rows")
Domain = tuple[float, float]
DEPTH_COLOURS = {
    "memorization": variable("spare-1"),
    "semantic": variable("spare-2"),
    "compositional": variable("spare-3"),
}
NULL, PUBLISHED = variable("muted"), variable("loc")


def _equal(field: str, value: str) -> alt.FieldEqualPredicate:
    return alt.FieldEqualPredicate(field=field, equal=value)


def _y(title: str, domain: Domain, field: str = "value", form: str = ".3~g") -> alt.Y:
    scale = alt.Scale(domain=list(domain), nice=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=form, tickCount=5))


def curves(domain: Domain, last: int) -> Spec:
    """Log-probability over steps, a colour a depth; injections are upright lines."""
    x = alt.X(
        "step:Q", title="steps since the start", scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(grid=False, tickCount=5, format="~s"),
    )  # fmt: skip
    scale = alt.Scale(domain=list(DEPTH_COLOURS), range=list(DEPTH_COLOURS.values()))
    colour = alt.Color("depth:N", scale=scale, legend=None)
    y = _y("change in nats per target", domain)
    tooltip = [
        alt.Tooltip("arm:N", title="arm"),
        alt.Tooltip("depth:N", title="probes"),
        alt.Tooltip("step:Q", title="step", format=",d"),
        alt.Tooltip("value:Q", title="change (nats)", format=".3f"),
    ]
    base = alt.Chart()
    layers = [
        base.transform_filter(_equal("kind", "injection"))
        .mark_rule(color=variable("line"), strokeWidth=1)
        .encode(x=x),
        _level([0.0], "y", [5, 4]),
        base.transform_filter(_equal("kind", "curve"))
        .mark_line(strokeWidth=1.8)
        .encode(x=x, y=y, color=colour, tooltip=tooltip),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 200)


def bars(
    title: str, order: Sequence[str], kinds: Sequence[str], colours: Sequence[str], domain: Domain
) -> Spec:
    """Bars from 0 with intervals, one line a label."""
    x = alt.X(
        "value:Q", title=title, scale=alt.Scale(domain=list(domain), nice=False),
        axis=alt.Axis(format=".3~g", tickCount=5),
    )  # fmt: skip
    names = alt.Axis(labelLimit=190, ticks=False, domain=False)
    y = alt.Y("label:N", title=None, sort=list(order), axis=names)
    scale = alt.Scale(domain=list(kinds), range=list(colours))
    colour = alt.Color("kind:N", scale=scale, legend=None)
    tooltip = [
        alt.Tooltip("label:N", title="what"),
        alt.Tooltip("value:Q", title="value", format=".3f"),
        alt.Tooltip("ci_low:Q", title="interval from", format=".3f"),
        alt.Tooltip("ci_high:Q", title="interval to", format=".3f"),
        alt.Tooltip("n:Q", title="n"),
    ]
    base = alt.Chart()
    low = alt.X("ci_low:Q", title=title)
    layers = [
        base.mark_bar(height=11, opacity=0.75).encode(x=x, y=y, color=colour, tooltip=tooltip),
        base.mark_rule(strokeWidth=1.6, color=variable("ink")).encode(x=low, x2="ci_high:Q", y=y),
        _level([0.0], "x", [1, 0]),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 21 * len(order))


def _log_x(field: str, title: str, domain: Domain, ticks: Sequence[float] | None = None) -> alt.X:
    powers = list(range(int(domain[0]), int(domain[1]) + 2))
    axis = alt.Axis(
        values=powers if ticks is None else list(ticks), grid=False,
        labelExpr="format(pow(10, datum.value), '.3~s')",
        labelOverlap=True,
    )  # fmt: skip
    return alt.X(
        f"{field}:Q", title=title, scale=alt.Scale(domain=list(domain), nice=False), axis=axis
    )


def retention(laws: Sequence[str], longest: float, domain: Domain) -> Spec:
    """Share of the gain that is kept over log time: points with intervals, and fitted laws."""
    x = _log_x("x", "steps since the peak (log scale)", (0.0, longest))
    title = "share of the gain kept"
    y = _y(title, domain, form=".0%")
    dashes = alt.Scale(domain=list(laws), range=[list(d) for d in DASHES[: len(laws)]])
    dash = alt.StrokeDash("law:N", scale=dashes, legend=None)
    tooltip = [
        alt.Tooltip("arm:N", title="arm"),
        alt.Tooltip("law:N", title="what"),
        alt.Tooltip("t:Q", title="steps since the peak", format=",d"),
        alt.Tooltip("value:Q", title="kept", format=".1%"),
        alt.Tooltip("ci_low:Q", title="interval from", format=".1%"),
        alt.Tooltip("ci_high:Q", title="interval to", format=".1%"),
    ]
    base = alt.Chart()
    measured = base.transform_filter(_equal("law", "measured"))
    low, high = alt.Y("ci_low:Q", title=title), alt.Y2("ci_high:Q")
    layers = [
        measured.mark_area(opacity=0.16, color=variable("ink")).encode(x, low, high),
        base.transform_filter("datum.law != 'measured'")
        .mark_line(strokeWidth=1.8, color=variable("name"))
        .encode(x=x, y=y, strokeDash=dash),
        measured.mark_point(filled=True, size=26, opacity=1, color=variable("ink")).encode(
            x=x, y=y, tooltip=tooltip
        ),
        _level([0.0], "y", [5, 4]),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 220)


def slopes(
    ends: Domain, spacings: Sequence[float], domain: Domain, threshold: float | None
) -> Spec:
    """Accumulation over the spacing of injections; the threshold is an upright line.

    Args:
        spacings: log10 of the tested ones, for the axis.
    """
    x = _log_x("x", "steps from one injection to the next (log scale)", ends, spacings)
    title = "nats per injection"
    y = _y(title, domain)
    tooltip = [
        alt.Tooltip("spacing:Q", title="every … steps", format=",d"),
        alt.Tooltip("value:Q", title="accumulation", format=".4f"),
        alt.Tooltip("ci_low:Q", title="interval from", format=".4f"),
        alt.Tooltip("ci_high:Q", title="interval to", format=".4f"),
    ]
    base = alt.Chart()
    layers = [
        _level([0.0], "y", [5, 4]),
        *([_level([threshold], "x", [2, 3])] if threshold is not None else []),
        base.mark_line(strokeWidth=1.6, color=variable("loc")).encode(x=x, y=y),
        base.mark_rule(strokeWidth=1.6, color=variable("loc")).encode(
            x=x, y=alt.Y("ci_low:Q", title=title), y2="ci_high:Q"
        ),
        base.mark_point(filled=True, size=45, opacity=1, color=variable("loc")).encode(
            x=x, y=y, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 260)


def left(domain: Domain) -> Spec:
    """What is left just before the next injection, over the number of injections."""
    x = alt.X("k:Q", title="injections so far", axis=alt.Axis(tickMinStep=1, grid=False))
    y = _y("nats", domain)
    tooltip = [
        alt.Tooltip("spacing:Q", title="every … steps", format=",d"),
        alt.Tooltip("k:Q", title="after injection"),
        alt.Tooltip("value:Q", title="left before the next (nats)", format=".3f"),
    ]
    base = alt.Chart()
    layers = [
        _level([0.0], "y", [5, 4]),
        base.mark_line(strokeWidth=1.6, color=variable("loc")).encode(x=x, y=y),
        base.mark_point(filled=True, size=24, opacity=1, color=variable("loc")).encode(
            x=x, y=y, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 120)


def over_steps(
    title: str, form: str, scopes: Sequence[str], colours: Sequence[str], domain: Domain
) -> Spec:
    """What the model knew before, over the steps: a colour a start."""
    x = alt.X("step:Q", title="steps since the start", axis=alt.Axis(grid=False, format="~s"))
    y = _y(title, domain, form=form)
    scale = alt.Scale(domain=list(scopes), range=list(colours))
    colour = alt.Color("scope:N", scale=scale, legend=None)
    tooltip = [
        alt.Tooltip("scope:N", title="start"),
        alt.Tooltip("step:Q", title="step", format=",d"),
        alt.Tooltip("value:Q", title="value", format=".4~g"),
        alt.Tooltip("ci_low:Q", title="from", format=".4~g"),
        alt.Tooltip("ci_high:Q", title="to", format=".4~g"),
    ]
    base = alt.Chart()
    low, high = _y(title, domain, "ci_low", form), alt.Y2("ci_high:Q")
    layers = [
        base.mark_area(opacity=0.14).encode(x, low, high, colour),
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=28, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        ),
    ]
    return _finish(alt.layer(*layers, data=_ROWS), 240)
