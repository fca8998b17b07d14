"""What the sections of the circuits track share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factlife.report import text
from factlife.report.circuit_roles import ACTIVE, COLOURS, LETTERS, ROLES
from factlife.report.figures import Figure, Key
from factlife.report.html import Html, h
from factlife.report.sections.base import scope_name
from factlife.report.view import OVERALL, Row, View

ONE_CHECKPOINT = "only one checkpoint was measured"
MEANINGS = {
    "general": "active whatever the token",
    "entity": "active for subjects and answers, but not in general",
    "relation": "active for the answers of a relation, but in no wider role",
    "fact": "active for the answer of single facts, but in no wider role",
    "inactive": "in too few circuits to count",
}


def has_roles(view: View) -> bool:
    """Whether the run has anything for these sections."""
    return bool(view.measured) and bool(view.role_maps)


def role_keys(inactive: bool = False) -> list[Key]:
    """The legend of roles: colour and letter."""
    shown = ROLES if inactive else ACTIVE
    return [Key(f"{LETTERS[ROLES.index(r)]}  {r}", COLOURS[r], kind="box") for r in shown]


def line_colour(name: str) -> str:
    """The colour of a role's line; all active components together are drawn in ink."""
    return COLOURS.get(name, "var(--ink)")


def rows(view: View, dataset: str, **where: Any) -> list[Row]:
    """Rows of an embedded data set whose columns have these values."""
    made = view.circuit_rows.get(dataset, ([], ()))[0]
    return [r for r in made if all(r[k] == v for k, v in where.items())]


def scope_choices(view: View, dataset: str, **where: Any) -> list[tuple[str, str]]:
    """Scopes that a data set has rows for, all facts first, with their names."""
    found = dict.fromkeys(r["scope"] for r in rows(view, dataset, **where))
    return [(s, scope_name(s)) for s in view.circuit_scopes if s in found]


def why_not(view: View, metrics: Sequence[str], scope: str = OVERALL) -> str:
    """Why none of the metrics has a value."""
    if len(view.measured) < 2 and any("iou" in m or "switches" in m for m in metrics):
        return ONE_CHECKPOINT
    found = (view.why_missing(f"circuits.{m}", scope) for m in metrics)
    return "; ".join(dict.fromkeys(filter(None, found))) or "this profile does not measure it"


def grouped(start: str, reasons: Mapping[str, str]) -> list[str]:
    """One note a reason, with all that it holds for."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return [f"{start}: {', '.join(of)} ({why})." for why, of in names.items()]


def absent(id_: str, title: str, explanation: str, why: str) -> Figure:
    """A figure that says why it is not there."""
    return Figure(id_, title, explanation, missing=why)


def extent(found: Sequence[Row], also: Sequence[float] = ()) -> tuple[float, float]:
    """Ends of an axis that holds all values and intervals, and `also`, with a little room."""
    ends = [r[k] for r in found for k in ("value", "ci_low", "ci_high") if r[k] is not None]
    low, high = min([*ends, *also]), max([*ends, *also])
    room = 0.05 * (high - low) or 0.5
    return low if low in also else low - room, high if high in also else high + room


def percent(value: float) -> str:
    """A share in a sentence."""
    return text.number(value, "share of heads")


def glossary() -> Html:
    """What the roles mean, in a line each."""
    pairs = [
        h(
            "li",
            h("span", LETTERS[ROLES.index(r)], class_=f"role-letter role-{r}", aria_hidden="true"),
            h("span", h("strong", r), f": {MEANINGS[r]}."),
        )
        for r in ROLES
    ]
    return h("ul", pairs, class_="glossary")
