"""One deterministic training loop. Shapes: b rows, c tokens per row, v vocabulary."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from factlife.errors import IntegrityError, UsageError
from factlife.training import parallel
from factlife.training.batches import NO_LOSS, Batch, BatchSource
from factlife.training.config import TrainingConfig
from factlife.training.optimiser import learning_rate, make_optimiser
from factlife.training.state import restore_latest, save_state


class DivergedError(IntegrityError):
    """Loss or gradient is not finite: this model cannot be trained so, others may."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: steps done, this one included; from 1.
        total_steps: steps in all.
        loss: mean over the step's target tokens, before the update, in nats.
        learning_rate: of this update.
        gradient_norm: before clipping; None where clipping is off.
        tokens: token positions since step 0, padding included.
        tokens_per_second: since this process began training, callbacks included.
        seconds_left: at that speed.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    tokens_per_second: float
    seconds_left: float


class _Clock(NamedTuple):
    """Where this process began: seconds of the performance counter, steps and tokens done."""

    seconds: float
    step: int
    tokens: int


class Trainer:
    """A model in training: one call of `advance` is one optimiser step.

    Two trainers with equal weights, batches and settings make equal steps, bit for bit on one
    CPU with one number of threads; torch's global generator is left as it was.

    Attributes:
        model: a Hugging Face causal model (or any that maps `input_ids` to `.logits`).
        step: optimiser steps done.
        tokens: token positions seen, padding included.
    """

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        config: TrainingConfig,
        device: torch.device | str,
    ) -> None:
        self.device = torch.device(device)
        if config.batch_rows % (config.accumulation * parallel.size()):
            raise UsageError(
                f"batch_rows {config.batch_rows} cannot be shared by {parallel.size()} processes "
                f"with accumulation {config.accumulation}: make it a multiple of their product"
            )
        self.model = model.to(self.device) if parallel.size() == 1 else model
        self.source = source
        self.config = config
        self.optimiser = make_optimiser(self.model, config)
        self.step = 0
        self.tokens = 0
        self._clock: _Clock | None = None

    def advance(self) -> StepReport:
        """Take the next batch and update the weights.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are those before the step.
        """
        clock = self._clock = self._clock or _Clock(time.perf_counter(), self.step, self.tokens)
        rate = learning_rate(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.source.next_batch()
        with self._seeded():
            mean_loss = self._gradients(batch)
        loss, norm = self._numbers(mean_loss, self._clip())
        self._refuse_infinite(loss, norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self.tokens += batch.ids.numel()
        return self._report(loss, norm, rate, clock)

    def _gradients(self, batch: Batch) -> Tensor:
        """Accumulate gradients of the mean loss over all target tokens; returns that loss."""
        self.model.train()
        ids = batch.ids.to(self.device)
        targets = _targets(ids if batch.labels is None else batch.labels.to(self.device))
        count = (targets != NO_LOSS).sum()
        size = parallel.size()
        if size > 1:  # each process takes its share; FSDP averages their gradients
            mine = list(parallel.share(len(ids), size, parallel.rank()))
            ids, targets = ids[mine], targets[mine]
        rows = -(-len(ids) // self.config.accumulation)
        total = torch.zeros((), device=self.device)
        for inputs, wanted in zip(ids.split(rows), targets.split(rows), strict=True):
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
            ):
                logits = self.model(input_ids=inputs, use_cache=False).logits
            loss = _summed_loss(logits, wanted) / count
            (loss * size if size > 1 else loss).backward()
            total += loss.detach()
        return parallel.summed(total)

    def _clip(self) -> Tensor | None:
        if not self.config.clip_norm:
            return None
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        return parallel.full(norm)

    @staticmethod
    def _numbers(loss: Tensor, norm: Tensor | None) -> tuple[float, float | None]:
        """Both numbers of a step; an accelerator is waited for once, after all of its work."""
        if norm is None:
            return float(loss), None
        both = torch.stack([loss, norm.to(loss.dtype)]).tolist()
        return both[0], both[1]

    def _refuse_infinite(self, loss: float, norm: float | None) -> None:
        if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
            return
        self.optimiser.zero_grad()
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
        raise DivergedError(
            f"{what} at training step {self.step}: lower peak_lr (now {self.config.peak_lr:g}) or "
            f"lengthen the warm-up (now {self.config.warmup_steps} steps), and check the weights "
            "that training began from"
        )

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Draws inside depend on seed and step alone, so that a resumed run repeats them."""
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices, device_type=self.device.type):
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
            yield

    def _report(self, loss: float, norm: float | None, rate: float, clock: _Clock) -> StepReport:
        seconds = time.perf_counter() - clock.seconds
        return StepReport(
            step=self.step,
            total_steps=self.config.steps,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=self.tokens,
            tokens_per_second=(self.tokens - clock.tokens) / max(seconds, 1e-9),
            seconds_left=seconds / (self.step - clock.step) * (self.config.steps - self.step),
        )


def _targets(labels: Int64[Tensor, "b c"]) -> Int64[Tensor, "b c"]:
    """The token each position predicts: the next one; the last position predicts nothing."""
    return functional.pad(labels[:, 1:], (0, 1), value=NO_LOSS)


def _summed_loss(logits: Tensor, targets: Int64[Tensor, "b c"]) -> Tensor:
    return functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=NO_LOSS, reduction="sum"
    )


def train(
    trainer: Trainer,
    *,
    checkpoint_steps: Collection[int] = (),
    on_checkpoint: Callable[[Trainer], Any] | None = None,
    on_step: Callable[[StepReport], Any] | None = None,
    states: Path | None = None,
    save_every: int = 0,
) -> None:
    """Train to `config.steps`, going on from the newest state under `states` if there is one.

    A state is saved at each checkpoint step (after `on_checkpoint`) and every `save_every` steps
    (0: only there). A killed run is continued by the same call and ends with the weights of an
    unbroken one; the steps after the last state are taken, and reported, again. So is the
    checkpoint that the run resumes at: `on_checkpoint` must do nothing to what is there already.

    Raises:
        IntegrityError: loss or gradient is not finite, or the saved state is damaged.
        UsageError: the saved state has other settings.
        PartialError: the disk refuses a state.
    """
    if states is not None:
        restore_latest(trainer, states)
    _checkpoint(trainer, checkpoint_steps, on_checkpoint)
    while trainer.step < trainer.config.steps:
        report = trainer.advance()
        if on_step is not None:
            on_step(report)
        due = _checkpoint(trainer, checkpoint_steps, on_checkpoint)
        if states is not None and (due or (save_every and trainer.step % save_every == 0)):
            save_state(trainer, states)


def _checkpoint(
    trainer: Trainer, steps: Collection[int], on_checkpoint: Callable[[Trainer], Any] | None
) -> bool:
    due = trainer.step in steps
    if due and on_checkpoint is not None:
        on_checkpoint(trainer)
    return due
