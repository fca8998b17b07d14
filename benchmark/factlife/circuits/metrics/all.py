"""Every number of the circuits track, from its tables.

Shapes: C = checkpoints, K = samples of the facts (all, then random halves), S = components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factlife import stats
from factlife.circuits.metrics import counts, evolution, halves
from factlife.circuits.metrics.ablation import ablation_metrics
from factlife.circuits.metrics.activity import Activity, Facts, activity, measured_facts
from factlife.circuits.metrics.evolution import Evolution
from factlife.circuits.metrics.registry import SETS
from factlife.circuits.metrics.roles import (
    OVERALL,
    Codes,
    Scores,
    role_rows,
    scores,
    theta_of,
)
from factlife.circuits.metrics.series import Series, measured
from factlife.circuits.metrics.transitions import transition_rows
from factlife.config import Circuits, Intervals
from factlife.schema import ROLES
from factlife.stats import Floats, Measured, Resampler

RANDOM_INIT = "random-init"  # revision of an untrained model's rows, where no step 0 is published
_NO_UNTRAINED = f"neither step 0 nor an untrained model (revision {RANDOM_INIT}) was measured"


@dataclass(frozen=True)
class Found:
    """What the circuits track found.

    Attributes:
        measured: for the rows of `scores`.
        roles: the `roles` table.
        transitions: rows of `transitions`.
    """

    measured: list[Measured]
    roles: pa.Table
    transitions: list[dict[str, Any]]


def measure_all(
    circuits: pa.Table,
    sweep: pa.Table,
    ablations: pa.Table,
    checkpoints: pa.Table,
    *,
    settings: Circuits,
    intervals: Intervals,
) -> Found:
    """Roles, their evolution and their effect.

    Only facts that were measured at every checkpoint count, so that every curve is over one set.

    Args:
        circuits, sweep, ablations, checkpoints: the tables `circuits`, `circuits_sweep`,
            `ablations` and `checkpoints`; the first three are empty where the track was not run.
        settings: the profile's section for circuits.
        intervals: level, draws and seed of the intervals.

    Raises:
        IntegrityError: layers or heads differ inside a checkpoint, or a sweep lacks rows.
    """
    series = measured(checkpoints, circuits)
    revisions = [c.revision for c in series.checkpoints]
    found = list(ablation_metrics(ablations, revisions, intervals))
    if not revisions:
        return Found(found, ROLES.from_rows([]), [])
    facts = measured_facts(circuits, revisions)
    if not facts.ids:
        nothing = stats.missing(0, "no fact was measured at every checkpoint")
        found += [Measured("circuits.active_head_share", OVERALL, r, nothing) for r in revisions]
        return Found(found, ROLES.from_rows([]), [])
    samples = halves.samples(facts.relation, halves.PAIRS, intervals.seed)
    run = _Run(circuits, sweep, series, facts, samples, settings, intervals)
    for checkpoint in series.checkpoints:
        found += run.checkpoint(checkpoint.revision)
    found += run.sensitivity()
    changes: list[dict[str, Any]] = []
    for e in run.evolutions():
        found += counts.role_shares(e, series, intervals.level)
        found += evolution.overlaps(e, series, settings, intervals.level)
        changes += transition_rows(e, series, settings, intervals)
        if e.kind == "head":
            found += counts.active_heads(e, series, run.untrained(e), intervals.level)
            found.append(evolution.general_excess(e, series, intervals.level, intervals.seed))
            found += evolution.split_half(e, series, settings, intervals.level)
            found += evolution.switches(e, series, settings, intervals)
    return Found(found, pa.concat_tables(run.roles), changes)


@dataclass
class _Run:
    """One pass over the checkpoints; only role codes (one byte a component) are kept of each."""

    circuits: pa.Table
    sweep: pa.Table
    series: Series
    facts: Facts
    samples: Floats
    settings: Circuits
    intervals: Intervals
    roles: list[pa.Table] = field(default_factory=list)
    layouts: list[Any] = field(default_factory=list)
    # kind -> scope -> [C] codes [K, S]
    codes: dict[str, dict[str, list[Codes]]] = field(default_factory=dict)
    # `tau=…` or `theta=…` -> [C] overall codes of the heads [K, S]
    other: dict[str, list[Codes]] = field(default_factory=dict)

    def checkpoint(self, revision: str) -> Iterator[Measured]:
        """Roles of one checkpoint, and the numbers that need more of it than its roles."""
        rows = self._rows(self.circuits, revision)
        act = activity(rows, self.facts, self.settings)
        self.layouts.append(act.layout)
        found = {kind: self._scores(act, kind) for kind in act.layout.kinds}
        self.roles.append(role_rows(revision, act, found, self.facts, self.settings))
        for kind, s in found.items():
            self._keep(kind, s)
        self._keep_others(revision, rows, found["head"])
        yield from counts.fact_heads(
            revision, found["head"], self.facts, self.settings.theta, self._resampler
        )
        yield from counts.relation_heads(
            revision, act, found["head"], self.facts, self.settings, self.intervals
        )

    def _rows(self, table: pa.Table, revision: str) -> pa.Table:
        return table.filter(pc.equal(table["revision"], revision))

    def _scores(self, act: Activity, kind: str) -> Scores:
        return scores(act, kind, self.facts, self.samples, self.settings.scores)

    @cached_property
    def _resampler(self) -> Resampler:
        i = self.intervals
        return Resampler.make(self.facts.relations, i.draws, i.seed, i.level)

    def _keep(self, kind: str, s: Scores) -> None:
        theta = theta_of(kind, self.settings)
        relation = s.by_relation(theta)
        scopes = self.codes.setdefault(kind, {})
        scopes.setdefault(OVERALL, []).append(s.overall(theta))
        for r, name in enumerate(self.facts.names):
            scopes.setdefault(name, []).append(np.ascontiguousarray(relation[:, r]))

    def _keep_others(self, revision: str, rows: pa.Table, heads: Scores) -> None:
        """Roles of the heads at the other thresholds."""
        for theta in self.settings.theta_sweep:
            self.other.setdefault(f"theta={theta:g}", []).append(heads.overall(theta))
        swept = self._rows(self.sweep, revision)
        for tau in sorted(swept["tau"].unique().to_pylist()):
            mine = swept.filter(pc.equal(swept["tau"], tau))
            act = activity(rows, self.facts, self.settings, mine)
            codes = self._scores(act, "head").overall(self.settings.theta)
            self.other.setdefault(f"tau={tau:g}", []).append(codes)

    def evolutions(self) -> list[Evolution]:
        """Each kind of component over the checkpoints; one that some model lacks is left out."""
        c = len(self.layouts)
        return [
            Evolution(kind, tuple(self.layouts), scopes)
            for kind, scopes in self.codes.items()
            if len(scopes[OVERALL]) == c
        ]

    def untrained(self, heads: Evolution) -> Codes | str:
        """Overall roles of an untrained model's heads, or why there are none."""
        if self.series.untrained is not None:
            return heads.codes[OVERALL][self.series.untrained]
        rows = self._rows(self.circuits, RANDOM_INIT)
        if not rows.num_rows or not set(self.facts.ids) <= set(
            measured_facts(rows, [RANDOM_INIT]).ids
        ):
            return _NO_UNTRAINED
        act = activity(rows, self.facts, self.settings)
        return self._scores(act, "head").overall(self.settings.theta)

    def sensitivity(self) -> Iterator[Measured]:
        """Shares of roles and their IoU with the end of pretraining at the other thresholds."""
        revisions = [c.revision for c in self.series.checkpoints]
        for scope, codes in self.other.items():
            if len(codes) == len(revisions):  # a sweep that some checkpoint lacks has no curve
                yield from counts.sensitivity(scope, revisions, codes, self.intervals.level)
                yield from self._swept_overlaps(scope, codes)

    def _swept_overlaps(self, scope: str, codes: Sequence[Codes]) -> Iterator[Measured]:
        e = Evolution("head", tuple(self.layouts), {scope: codes})
        end = self.series.reference
        for i, checkpoint in enumerate(self.series.checkpoints):
            reason = evolution.unmeasurable(e, self.series, i, end)
            for name in SETS:
                if reason:
                    estimate = stats.missing(0, reason)
                else:
                    a, b = (evolution.members(codes[j], name) for j in (i, end))
                    estimate = evolution.iou(a, b, self.settings.empty_union, self.intervals.level)
                metric = f"circuits.iou_last_{name}"
                yield Measured(metric, scope, checkpoint.revision, estimate)
