"""Scores c^g, c^e, c^r, c^f and the roles they give each component.

Shapes: n = facts, R = relations, S = components of a kind, K = samples of the facts (all of them;
random halves of them).
Source: recall and circuits spec, section 5 (timecourse-2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factlife.circuits.metrics.activity import Activity, Bools, Facts, activity, measured_facts
from factlife.config import Circuits
from factlife.errors import UsageError
from factlife.schema import ROLES
from factlife.stats import Floats, Ints

Codes = npt.NDArray[np.int8]

ROLE_CODES = ("inactive", "general", "entity", "relation", "fact")
OVERALL = "overall"
_ROUNDING = 1e-9  # a mean that equals theta but for rounding is not above it


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of component at one checkpoint, each in 0…1.

    Attributes:
        general, entity: [K, S] c^g and c^e over each sample's facts.
        relation: [K, R, S] c^r.
        fact: [n, S] c^f.
        samples: [K, n] 1 where a fact is in the sample.
        of: [n] relation of each fact.
    """

    general: Floats
    entity: Floats
    relation: Floats
    fact: Floats
    samples: Floats
    of: Ints

    def overall(self, theta: float) -> Codes:
        """[K, S] role of each component, as `ROLE_CODES`.

        J_x = {s : c^x > theta}; H_g = J_g; H_e = J_e - J_g; H_r = J_r - J_e - J_g; H_f =
        J_f - J_r - J_e - J_g; the rest is inactive. J_r is the union over relations and J_f that
        over facts, taken before the difference, so that each component has one role.
        """
        relation, fact = above(self.relation, theta), self._any_fact(theta)
        general, entity = above(self.general, theta), above(self.entity, theta)
        any_relation: Bools = np.any(relation, axis=1)
        any_fact: Bools = np.any(fact, axis=1)
        return _code(general, entity, any_relation, any_fact)

    def by_relation(self, theta: float) -> Codes:
        """[K, R, S] the same with J_r of one relation and J_f of its facts only."""
        relation, fact = above(self.relation, theta), self._any_fact(theta)
        general, entity = above(self.general, theta), above(self.entity, theta)
        return _code(general[:, None], entity[:, None], relation, fact)

    def _any_fact(self, theta: float) -> Bools:
        """[K, R, S] whether c^f is above theta for a fact of the sample and relation."""
        high = above(self.fact, theta).astype(np.float64)
        found = np.empty(self.relation.shape, dtype=np.bool_)
        for r in range(int(self.of.max()) + 1):
            inside = self.of == r
            found[:, r] = self.samples[:, inside] @ high[inside] > 0
        return found

    def only_this_fact(self, theta: float) -> Ints:
        """[n] components with c^f above theta that hold no wider role: the size of each H_f."""
        wider = above(self.general[0], theta) | above(self.entity[0], theta)
        wider = wider | above(self.relation[0], theta)[self.of]
        sizes: Ints = (above(self.fact, theta) & ~wider).sum(axis=1)
        return sizes


def above(scores: Floats, theta: float) -> Bools:
    """Whether scores are above theta by more than rounding."""
    return scores > theta + _ROUNDING


def _code(general: Bools, entity: Bools, relation: Bools, fact: Bools) -> Codes:
    """The widest role that each component has."""
    code: Codes = np.zeros(fact.shape, dtype=np.int8)
    for number, holds in ((4, fact), (3, relation), (2, entity), (1, general)):
        np.copyto(code, np.int8(number), where=holds)
    return code


def scores(act: Activity, kind: str, facts: Facts, samples: Floats, variant: str) -> Scores:
    """Compute the scores of one kind of component.

    Args:
        samples: [K, n] 1 where a fact is in the sample; the first holds all facts.
        variant: `averaged`, the mean over facts of each fact's mean over tokens; or `pooled`,
            where c^e and c^r are shares of all tokens of all facts (c^g and c^f stay means).
    """
    hits = act.hits[kind]
    r_count = len(facts.names)
    relation = np.empty((len(samples), r_count, act.layout.size(kind)))
    for r in range(r_count):
        inside = facts.relation == r
        sizes = act.sizes["answer"][inside]
        relation[:, r] = mean_activity(hits["answer"][inside], sizes, samples[:, inside], variant)
    return Scores(
        general=mean_activity(hits["general"], act.sizes["general"], samples, "averaged"),
        entity=mean_activity(hits["entity"], act.sizes["entity"], samples, variant),
        relation=relation,
        fact=_shares(hits["answer"], act.sizes["answer"]),
        samples=samples,
        of=facts.relation,
    )


def _shares(hits: npt.NDArray[np.int32], sizes: Ints) -> Floats:
    """m(f, T): each fact's mean over its tokens, [n, S]; 0 where a fact has no token."""
    shares: Floats = hits / np.maximum(sizes, 1)[:, None]
    return shares


def mean_activity(
    hits: npt.NDArray[np.int32], sizes: Ints, samples: Floats, variant: str
) -> Floats:
    """Mean activity over the facts of each sample, 0…1: [n, S] hits -> [K, S].

    `averaged`: mean over facts of m(f, T). `pooled`: all hits over all tokens. 0 in a sample
    without facts.
    """
    averaged = variant == "averaged"
    values = _shares(hits, sizes) if averaged else hits.astype(np.float64)
    weight = samples.sum(axis=1) if averaged else samples @ sizes
    mean: Floats = samples @ values / np.maximum(weight, 1)[:, None]
    return mean


def theta_of(kind: str, settings: Circuits) -> float:
    """Threshold of a kind: heads have theta; FFNs and experts have theta_ffn."""
    return settings.theta if kind == "head" else settings.theta_ffn


def head_roles(circuits_table: pa.Table, settings: Circuits) -> dict[tuple[int, int], str]:
    """Overall role of every attention head at one checkpoint.

    Args:
        circuits_table: `circuits` of one checkpoint.

    Returns:
        (layer, head) -> general, entity, relation, fact or inactive; empty when no fact was
        measured.

    Raises:
        UsageError: the table holds several checkpoints.
    """
    revisions = circuits_table["revision"].unique().to_pylist()
    if len(revisions) > 1:
        raise UsageError(f"roles are of one checkpoint; this table holds {len(revisions)}")
    facts = measured_facts(circuits_table, revisions) if revisions else Facts((), ())
    if not facts.ids:
        return {}
    act = activity(circuits_table, facts, settings)
    everything = np.ones((1, len(facts.ids)))
    found = scores(act, "head", facts, everything, settings.scores)
    overall = found.overall(theta_of("head", settings))
    h = act.layout.n_heads
    return {divmod(i, h): ROLE_CODES[code] for i, code in enumerate(overall[0].tolist())}


# ---- the table -------------------------------------------------------------------------------


def role_rows(revision: str, act: Activity, found: Mapping[str, Scores], facts: Facts,
              settings: Circuits) -> pa.Table:  # fmt: skip
    """Rows of `roles` for one checkpoint: every component, overall and in each relation."""
    parts = []
    for kind, s in found.items():
        theta = theta_of(kind, settings)
        overall, relation = s.overall(theta), s.by_relation(theta)
        everyone, highest = np.ones(len(s.of), dtype=np.bool_), s.relation[0].max(axis=0)
        parts.append(_part(revision, OVERALL, kind, act, overall[0], s, everyone, highest, theta))
        for r, name in enumerate(facts.names):
            codes, c_r = relation[0, r], s.relation[0, r]
            parts.append(_part(revision, name, kind, act, codes, s, s.of == r, c_r, theta))
    return pa.concat_tables(parts)


def _part(revision: str, scope: str, kind: str, act: Activity, codes: Codes, s: Scores,
          inside: Bools, c_r: Floats, theta: float) -> pa.Table:  # fmt: skip
    size, width = len(codes), act.layout.per_layer(kind)
    names = pa.array(ROLE_CODES)
    columns = {
        "revision": pa.repeat(pa.scalar(revision), size),
        "scope": pa.repeat(pa.scalar(scope), size),
        "kind": pa.repeat(pa.scalar(kind), size),
        "layer": np.arange(size) // width,
        "index": np.arange(size) % width,
        "role": names.take(pa.array(codes.astype(np.int64))),
        "score_general": s.general[0],
        "score_entity": s.entity[0],
        "score_relation": c_r,
        "score_fact": s.fact[inside].max(axis=0),
        "n_facts": above(s.fact[inside], theta).sum(axis=0),
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in ROLES.arrow]
    return pa.Table.from_arrays(arrays, schema=ROLES.arrow)
