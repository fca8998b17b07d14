"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from factlife.training.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of update number `step`, counted from 0.

    Warm-up gives update 0 a rate of peak/warmup_steps and update warmup_steps - 1 the peak. The
    cosine then falls from the peak and would reach `final_lr_share` x peak at update `steps`,
    one after the last.
    """
    if step < config.warmup_steps:
        # Rounding may lift the last update of the warm-up above the peak.
        return min(config.peak_lr, config.peak_lr * (step + 1) / config.warmup_steps)
    if config.schedule == "constant":
        return config.peak_lr
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.peak_lr * (config.final_lr_share + (1 - config.final_lr_share) * falling)


def make_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, matrices and vectors in groups of their own."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim >= 2]
    vectors = [p for p in trainable if p.ndim < 2]
    decay_of_vectors = config.weight_decay if config.decay_vectors else 0.0
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": decay_of_vectors},
        ],
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
