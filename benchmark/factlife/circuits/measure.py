"""Model -> rows of `circuits`, `circuits_sweep` and `circuit_edges` at one checkpoint.

Every prompt is prepared once a tokenizer (`prepare`) and traced once a checkpoint: contributions
are computed once and thresholded at every tau. Tables are built column by column.

Shapes: F facts of a batch, T tokens, K components, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from factlife.circuits import bits
from factlife.circuits.edges import answer_edges
from factlife.circuits.prompts import Item, Prepared, prepare
from factlife.circuits.reach import Reached, circuits
from factlife.circuits.threshold import survivors
from factlife.config import Profile
from factlife.schema import CIRCUIT_EDGES, CIRCUITS, CIRCUITS_SWEEP, Table
from factlife.scoring.targets import batches, pad
from factlife.tracing import Adapter, Layout, adapter_for, contributions

__all__ = ["Measured", "Prepared", "measure", "prepare"]

ZERO_RESIDUAL = "zero_residual"
NOT_FINITE = "the model's activations are not finite"
# Contributions of one batch, [L, B, T, T, H] in fp32, stay below this.
CONTRIBUTION_BYTES = 256 * 2**20

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Tables of one checkpoint.

    Attributes:
        circuits: one row a position, or one with the reason for a fact that was not traced.
        sweep: the same circuits at the other thresholds, traced facts only.
        edges: edges of the circuits that predict the answers of the shown facts.
    """

    circuits: pa.Table
    sweep: pa.Table
    edges: pa.Table


@dataclass
class _Found:
    """What the batches gave, row by row: facts in the order of the batches.

    Attributes:
        item, position: of each row.
        zero: whether the row's trace met a group that is all zero.
        active: at each tau, packed columns (heads, FFNs, experts) in pieces.
        broken: items whose states are not finite; they have no rows.
    """

    item: list[Ints] = field(default_factory=list)
    position: list[Ints] = field(default_factory=list)
    zero: list[Bools] = field(default_factory=list)
    active: dict[float, list[tuple[pa.Array | None, ...]]] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)
    edges: list[pa.Table] = field(default_factory=list)


@torch.inference_mode()
def measure(
    model: Any, tokenizer: Any, prepared: Prepared, profile: Profile, keys: Mapping[str, Any]
) -> Measured:
    """Tables of one checkpoint.

    Args:
        model: a Hugging Face causal LM in eval mode.
        keys: revision, stage and step, repeated in every row.

    Raises:
        UsageError: the model's architecture cannot be traced.
    """
    adapter = adapter_for(model)
    found = _Found()
    for batch in _batches(prepared, adapter.layout, profile):
        _trace(model, adapter, [(i, prepared.items[i]) for i in batch], profile, found)
    return Measured(
        circuits=_circuits(found, prepared, tokenizer, adapter.layout, profile, keys),
        sweep=_sweep(found, prepared, profile, keys),
        edges=_with_keys(CIRCUIT_EDGES, found.edges, keys),
    )


def _batches(prepared: Prepared, layout: Layout, profile: Profile) -> Iterator[list[int]]:
    """Prompts of similar length, bounded by tokens and by the memory of their contributions."""
    usable = prepared.usable
    lengths = [len(prepared.items[i].encoded.ids) for i in usable]
    for batch in batches(lengths, profile.execution.batch_tokens):
        longest = max(lengths[k] for k in batch)
        one = 4 * layout.n_layers * layout.n_heads * longest**2
        size = max(1, CONTRIBUTION_BYTES // one)
        for start in range(0, len(batch), size):
            yield [usable[k] for k in batch[start : start + size]]


def taus(profile: Profile) -> list[float]:
    """The protocol's threshold, then the others of the sweep, each once."""
    return list(dict.fromkeys([profile.circuits.tau, *profile.circuits.tau_sweep]))


def _trace(
    model: Any, adapter: Adapter, batch: Sequence[tuple[int, Item]], profile: Profile, found: _Found
) -> None:
    """Contributions of one batch, its circuits at every tau, and the edges to show."""
    device = next(model.parameters()).device
    padded = pad([item.encoded.ids for _, item in batch], "right", device)
    there: Bools = padded.mask.cpu().numpy().astype(np.bool_)
    with _finite_states(model) as states:
        c = contributions(model, adapter, padded, profile.execution.kernel)
    finite: Bools = np.all(states[0].cpu().numpy() | ~there, axis=1)
    found.broken += [i for (i, _), ok in zip(batch, finite, strict=True) if not ok]
    kept = there & finite[:, None]  # [F, T]
    fact, position = np.nonzero(kept)
    found.item.append(np.array([i for i, _ in batch], dtype=np.int64)[fact])
    found.position.append(position.astype(np.int64))
    found.zero.append((c.zero.any(dim=0).cummax(dim=1).values).cpu().numpy()[kept])
    for tau in taus(profile):
        alive = survivors(c, tau, profile.circuits)
        reached = circuits(alive)
        found.active.setdefault(tau, []).append(_packed(reached, kept))
        if tau == profile.circuits.tau:
            shown = [(k, item) for k, (_, item) in enumerate(batch) if item.shown and finite[k]]
            found.edges += answer_edges(c, alive, shown, profile.circuits)


@contextmanager
def _finite_states(model: Any) -> Iterator[list[Bool[Tensor, "F T"]]]:
    """Collects, at each forward while open, where the last residual stream is finite."""
    found: list[Tensor] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output[0].isfinite().all(dim=-1))

    handle = model.base_model.register_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def _packed(reached: Reached, kept: Bools) -> tuple[pa.Array | None, ...]:
    """Columns heads, ffns and experts of the kept rows [F, T]."""

    def column(active: Tensor | None) -> pa.Array | None:
        if active is None:
            return None
        return bits.pack(active.flatten(2).cpu().numpy()[kept])

    return column(reached.heads), column(reached.ffns), column(reached.experts)


# ---- tables ----------------------------------------------------------------------------------


def _circuits(
    found: _Found,
    prepared: Prepared,
    tokenizer: Any,
    layout: Layout,
    profile: Profile,
    keys: Mapping[str, Any],
) -> pa.Table:
    broken = dict.fromkeys(found.broken, NOT_FINITE)
    reasons = {i: it.encoded.reason or broken.get(i) for i, it in enumerate(prepared.items)}
    dropped = np.array([i for i, reason in reasons.items() if reason], dtype=np.int64)
    item = np.concatenate([*found.item, dropped])
    position = np.concatenate([*found.position, np.zeros(len(dropped), dtype=np.int64)])
    blank = np.arange(len(item)) >= len(item) - len(dropped)
    place = np.lexsort((position, item))  # by item, then position
    zero = np.concatenate([*found.zero, np.zeros(len(dropped), dtype=np.bool_)])
    columns = {
        **_facts(prepared, item[place]),
        **_tokens(prepared, tokenizer, item[place], position[place], blank[place]),
        **_sizes(layout, blank[place]),
        **_active(found, profile.circuits.tau, place, len(dropped)),
        "flags": _flags(prepared, item[place], zero[place]),
        "reason": pa.array([reasons[i] for i in item[place].tolist()], pa.string()),
    }
    return _table(CIRCUITS, columns, len(item), keys)


def _facts(prepared: Prepared, item: Ints) -> dict[str, pa.Array]:
    ids = pa.array([i.fact_id for i in prepared.items], pa.string())
    relations = pa.array([i.relation for i in prepared.items], pa.string())
    return {"fact_id": ids.take(pa.array(item)), "relation": relations.take(pa.array(item))}


def _tokens(
    prepared: Prepared, tokenizer: Any, item: Ints, position: Ints, blank: Bools
) -> dict[str, pa.Array]:
    """Columns of each row's own token; null where the fact was not traced."""
    encoded = [i.encoded for i in prepared.items]
    lengths = np.array([len(e.ids) for e in encoded], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    ids = np.fromiter(chain.from_iterable(e.ids for e in encoded), np.int64, int(lengths.sum()))
    subject = np.array([e.subject for e in encoded], dtype=np.int64).reshape(-1, 2)[item]
    answer = np.array([e.answer for e in encoded], dtype=np.int64).reshape(-1, 2)[item]
    distinct, which = np.unique(ids[starts[item] + position], return_inverse=True)
    texts = np.array([tokenizer.decode([i]) for i in distinct.tolist()], dtype=object)

    def inside(span: Ints, at: Ints) -> pa.Array:
        return pa.array((span[:, 0] <= at) & (at < span[:, 1]), pa.bool_(), mask=blank)

    return {
        "position": pa.array(position, pa.int32()),
        "token": pa.array(texts[which] if len(which) else [], pa.string(), mask=blank),
        "in_subject": inside(subject, position),
        "in_answer": inside(answer, position),
        "predicts_answer": inside(answer, position + 1),
    }


def _sizes(layout: Layout, blank: Bools) -> dict[str, pa.Array]:
    sizes = {
        "n_layers": layout.n_layers, "n_heads": layout.n_heads, "n_experts": layout.n_experts
    }  # fmt: skip
    return {
        name: pa.array(np.full(len(blank), size, dtype=np.int32), mask=blank)
        for name, size in sizes.items()
    }


def _active(found: _Found, tau: float, place: Ints, dropped: int) -> dict[str, pa.Array]:
    """The bit columns at one tau; null in the `dropped` rows, which come last before `place`."""
    columns = {}
    for k, name in enumerate(("heads", "ffns", "experts")):
        pieces = [p[k] for p in found.active.get(tau, []) if p[k] is not None]
        blank = dropped if pieces else len(place)
        column = pa.concat_arrays([*pieces, pa.nulls(blank, pa.binary())])
        columns[name] = column.take(pa.array(place))
    return columns


def _flags(prepared: Prepared, item: Ints, zero: Bools) -> pa.Array:
    flags = [list(i.flags) for i in prepared.items]
    rows = zip(item.tolist(), zero.tolist(), strict=True)
    return pa.array(
        [flags[i] + [ZERO_RESIDUAL] if z else flags[i] for i, z in rows], pa.list_(pa.string())
    )


def _sweep(
    found: _Found, prepared: Prepared, profile: Profile, keys: Mapping[str, Any]
) -> pa.Table:
    empty = np.empty(0, dtype=np.int64)
    item = np.concatenate([empty, *found.item])
    position = np.concatenate([empty, *found.position])
    place = np.lexsort((position, item))
    same = {
        **_facts(prepared, item[place]),
        "position": pa.array(position[place], pa.int32()),
    }
    pieces = [
        _table(
            CIRCUITS_SWEEP,
            {**same, **_active(found, tau, place, 0), "tau": pa.array(np.full(len(item), tau))},
            len(item),
            keys,
        )
        for tau in taus(profile)
        if tau != profile.circuits.tau
    ]
    return pa.concat_tables([CIRCUITS_SWEEP.arrow.empty_table(), *pieces])


def _table(
    spec: Table, columns: Mapping[str, pa.Array], n: int, keys: Mapping[str, Any]
) -> pa.Table:
    """A table of n rows, with the checkpoint's keys repeated."""
    repeated = {
        name: pa.repeat(pa.scalar(value, spec.arrow.field(name).type), n)
        for name, value in keys.items()
    }
    every = {**repeated, **columns}
    return spec.check(pa.table([every[name] for name in spec.arrow.names], schema=spec.arrow))


def _with_keys(spec: Table, pieces: Sequence[pa.Table], keys: Mapping[str, Any]) -> pa.Table:
    if not pieces:
        return spec.arrow.empty_table()
    joined = pa.concat_tables(pieces)
    columns = {name: joined[name].combine_chunks() for name in joined.column_names}
    return _table(spec, columns, joined.num_rows, keys)
