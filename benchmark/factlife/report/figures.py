"""A figure: title, one-sentence explanation, legend, chart, and the data behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factlife.report.html import Html, h, join

Where = Mapping[str, Sequence[str | int | bool]]

# Fixed for the whole page: colour says which facts, line and point style say which number.
COLOURS = {
    "overall": "overall",
    "LOC": "loc",
    "NAME": "name",
    "stated": "stated",
    "unstated": "unstated",
}
_SPARE = ("spare-1", "spare-2", "spare-3")
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 3))
SHAPES = ("circle", "square", "triangle-up")


def variable(name: str) -> str:
    """A colour of the page's palette; the script puts the scheme's value in its place."""
    return f"var(--{name})"


def colour_of(scope: str, relations: Mapping[str, str], subsets: Sequence[str]) -> str:
    """The one colour of a scope: its own, its subset's, its relation's group's, or a spare one."""
    name = relations.get(scope, scope)
    if name not in COLOURS and scope.rpartition(".")[0] in subsets:
        name = scope.rpartition(".")[0]
    if name in COLOURS:
        return variable(COLOURS[name])
    others = [s for s in subsets if s not in COLOURS]
    return variable(_SPARE[others.index(name) % 3] if name in others else "muted")


@dataclass(frozen=True)
class Key:
    """One entry of a legend.

    Attributes:
        kind: line (with a point, styled by number), level (a dashed line) or box (filled).
    """

    label: str
    colour: str
    style: int = 0
    kind: str = "line"


@dataclass(frozen=True)
class Panel:
    """One of several small charts that share a figure's specification."""

    title: str
    where: Where
    note: str = ""
    height: int | None = None


@dataclass(frozen=True)
class Figure:
    """One figure of a page.

    Attributes:
        id: unique on the page; the element's id has `figure-` before it.
        spec: Vega-Lite specification over a data set named `rows`.
        dataset: name of the embedded data set, narrowed by `where` (column -> allowed values).
        columns: of the data table and its download.
        choices: (scope, name) that the reader can choose between, one at a time, under
            `choice_label`.
        notes: what is not in the chart, and why.
        missing: why there is no chart at all.
        narrow: panels are small enough to stand five in a row.
    """

    id: str
    title: str
    explanation: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "scores"
    where: Where = field(default_factory=dict)
    columns: Sequence[str] = ()
    legend: Sequence[Key] = ()
    panels: Sequence[Panel] = ()
    choices: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    missing: str | None = None
    narrow: bool = False
    choice_label: str = "Facts shown"

    def description(self) -> dict[str, Any]:
        """What the page's script needs to draw it."""
        return {
            "spec": {**self.spec, "description": f"{self.title}. {self.explanation}"},
            "dataset": self.dataset,
            "where": self.where,
            "columns": list(self.columns),
            "panels": [
                {"where": p.where, "height": p.height, "title": p.title} for p in self.panels
            ],
        }

    def html(self) -> Html:
        """The figure's place on the page; the script draws into it."""
        caption = h("figcaption", h("h3", self.title), h("p", self.explanation))
        if self.missing is not None:
            return h("figure", caption, h("p", f"No chart: {self.missing}.", class_="missing"))
        summary = h("summary", "Data of this chart")
        # Always four children: figures side by side share these rows (subgrid).
        return h(
            "figure",
            caption,
            h("div", self._choice(), legend(self.legend), class_="keys"),
            self._charts(),
            h(
                "div",
                [h("p", note, class_="note") for note in self.notes],
                h("details", summary, class_="data", data_figure=self.id),
            ),
            id=f"figure-{self.id}",
        )

    def _charts(self) -> Html:
        if not self.panels:
            return h("div", class_="chart", data_figure=self.id)
        panels = [self._panel(i, p) for i, p in enumerate(self.panels)]
        return h("div", panels, class_="panels narrow" if self.narrow else "panels")

    def _panel(self, i: int, p: Panel) -> Html:
        note = h("span", p.note, class_="panel-note") if p.note else None
        chart = h("div", class_="chart", data_figure=self.id, data_panel=i)
        return h("div", h("h4", p.title, note), chart, class_="panel")

    def _choice(self) -> Html | None:
        if len(self.choices) < 2:
            return None
        options = [h("option", name, value=scope) for scope, name in self.choices]
        label = h("span", self.choice_label)
        select = h("select", options, data_figure=self.id, autocomplete="off")
        return h("p", h("label", label, select), class_="choice")


def legend(keys: Sequence[Key]) -> Html | None:
    """A legend in HTML: it wraps on a phone, and its words can be read aloud."""
    if not keys:
        return None
    entries = [h("li", _swatch(k), h("span", k.label)) for k in keys]
    return h("ul", entries, class_="legend")


_MARKS = (
    '<circle cx="14" cy="6" r="3.4"/>',
    '<rect x="10.8" y="2.8" width="6.4" height="6.4"/>',
    '<path d="M14 1.6 18 9.4H10z"/>',
)


def _swatch(key: Key) -> Html:
    """A drawn sample; every part of it is written here, none of it comes from data."""
    style = f"--swatch:{key.colour}"
    if key.kind == "box":
        return h("span", class_="swatch-box", style=style)
    level = key.kind == "level"
    dash = "5 4" if level else " ".join(map(str, DASHES[key.style])) if key.style else "none"
    line = f'<line x1="0" x2="28" y1="6" y2="6" stroke-width="2" stroke-dasharray="{dash}"/>'
    drawing = join([Html(line), None if level else Html(_MARKS[key.style])])
    return h("svg", drawing, class_="swatch", viewBox="0 0 28 12", style=style, aria_hidden="true")
