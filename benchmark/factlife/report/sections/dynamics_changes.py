"""Dynamics: fine-tuning on new people, weights put back, and the claims."""

from __future__ import annotations

from collections.abc import Sequence

from factlife.report import dynamics as data
from factlife.report import dynamics_charts as charts
from factlife.report import text
from factlife.report.charts import Scale
from factlife.report.dynamics import Study, study
from factlife.report.figures import Figure, Key, Panel, variable
from factlife.report.html import Html, h, join
from factlife.report.sections.base import Section, paragraphs
from factlife.report.sections.dynamics import OLD, TAUGHT, TONES
from factlife.report.tables import estimate, table
from factlife.report.view import Row, View

_ACCURACY = Scale("share of values")
COLUMNS = {
    "dynamics.lose10": "steps to lose a tenth of the old",
    "dynamics.gain50": "steps to gain half of the new",
    "dynamics.old_min": "lowest accuracy on old people",
    "dynamics.corruption": "share of old accuracy lost",
    "dynamics.recovered_attention": "brought back by old attention",
    "dynamics.recovered_mlp": "brought back by old feed-forward",
}


def fine_tuning(view: View) -> Section | None:
    """Old and new people over the steps of fine-tuning, replay, and weights put back."""
    s = study(view)
    if s is None or s.tuning_axis is None:
        return None
    conditions = s.of_kind("fine_tuned")
    figures = [_curves(s, conditions), *_replay(s), *_swap(s)]
    rows = [[s.labels[c], *(estimate(view.score(m, c, "")) for m in COLUMNS)] for c in conditions]
    caption = "Fine-tunings (interval over seeds beneath)"
    body = join([
        paragraphs(
            "A trained model is trained on, at a constant learning rate, on people it has not "
            "met. Replay mixes old people in, each with a weight."
        ),
        h(
            "details",
            h("summary", "Every fine-tuning as a table"),
            table(caption, ["fine-tuning", *COLUMNS.values()], rows),
        ),
    ])  # fmt: skip
    return Section("dynamics-tuning", "New facts against old ones", "Fine-tuning", body, figures)


def _curves(s: Study, conditions: Sequence[str]) -> Figure:
    axis = s.tuning_axis
    assert axis is not None  # the section would not be there
    names = s.populations("fine_tuned")
    tones = [TONES[n] for n in names]
    return Figure(
        "dynamics-tuning-accuracy",
        "Accuracy while new people are learned",
        "A thin line a seed; step 0 is the model before.",
        spec=charts.learning(axis, _ACCURACY, names, tones, phases=False),
        dataset="dynamics_curves",
        where={"number": ["accuracy"], "scope": conditions[:1]},
        columns=("scope", "dynamics_run", "series", "step", "value"),
        legend=[Key(n, t) for n, t in zip(names, tones, strict=True)],
        choices=[(c, s.labels[c]) for c in conditions],
        choice_label="Fine-tuning shown",
    )


def _replay(s: Study) -> list[Figure]:
    conditions = data.replayed(s)
    if len(conditions) < 2:
        return []
    names = list(data.REPLAY.values())
    tones = [TONES[OLD], TONES[TAUGHT]]
    return [
        Figure(
            "dynamics-replay",
            "What replay saves",
            "The lowest accuracy on old people on the way, and the accuracy on new people at the "
            "end. A point a seed; lines join the means.",
            spec=charts.replay(_ACCURACY, names, tones),
            dataset="dynamics_replay",
            where={"series": names},
            columns=("scope", "dynamics_run", "series", "share", "value"),
            legend=[Key(n, t) for n, t in zip(names, tones, strict=True)],
        )
    ]


def _swap(s: Study) -> list[Figure]:
    conditions = data.swapped(s)
    if not conditions:
        return []
    states = list(data.STATES.values())
    tones = [variable("muted"), variable("name"), variable("loc"), variable("stated")]
    return [
        Figure(
            "dynamics-swap",
            "Which old weights bring old facts back",
            "Accuracy on old people; bars are means, points are seeds. After the fine-tuning, "
            "the weights of all attention layers or of all feed-forward layers are put back to "
            "those before it.",
            spec=charts.swap_back(_ACCURACY, states, tones),
            dataset="dynamics_swap",
            columns=("scope", "dynamics_run", "series", "value"),
            panels=[Panel(s.labels[c], {"scope": [c]}) for c in conditions],
        )
    ]


# ---- claims ----------------------------------------------------------------------------------

_SCOPES = {"scratch": "Models trained here", "series": "The given checkpoints"}
_CHIPS = {"supported": "chip", "not supported": "chip warn"}


def claims(view: View) -> Section | None:
    """C1 to C11 with verdict and the numbers behind it."""
    s = study(view)
    if s is None or not s.claims:
        return None
    tables = [
        _table(view, title, [c for c in s.claims if c["scope"] == scope])
        for scope, title in _SCOPES.items()
        if any(c["scope"] == scope for c in s.claims)
    ]
    about = h(
        "p",
        "What the source reports, asked again here. A claim is supported if every number behind it "
        "is where the claim wants it, not supported if one is certainly not, else undecided.",
    )
    body = join([about, *tables])
    return Section("dynamics-claims", "Claims of the source", "Claims", body)


def _table(view: View, title: str, rows: Sequence[Row]) -> Html:
    by_claim: dict[str, list[Row]] = {}
    for row in rows:
        by_claim.setdefault(row["claim"], []).append(row)
    lines = [
        [
            join([claim, h("small", found[0]["statement"])]),
            h("td", h("span", found[0]["verdict"], class_=_CHIPS.get(found[0]["verdict"], "chip"))),
            h("td", h("ul", [h("li", _number(r)) for r in found], class_="evidence")),
        ]
        for claim, found in sorted(by_claim.items(), key=lambda item: _nth(item[0]))
    ]
    head = ["claim", "verdict", f"numbers ({view.interval_name}s over seeds or facts)"]
    return table(title, head, lines, "metrics claims")


def _nth(claim: str) -> tuple[int, str]:
    """C2 before C10."""
    digits = "".join(filter(str.isdigit, claim))
    return (int(digits) if digits else 0, claim)


def _number(row: Row) -> Html:
    if row["value"] is None:
        named = f"{row['number']}: " if row["number"] else ""
        return h("span", f"{named}{row['reason'] or 'not measured'}", class_="missing")
    value = h("data", text.number(row["value"], row["unit"]), value=repr(row["value"]))
    unit = text.unit_word(row["unit"])
    parts = [f"{row['number']}: ", value, f" {unit}" if unit else None]
    if row["ci_low"] is not None and row["ci_high"] is not None:
        parts.append(f" ({text.interval(row['ci_low'], row['ci_high'], row['unit'])})")
    asked = f"wanted {row['wanted']} · holds: {row['holds']} · n = {row['n']:,}"
    asked += f" · {row['reason']}" if row["reason"] else ""
    return join([*parts, h("small", asked)])
