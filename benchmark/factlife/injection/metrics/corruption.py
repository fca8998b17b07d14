"""What injection does to what the model knew: the 160 facts and loss on background text.

before = step 0, during = the end of the window after the last injection, after = the last step.
C = steps at which the facts were asked, n = facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factlife.injection.metrics.curves import Row, scattered
from factlife.stats import Floats, Ints

PHASES = ("before", "during", "after")


@dataclass(frozen=True)
class Facts:
    """Facts that were measured at every step of one run at which facts were asked.

    Attributes:
        steps: [C].
        relations: [n].
        logprob: [C, n] nats.
        whole: [C, n] 1 where every answer token is the argmax.
    """

    steps: Ints
    relations: tuple[str, ...]
    logprob: Floats
    whole: Floats


def read_facts(table: pa.Table, name: str) -> Facts | None:
    """The facts of one injection run; None where they were not asked."""
    rows = table.filter(pc.equal(table["injection_run"], name))
    if not rows.num_rows:
        return None
    steps, at = np.unique(rows["step"].to_numpy(), return_inverse=True)
    ids = pc.dictionary_encode(rows["fact_id"].combine_chunks())
    code = ids.indices.to_numpy(zero_copy_only=False)
    shape = (len(steps), len(ids.dictionary))
    logprob, whole = (
        scattered(rows[c], at, code, shape) for c in ("logprob_sum_nats", "whole_answer")
    )
    _, first = np.unique(code, return_index=True)
    relations = rows["relation"].take(pa.array(first)).to_pylist()
    keep = ~np.isnan(np.vstack([logprob, whole])).any(axis=0)
    kept = tuple(relations[i] for i in np.flatnonzero(keep))
    return Facts(steps.astype(np.int64), kept, logprob[:, keep], whole[:, keep])


def phase_steps(run: Row, measured: Sequence[int]) -> dict[str, int]:
    """Step of each phase: the last one measured at or before its end."""
    steps = np.asarray(measured, dtype=np.int64)
    last = max(run["injection_steps"], default=0) + int(run["window"])
    during = int(steps[steps <= last].max())
    return {"before": int(steps.min()), "during": during, "after": int(steps.max())}


def background(log: pa.Table, name: str) -> list[tuple[int, float]]:
    """(step, background loss) where it was measured, in order."""
    rows: list[dict[str, Any]] = log.filter(pc.equal(log["injection_run"], name)).to_pylist()
    found = [(r["step"], r["background_loss"]) for r in rows if r["background_loss"] is not None]
    return sorted(found)
