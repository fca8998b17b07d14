"""Edges of the circuits that predict an answer, for the drawing in the report.

Shapes: L layers, B prompts, T tokens, H heads, N edges of one kind.

One fact's drawing is the union of the circuits of its answer-predicting positions: every edge that
is reached backward from them, with its contribution after thresholding and renormalising. An edge
comes from the residual stream before its block, or, for `ffn` and `mid` of a serial block, from
the point between attention and FFN at its own position. With merged self edges, attention of a
token to itself is part of its `residual` edge, which then names the heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jaxtyping import Bool
from torch import Tensor

from factlife.circuits.prompts import Item
from factlife.circuits.reach import reach
from factlife.circuits.threshold import Survivors, renormalise
from factlife.config import Circuits
from factlife.schema import CIRCUIT_EDGES
from factlife.tracing import Contributions

COLUMNS = (
    "fact_id", "layer", "edge", "source_position", "target_position", "contribution", "heads"
)  # fmt: skip
SCHEMA = pa.schema([CIRCUIT_EDGES.arrow.field(name) for name in COLUMNS])

Parts = TypeVar("Parts", Contributions, Survivors)
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class _Edges:
    """Edges of one kind in one fact: weight [L, T, T] or [L, T], and c by head [L, T, T, H]."""

    edge: str
    weight: Floats
    heads: Floats | None = None


def answer_edges(
    c: Contributions, alive: Survivors, shown: Sequence[tuple[int, Item]], settings: Circuits
) -> list[pa.Table]:
    """Edges of some prompts of a batch: one table each, `COLUMNS` of the edges table.

    Args:
        c: of the whole batch, before thresholding; `alive` is what survives of it.
        shown: place in the batch, and the prompt.
    """
    return [_fact_table(item, _prompt(c, k), _prompt(alive, k), settings) for k, item in shown]


def _prompt(parts: Parts, place: int) -> Parts:
    """The parts of one prompt, with B = 1."""
    tensors = {f.name: getattr(parts, f.name) for f in dataclasses.fields(parts)}
    one: dict[str, Any] = {
        k: v[:, place : place + 1] for k, v in tensors.items() if isinstance(v, Tensor)
    }
    return dataclasses.replace(parts, **one)


def _fact_table(item: Item, c: Contributions, alive: Survivors, settings: Circuits) -> pa.Table:
    start, end = item.encoded.answer
    ends = torch.zeros_like(c.zero[0])[:, None]  # [1, 1, T]
    ends[..., start - 1 : end - 1] = True
    reached = reach(alive, ends)
    kinds = _kinds(
        renormalise(c, alive, settings),
        reached.stream[1:, 0, 0],
        reached.middle[:, 0, 0],
        merged=settings.self_edges == "merged",
    )
    return pa.concat_tables([_kind_table(item.fact_id, k) for k in kinds])


def _kinds(
    shares: Contributions,
    above: Bool[Tensor, "L T"],
    middle: Bool[Tensor, "L T"],
    *,
    merged: bool,
) -> list[_Edges]:
    """Edges of one prompt, zero where the circuit does not pass.

    Args:
        above, middle: positions reached after each block, and between its attention and FFN.
    """

    def at(part: Tensor, reached: Tensor) -> Floats:
        gate = reached.reshape(reached.shape + (1,) * (part.dim() - 3))
        kept: Floats = (part[:, 0] * gate).cpu().numpy()
        return kept

    heads, residual = at(shares.heads, middle), at(shares.residual, middle)
    kinds = [_Edges("attention", heads.sum(-1), heads)]
    if merged:
        t = np.arange(residual.shape[1])
        own = np.zeros_like(heads)
        own[:, t, t] = heads[:, t, t]
        whole = own.sum(-1)
        whole[:, t, t] += residual
        kinds = [_Edges("attention", (heads - own).sum(-1), heads), _Edges("residual", whole, own)]
    else:
        kinds.append(_Edges("residual", residual))
    kinds.append(_Edges("ffn", at(shares.ffn, above)))
    if shares.mid is not None:
        kinds.append(_Edges("mid", at(shares.mid, above)))
    return kinds


def _kind_table(fact_id: str, kind: _Edges) -> pa.Table:
    at = np.nonzero(kind.weight)
    layer, target, source = (*at, at[-1])[:3]
    n = len(layer)
    columns: dict[str, Any] = {
        "fact_id": pa.repeat(fact_id, n),
        "layer": pa.array(layer, pa.int32()),
        "edge": pa.repeat(kind.edge, n),
        "source_position": pa.array(source, pa.int32()),
        "target_position": pa.array(target, pa.int32()),
        "contribution": pa.array(kind.weight[at].astype(np.float64).clip(max=1.0)),
        "heads": _head_lists(kind, at, n),
    }
    return pa.table([columns[name] for name in COLUMNS], schema=SCHEMA)


def _head_lists(kind: _Edges, at: tuple[Any, ...], n: int) -> pa.Array:
    """The heads that carry each edge, as one list an edge."""
    if kind.heads is None:
        return pa.array([[]] * n, pa.list_(pa.int32()))
    edge, head = np.nonzero(kind.heads[at])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(edge, minlength=n))])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(head, pa.int32()), type=pa.list_(pa.int32())
    )
