"""Places for the drawings that `circuits.js` makes, with their controls."""

from __future__ import annotations

from collections.abc import Sequence

from factlife.report.figures import Key, legend
from factlife.report.html import Child, Html, h
from factlife.report.sections.base import scope_name
from factlife.report.sections.circuits_base import role_keys
from factlife.report.view import View

MAP, CIRCUIT = "circuit-map", "circuit-fact"
EDGE_KEYS = (
    Key("attention, from an earlier token (or its own)", "var(--edge-attention)"),
    Key("residual stream, unchanged", "var(--edge-residual)"),
    Key("through the FFN (square)", "var(--edge-ffn)", kind="box"),
)


def role_map(view: View) -> Html:
    """Layer x head with a slider over checkpoints and a choice of scope."""
    m = next(iter(view.role_maps.values()))
    places = m.checkpoints
    scopes = [s for s in view.circuit_scopes if s in m.scopes]
    controls = [
        _choice("Facts shown", "scope", [(s, scope_name(s)) for s in scopes]),
        slider(view, places) if len(places) > 1 else None,
    ]
    title = "Role of every component"
    about = (
        "Colour and letter say the role; a ring marks a component whose role is not that of the "
        "checkpoint before. Point at a cell, or focus the map and use the arrow keys, to read it."
    )
    return _figure(MAP, title, about, controls, role_keys(inactive=True))


def fact_circuit(title: str, about: str, choices: Sequence[Html | None]) -> Html:
    """One fact's circuit with its choosers."""
    return _figure(CIRCUIT, title, about, choices, EDGE_KEYS)


def slider(view: View, places: Sequence[int]) -> Html:
    """A range over checkpoints; its value is the place among `places`."""
    last = len(places) - 1
    name = view.measured[places[-1]]["revision"]
    moved = h("input", type="range", min=0, max=last, step=1, value=last, data_control="place",
              autocomplete="off", aria_label="Checkpoint")  # fmt: skip
    output = h("output", name, data_output="place")
    return h("p", h("label", h("span", "Checkpoint"), moved, output), class_="choice slider")


def _choice(label: str, control: str, options: Sequence[tuple[str, str]]) -> Html | None:
    if len(options) < 2:
        return None
    made = [h("option", name, value=value) for value, name in options]
    select = h("select", made, data_control=control, autocomplete="off")
    return h("p", h("label", h("span", label), select), class_="choice")


def fact_choice(items: Sequence[str]) -> Html | None:
    """A menu of facts, by their place in the embedded list."""
    return _choice("Fact", "fact", [(str(i), name) for i, name in enumerate(items)])


def least_choice() -> Html | None:
    """A menu of the least contribution that a line must have to be drawn."""
    shares = [
        ("0", "all"),
        ("0.05", "5 % or more"),
        ("0.1", "10 % or more"),
        ("0.2", "20 % or more"),
    ]
    return _choice("Lines shown", "least", shares)


def _figure(
    id_: str, title: str, about: str, controls: Sequence[Child], keys: Sequence[Key]
) -> Html:
    drawing = h("div", class_="drawing", tabindex=0, role="region", aria_label=title)
    summary = h("summary", "Data of this drawing")
    parts = [
        h("figcaption", h("h3", title), h("p", about)),
        h("div", h("div", list(controls), class_="controls"), legend(keys), class_="keys"),
        h("div", h("p", class_="readout", aria_live="polite"), drawing),
        h("details", summary, class_="drawn-data"),
    ]
    return h("div", h("figure", parts, id=f"figure-{id_}"), class_="figures")
