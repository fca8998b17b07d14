"""Folders of submissions as many people would hand them in: results with curves beside them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.hub.results import make_result

from factlife import schema
from factlife.result import metric_key
from factlife.scores import METRICS, Metric
from factlife.store import sha256_file, write_json

Row = dict[str, Any]
ARCHITECTURES = (
    "Olmo2ForCausalLM", "LlamaForCausalLM", "GPTNeoXForCausalLM", "GPT2LMHeadModel",
)  # fmt: skip
SCOPES = ("overall", "LOC", "NAME")
KNOWN = tuple(m for m in METRICS if not m.name.startswith("circuits.expert"))


def submission(
    folder: Path, name: str, seed: int, *, profile: str = "reference", checkpoints: int = 14,
    metrics: Sequence[Metric] = KNOWN, transitions: bool = True, **changes: Any,
) -> Row:  # fmt: skip
    """Write result.json, scores.parquet and transitions.parquet; return the result."""
    rng = np.random.default_rng(seed)
    tokens = [0, *(int(2**20 * 2**i) for i in range(checkpoints - 1))]
    rows = list(_rows(rng, metrics, checkpoints))
    result = make_result(name, profile, **changes)
    result["series"] = [
        {**result["series"][0], "revision": f"step{i}", "step": i * 500, "tokens": t}
        for i, t in enumerate(tokens)
    ]
    result["model"] |= {
        "architecture": ARCHITECTURES[seed % 4], "parameters": int(1e7 * 4 ** (seed // 4 % 4)),
    }  # fmt: skip
    last = {"", f"step{checkpoints - 1}"}
    result["metrics"] = {
        metric_key(r["metric"], r["scope"]): r for r in rows if r["revision"] in last
    }
    add_table(folder, result, "scores", rows)
    if transitions:
        add_table(folder, result, "transitions", list(_transitions(rng)))
    write_json(folder / "result.json", result)
    return result


def add_table(folder: Path, result: Row, name: str, rows: list[Row]) -> None:
    """Write a table beside a result, and its digest into the result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.TABLES[name].arrow), path)
    line = f"{sha256_file(path)}  tables/{name}/part.parquet\n"
    digest = hashlib.sha256(line.encode()).hexdigest()
    result["tables"][name] = {"path": f"tables/{name}", "sha256": digest, "rows": len(rows)}


def _rows(rng: np.random.Generator, metrics: Sequence[Metric], checkpoints: int) -> Any:
    for m in metrics:
        if m.name in _OWN_SHAPE:
            yield from _OWN_SHAPE[m.name](m, checkpoints)
            continue
        top, middle = float(rng.uniform(0.4, 0.95)), float(rng.uniform(3, 8))
        for scope in SCOPES:
            lift = {"overall": 0.0, "LOC": 0.04, "NAME": -0.04}[scope]
            for c in range(checkpoints) if m.per_revision else [None]:
                at = checkpoints if c is None else c
                value = top / (1 + math.exp(middle - at)) + lift * at / checkpoints
                value = min(max(value, 0.0), 1.0) * (2e7 if m.unit == "tokens" else 1)
                yield {
                    "metric": m.name, "scope": scope, "revision": "" if c is None else f"step{c}",
                    "value": value, "ci_low": 0.9 * value, "ci_high": 1.04 * value, "n": 160,
                    "unit": m.unit, "direction": m.direction, "interval_method": "bootstrap",
                    "reason": None,
                }  # fmt: skip


def _row(m: Metric, scope: str, revision: str, value: float) -> Row:
    return {
        "metric": m.name, "scope": scope, "revision": revision, "value": value,
        "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 160, "unit": m.unit,
        "direction": m.direction, "interval_method": "bootstrap", "reason": None,
    }  # fmt: skip


def _kept(m: Metric, _: int) -> Any:
    """A loss of a quarter of the gain a decade, from three starts."""
    for start in ("early", "mid", "late"):
        for t in (1, 2, 3, 4, 6, 8, 11, 16, 23, 32):
            yield _row(m, f"{start}.t{t}", "", 1 - 0.25 * math.log10(t))


def _known(m: Metric, checkpoints: int) -> Any:
    """Down to the baseline of 2 nats, a plateau, and down to 0."""
    for c in range(checkpoints):
        yield _row(m, "overall", f"step{c}", 5.0 if c < 2 else 2.0 if c < 7 else 2.0 / (c - 5))


def _unseen(m: Metric, checkpoints: int) -> Any:
    """The same, but up from there."""
    for c in range(checkpoints):
        yield _row(m, "overall", f"step{c}", 5.0 if c < 2 else 2.0 + 0.3 * max(0, c - 7))


_OWN_SHAPE: dict[str, Any] = {
    "injection.retention": _kept,
    "dynamics.series_loss": _known,
    "dynamics.series_loss_unseen": _unseen,
    "dynamics.series_baseline": lambda m, _: [_row(m, "overall", "", 2.0)],
}

ROLES = ("inactive", "general", "entity", "relation", "fact")


def _transitions(rng: np.random.Generator) -> Any:
    for before in ROLES:
        shares = rng.dirichlet([8.0 if r == before else 1.0 for r in ROLES])
        for after, p in zip(ROLES, shares.tolist(), strict=True):
            row = dict.fromkeys(schema.TRANSITIONS.arrow.names)
            yield {
                **row, "kind": "head", "scope": "overall", "role_before": before,
                "role_after": after, "count": int(100 * p), "probability": p, "ci_low": 0.9 * p,
                "ci_high": min(1.0, 1.1 * p), "null_mean": 0.2, "null_low": 0.1, "null_high": 0.3,
            }  # fmt: skip
