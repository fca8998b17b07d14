"""What injection does to what the model knew: the 160 facts and loss on background text.

before = step 0, during = the end of the window after the last injection, after = the last step.
C = steps at which the facts were asked, n = facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

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
        ids, relations: [n].
        logprob: [C, n] nats.
        whole: [C, n] 1 where every answer token is the argmax.
    """

    steps: Ints
    ids: tuple[str, ...]
    relations: tuple[str, ...]
    logprob: Floats
    whole: Floats

    def only(self, ids: Sequence[str]) -> Self:
        """The facts with these ids, in their order."""
        at = [self.ids.index(i) for i in ids]
        relations = tuple(self.relations[i] for i in at)
        return replace(
            self,
            ids=tuple(ids),
            relations=relations,
            logprob=self.logprob[:, at],
            whole=self.whole[:, at],
        )

    def lost(self, before: int, then: int) -> Floats | None:
        """[n] nats lost from one step to another; None where one of them was not asked at."""
        steps = self.steps.tolist()
        if before not in steps or then not in steps:
            return None
        change: Floats = self.logprob[steps.index(before)] - self.logprob[steps.index(then)]
        return change


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
    kept = np.flatnonzero(keep)
    names = ids.dictionary.to_pylist()
    return Facts(
        steps.astype(np.int64),
        tuple(names[i] for i in kept),
        tuple(relations[i] for i in kept),
        logprob[:, keep],
        whole[:, keep],
    )


def background_run(runs: Sequence[Row], run: Row) -> str | None:
    """Name of the background-only run of a main run: of its seed, or the first of its start."""
    found = [
        r
        for r in runs
        if r["study"] == "background"
        and not r["reason"]
        and (r["position"], r["revision"]) == (run["position"], run["revision"])
    ]
    found.sort(key=lambda r: (r["seed"] != run["seed"], r["seed"]))
    return str(found[0]["injection_run"]) if found and run["study"] == "main" else None


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
