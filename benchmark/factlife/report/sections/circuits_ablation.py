"""Whether circuits matter: roles ablated against matched controls, and circuits alone."""

from __future__ import annotations

from factlife.report import charts, text
from factlife.report.charts import Scale
from factlife.report.circuit_data import CONDITIONS, KEPT, ablated
from factlife.report.circuit_roles import ACTIVE, COLOURS
from factlife.report.figures import Figure, Key
from factlife.report.sections.base import Section, paragraphs
from factlife.report.sections.circuits_base import absent, extent, grouped, has_roles, rows, why_not
from factlife.report.sections.circuits_roles import SCORE_COLUMNS
from factlife.report.view import OVERALL, View

_COLUMNS = ("role", "condition", "revision", "tokens", "value", "ci_low", "ci_high", "n")
_TONES = {CONDITIONS[0]: "var(--ablated)", CONDITIONS[1]: "var(--control)"}


def ablation(view: View) -> Section | None:
    """Drop per role with its controls, in accuracy and nats; recall with only the circuit kept."""
    if not has_roles(view) or not (places := ablated(view)):
        return None
    where = view.measured[places[-1]]["revision"]
    body = paragraphs(
        "A circuit that is only correlated with the answer could be taken out without harm. Heads "
        "of one role are set to their mean over all prompts, and recall is measured again; the "
        "controls are as many active heads of other roles in the same layers, drawn anew several "
        f"times. At {where}."
    )
    figures = [
        _whole(view),
        _drop(view, "share", Scale("drop in share of facts", ".0%", ".1%", None)),
        _drop(view, "nats", Scale("drop in log-probability (nats)", ".2~f", ".3f", None)),
        _kept(view),
        *([_over_training(view)] if len(places) > 1 else []),
    ]
    return Section("ablation", "Do the circuits matter?", "Ablation", body, figures)


def _whole(view: View) -> Figure:
    id_, about = (
        "circuit-ablation-whole",
        (
            "Drop in recall when all heads of a role are ablated at once, in share of facts. Nothing "
            "as large can be drawn from the other heads: the next charts compare equal numbers."
        ),
    )
    found = {r["role"]: r for r in rows(view, "circuit_ablations", unit="whole")}
    metrics = {f"ablation_whole_{r}": r for r in ACTIVE}
    if not found:
        return absent(id_, "Recall without a role", about, why_not(view, list(metrics)))
    drawn = [r for r in ACTIVE if r in found]
    worst = max(drawn, key=lambda r: found[r]["value"])
    lost = text.number(found[worst]["value"], "difference of shares")
    top = max(r["ci_high"] or r["value"] for r in found.values())
    low = min(0.0, *(r["ci_low"] or 0.0 for r in found.values()))
    return Figure(
        id_, text.tight(f"Without any {worst} head the model loses {lost} of all facts"), about,
        spec=charts.bars(
            Scale("drop in share of facts", ".0%", ".1%", (low, max(top, 0.01))), drawn, drawn,
            [COLOURS[r] for r in drawn], "condition",
        ),
        dataset="circuit_ablations",
        where={"unit": ["whole"]},
        columns=_COLUMNS[1:],
        notes=grouped("Not measured", {f"{r} heads": why_not(view, [m])
                                       for m, r in metrics.items() if r not in drawn}),
    )  # fmt: skip


def _drop(view: View, unit: str, scale: Scale) -> Figure:
    nats = "_nats" if unit == "nats" else ""
    metrics = {f"ablation_drop{nats}_{r}": r for r in ACTIVE}
    id_ = f"circuit-ablation-{unit}"
    what = "recall" if unit == "share" else "log-probability of the answer"
    about = (
        f"Drop in {what} when the heads of a role are ablated, and when their matched controls "
        "are: a role matters as far as its bar goes beyond the control's. Lines are intervals."
    )
    found = rows(view, "circuit_ablations", unit=unit)
    if not found:
        return absent(id_, f"Drop in {what}", about, why_not(view, list(metrics)))
    drawn = [r for r in ACTIVE if any(f["role"] == r for f in found)]
    return Figure(
        id_, _drop_title(view, unit, what), about,
        spec=charts.bars(scale, drawn, CONDITIONS, [_TONES[c] for c in CONDITIONS], "role"),
        dataset="circuit_ablations",
        where={"unit": [unit]},
        columns=_COLUMNS,
        legend=[Key(c, _TONES[c], kind="box") for c in CONDITIONS],
        notes=grouped("Not measured", {f"{r} heads": why_not(view, [m])
                                       for m, r in metrics.items() if r not in drawn}),
    )  # fmt: skip


def _drop_title(view: View, unit: str, what: str) -> str:
    """The role whose ablation goes furthest beyond its controls."""
    c, nats = ablated(view)[-1], "_nats" if unit == "nats" else ""
    effects = {r: view.circuit_score(f"ablation_effect{nats}_{r}", OVERALL, c) for r in ACTIVE}
    known = {r: e for r, e in effects.items() if e is not None and e["value"] is not None}
    if not known:
        return f"Drop in {what}, by role"
    role, e = max(known.items(), key=lambda p: p[1]["value"])
    if e["ci_low"] is not None and e["ci_low"] <= 0:
        return f"No role's heads cost more {what} than their controls"
    size = text.number(e["value"], "difference of shares" if unit == "share" else "nats")
    size += "" if unit == "share" else " nats"
    return text.tight(f"Without {role} heads the model loses {size} more than without controls")


def _kept(view: View) -> Figure:
    id_, about = "circuit-kept", (
        "Everything but a fact's own circuit is set to its mean: how much of intact recall is "
        "left? Beside it a random circuit with as many components in each layer, and nothing kept."
    )  # fmt: skip
    found = {r["condition"]: r for r in rows(view, "circuit_ablations", unit="kept")}
    if not found:
        return absent(id_, "Recall with only the circuit", about, why_not(view, list(KEPT)))
    names = [n for n in KEPT.values() if n in found]
    tones = ["var(--ablated)", "var(--control)", "var(--control)"]
    own, random = (found.get(n) for n in list(KEPT.values())[:2])
    title = "Recall with only the circuit kept"
    if own is not None:
        title = f"The circuit alone keeps {text.number(own['value'], 'share of facts')} of recall"
        if random is not None:
            title += f", a random one {text.number(random['value'], 'share of facts')}"
    top = max(1.0, *(r["ci_high"] or r["value"] for r in found.values()))
    low = min(0.0, *(r["ci_low"] or 0.0 for r in found.values()))
    scale = Scale("share of intact recall", domain=(low, top))
    return Figure(
        id_, text.tight(title), about,
        spec=charts.bars(scale, names, names, tones[: len(names)], "condition"),
        dataset="circuit_ablations",
        where={"unit": ["kept"]},
        columns=_COLUMNS[1:],
        notes=[f"Not measured: {n} ({why_not(view, [m])})." for m, n in KEPT.items()
               if n not in found],
    )  # fmt: skip


def _over_training(view: View) -> Figure:
    id_, title = "circuit-effect", "What each role's heads add, over training"
    about = "Drop beyond the matched controls at every ablated checkpoint, with its interval."
    found = rows(view, "circuit_scores", family="effect", scope=OVERALL)
    drawn = [r for r in ACTIVE if any(f["line"] == r for f in found)]
    if not drawn:
        return absent(id_, title, about, why_not(view, [f"ablation_effect_{r}" for r in ACTIVE]))
    ends = extent(found, [0.0])
    scale = Scale("drop beyond controls", "+.0%", "+.1%", ends, 0.0, "as the controls")
    return Figure(
        id_, title, about,
        spec=charts.against_null(view.axis, scale, drawn, [COLOURS[r] for r in drawn], null=False),
        dataset="circuit_scores",
        where={"family": ["effect"], "scope": [OVERALL]},
        columns=SCORE_COLUMNS,
        legend=[*(Key(r, COLOURS[r]) for r in drawn),
                Key("as the controls", "var(--muted)", kind="level")],
    )  # fmt: skip
