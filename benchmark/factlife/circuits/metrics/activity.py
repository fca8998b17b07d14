"""Rows of `circuits` -> how often each component is active for each fact.

Shapes: n = facts, R = relations, S = components of a kind, P = rows (positions) of a checkpoint.
Source: recall and circuits spec, sections 4 and 5 (timecourse-2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from factlife.circuits.bits import unpack
from factlife.config import Circuits
from factlife.errors import IntegrityError
from factlife.stats import Ints

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]

TOKEN_SETS = ("general", "entity", "answer")  # T_g, T_e, T_a
COLUMNS = {"head": "heads", "ffn": "ffns", "expert": "experts"}


@dataclass(frozen=True)
class Layout:
    """The components of a model: heads and experts layer by layer, one FFN a layer."""

    n_layers: int
    n_heads: int
    n_experts: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of components that the model has."""
        return ("head", "ffn", "expert") if self.n_experts else ("head", "ffn")

    def per_layer(self, kind: str) -> int:
        """Components of a layer."""
        return {"head": self.n_heads, "ffn": 1, "expert": self.n_experts}[kind]

    def size(self, kind: str) -> int:
        """S, components of a kind."""
        return self.n_layers * self.per_layer(kind)

    def layer(self, kind: str) -> Ints:
        """[S] layer of each component."""
        layers: Ints = np.repeat(np.arange(self.n_layers), self.per_layer(kind))
        return layers

    def strata(self, kind: str) -> Ints:
        """[S] components that nulls may exchange for one another: those of one layer.

        One FFN a layer leaves nothing to exchange within a layer, so FFNs are exchanged among all
        layers.
        """
        return np.zeros(self.n_layers, dtype=np.int64) if kind == "ffn" else self.layer(kind)


@dataclass(frozen=True)
class Facts:
    """The facts that every number is over.

    Attributes:
        ids, relations: [n], sorted by relation and id.
    """

    ids: tuple[str, ...]
    relations: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """[R] the relations."""
        return tuple(dict.fromkeys(self.relations))

    @cached_property
    def relation(self) -> Ints:
        """[n] place of each fact's relation among `names`."""
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place[r] for r in self.relations], dtype=np.int64)


def measured_facts(circuits: pa.Table, revisions: Sequence[str]) -> Facts:
    """Facts whose circuits are known at every position of every one of these revisions.

    Every curve is thus over one fixed set.
    """
    rows = circuits.filter(
        pc.is_in(circuits["revision"], value_set=pa.array(revisions, pa.string()))
    )
    rows = rows.append_column("whole", pc.is_valid(rows["heads"]))
    keys = ["revision", "fact_id", "relation"]
    groups = rows.group_by(keys).aggregate([("whole", "all"), ("predicts_answer", "any")])
    groups = groups.filter(pc.and_kleene(groups["whole_all"], groups["predicts_answer_any"]))
    counts = groups.group_by(["fact_id", "relation"]).aggregate([("revision", "count")])
    counts = counts.filter(pc.equal(counts["revision_count"], len(revisions)))
    kept = sorted(zip(counts["relation"].to_pylist(), counts["fact_id"].to_pylist(), strict=True))
    return Facts(tuple(f for _, f in kept), tuple(r for r, _ in kept))


@dataclass(frozen=True)
class Activity:
    """How often each component is active for each fact at one checkpoint.

    Attributes:
        layout: the model's components.
        sizes: token set -> [n] tokens of each fact.
        hits: kind -> token set -> [n, S] tokens whose circuit holds the component.
    """

    layout: Layout
    sizes: Mapping[str, Ints]
    hits: Mapping[str, Mapping[str, Counts]]


def activity(
    rows: pa.Table, facts: Facts, settings: Circuits, sweep: pa.Table | None = None
) -> Activity:
    """Count, for each fact, the tokens of T_g, T_e and T_a whose circuit holds each component.

    Args:
        rows: `circuits` of one checkpoint.
        facts: all of them measured in `rows`.
        settings: `subject_offset` and `answer_in_general` shape the token sets.
        sweep: `circuits_sweep` of one checkpoint and tau, whose circuits stand in for those of
            `rows`.

    Raises:
        IntegrityError: layers or heads differ inside the checkpoint, or the sweep lacks a row.
    """
    rows, keys = _ordered(rows, facts)
    layout = _layout(rows)
    active = rows
    if sweep is not None:
        active, others = _ordered(sweep, facts)
        if not np.array_equal(keys, others):
            raise IntegrityError(
                "table circuits_sweep: its facts and positions are not those of circuits; "
                "measure this checkpoint anew"
            )
    fact = keys // _STRIDE
    masks = _token_sets(rows, keys, settings)
    n = len(facts.ids)
    sizes = {name: np.bincount(fact[m], minlength=n).astype(np.int64) for name, m in masks.items()}
    hits = {}
    for kind in layout.kinds:
        bits = unpack(active[COLUMNS[kind]], layout.size(kind))
        hits[kind] = {name: _hits(bits, fact, mask, n) for name, mask in masks.items()}
    return Activity(layout, sizes, hits)


_STRIDE = 1 << 32  # more than any position; a row's key is fact x stride + position


def _ordered(rows: pa.Table, facts: Facts) -> tuple[pa.Table, Ints]:
    """Rows of these facts by fact and position, and their keys."""
    place = pc.index_in(rows["fact_id"], value_set=pa.array(facts.ids, pa.string()))
    rows = rows.filter(pc.is_valid(place))
    index = np.asarray(place.drop_null(), dtype=np.int64)
    keys = index * _STRIDE + np.asarray(rows["position"], dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    return rows.take(pa.array(order)), keys[order]


def _layout(rows: pa.Table) -> Layout:
    found = [rows[name].unique().to_pylist() for name in ("n_layers", "n_heads", "n_experts")]
    if any(len(values) != 1 or values[0] is None for values in found):
        revision = rows["revision"][0].as_py() if rows.num_rows else "?"
        raise IntegrityError(
            f"table circuits: layers, heads or experts differ inside {revision}; "
            "measure this checkpoint anew"
        )
    return Layout(*(values[0] for values in found))


def _token_sets(rows: pa.Table, keys: Ints, settings: Circuits) -> dict[str, Bools]:
    """T_g, T_e and T_a as masks [P] over a checkpoint's rows (section 4)."""
    flags = ("in_subject", "in_answer", "predicts_answer")
    subject, in_answer, predicts = (
        np.asarray(rows[f].fill_null(False)).astype(np.bool_) for f in flags
    )
    moved = keys[subject] + settings.subject_offset  # a shift past an end of the prompt hits no row
    everywhere = np.ones(len(keys), dtype=np.bool_)
    general = everywhere if settings.answer_in_general else ~in_answer
    return {"general": general, "entity": np.isin(keys, moved) | predicts, "answer": predicts}


def _hits(bits: Bools, fact: Ints, mask: Bools, n: int) -> Counts:
    """Rows of each fact inside the mask that hold each component: [n, S]."""
    out = np.zeros((n, bits.shape[1]), dtype=np.int32)
    inside = fact[mask]
    if len(inside):
        starts = np.flatnonzero(np.diff(inside, prepend=-1))
        rows = bits[mask].view(np.uint8)
        out[inside[starts]] = np.add.reduceat(rows, starts, axis=0, dtype=np.int32)
    return out
