"""Rows of `ablations` -> what recall loses without a role, and keeps with only the circuit.

Shapes: n = facts that were measured in every condition compared, B = bootstrap draws.
Source: recall and circuits spec, section 6 (causal check).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factlife import stats
from factlife.circuits.metrics.registry import ROLE_NAMES
from factlife.circuits.metrics.roles import OVERALL
from factlife.config import Intervals
from factlife.stats import Estimate, Floats, Measured, Resampler

_MEASURES = {"": "whole_answer", "_nats": "logprob_sum_nats"}
_SUPPORT = {"": (-1.0, 1.0), "_nats": None}
_KEPT = {
    "faithfulness": "circuit_only",
    "faithfulness_control": "circuit_control",
    "faithfulness_none": "none_kept",
}

Outcomes = Mapping[str, Mapping[str, float]]  # measure -> fact -> mean over draws


@dataclass(frozen=True)
class Ablated:
    """One checkpoint's ablations.

    Attributes:
        relation: fact -> relation.
        outcomes: (role, condition) -> outcomes; (none, intact) holds the intact model's.
        reasons: role -> why something was not measured.
    """

    relation: Mapping[str, str]
    outcomes: Mapping[tuple[str, str], Outcomes]
    reasons: Mapping[str, str]

    def of(self, condition: str) -> Outcomes:
        """Outcomes of a condition that belongs to no role, such as `intact`."""
        return next((o for (_, c), o in self.outcomes.items() if c == condition), {})


def ablated(table: pa.Table) -> dict[str, Ablated]:
    """Average the draws of every condition and fact, by revision."""
    out: dict[str, Ablated] = {}
    for revision in table["revision"].unique().to_pylist():
        rows = table.filter(pc.equal(table["revision"], revision))
        reasons = {
            r["role"]: r["reason"] for r in rows.select(["role", "reason"]).to_pylist()
            if r["reason"]
        }  # fmt: skip
        rows = rows.filter(pc.is_valid(rows["logprob_sum_nats"]))
        right = pc.cast(rows["whole_answer"], pa.float64())
        rows = rows.set_column(rows.schema.get_field_index("whole_answer"), "whole_answer", right)
        means = rows.group_by(["role", "condition", "fact_id", "relation"], use_threads=False)
        means = means.aggregate([(m, "mean") for m in _MEASURES.values()])
        outcomes: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        relation = {}
        for r in means.to_pylist():
            relation[r["fact_id"]] = r["relation"]
            found = outcomes.setdefault((r["role"], r["condition"]), {})
            for m in _MEASURES.values():
                found.setdefault(m, {})[r["fact_id"]] = r[f"{m}_mean"]
        out[revision] = Ablated(relation, outcomes, reasons)
    return out


def ablation_metrics(
    table: pa.Table, revisions: Sequence[str], intervals: Intervals
) -> Iterator[Measured]:
    """Drops of recall by role, against controls, and faithfulness, at every ablated revision."""
    by_revision = ablated(table)
    for revision in revisions:
        if revision not in by_revision:
            continue
        found = by_revision[revision]
        facts = sorted(found.relation, key=lambda f: (found.relation[f], f))
        relations = [found.relation[f] for f in facts]
        resampler = Resampler.make(relations, intervals.draws, intervals.seed, intervals.level)
        for scope in (OVERALL, *dict.fromkeys(relations)):
            inside = np.array([scope in (OVERALL, r) for r in relations], dtype=np.bool_)
            sub = resampler.subset(inside)
            names = [f for f, k in zip(facts, inside, strict=True) if k]
            for metric, estimate in _roles(found, names, sub):
                yield Measured(f"circuits.{metric}", scope, revision, estimate)
            for metric, estimate in _circuits(found, names, sub):
                yield Measured(f"circuits.{metric}", scope, revision, estimate)


def _columns(
    first: Outcomes, second: Outcomes, measure: str, facts: Sequence[str]
) -> tuple[Floats, Floats, stats.Ints]:
    """Two conditions' outcomes of the facts that both have, and the places of these facts."""
    a, b = first.get(measure, {}), second.get(measure, {})
    both = [i for i, f in enumerate(facts) if f in a and f in b]
    x, y = (np.array([o[facts[i]] for i in both], dtype=np.float64) for o in (a, b))
    return x, y, np.array(both, dtype=np.int64)


def _difference(
    first: Outcomes, second: Outcomes, suffix: str, facts: Sequence[str], resampler: Resampler,
    reason: str,
) -> Estimate:  # fmt: skip
    """Mean over facts of the first condition minus the second."""
    x, y, places = _columns(first, second, _MEASURES[suffix], facts)
    if not len(x):
        return stats.missing(0, reason)
    draws = Resampler(resampler.counts[:, places], resampler.level)
    return stats.bootstrap_mean(x - y, draws, support=_SUPPORT[suffix])


def _roles(
    found: Ablated, facts: Sequence[str], resampler: Resampler
) -> Iterator[tuple[str, Estimate]]:
    """Intact minus ablated, and control minus ablated, per role: > 0 where the role matters."""
    intact = found.of("intact")
    for role in ROLE_NAMES:
        whole = found.outcomes.get((role, "whole_role"), {})
        gone = found.outcomes.get((role, "role"), {})
        control = found.outcomes.get((role, "control"), {})
        why = found.reasons.get(role)
        no_role, no_control = why or "no head holds this role", why or "the role has no controls"
        for suffix in _MEASURES:
            total = _difference(intact, whole, suffix, facts, resampler, no_role)
            yield f"ablation_whole{suffix}_{role}", total
            drop = _difference(intact, gone, suffix, facts, resampler, no_control)
            yield f"ablation_drop{suffix}_{role}", drop
            effect = _difference(control, gone, suffix, facts, resampler, no_control)
            yield f"ablation_effect{suffix}_{role}", effect


def _circuits(
    found: Ablated, facts: Sequence[str], resampler: Resampler
) -> Iterator[tuple[str, Estimate]]:
    """Recall with only the circuit kept as a share of intact recall, and its controls."""
    intact = found.of("intact")
    for metric, condition in _KEPT.items():
        yield metric, _ratio(found.of(condition), intact, facts, resampler)
    reason = "no circuit was kept by itself"
    drop = _difference(intact, found.of("circuit_only"), "_nats", facts, resampler, reason)
    yield "circuit_only_drop_nats", drop


def _ratio(
    kept: Outcomes, intact: Outcomes, facts: Sequence[str], resampler: Resampler
) -> Estimate:
    """Sum of recall in one condition over that of the intact model, with a bootstrap interval.

    Above 1 where the ablated model recalls more. When no resample differs (all facts that are
    recalled stay so, say) Wilson's interval for the facts recalled intact stands in.
    """
    x, y, places = _columns(kept, intact, "whole_answer", facts)
    if not len(x):
        return stats.missing(0, "this condition was not measured")
    if not y.sum():
        return stats.missing(len(x), "the intact model recalls none of these facts")
    w = resampler.counts[:, places]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(w @ y > 0, (w @ x) / (w @ y), np.nan)
    value = float(x.sum() / y.sum())
    low, high = resampler.interval(drawn, value)
    if not stats.flat(low, high):
        return Estimate(value, low, high, len(x), "bootstrap of facts within relations")
    m = round(y.sum())
    down, up = stats.unvaried(np.full(m, min(value, 1.0)), np.ones(m), (0.0, 1.0), resampler.level)
    return Estimate(value, value - down, value + up, len(x), "wilson")
