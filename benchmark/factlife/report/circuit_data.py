"""The numbers behind the charts of the circuits track, embedded beside those of recall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factlife import stats
from factlife.recall.metrics import SERIES
from factlife.report.circuit_roles import ACTIVE, OVERALL
from factlife.stats import Resampler

if TYPE_CHECKING:
    from factlife.report.view import View

Row = dict[str, Any]
Dataset = tuple[list[Row], tuple[str, ...]]

SETS = (*ACTIVE, "active")
MEASURED, NULL = "measured", "null"
THIRDS = ("early", "middle", "late")
THRESHOLDS = {"tau": "τ", "theta": "θ"}
CONDITIONS = ("heads of the role", "matched controls")
KEPT = {
    "faithfulness": "the fact's circuit", "faithfulness_control": "a random circuit",
    "faithfulness_none": "nothing",
}  # fmt: skip
_ESTIMATE = ("value", "ci_low", "ci_high", "n")


def rows_of(view: View) -> dict[str, Dataset]:
    """Data set -> its rows and their columns; none where the track has no roles."""
    if not view.role_maps:
        return {}
    makers = {
        "circuit_shares": (_shares, ("kind", "scope", "role", "checkpoint", "count", "of", "share",
                                     "low", "high", "ci_low", "ci_high")),
        "circuit_scores": (_scores, ("family", "line", "measure", "scope", "checkpoint",
                                     *_ESTIMATE)),
        "circuit_transitions": (_transitions, ("what", "kind", "scope", "before", "after", "shade",
                                               "label", "note", *_TRANSITION)),
        "circuit_switches": (_switches, ("kind", "layer", "left", "right", "switches",
                                         "third")),
        "circuit_thirds": (_thirds, ("third", "left", "right", "middle", "measure", *_ESTIMATE)),
        "circuit_sensitivity": (_sensitivity, ("threshold", "at", "setting", "family", "line",
                                               "scope", "checkpoint", *_ESTIMATE)),
        "circuit_ablations": (_ablations, ("unit", "role", "condition", "checkpoint",
                                           *_ESTIMATE)),
    }  # fmt: skip
    return {name: (list(make(view)), columns) for name, (make, columns) in makers.items()}


# ---- roles and scores ------------------------------------------------------------------------


def _shares(view: View) -> Iterator[Row]:
    """Share of each active role, with the ends of its band in the stack."""
    for kind, m in view.role_maps.items():
        for scope in m.scopes:
            counts = m.counts(scope)
            for c in m.checkpoints:
                of, top = int(counts[c].sum()), 0.0
                for i, role in enumerate(ACTIVE):
                    share = counts[c, i] / of
                    estimate = view.circuit_score(f"{kind}_share_{role}", scope, c) or {}
                    yield {
                        "kind": kind, "scope": scope, "role": role, "checkpoint": c,
                        "count": int(counts[c, i]), "of": of, "share": float(share),
                        "low": top, "high": top + float(share),
                        "ci_low": estimate.get("ci_low"), "ci_high": estimate.get("ci_high"),
                    }  # fmt: skip
                    top += float(share)


def families(kinds: Sequence[str]) -> dict[str, dict[str, str]]:
    """Figure -> metric -> its line in the figure."""
    found = {
        "active": {"active_head_share": "active"},
        "fact_heads": {"fact_heads_per_fact": "fact"},
        "relation_excess": {"relation_heads_excess": "relation"},
        "split_half": {f"split_half_{s}": s for s in SETS},
        "effect": {f"ablation_effect_{r}": r for r in ACTIVE},
    }
    for kind in kinds:
        start = "" if kind == "head" else f"{kind}_"
        for other in ("last", "previous"):
            found[f"{kind}_{other}"] = {f"{start}iou_{other}_{s}": s for s in SETS}
    return found


def _scores(view: View) -> Iterator[Row]:
    """Metrics over training, with their nulls."""
    scopes = view.circuit_scopes
    for family, metrics in families(list(view.role_maps)).items():
        for metric, line in metrics.items():
            for measure, name in ((MEASURED, metric), (NULL, f"{metric}_null")):
                for scope in scopes:
                    for c in range(len(view.measured)):
                        r = view.circuit_score(name, scope, c)
                        if r is not None and r["value"] is not None:
                            yield {
                                "family": family, "line": line, "measure": measure,
                                "scope": scope, "checkpoint": c, **{k: r[k] for k in _ESTIMATE},
                            }  # fmt: skip


# ---- transitions and switches ----------------------------------------------------------------

_TRANSITION = ("count", "probability", "ci_low", "ci_high", "null_mean", "null_low", "null_high",
               "per_log_token", "rate", "reason")  # fmt: skip


def _transitions(view: View) -> Iterator[Row]:
    return transition_rows(view.transitions.to_pylist())


def transition_rows(table: Sequence[Row]) -> Iterator[Row]:
    """One row a cell, for the map of probabilities and for the map of rates.

    Args:
        table: rows of the `transitions` table.
    """
    tops: dict[tuple[str, str], float] = {}
    for r in table:
        if r["rate"] is not None and r["role_before"] != r["role_after"]:
            key = (r["kind"], r["scope"])
            tops[key] = max(tops.get(key, 0.0), r["rate"])
    if all(r["probability"] is None for r in table):
        return
    for r in table:
        own = {"kind": r["kind"], "scope": r["scope"], "before": r["role_before"],
               "after": r["role_after"], **{k: r[k] for k in _TRANSITION}}  # fmt: skip
        p, null = r["probability"], r["null_mean"]
        yield {
            "what": "probability", **own, "shade": p or 0.0,
            "label": "–" if p is None else f"{100 * p:.0f} %",
            "note": "" if null is None or p is None else f"null {100 * null:.0f}",
        }  # fmt: skip
        if (r["kind"], r["scope"]) in tops:
            off = r["role_before"] != r["role_after"]
            top, rate, per = tops[r["kind"], r["scope"]], r["rate"], r["per_log_token"]
            yield {
                "what": "rate", **own, "shade": rate / top if off and top and rate else 0.0,
                "label": "–" if rate is None else f"{rate:.2f}".replace("-", "−"),
                "note": "" if per is None else f"({per:.2f})",
            }  # fmt: skip


def thirds_of(view: View) -> dict[str, range]:
    """Third -> its layers, as many as its metric counted heads for."""
    heads = view.role_maps["head"].codes.shape[3]
    start, found = 0, {}
    for third in THIRDS:
        r = view.circuit_score(f"switches_{third}", OVERALL, SERIES)
        size = (r["n"] // heads) if r else 0
        found[third] = range(start, start + size)
        start += size
    return found


def _switches(view: View) -> Iterator[Row]:
    pairs = view.circuit_series.pairs
    if "head" not in view.role_maps or not pairs:
        return
    thirds = thirds_of(view)
    for kind, m in view.role_maps.items():
        for layer, n in enumerate(m.switches(OVERALL, pairs)):
            third = next((t for t, layers in thirds.items() if layer in layers), "")
            yield {"kind": kind, "layer": layer, "left": layer - 0.38, "right": layer + 0.38,
                   "switches": float(n), "third": third}  # fmt: skip


def _thirds(view: View) -> Iterator[Row]:
    """Switches of each third of the layers, and their null."""
    if "head" not in view.role_maps:
        return
    for third, layers in thirds_of(view).items():
        if not len(layers):
            continue
        left, right = layers[0] - 0.5, layers[-1] + 0.5
        for measure, end in ((MEASURED, ""), (NULL, "_null")):
            r = view.circuit_score(f"switches_{third}{end}", OVERALL, SERIES)
            if r is not None and r["value"] is not None:
                yield {"third": third, "left": left, "right": right, "middle": (left + right) / 2,
                       "measure": measure, **{k: r[k] for k in _ESTIMATE}}  # fmt: skip


# ---- sensitivity -----------------------------------------------------------------------------


def threshold_values(view: View, name: str) -> dict[str, float]:
    """Scope -> threshold, the protocol's own among the swept ones, in order."""
    params = view.result["protocol"]["params"].get("circuits", {})
    swept = {s for m, s, _ in view.scores if m.startswith("circuits.") and s.startswith(f"{name}=")}
    found = {s: float(s.partition("=")[2]) for s in swept}
    own = params.get(name)
    if found and isinstance(own, float):
        found = {s: at for s, at in found.items() if at != own} | {OVERALL: own}
    return dict(sorted(found.items(), key=lambda p: p[1]))


def _sensitivity(view: View) -> Iterator[Row]:
    lines = {f"head_share_{r}": ("share", r) for r in ACTIVE}
    lines["active_head_share"] = ("share", "active")
    lines |= {f"iou_last_{s}": ("iou", s) for s in SETS}
    for name in THRESHOLDS:
        values = threshold_values(view, name)
        for scope, at in values.items():
            for metric, (family, line) in lines.items():
                for c in range(len(view.measured)):
                    r = view.circuit_score(metric, scope, c)
                    if r is not None and r["value"] is not None:
                        yield {
                            "threshold": name, "at": at, "setting": f"{THRESHOLDS[name]} = {at:g}",
                            "family": family, "line": line, "scope": scope, "checkpoint": c,
                            **{k: r[k] for k in _ESTIMATE},
                        }  # fmt: skip


# ---- ablation --------------------------------------------------------------------------------


def ablated(view: View) -> list[int]:
    """Places of the checkpoints at which the causal check was run."""
    revisions = set(pc.unique(view.ablations["revision"]).to_pylist())
    return [c for c, row in enumerate(view.measured) if row["revision"] in revisions]


def _ablations(view: View) -> Iterator[Row]:
    """Drops at the last ablated checkpoint, and what circuits alone recall."""
    if not (places := ablated(view)):
        return
    c = places[-1]
    rows = view.ablations.filter(pc.equal(view.ablations["revision"], view.measured[c]["revision"]))
    for unit, nats in (("share", ""), ("nats", "_nats")):
        for role in ACTIVE:
            r = view.circuit_score(f"ablation_drop{nats}_{role}", OVERALL, c)
            estimates = {CONDITIONS[0]: r, CONDITIONS[1]: _control_drop(view, rows, role, unit)}
            for condition, e in estimates.items():
                if e is not None and e["value"] is not None:
                    yield {"unit": unit, "role": role, "condition": condition, "checkpoint": c,
                           **{k: e[k] for k in _ESTIMATE}}  # fmt: skip
    for role in ACTIVE:
        e = view.circuit_score(f"ablation_whole_{role}", OVERALL, c)
        if e is not None and e["value"] is not None:
            yield {"unit": "whole", "role": role, "condition": role, "checkpoint": c,
                   **{k: e[k] for k in _ESTIMATE}}  # fmt: skip
    for metric, kept in KEPT.items():
        e = view.circuit_score(metric, OVERALL, c)
        if e is not None and e["value"] is not None:
            yield {"unit": "kept", "role": "", "condition": kept, "checkpoint": c,
                   **{k: e[k] for k in _ESTIMATE}}  # fmt: skip


def _control_drop(view: View, rows: pa.Table, role: str, unit: str) -> Row | None:
    """Intact recall minus that without a role's matched controls, averaged over their draws.

    The interval resamples facts within relations, as that of the role itself does.
    """
    column = "whole_answer" if unit == "share" else "logprob_sum_nats"
    intact = _by_fact(rows, column, "intact", "none")
    control = _by_fact(rows, column, "control", role)
    shared = [f for f in intact if f in control]
    if not shared:
        return None
    drops = np.array([intact[f][1] - control[f][1] for f in shared])
    params = view.result["protocol"]["params"].get("intervals", {})
    settings = {k: params.get(k, v) for k, v in {"draws": 1000, "seed": 0, "level": 0.95}.items()}
    sampler = Resampler.make([intact[f][0] for f in shared], **settings)
    support = (-1.0, 1.0) if unit == "share" else None
    e = stats.bootstrap_mean(drops, sampler, support=support)
    return {"value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "n": e.n}


def _by_fact(
    rows: pa.Table, column: str, condition: str, role: str
) -> dict[str, tuple[str, float]]:
    """Fact -> its relation and its mean over draws, for facts measured in every draw."""
    mine = rows.filter(
        pc.and_(pc.equal(rows["condition"], condition), pc.equal(rows["role"], role))
    )
    grouped: dict[str, tuple[str, list[Any]]] = {}
    for r in mine.select(["fact_id", "relation", column]).to_pylist():
        grouped.setdefault(r["fact_id"], (r["relation"], []))[1].append(r[column])
    return {
        fact: (relation, float(np.mean(values)))
        for fact, (relation, values) in grouped.items()
        if None not in values
    }
