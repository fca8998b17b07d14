"""What the drawings of the circuits track are made from: role maps, and circuits of single facts.

Both are drawn by `circuits.js` from one embedded data block. Edges of circuits are many (a model
of 32 layers has thousands a fact), so they are packed into bytes, and only as many facts and
checkpoints are embedded as a budget allows.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from factlife.report.circuit_roles import LETTERS, ROLES

if TYPE_CHECKING:
    from factlife.report.view import View

Row = dict[str, Any]
BUDGET = 700_000  # characters of edges in one report
EDGES = ("attention", "residual", "ffn", "mid")  # codes of the packed edges
_HEADER = 6  # bytes of an edge: layer, kind, source, target, contribution (two)
_MOST = 255  # layers or tokens that one byte can number
_FULL = 65_535  # a contribution of 1


@dataclass(frozen=True)
class Selection:
    """Circuits that are embedded.

    Attributes:
        facts: of those with edges, all of `of_facts`.
        places: of the checkpoints, of all `of_places` with edges.
        too_long: facts left out because a byte cannot number their tokens.
    """

    facts: tuple[str, ...]
    places: tuple[int, ...]
    of_facts: int
    of_places: int
    too_long: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing was left out."""
        return (len(self.facts), len(self.places)) == (self.of_facts, self.of_places)


def embedded(view: View, selection: Selection | None) -> dict[str, Any]:
    """The data block of the drawings."""
    return {
        "checkpoints": [_checkpoint(view, c) for c in range(len(view.measured))],
        "roles": list(ROLES),
        "letters": LETTERS,
        "map": {
            kind: {
                "layers": m.codes.shape[2],
                "size": m.codes.shape[3],
                "scopes": {scope: m.letters(scope) for scope in m.scopes},
            }
            for kind, m in view.role_maps.items()
        },
        "facts": None if selection is None else fact_circuits(view, selection),
    }


def _checkpoint(view: View, c: int) -> Row:
    return {k: view.measured[c][k] for k in ("revision", "tokens", "step")}


# ---- which circuits --------------------------------------------------------------------------


def select(view: View, budget: int = BUDGET) -> Selection | None:
    """Facts and checkpoints whose edges fit the budget; None where there are no edges.

    With too many for it, about as many facts as checkpoints are kept: facts from all over the
    relations; the first and the last checkpoint and others evenly on the log axis between them.
    """
    edges = view.circuit_edges
    places = {c["revision"]: i for i, c in enumerate(view.measured)}
    counted = edges.group_by(["fact_id", "revision"]).aggregate([([], "count_all")]).to_pylist()
    sizes = {
        (r["fact_id"], places[r["revision"]]): r["count_all"]
        for r in counted
        if r["revision"] in places
    }
    if not sizes or pc.max(edges["layer"]).as_py() > _MOST:
        return None
    ids = sorted({f for f, _ in sizes}, key=lambda f: _reading_order(view, f))
    long = pc.greater(edges["target_position"], _MOST)
    too_long = set(pc.unique(edges.filter(long)["fact_id"]).to_pylist())
    facts = [f for f in ids if f not in too_long]
    checkpoints = sorted({c for _, c in sizes})
    each = math.ceil(4 / 3 * (_HEADER + _mask_bytes(view) / 2))
    n_facts, n_places = _shape(len(facts), len(checkpoints), sizes, each, budget)
    return Selection(
        tuple(_spread(facts, n_facts)), tuple(_log_spread(view, checkpoints, n_places)),
        len(ids), len(checkpoints), len(too_long),
    )  # fmt: skip


def _reading_order(view: View, fact: str) -> tuple[int, str]:
    relation = view.circuit_facts.get(fact, "")
    order = view.circuit_scopes
    return (order.index(relation) if relation in order else len(order), fact)


def _shape(
    n_facts: int, n_places: int, sizes: Mapping[tuple[str, int], int], each: int, budget: int
) -> tuple[int, int]:
    """How many facts and checkpoints fit if every circuit were as large as the largest tenth."""
    if sum(sizes.values()) * each <= budget:
        return n_facts, n_places
    typical = each * float(np.quantile(list(sizes.values()), 0.9))
    fit = max(1, int(budget / typical))
    facts = min(n_facts, max(1, math.isqrt(fit)))
    places = min(n_places, max(1, fit // facts))
    return min(n_facts, max(1, fit // places)), places


def _spread(items: Sequence[str], n: int) -> list[str]:
    """n of the items, evenly from the first to the last."""
    if n >= len(items):
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, n)]


def _log_spread(view: View, places: Sequence[int], n: int) -> list[int]:
    """n checkpoints: the last, the first, and the nearest to even places on the axis between."""
    if n >= len(places):
        return list(places)
    if n < 3:
        return sorted({places[-1], places[0]} if n == 2 else {places[-1]})
    at = {c: view.axis.place(view.axis.values[c]) for c in places}
    chosen = {places[0], places[-1]}
    for target in np.linspace(at[places[0]], at[places[-1]], n)[1:-1]:
        rest = [c for c in places if c not in chosen]
        chosen.add(min(rest, key=lambda c: (abs(at[c] - target), c)))
    return sorted(chosen)


def _mask_bytes(view: View) -> int:
    """Bytes that have one bit a head of a layer."""
    heads = pc.max(pc.list_flatten(view.circuit_edges["heads"])).as_py()
    return 1 if heads is None else heads // 8 + 1


# ---- packing ---------------------------------------------------------------------------------


def fact_circuits(view: View, selection: Selection) -> dict[str, Any]:
    """Prompts and packed edges of the selected facts and checkpoints."""
    edges, width = view.circuit_edges, _mask_bytes(view)
    revisions = [view.measured[c]["revision"] for c in selection.places]
    wanted = pc.and_(
        pc.is_in(edges["fact_id"], pa.array(selection.facts, type=pa.string())),
        pc.is_in(edges["revision"], pa.array(revisions, type=pa.string())),
    )
    edges = edges.filter(wanted)
    prompts = _prompts(view, selection)
    return {
        "layers": 1 + int(pc.max(edges["layer"]).as_py()),
        "mask": width,
        "parallel": not pc.any(pc.equal(edges["edge"], "mid")).as_py(),
        "edges": list(EDGES),
        "places": list(selection.places),
        "items": [
            {**prompts[f], "circuits": _packed(edges, f, revisions, width)}
            for f in selection.facts
            if f in prompts
        ],
    }


def _prompts(view: View, selection: Selection) -> dict[str, Row]:
    """Tokens of each selected fact, and which of them are subject, answer, or predict it.

    Read at the last selected checkpoint: the prompts of a run are the same at all of them.
    """
    revision = view.measured[selection.places[-1]]["revision"]
    table = view.circuits
    wanted = pc.and_(
        pc.equal(table["revision"], revision),
        pc.is_in(table["fact_id"], pa.array(selection.facts, type=pa.string())),
    )
    rows: dict[str, list[Row]] = {}
    for r in table.filter(wanted).to_pylist():
        rows.setdefault(r["fact_id"], []).append(r)
    return {fact: _prompt(view, fact, positions) for fact, positions in rows.items()}


def _prompt(view: View, fact: str, positions: list[Row]) -> Row:
    positions.sort(key=lambda r: r["position"])
    flags = {"subject_at": "in_subject", "answer_at": "in_answer", "predicts": "predicts_answer"}
    return {
        "fact": fact,
        "relation": positions[0]["relation"],
        "subject": view.subject(fact),
        "answer": view.answers.get(fact),
        "tokens": [r["token"] or "" for r in positions],
        **{k: [r["position"] for r in positions if r[c]] for k, c in flags.items()},
    }


def _packed(edges: pa.Table, fact: str, revisions: Sequence[str], width: int) -> list[str]:
    """The fact's edges at each checkpoint as base64."""
    mine = edges.filter(pc.equal(edges["fact_id"], fact))
    keys = [("layer", "descending"), ("contribution", "descending")]
    found = []
    for revision in revisions:
        rows = mine.filter(pc.equal(mine["revision"], revision)).sort_by(keys)
        found.append(base64.b64encode(_bytes(rows, width)).decode())
    return found


def _bytes(rows: pa.Table, width: int) -> bytes:
    """Layer, kind, source, target, contribution x 65535 (high byte first); heads of attention."""
    kinds = pc.index_in(rows["edge"], pa.array(EDGES)).to_numpy()
    share = np.rint(rows["contribution"].to_numpy() * _FULL).astype(np.int64)
    columns = [rows["layer"].to_numpy(), kinds, rows["source_position"].to_numpy(),
               rows["target_position"].to_numpy(), share >> 8, share & 255]  # fmt: skip
    full = np.zeros((rows.num_rows, _HEADER + width), dtype=np.uint8)
    full[:, :_HEADER] = np.stack(columns, axis=1)
    full[:, _HEADER:] = _masks(rows["heads"], width)
    used = np.ones_like(full, dtype=bool)
    used[kinds != 0, _HEADER:] = False  # only attention has heads
    packed: bytes = full[used].tobytes()
    return packed


def _masks(heads: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """[n, width] one bit a head, lowest first."""
    bits = np.zeros((len(heads), width * 8), dtype=np.uint8)
    row = pc.list_parent_indices(heads).to_numpy()
    bits[row, pc.list_flatten(heads).to_numpy()] = 1
    return np.packbits(bits, axis=1, bitorder="little")
