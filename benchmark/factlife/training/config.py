"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from factlife.config import at_least, check_choice, one_of
from factlife.errors import UsageError

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run: AdamW with warm-up, cosine or constant rate, clipping, accumulation.

    Attributes:
        steps: optimiser steps in all.
        batch_rows: rows per optimiser step, over all micro-batches.
        context: tokens per row.
        peak_lr: learning rate after the warm-up.
        schedule: `cosine` falls to `final_lr_share` x `peak_lr` at the last step; `constant` stays.
        warmup_steps: steps over which the rate rises linearly to `peak_lr`.
        weight_decay: decoupled decay of matrices; vectors (norms, biases) are not decayed unless
            `decay_vectors` is set.
        clip_norm: global gradient norm above which gradients are scaled down; 0 turns it off.
        accumulation: micro-batches per step; divides `batch_rows`.
        precision: `float32`, or `bfloat16` autocast with float32 weights and optimiser state.
        seed: of every draw a step makes (dropout): step s of seed k draws the same, resumed or not.
    """

    steps: int = at_least(0, 1000)
    batch_rows: int = at_least(1, 32)
    context: int = at_least(2, 64)
    peak_lr: float = at_least(0, 1e-3)
    schedule: str = one_of(*SCHEDULES, default="cosine")
    warmup_steps: int = at_least(0, 0)
    final_lr_share: float = at_least(0, 0.0)
    beta1: float = at_least(0, 0.9)
    beta2: float = at_least(0, 0.95)
    epsilon: float = at_least(0, 1e-8)
    weight_decay: float = at_least(0, 0.1)
    decay_vectors: bool = False
    clip_norm: float = at_least(0, 1.0)
    accumulation: int = at_least(1, 1)
    precision: str = one_of(*PRECISIONS, default="float32")
    seed: int = at_least(0, 0)

    def __post_init__(self) -> None:
        check_choice(self.schedule, SCHEDULES, "schedule")
        check_choice(self.precision, PRECISIONS, "precision")
        if self.batch_rows % self.accumulation:
            raise UsageError(
                f"accumulation {self.accumulation} does not divide batch_rows {self.batch_rows}"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step."""
        return self.batch_rows * self.context
