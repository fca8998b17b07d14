"""Roles of components: their shares over training, active heads, and where they stand."""

from __future__ import annotations

from factlife.report import charts, text
from factlife.report.charts import Scale
from factlife.report.circuit_roles import ACTIVE, COLOURS, KINDS
from factlife.report.figures import Figure, Key
from factlife.report.html import h, join
from factlife.report.sections.base import Section
from factlife.report.sections.circuits_base import (
    absent,
    extent,
    glossary,
    has_roles,
    percent,
    role_keys,
    rows,
    scope_choices,
    why_not,
)
from factlife.report.sections.circuits_widgets import role_map
from factlife.report.view import OVERALL, View

_SHARE_COLUMNS = ("kind", "scope", "role", "revision", "stage", "step", "tokens", "count", "of",
                  "share", "ci_low", "ci_high")  # fmt: skip
SCORE_COLUMNS = ("line", "measure", "scope", "revision", "stage", "step", "tokens", "value",
                 "ci_low", "ci_high", "n")  # fmt: skip


def roles(view: View) -> Section | None:
    """Role shares of heads and FFNs, active heads, fact heads and relation heads."""
    if not has_roles(view):
        return None
    settings = view.result["protocol"]["params"].get("circuits", {})
    theta = settings.get("theta")
    above = f" (θ = {theta:g})" if isinstance(theta, float) else ""
    about = h(
        "p",
        "A circuit is everything from which information flows to the model's answer. A component "
        f"holds a role if it is in enough of those circuits{above}:",
    )
    figures = [_shares(view, kind) for kind in view.role_maps]
    figures += [_active(view), _fact_heads(view), _relation_heads(view)]
    title = "Which components carry the facts"
    return Section("circuits", title, "Roles", join([about, glossary()]), figures)


def _shares(view: View, kind: str) -> Figure:
    m, name = view.role_maps[kind], KINDS[kind]
    first, last = (m.counts(OVERALL)[c] for c in (m.checkpoints[0], m.checkpoints[-1]))
    before, after = ((n[:4].sum()) / n.sum() for n in (first, last))
    some = f"{name[0].upper()}{name[1:]}"
    title = (
        f"{some} in a role: {percent(before)} at the first checkpoint, {percent(after)} at the last"
    )
    if before == after:
        many = "the first and the last" if len(m.checkpoints) > 1 else "the only"
        title = f"{some} in a role: {percent(after)} at {many} checkpoint"
    scale = Scale(f"share of {name}")
    return Figure(
        f"circuit-shares-{kind}",
        text.tight(title),
        f"Share of all {name} that hold each role, stacked; what is left to 100 % is inactive. "
        "Among all facts each component counts once, in its widest role.",
        spec=charts.stacked(view.axis, scale, ACTIVE, [COLOURS[r] for r in ACTIVE]),
        dataset="circuit_shares",
        where={"kind": [kind], "scope": [OVERALL]},
        columns=_SHARE_COLUMNS,
        legend=role_keys(),
        choices=scope_choices(view, "circuit_shares", kind=kind),
    )


def untrained_level(view: View) -> tuple[float, str] | None:
    """Share of active heads before training, and what it was measured on."""
    series = view.circuit_series
    c = len(view.measured) - 1 if series.untrained is None else series.untrained
    share, n, beyond = (
        view.circuit_score(metric, OVERALL, c)
        for metric in ("active_head_share", "active_heads", "active_heads_excess")
    )
    if series.untrained is not None and share is not None and share["value"] is not None:
        return float(share["value"]), "step 0"
    if n is None or n["value"] is None or beyond is None or beyond["value"] is None:
        return None
    return float((n["value"] - beyond["value"]) / n["n"]), "random initialisation"


def _active(view: View) -> Figure:
    id_, about = "circuit-active", (
        "Share of heads that hold any role; the dashed level is an untrained model, so only what "
        "is above it came with training."
    )  # fmt: skip
    found = rows(view, "circuit_scores", family="active", scope=OVERALL)
    if not found:
        return absent(id_, "Active heads", about, why_not(view, ["active_head_share"]))
    level = untrained_level(view)
    notes = [] if level else ["No untrained model was measured: there is no level to hold against."]
    scale, title = Scale("share of heads"), f"{percent(found[-1]['value'])} of heads are active"
    keys = [Key("active heads", "var(--ink)")]
    if level:
        title += f", {percent(level[0])} in an untrained model"
        label = f"{level[1]} ({percent(level[0])})"
        scale = Scale("share of heads", reference=level[0], reference_label=label)
        keys.append(Key(label, "var(--muted)", kind="level"))
    return Figure(
        id_, text.tight(title), about,
        spec=charts.against_null(view.axis, scale, ["active"], ["var(--ink)"], 240, False),
        dataset="circuit_scores",
        where={"family": ["active"], "scope": [OVERALL]},
        columns=SCORE_COLUMNS, legend=keys,
        choices=scope_choices(view, "circuit_scores", family="active"), notes=notes,
    )  # fmt: skip


def _fact_heads(view: View) -> Figure:
    id_, about = "circuit-fact-heads", (
        "Mean over facts of the heads that are active for this fact's answer but hold no wider "
        "role; a count a fact, because their union grows with the number of facts."
    )  # fmt: skip
    found = rows(view, "circuit_scores", family="fact_heads", scope=OVERALL)
    if not found:
        return absent(id_, "Fact heads per fact", about, why_not(view, ["fact_heads_per_fact"]))
    every = rows(view, "circuit_scores", family="fact_heads")
    scale = Scale("heads per fact", ".1f", ".2f", extent(every, [0.0]))
    title = f"{found[-1]['value']:.1f} fact heads per fact at the last checkpoint"
    return Figure(
        id_, title, about,
        spec=charts.against_null(view.axis, scale, ["fact"], [COLOURS["fact"]], 240, False),
        dataset="circuit_scores",
        where={"family": ["fact_heads"], "scope": [OVERALL]},
        columns=SCORE_COLUMNS,
        legend=[Key("fact heads per fact", COLOURS["fact"])],
        choices=scope_choices(view, "circuit_scores", family="fact_heads"),
    )  # fmt: skip


def _relation_heads(view: View) -> Figure:
    id_, about = "circuit-relation-heads", (
        "Relation heads minus those found when the facts are dealt to the relations at random: "
        "where the band holds 0, the relations explain no more heads than chance."
    )  # fmt: skip
    found = rows(view, "circuit_scores", family="relation_excess", scope=OVERALL)
    if not found:
        why = why_not(view, ["relation_heads_excess"])
        return absent(id_, "Relation heads beyond permuted labels", about, why)
    r = found[-1]
    beyond = r["ci_low"] > 0 or r["ci_high"] < 0
    title = (
        f"{r['value']:+.1f} relation heads against permuted labels at the last checkpoint"
        if beyond
        else "At the last checkpoint, relation heads are no more than permuted labels give"
    )
    title, level = title.replace("-", "−"), "as many as by chance"
    scale = Scale("heads beyond the null", "+.1~f", "+.1f", extent(found, [0.0]), 0.0, level)
    return Figure(
        id_, title, about,
        spec=charts.against_null(
            view.axis, scale, ["relation"], [COLOURS["relation"]], 240, False
        ),
        dataset="circuit_scores",
        where={"family": ["relation_excess"], "scope": [OVERALL]},
        columns=SCORE_COLUMNS,
        legend=[
            Key("relation heads beyond the null", COLOURS["relation"]),
            Key(level, "var(--muted)", kind="level"),
        ],
    )  # fmt: skip


def map_of_roles(view: View) -> Section | None:
    """Layer x head, at any checkpoint."""
    if not has_roles(view):
        return None
    kinds = " and ".join(KINDS[k] for k in view.role_maps)
    about = h(
        "p",
        f"Every component of the model at one checkpoint: {kinds}, the first layer at the "
        "bottom. Drag the slider, or focus it and use the arrow keys, to move through training.",
    )
    body = join([about, role_map(view)])
    return Section("role-map", "Where the roles are", "Role map", body)
