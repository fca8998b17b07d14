"""How many components hold each role at a checkpoint.

Shapes: n = facts, K = samples of the facts (all, then halves), R = relations, S = components.
Source: recall and circuits spec, sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from factlife import stats
from factlife.circuits.metrics import halves, nulls
from factlife.circuits.metrics.activity import Activity, Facts
from factlife.circuits.metrics.evolution import NARROW, Evolution, members
from factlife.circuits.metrics.registry import ROLE_NAMES, SETS
from factlife.circuits.metrics.roles import OVERALL, Codes, Scores, above
from factlife.circuits.metrics.series import Series
from factlife.config import Circuits, Intervals
from factlife.stats import Estimate, Measured, Resampler


def share_name(kind: str, name: str) -> str:
    """Metric that holds the share of a kind with a role, or with any (`active`)."""
    return f"circuits.active_{kind}_share" if name == "active" else f"circuits.{kind}_share_{name}"


def role_shares(e: Evolution, series: Series, level: float) -> Iterator[Measured]:
    """Share of components with each role, and with any, overall and by relation.

    n is the number of components, so that value x n is the count. Intervals: halves of the facts.
    """
    for scope, by_checkpoint in e.codes.items():
        for checkpoint, codes in zip(series.checkpoints, by_checkpoint, strict=True):
            for name in SETS if scope == OVERALL else NARROW:
                shares = members(codes, name).mean(axis=1)
                estimate = halves.spread(shares, level, codes.shape[1])
                yield Measured(share_name(e.kind, name), scope, checkpoint.revision, estimate)


def active_heads(
    e: Evolution, series: Series, untrained: Codes | str, level: float
) -> Iterator[Measured]:
    """Number of active heads, and that number above an untrained model's.

    Args:
        untrained: [K, S] overall roles of the heads of a randomly initialised model of the same
            config, from the same samples of the facts; or why there is none.
    """
    for checkpoint, codes in zip(series.checkpoints, e.codes[OVERALL], strict=True):
        active, n = (codes > 0).sum(axis=1).astype(float), codes.shape[1]
        yield Measured(
            "circuits.active_heads", OVERALL, checkpoint.revision,
            halves.spread(active, level, n, (0.0, float(n))),
        )  # fmt: skip
        if isinstance(untrained, str):
            estimate = stats.missing(n, untrained)
        elif untrained.shape != codes.shape:
            estimate = stats.missing(n, "the untrained model has other components")
        else:
            beyond = active - (untrained > 0).sum(axis=1)
            estimate = halves.spread(beyond, level, n, (-float(n), float(n)))
        yield Measured("circuits.active_heads_excess", OVERALL, checkpoint.revision, estimate)


def fact_heads(
    revision: str, s: Scores, facts: Facts, theta: float, resampler: Resampler
) -> Iterator[Measured]:
    """Mean size of H_f over facts, overall and by relation, with a bootstrap interval.

    A mean over facts, unlike their union, is what a bootstrap is made for.
    """
    sizes = s.only_this_fact(theta).astype(float)
    support = (0.0, float(s.fact.shape[1]))
    for scope in (OVERALL, *facts.names):
        inside = np.array([scope in (OVERALL, r) for r in facts.relations])
        estimate = stats.bootstrap_mean(sizes[inside], resampler.subset(inside), support=support)
        yield Measured("circuits.fact_heads_per_fact", scope, revision, estimate)


def relation_heads(
    revision: str, act: Activity, s: Scores, facts: Facts, settings: Circuits,
    intervals: Intervals,
) -> Iterator[Measured]:  # fmt: skip
    """Size of H_r overall against its null, in which the facts are dealt to the relations anew."""
    estimates = _relation_heads(act, s, facts, settings, intervals)
    for suffix, estimate in zip(("null", "excess"), estimates, strict=True):
        yield Measured(f"circuits.relation_heads_{suffix}", OVERALL, revision, estimate)


def _relation_heads(
    act: Activity, s: Scores, facts: Facts, settings: Circuits, intervals: Intervals
) -> tuple[Estimate, Estimate]:
    n = act.layout.size("head")
    if len(facts.names) < 2:
        nothing = stats.missing(n, "one relation has no labels to permute")
        return nothing, nothing
    wider = above(s.general[0], settings.theta) | above(s.entity[0], settings.theta)
    found = float((above(s.relation[0], settings.theta).any(axis=0) & ~wider).sum())
    rng = np.random.default_rng(intervals.seed)
    drawn = nulls.permuted_relation_heads(
        act, facts, wider, settings.theta, settings.scores, settings.null_draws, rng
    )
    tail = (1 - intervals.level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    null = float(drawn.mean()), float(low), float(high), n, nulls.LABELS
    return nulls.band(*null), nulls.excess(found, *null)


def sensitivity(
    scope: str, revisions: Sequence[str], codes: Sequence[Codes], level: float
) -> Iterator[Measured]:
    """Shares of heads by role at another threshold, which the scope names (`tau=0.02`)."""
    for revision, found in zip(revisions, codes, strict=True):
        for name in (*ROLE_NAMES, "active"):
            estimate = halves.spread(members(found, name).mean(axis=1), level, found.shape[1])
            yield Measured(share_name("head", name), scope, revision, estimate)
