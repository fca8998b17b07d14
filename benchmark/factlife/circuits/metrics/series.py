"""The checkpoints that the circuits were measured at, in the order of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

ONLY_ONE = "only one checkpoint was measured"
NO_TOKENS = "tokens are unknown for some revisions; name them in a series TOML file"
BRANCHES = "tokens go back from one revision to the next: branches have no common curve"


@dataclass(frozen=True)
class Checkpoint:
    """A measured revision and its place in training."""

    revision: str
    stage: str
    step: int | None
    tokens: int | None


@dataclass(frozen=True)
class Series:
    """The C checkpoints in order."""

    checkpoints: tuple[Checkpoint, ...]

    @cached_property
    def reference(self) -> int:
        """Place of the end of pretraining: the last checkpoint of the first stage.

        Stages are those of the `checkpoints` table; a series without stages has one, `main`.
        """
        first = self.checkpoints[0].stage
        return max(i for i, c in enumerate(self.checkpoints) if c.stage == first)

    @cached_property
    def untrained(self) -> int | None:
        """Place of the checkpoint before any training, if there is one."""
        places = (i for i, c in enumerate(self.checkpoints) if c.step == 0 or c.tokens == 0)
        return next(places, None)

    def goes_back(self, i: int) -> bool:
        """Whether checkpoint i has fewer tokens than the one before, so is no child of it."""
        before, after = self.checkpoints[i - 1].tokens, self.checkpoints[i].tokens
        return before is not None and after is not None and after < before

    @cached_property
    def pairs(self) -> tuple[int, ...]:
        """Places of the checkpoints that have a checkpoint before them on one path of training."""
        return tuple(i for i in range(1, len(self.checkpoints)) if not self.goes_back(i))

    def log_gap(self, i: int) -> float | None:
        """Difference in ln(tokens) to the checkpoint before; None without two token counts > 0.

        Step 0 has no logarithm. Two checkpoints at one token count have no distance either.
        """
        before, after = self.checkpoints[i - 1].tokens, self.checkpoints[i].tokens
        if not before or not after or after <= before:
            return None
        return math.log(after / before)

    @cached_property
    def no_gaps(self) -> str:
        """Why there is no distance in ln(tokens) at all; empty where there is."""
        if len(self.checkpoints) < 2:
            return ONLY_ONE
        if any(self.log_gap(i) is not None for i in self.pairs):
            return ""
        if not self.pairs:
            return BRANCHES
        unknown = any(c.tokens is None for c in self.checkpoints)
        return NO_TOKENS if unknown else "fewer than two checkpoints after step 0"


def measured(checkpoints: pa.Table, circuits: pa.Table) -> Series:
    """Revisions of the `checkpoints` table that were measured and have circuits."""
    have = set(circuits["revision"].unique().to_pylist())
    rows = sorted(checkpoints.to_pylist(), key=lambda r: r["position"])
    return Series(
        tuple(
            Checkpoint(r["revision"], r["stage"], r["step"], r["tokens"])
            for r in rows
            if not r["reason"] and r["revision"] in have
        )
    )
