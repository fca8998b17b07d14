"""Dynamics tables -> summary, claims, scores; result.json of a study. No model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

import factlife
from factlife import scores
from factlife.config import Intervals
from factlife.dynamics.claims import given_claims, scratch_claims
from factlife.dynamics.metrics import GIVEN, given_rows, given_series, summary_rows
from factlife.errors import IntegrityError, UsageError
from factlife.result import SCHEMA_VERSION, metric_key, one_line, problems
from factlife.store import RunStore

RUN_TABLES = ("dynamics_runs", "biography_eval", "attention_signatures")
DYNAMICS_INPUTS = (*RUN_TABLES, "subject_attention", "dynamics_summary", "dynamics_claims")


def derive_dynamics(
    store: RunStore, manifest: Mapping[str, Any], measured: Mapping[str, pa.Table]
) -> list[dict[str, Any]]:
    """Write `dynamics_summary` and `dynamics_claims` anew; returns rows for `scores`.

    Nothing is written, and nothing returned, for a run whose profile has no dynamics track.

    Args:
        measured: `checkpoints` and `candidates` of a given series, empty for a study.
    """
    params = manifest["protocol"]["params"]
    if "dynamics" not in params["tracks"]:
        return []
    intervals = Intervals(**params["intervals"])
    tables = {name: store.read(name) for name in RUN_TABLES}
    runs = tables["dynamics_runs"].to_pylist()
    summary = summary_rows(tables)
    given = given_series(
        measured["checkpoints"], measured["candidates"], store.read("subject_attention")
    )
    claims = scratch_claims(runs, summary, intervals.level) if _scratch(runs) else []
    if measured["checkpoints"].num_rows:
        series = given_rows(given) if given is not None else []
        summary += series
        claims += given_claims(
            given, summary, runs, level=intervals.level, draws=min(intervals.draws, 500),
            seed=intervals.seed,
        )  # fmt: skip
    store.write_part("dynamics_summary", summary)
    store.write_part("dynamics_claims", claims)
    rows = scores.dynamics_rows(tables["dynamics_runs"], summary, intervals=intervals)
    if given is not None and measured["checkpoints"].num_rows:
        rows += scores.given_rows(given, intervals=intervals)
    return rows


def _scratch(runs: list[dict[str, Any]]) -> bool:
    return any(not r["condition"].startswith(GIVEN) for r in runs)


def study_result(store: RunStore, manifest: dict[str, Any]) -> dict[str, Any]:
    """Score a study folder: `scores` and the tables above; returns its result.json.

    Each run of the study stands as one revision.

    Raises:
        UsageError: no run is finished.
        IntegrityError: a damaged table.
    """
    empty = {name: store.read(name) for name in ("checkpoints", "candidates")}
    runs = store.read("dynamics_runs").to_pylist()
    if not runs:
        raise UsageError(f"{store.root} holds no finished run: run `factlife study` first")
    rows = derive_dynamics(store, manifest, empty)
    store.write_part("scores", rows)
    last = runs[-1]
    result = {
        "schema_version": SCHEMA_VERSION,
        "benchmark_version": factlife.__version__,
        "series_name": manifest["series"]["name"],
        "protocol": manifest["protocol"],
        "model": {
            "repo": manifest["series"]["name"],
            "architecture": last["arch"],
            "parameters": last["n_parameters"],
            "dtype": "float32",
            "attention": "sdpa",
        },
        "series": [_revision(r) for r in runs],
        "data": manifest["data"],
        "env": manifest["env"],
        "metrics": {metric_key(r["metric"], r["scope"]): r for r in rows},
        "tables": {
            name: store.digest(name) for name in (*DYNAMICS_INPUTS, "scores") if store.parts(name)
        },
        "integrity": {"duplicates": [], "warnings": [], "exclusions": {}},
        "command": one_line(manifest.get("command")),
        "submitter": None,
    }
    if found := problems(result, "result.json"):
        raise IntegrityError(f"factlife wrote a result that breaks its own format: {found[0]}")
    return result


def _revision(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "revision": run["dynamics_run"],
        "commit_sha": None,
        "weights_sha256": [],
        "tensor_hash": None,
        "stage": run["kind"],
        "step": run["steps"],
        "tokens": run["tokens"],
        "tokens_source": "user",
        "flags": [],
        "reason": None,
    }
