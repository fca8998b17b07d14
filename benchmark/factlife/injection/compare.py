"""Claims across runs: size (6), stages (11), batch (12), spacing (13) and early starts (14).

Runs come from different models or settings, so that their errors are independent: differences and
slopes take their intervals from those of the runs (MOVER; Zou & Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from factlife.errors import UsageError
from factlife.injection import claims
from factlife.injection.claims import Claim, Evidence, Part, Row, judged
from factlife.injection.metrics.curves import POSITIONS
from factlife.result import load_result
from factlife.store import RunStore


@dataclass(frozen=True)
class Run:
    """A run folder, as far as comparing needs it.

    Attributes:
        name: as shown; the folder's.
        model: series name; runs of one model may be put together.
        parameters: of the model.
        scores: rows of `scores`.
        runs: rows of `injection_runs`.
    """

    name: str
    model: str
    parameters: int
    scores: Sequence[Row]
    runs: Sequence[Row]

    def setting(self, column: str) -> float | None:
        """A setting that all main runs share, such as `batch_rows`; None if they differ."""
        found = {float(r[column]) for r in self.runs if r["study"] == "main"}
        return found.pop() if len(found) == 1 else None

    def row(self, metric: str, scope: str = "overall") -> Row | None:
        """A row of scores that has a value."""
        for r in self.scores:
            if (r["metric"], r["scope"]) == (metric, scope) and r["value"] is not None:
                return r
        return None


def read_run(root: Path) -> Run:
    """What comparing needs of a scored run folder.

    Raises:
        UsageError: no run folder, not scored yet, or nothing injected in it.
        SubmissionError: its result.json is not to the format.
        IntegrityError: a damaged table.
    """
    store = RunStore.existing(root)
    if not (root / "result.json").is_file():
        raise UsageError(f"{root} has no result.json: run `factlife score {root}` first")
    runs = store.read("injection_runs").to_pylist()
    if not runs:
        raise UsageError(f"{root} holds no injection runs: measure it with the injection track")
    result = load_result(root / "result.json")
    scores = store.read("scores").to_pylist()
    model = result["model"]
    return Run(root.name, result["series_name"], model["parameters"], scores, runs)


def read_runs(roots: Sequence[Path]) -> list[Run]:
    """Several run folders, each under a name of its own.

    Raises:
        UsageError: fewer than two, one given twice, or as `read_run`.
    """
    places = [root.resolve() for root in roots]
    if len(set(places)) < max(2, len(places)):
        raise UsageError("compare needs two or more different run folders")
    runs = [read_run(root) for root in places]
    names = [r.name for r in runs]
    if len(set(names)) < len(names):  # runs/a/demo and runs/b/demo
        longer = [f"{p.parent.name}/{p.name}" for p in places]
        return [replace(r, name=n) for r, n in zip(runs, longer, strict=True)]
    return runs


def slope(points: Sequence[tuple[float, Row]]) -> Row:
    """Least-squares slope over log10 x, with an interval from those of the values."""
    x = np.log10([p for p, _ in points])
    centred = x - x.mean()
    w = centred / (centred @ centred)
    value = down = up = 0.0
    for weight, (_, r) in zip(w.tolist(), points, strict=True):
        value += weight * r["value"]
        below, above = r["value"] - r["ci_low"], r["ci_high"] - r["value"]
        down = math.hypot(down, weight * below if weight > 0 else weight * above)
        up = math.hypot(up, weight * above if weight > 0 else weight * below)
    unit = f"{points[0][1]['unit']}, per decade"
    return {"value": value, "ci_low": value - down, "ci_high": value + up, "unit": unit,
            "n": len(points), "reason": None}  # fmt: skip


def compare(runs: Sequence[Run]) -> list[Claim]:
    """The fourteen claims over several runs.

    Claims 6 and 12 need runs that differ in size, or in batch, and in nothing else that is
    recorded of training. Positions and studies of one model are put together for the claims on
    stages, spacing and early starts. Every other claim is tested in each run apart, and listed
    with the run's name.
    """
    pooled = _pooled(runs)
    own = {r.name: claims.evaluate(Evidence.make(r.scores, r.runs)) for r in runs}
    together = {c.number: c for c in claims.evaluate(pooled)}
    across = {6: _by_size(runs), 12: _by_batch(runs), **{k: together[k] for k in (11, 13, 14)}}
    found = []
    for number, (text, _) in enumerate(claims.CLAIMS, start=1):
        if number in across and across[number].verdict != claims.NOT_TESTED:
            found.append(across[number])
            continue
        parts = [
            Part(f"{name}: {p.what}", p.row, p.verdict, p.reason)
            for name, mine in own.items()
            for p in mine[number - 1].parts
        ]
        tested = [p for p in parts if p.verdict != claims.NOT_TESTED]
        note = across[number].note if number in across else ""
        found.append(judged(number, text, tested or parts, note))
    return found


def _by_size(runs: Sequence[Run]) -> Claim:
    text = claims.CLAIMS[5][0]
    points = _points(runs, "injection.effectivity", lambda r: float(r.parameters))
    if len({x for x, _ in points}) < 2:
        return judged(6, text, [], "needs runs of at least two model sizes")
    if unmatched := _differing(runs, ("peak_lr", "batch_rows", "context")):
        return judged(6, text, [], f"runs differ in {', '.join(unmatched)}, not in size alone")
    row = slope(points)
    verdict = claims.side(row["ci_low"], row["ci_high"])
    part = Part("effectivity over ten times the parameters: above 0", row, verdict)
    return judged(6, text, [part], f"{len(points)} runs at one learning rate and batch")


def _by_batch(runs: Sequence[Run]) -> Claim:
    text = claims.CLAIMS[11][0]
    sizes = {r.setting("batch_rows") for r in runs}
    if None in sizes or len(sizes) < 2:
        return judged(12, text, [], "needs the batch study, or runs with at least two batch sizes")
    if len({r.model for r in runs}) > 1 or _differing(runs, ("peak_lr", "context")):
        return judged(12, text, [], "runs differ in more than their batch")
    asked = (
        ("injection.effectivity", "effectivity over ten times the batch: below 0", -1),
        ("injection.decay_constant", "decay constant over ten times the batch: below 0", -1),
        ("injection.threshold_tokens", "threshold (log10 tokens) over batch: above 0", 1),
    )
    parts = []
    for metric, what, sign in asked:
        points = _points(runs, metric, lambda r: r.setting("batch_rows") or 0.0)
        if len({x for x, _ in points}) < 2:
            parts.append(Part(what, None, claims.NOT_TESTED, "measured in fewer than two runs"))
            continue
        row = slope(points)
        low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
        parts.append(Part(what, row, claims.side(low, high)))
    return judged(12, text, parts, f"{len(runs)} runs of one model")


def _points(runs: Sequence[Run], metric: str, x: Any) -> list[tuple[float, Row]]:
    return [(x(r), row) for r in runs if (row := r.row(metric)) is not None]


def _differing(runs: Sequence[Run], columns: Sequence[str]) -> list[str]:
    return [c for c in columns if len({r.setting(c) for r in runs}) > 1]


def _pooled(runs: Sequence[Run]) -> Evidence:
    """Rows of all runs of the first model; positions from different runs are subtracted here."""
    mine = [r for r in runs if r.model == runs[0].model]
    rows: dict[tuple[str, str], Row] = {}
    for r in mine:
        for key, row in Evidence.make(r.scores).rows.items():
            if rows.get(key, {"value": None})["value"] is None:
                rows[key] = row
    runs_of = [row for r in mine for row in r.runs]
    if not _differing(mine, ("peak_lr",)):
        rows = {**_between(rows), **rows}
    return Evidence(rows, Evidence.make([], runs_of).failed)


_BETWEEN = {
    "injection.effectivity_difference": "injection.effectivity",
    "injection.decay_difference": "injection.decay_constant",
    "injection.fluctuation_difference": "injection.fluctuation",
}


def _between(rows: Mapping[tuple[str, str], Row]) -> dict[tuple[str, str], Row]:
    """Earlier position minus later one, from independent rows."""
    found: dict[tuple[str, str], Row] = {}
    for name, metric in _BETWEEN.items():
        have = [(p, rows[metric, p]) for p in POSITIONS if (metric, p) in rows]
        have = [(p, r) for p, r in have if r["value"] is not None]
        for i, (p, a) in enumerate(have):
            for q, b in have[i + 1 :]:
                found[name, f"{p}-{q}"] = difference(a, b)
    return found


def difference(a: Row, b: Row) -> Row:
    """a - b of two independent numbers."""
    value = a["value"] - b["value"]
    down = math.hypot(a["value"] - a["ci_low"], b["ci_high"] - b["value"])
    up = math.hypot(a["ci_high"] - a["value"], b["value"] - b["ci_low"])
    return {"value": value, "ci_low": value - down, "ci_high": value + up, "unit": a["unit"],
            "n": a["n"] + b["n"], "reason": None}  # fmt: skip
