"""How circuits change: overlap of role sets, transitions between roles, switches by layer."""

from __future__ import annotations

from factlife.report import charts, text
from factlife.report.charts import Scale
from factlife.report.circuit_data import MEASURED, NULL, SETS, families, thirds_of
from factlife.report.circuit_roles import KINDS, ROLES
from factlife.report.figures import Figure, Key, Panel
from factlife.report.sections.base import Section, paragraphs
from factlife.report.sections.circuits_base import (
    ONE_CHECKPOINT,
    absent,
    grouped,
    has_roles,
    line_colour,
    percent,
    rows,
    scope_choices,
    why_not,
)
from factlife.report.sections.circuits_roles import SCORE_COLUMNS
from factlife.report.view import OVERALL, Row, View

_IOU = Scale("IoU", ".1f", ".2f")
_NULL_KEY = Key("null: as many drawn at random within each layer", "var(--muted)", 1)
_NOTED = {"last": "first", "previous": "last"}  # with itself the last has of course 1
_PER_RELATION = ("relation", "fact", "active")


def changes(view: View) -> Section | None:
    """IoU with the last and with the previous checkpoint, transitions, rates, switches."""
    if not has_roles(view):
        return None
    figures = []
    for kind in view.role_maps:
        figures += [_overlap(view, kind, other) for other in ("last", "previous")]
    figures += [_relation_overlap(view), *_transitions(view), *_switches(view)]
    body = paragraphs(
        "Two sets of components overlap by chance too, the more the larger they are. So every "
        "overlap, transition and switch stands beside its null: the same number when the "
        "components of each layer are shuffled at every checkpoint."
    )
    return Section("circuit-changes", "How circuits change", "Changes", body, figures)


def _overlap(view: View, kind: str, other: str) -> Figure:
    family = f"{kind}_{other}"
    metrics = families([kind])[family]
    name = KINDS[kind]
    against = reference(view) if other == "last" else "the checkpoint before"
    id_, about = f"circuit-iou-{kind}-{other}", (
        f"Overlap (intersection over union) of each role's {name} with those at {against}, one "
        f"chart a role, against {view.axis.title}; dashed: the null with its 95 % band. The number "
        f"beside a name is that at the {_NOTED[other]} checkpoint."
    )  # fmt: skip
    found = rows(view, "circuit_scores", family=family, scope=OVERALL, measure=MEASURED)
    if not found:
        title = f"Overlap of {name} with {against}"
        return absent(id_, title, about, why_not(view, list(metrics)))
    drawn = [s for s in SETS if any(r["line"] == s for r in found)]
    null_name = "drawn at random among all layers" if kind == "ffn" else ""
    null_key = Key(f"null: as many {null_name}", "var(--muted)", 1) if null_name else _NULL_KEY
    return Figure(
        id_, _overlap_title(view, family, name, against), about,
        spec=charts.small_against_null(view.axis, _IOU, drawn, [line_colour(s) for s in drawn]),
        dataset="circuit_scores",
        where={"family": [family], "scope": [OVERALL]},
        columns=SCORE_COLUMNS,
        legend=[Key("measured, interval from halves of the facts", "var(--ink)"), null_key],
        panels=[
            Panel(s, {"line": [s]}, _noted(found, s, other)) for s in drawn
        ],
        notes=grouped("Not shown", {s: why_not(view, [m]) for m, s in metrics.items()
                                    if s not in drawn}),
        narrow=True,
    )  # fmt: skip


def reference(view: View) -> str:
    """What overlaps with the last are taken with: in a chain, the end of its first stage."""
    several = view.circuit_series.reference != len(view.measured) - 1
    return "the end of pretraining" if several else "the last checkpoint"


def _overlap_title(view: View, family: str, name: str, against: str) -> str:
    """At how many checkpoints the general components overlap beyond the null."""
    beyond = total = 0
    last = view.circuit_series.reference if family.endswith("last") else None
    lines = [r for r in rows(view, "circuit_scores", family=family, line="general", scope=OVERALL)
             if r["checkpoint"] != last]  # its overlap with itself is 1  # fmt: skip
    nulls = {r["checkpoint"]: r for r in lines if r["measure"] == NULL}
    for r in lines:
        if r["measure"] == MEASURED and r["checkpoint"] in nulls:
            total += 1
            beyond += r["value"] > nulls[r["checkpoint"]]["ci_high"]
    if not total:
        return f"Overlap of {name} with {against}"
    return (
        f"General {name} overlap with {against} beyond the null at {beyond} of "
        f"{text.counted(total, 'checkpoint')}"
    )


def _noted(found: list[Row], line: str, other: str) -> str:
    """The value beside a panel's name, if there is one at the checkpoint it is said to be of."""
    mine = [r["value"] for r in found if r["line"] == line]
    return f"{mine[-1 if other == 'previous' else 0]:.2f}"


def _relation_overlap(view: View) -> Figure:
    id_, about = "circuit-iou-relations", (
        "The same overlap within one relation: its own relation heads, the heads of its facts, "
        "and all heads that are active for it. Choose the relation."
    )  # fmt: skip
    title = f"Overlap with {reference(view)}, relation by relation"
    family = "head_last"
    own = [c for c in scope_choices(view, "circuit_scores", family=family, measure=MEASURED)
           if c[0] != OVERALL]  # fmt: skip
    metrics = [m for m, s in families(["head"])[family].items() if s in _PER_RELATION]
    if not own:
        why = ONE_CHECKPOINT if len(view.measured) < 2 else why_not(view, metrics)
        return absent(id_, title, about, why)
    return Figure(
        id_, title, about,
        spec=charts.small_against_null(
            view.axis, _IOU, _PER_RELATION, [line_colour(s) for s in _PER_RELATION]
        ),
        dataset="circuit_scores",
        where={"family": [family], "scope": [own[0][0]]},
        columns=SCORE_COLUMNS,
        legend=[Key("measured", "var(--ink)"), _NULL_KEY],
        panels=[Panel(s, {"line": [s]}) for s in _PER_RELATION],
        choices=own,
        notes=_empty_panels(view, metrics),
    )  # fmt: skip


def _empty_panels(view: View, metrics: list[str]) -> list[str]:
    """Why a relation may have no values at some or all checkpoints."""
    wanted = {f"circuits.{m}" for m in metrics}
    reasons = dict.fromkeys(
        r["reason"] for (m, s, _), r in view.scores.items()
        if m in wanted and s in view.circuit_scopes[1:] and r["reason"]
    )  # fmt: skip
    return [f"Where a value is missing: {'; '.join(reasons)}."] if reasons else []


# ---- transitions -----------------------------------------------------------------------------

_CELLS = ("kind", "scope", "before", "after", "count", "probability", "ci_low", "ci_high",
          "null_mean", "null_low", "null_high", "per_log_token", "rate", "reason")  # fmt: skip


def _transitions(view: View) -> list[Figure]:
    about = (
        "How often a component with the role of the row has the role of the column at the next "
        "checkpoint, in per cent; beneath it the same under the null, with identities shuffled "
        "within each layer."
    )
    if not rows(view, "circuit_transitions"):
        reasons = dict.fromkeys(r["reason"] for r in view.transitions.to_pylist() if r["reason"])
        why = "; ".join(reasons) or "no change of role was counted"
        why = ONE_CHECKPOINT if len(view.measured) < 2 else why
        return [absent("circuit-transitions", "Transitions between roles", about, why)]
    return [_matrix(view, "probability", _kept(view), about), _rates(view)]


def _kept(view: View) -> str:
    """How many component-steps keep their role, and how many would under the null."""
    kept = expected = total = 0.0
    for r in rows(view, "circuit_transitions", what="probability", kind="head", scope=OVERALL):
        total += r["count"]
        if r["before"] == r["after"]:
            before = rows(view, "circuit_transitions", what="probability", kind="head",
                          scope=OVERALL, before=r["before"])  # fmt: skip
            kept += r["count"]
            expected += sum(b["count"] for b in before) * (r["null_mean"] or 0.0)
    if not total:
        return "Transitions between roles"
    title = f"Heads keep their role in {percent(kept / total)} of steps between checkpoints"
    return text.tight(f"{title} (null {percent(expected / total)})")


def _rates(view: View) -> Figure:
    about = (
        "Fitted rates of a chain in continuous time, per unit of ln(tokens): they take into "
        "account that checkpoints are unevenly spaced. The diagonal is minus the rate of leaving; "
        "in brackets, changes as counted, over the same unit."
    )
    title = "Rates of change, whatever the distance of checkpoints"
    if not rows(view, "circuit_transitions", what="rate"):
        reasons = dict.fromkeys(r["reason"] for r in view.transitions.to_pylist() if r["reason"])
        why = "; ".join(reasons) or "no rate could be fitted"
        return absent("circuit-rates", title, about, why)
    return _matrix(view, "rate", title, about)


def _matrix(view: View, what: str, title: str, about: str) -> Figure:
    found = {r["kind"] for r in rows(view, "circuit_transitions", what=what, scope=OVERALL)}
    kinds = [k for k in view.role_maps if k in found]
    notes = [f"No rates of {KINDS[k]}: {_why_no_rate(view, k)}." for k in view.role_maps
             if k not in kinds]  # fmt: skip
    return Figure(
        "circuit-transitions" if what == "probability" else "circuit-rates", title, about,
        spec=charts.matrix(ROLES),
        dataset="circuit_transitions",
        where={"what": [what], "scope": [OVERALL]},
        columns=_CELLS,
        panels=[Panel(KINDS[k], {"kind": [k]}) for k in kinds],
        choices=[(s, n) for s, n in scope_choices(view, "circuit_transitions", what=what)
                 if all(rows(view, "circuit_transitions", what=what, scope=s, kind=k)
                        for k in kinds)],
        notes=notes,
    )  # fmt: skip


def _why_no_rate(view: View, kind: str) -> str:
    mine = [r for r in view.transitions.to_pylist() if r["kind"] == kind and r["rate"] is None]
    reasons = dict.fromkeys(r["reason"] for r in mine if r["reason"])
    return "; ".join(reasons) or "the fit has no one solution"


# ---- switches --------------------------------------------------------------------------------


def _switches(view: View) -> list[Figure]:
    about = (
        "Changes from one active role to another between checkpoints, per component of each "
        "layer, over the whole series; broken lines part the thirds."
    )
    found = rows(view, "circuit_switches")
    if not found:
        why = why_not(view, ["switches_early", "switches_middle", "switches_late"])
        return [absent("circuit-switches", "Switches of role by layer", about, why)]
    edges = [r.stop - 0.5 for r in list(thirds_of(view).values())[:-1] if len(r)]
    n_layers = view.role_maps["head"].codes.shape[2]
    by_layer = Figure(
        "circuit-switches", _most_switching(view), about,
        spec=charts.by_layer(n_layers, edges, max(r["switches"] for r in found)),
        dataset="circuit_switches",
        columns=("kind", "layer", "third", "switches"),
        panels=[Panel(KINDS[k], {"kind": [k]}) for k in view.role_maps],
    )  # fmt: skip
    about = (
        "Switches per head of each third of the layers with their interval, and the null with "
        "its band: below it, heads keep their roles more than shuffled ones would."
    )
    if not rows(view, "circuit_thirds"):
        why = why_not(view, ["switches_early", "switches_middle", "switches_late"])
        return [by_layer, absent("circuit-thirds", "Switches of role by third", about, why)]
    thirds = Figure(
        "circuit-thirds", _third_title(view), about,
        spec=charts.by_third(n_layers),
        dataset="circuit_thirds",
        columns=("third", "measure", "value", "ci_low", "ci_high", "n"),
        legend=[
            Key("measured", "var(--ink)"),
            Key("null: heads of a layer shuffled", "var(--muted)", kind="level"),
        ],
    )  # fmt: skip
    return [by_layer, thirds]


def _most_switching(view: View) -> str:
    found = rows(view, "circuit_switches", kind="head")
    top = max(found, key=lambda r: r["switches"])
    if not top["switches"]:
        return "No head switched between active roles"
    return f"Heads of layer {top['layer']} switch role most: {top['switches']:.1f} times each"


def _third_title(view: View) -> str:
    own = rows(view, "circuit_thirds", measure=MEASURED)
    nulls = {r["third"]: r["value"] for r in rows(view, "circuit_thirds", measure=NULL)}
    top = max(own, key=lambda r: r["value"])
    null = nulls.get(top["third"])
    beside = "" if null is None else f" (null {null:.1f})"
    return f"The {top['third']} third switches most: {top['value']:.1f} times a head{beside}"
