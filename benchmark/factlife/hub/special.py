"""Two charts of a series' page that are no plain curve over training: retention and phases.

Both are made from the scores beside a result, so that a submission needs no further table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factlife.dynamics.phases import Phases, detect
from factlife.hub.collect import Entry
from factlife.injection.metrics import decay
from factlife.report.injection_data import LAWS

Row = dict[str, Any]

_KEPT, _LOSS, _UNSEEN, _BASELINE = (
    "injection.retention", "dynamics.series_loss", "dynamics.series_loss_unseen",
    "dynamics.series_baseline",
)  # fmt: skip
_TIME = re.compile(r"(.+)\.t([0-9]{1,9})")
_FEWEST = 5  # points that three laws can be told apart by


def retention(scores: pa.Table) -> list[Row]:
    """Rows of the retention chart: measured shares, and three laws fitted to them.

    A row has start (such as late), law (or `measured`), t, x = log10 t, value and interval.
    """
    groups: dict[str, list[Row]] = {}
    for r in scores.filter(pc.equal(scores["metric"], _KEPT)).to_pylist():
        found = _TIME.fullmatch(r["scope"])
        if found and int(found[2]) > 0 and "." not in found[1]:  # all arms together
            groups.setdefault(found[1], []).append({**r, "t": int(found[2])})
    return [row for start, rows in groups.items() for row in _laws(start, rows)]


def _laws(start: str, rows: list[Row]) -> Iterator[Row]:
    rows = sorted(rows, key=lambda r: int(r["t"]))
    t = np.array([r["t"] for r in rows], dtype=np.float64)
    for r in rows:
        kept = {k: r[k] for k in ("t", "value", "ci_low", "ci_high", "n")}
        yield {"start": start, "law": "measured", "x": math.log10(r["t"]), **kept}
    if len(rows) < _FEWEST:
        return
    fits = decay.fit(t, np.array([[r["value"] for r in rows]]))
    for name, law in zip(LAWS, decay.LAWS, strict=True):
        for at, value in zip(t.tolist(), fits.predicted(law, t).tolist(), strict=True):
            if math.isfinite(value):
                yield {"start": start, "law": name, "x": math.log10(at), "t": at, "value": value}


def phases(scores: pa.Table, entry: Entry) -> Row | None:
    """Moments of a series as tokens or steps, and the baseline; None where it has no losses.

    `why` says of each moment that was not reached why not.
    """
    losses = [_by_revision(scores, name) for name in (_LOSS, _UNSEEN)]
    baseline = scores.filter(pc.equal(scores["metric"], _BASELINE))["value"].to_pylist()
    rows = [r for r in entry.measured if all(r["revision"] in found for found in losses)]
    if not baseline or not rows:
        return None
    for axis in ("tokens", "step"):
        at = [r[axis] for r in rows]
        if all(v is not None for v in at) and at == sorted(set(at)):
            known, unseen = ([found[r["revision"]] for r in rows] for found in losses)
            moments = detect(at, known, unseen, baseline[-1])
            return {"axis": axis, "last": at[-1], "baseline": baseline[-1], **_moments(moments)}
    return None


def _by_revision(scores: pa.Table, name: str) -> dict[str, float]:
    rows = scores.filter(
        pc.and_(pc.equal(scores["metric"], name), pc.equal(scores["scope"], "overall"))
    )
    return dict(zip(rows["revision"].to_pylist(), rows["value"].to_pylist(), strict=True))


def _moments(p: Phases) -> Row:
    found = {"t1": p.t1, "t2": p.t2, "onset": p.t_held}
    steps = {name: m.step for name, m in found.items()}
    return {**steps, "why": {name: m.reason for name, m in found.items() if m.reason}}
