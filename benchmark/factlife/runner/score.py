"""Tables -> scores -> result.json -> report. No model and no torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

import factlife
from factlife.errors import IntegrityError, UsageError
from factlife.report import write_report
from factlife.result import SCHEMA_VERSION, metric_key, one_line, problems, result_text
from factlife.runner.dynamics_score import DYNAMICS_INPUTS, derive_dynamics, study_result
from factlife.schema import INJECTION_TABLES
from factlife.scores import Protocol, score_tables
from factlife.store import RunStore, write_text

RESULT = "result.json"
INPUTS = (
    "checkpoints", "recall", "candidates", "circuits", "circuits_sweep", "circuit_edges",
    "ablations",
)  # fmt: skip
INJECTION = tuple(t.name for t in INJECTION_TABLES)
DERIVED = ("roles", "transitions", "scores")


def score_run(root: Path) -> dict[str, Any]:
    """Compute `scores` and result.json of a run folder anew from its tables.

    Raises:
        UsageError: no run folder, or nothing measured in it.
        IntegrityError: a damaged table, or no metric at all.
    """
    store = RunStore.existing(root)
    manifest = store.manifest()
    if "study" in manifest:
        with RunStore.writer(root, manifest):
            result = study_result(store, manifest)
            write_text(root / RESULT, result_text(result))
        return result
    with RunStore.writer(root, manifest):
        injection = INJECTION if store.parts("injection_runs") else ()
        tables = {name: store.read(name) for name in (*INPUTS, *injection)}
        if not any(r is None for r in tables["checkpoints"]["reason"].to_pylist()):
            raise UsageError(f"{root} holds no measured checkpoint: run `factlife run` first")
        scored = score_tables(
            tables,
            Protocol.read(manifest["protocol"]["params"]),
            chance=manifest["chance"],
            subsets=manifest["subsets"],
        )
        for name in DERIVED[:-1]:
            rows = getattr(scored, name)
            if len(rows):
                store.write_part(name, rows)
            else:
                store.remove_table(name)
        rows = scored.scores + derive_dynamics(store, manifest, tables)
        if not rows:
            raise IntegrityError(_nothing(root, tables))
        store.write_part("scores", rows)
        result = _result(store, manifest, tables, rows)
        if found := problems(result, RESULT):
            raise IntegrityError(f"factlife wrote a result that breaks its own format: {found[0]}")
        write_text(root / RESULT, result_text(result))
    return result


def _nothing(root: Path, tables: dict[str, pa.Table]) -> str:
    """Why there is no metric at all: injection was the only track, and all of its runs failed."""
    runs = tables["injection_runs"].to_pylist() if "injection_runs" in tables else []
    why = next((r["reason"] for r in runs if r["reason"]), "its tables are empty")
    return (
        f"{root}: no metric can be computed, since no run came to its end: {why}. Change the "
        "profile and run it into another --out"
    )


def score_and_report(root: Path) -> dict[str, Any]:
    """`score_run`, then the report."""
    result = score_run(root)
    write_report(RunStore.existing(root))
    return result


def _result(
    store: RunStore,
    manifest: dict[str, Any],
    tables: dict[str, pa.Table],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    revisions = sorted(tables["checkpoints"].to_pylist(), key=lambda r: r["position"])
    measured = [r for r in revisions if not r["reason"]]
    last = measured[-1]
    every = (*INPUTS, *INJECTION, *DYNAMICS_INPUTS, *DERIVED)
    names = [name for name in every if store.parts(name)]
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark_version": factlife.__version__,
        "series_name": manifest["series"]["name"],
        "protocol": manifest["protocol"],
        "model": {
            "repo": last["repo"],
            "architecture": last["architecture"],
            "parameters": last["n_parameters"],
            "dtype": last["dtype"],
            "attention": last["attention"],
        },
        "series": [_revision(r) for r in revisions],
        "data": manifest["data"],
        "env": manifest["env"],
        "metrics": _metrics(rows, last["revision"]),
        "tables": {name: store.digest(name) for name in names},
        "integrity": {
            "duplicates": [r["revision"] for r in revisions if r["duplicate_of"]],
            "warnings": [
                *manifest["series"]["warnings"],
                *(f"{r['revision']}: {r['reason']}" for r in revisions if r["reason"]),
                *(f"{r['revision']}: {flag}" for r in revisions for flag in r["flags"]),
            ],
            "exclusions": _exclusions(tables),
        },
        "command": one_line(manifest.get("command")),
        "submitter": None,
    }


_REVISION_KEYS = (
    "revision", "commit_sha", "weights_sha256", "tensor_hash", "stage", "step", "tokens",
    "tokens_source", "flags", "reason",
)  # fmt: skip


def _revision(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in _REVISION_KEYS}


def _metrics(rows: list[dict[str, Any]], last: str) -> dict[str, Any]:
    """Every metric at the last checkpoint and over the series, by metric and scope."""
    return {metric_key(r["metric"], r["scope"]): r for r in rows if r["revision"] in ("", last)}


def _exclusions(tables: dict[str, pa.Table]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    names = (
        "recall", "candidates", "circuits", "ablations", "probes", "injections", "injection_runs",
    )  # fmt: skip
    for name in (n for n in names if n in tables):
        reasons = tables[name]["reason"].drop_null().to_pylist()
        counts.update(f"{name}: {reason}" for reason in reasons)
    return dict(sorted(counts.items()))
