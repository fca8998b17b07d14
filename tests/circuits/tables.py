"""Small circuits tables, written as what is active where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from factlife.circuits.bits import pack
from factlife.schema import CHECKPOINTS, CIRCUITS, CIRCUITS_SWEEP

Row = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One fact's tokens: places of the subject, of the answer, and their number."""

    relation: str
    length: int
    subject: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """Layers, heads of a layer, experts of a layer."""

    layers: int
    heads: int
    experts: int = 0


def packed(active: Sequence[int], size: int) -> bytes:
    """The set of these components as a packed value."""
    bits = np.zeros((1, size), dtype=np.bool_)
    bits[0, list(active)] = True
    value: bytes = pack(bits)[0].as_py()
    return value


def rows(
    revision: str,
    prompts: Mapping[str, Prompt],
    shape: Shape,
    heads: Mapping[tuple[str, int], Sequence[int]],
    ffns: Mapping[tuple[str, int], Sequence[int]] | None = None,
    experts: Mapping[tuple[str, int], Sequence[int]] | None = None,
) -> list[Row]:
    """Circuits of one checkpoint; (fact, position) -> active components, none where absent."""
    out = []
    for fact, p in prompts.items():
        for t in range(p.length):
            sets = {
                "heads": packed(heads.get((fact, t), ()), shape.layers * shape.heads),
                "ffns": packed((ffns or {}).get((fact, t), ()), shape.layers),
            }
            if shape.experts:
                active = (experts or {}).get((fact, t), ())
                sets["experts"] = packed(active, shape.layers * shape.experts)
            out.append(
                {
                    "revision": revision, "stage": "main", "step": 1, "fact_id": fact,
                    "relation": p.relation, "position": t, "token": "x",
                    "in_subject": t in p.subject, "in_answer": t in p.answer,
                    "predicts_answer": t + 1 in p.answer, "n_layers": shape.layers,
                    "n_heads": shape.heads, "n_experts": shape.experts, "flags": [], **sets,
                }
            )  # fmt: skip
    return out


def circuits(parts: Sequence[Sequence[Row]]) -> pa.Table:
    """The `circuits` table of several checkpoints."""
    return CIRCUITS.from_rows([row for part in parts for row in part])


def sweep(parts: Sequence[Sequence[Row]], tau: float) -> pa.Table:
    """The same circuits as those of another threshold."""
    names = {c.name for c in CIRCUITS_SWEEP.columns}
    return CIRCUITS_SWEEP.from_rows(
        [{k: v for k, v in (row | {"tau": tau}).items() if k in names} for p in parts for row in p]
    )


def checkpoints(
    tokens: Mapping[str, int | None], stages: Mapping[str, str] | None = None
) -> pa.Table:
    """The `checkpoints` table; the number in a revision's name is its step."""
    return CHECKPOINTS.from_rows(
        [
            {
                "series": "s", "revision": r, "position": i, "repo": "repo",
                "stage": (stages or {}).get(r, "main"), "tokens": t,
                "step": int("".join(filter(str.isdigit, r))), "tokens_source": "name",
                "weights_sha256": [], "flags": [],
            }
            for i, (r, t) in enumerate(tokens.items())
        ]
    )  # fmt: skip


def random_parts(
    seed: int, revisions: Sequence[str], shape: Shape, facts: int = 12, relations: int = 3
) -> tuple[dict[str, Prompt], list[list[Row]]]:
    """Prompts of random shapes, and circuits with components of very different activity."""
    rng = np.random.default_rng(seed)
    prompts = {}
    for i in range(facts):
        length = int(rng.integers(4, 9))
        subject = tuple(range(1, 1 + int(rng.integers(1, 3))))
        answer = tuple(range(length - int(rng.integers(1, 3)), length))
        prompts[f"f{i:02d}"] = Prompt(f"r{i % relations}", length, subject, answer)
    parts = []
    for revision in revisions:
        active = []
        for size in (shape.layers * shape.heads, shape.layers, shape.layers * shape.experts):
            p = rng.random(size) ** 3
            active.append(
                {
                    (f, t): np.flatnonzero(rng.random(size) < p).tolist()
                    for f, prompt in prompts.items()
                    for t in range(prompt.length)
                }
            )
        parts.append(rows(revision, prompts, shape, *active))
    return prompts, parts
