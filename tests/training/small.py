"""A tiny model in training, and tiny reference settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from factlife.training import (
    ModelShape,
    ReferenceSettings,
    RowSource,
    Trainer,
    TrainingConfig,
    build_model,
    model_config,
)

VOCAB = 60
SHAPE = ModelShape(layers=2, width=16, heads=2, ffn=24, positions=32)
CONFIG = TrainingConfig(steps=8, batch_rows=4, context=12, peak_lr=1e-2, warmup_steps=2)


def rows(count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCAB, (count, CONFIG.context), generator=generator)


def tiny_trainer(arch: str = "olmo2", dropout: float = 0.0, **settings: Any) -> Trainer:
    """A new trainer, equal to any other made with the same arguments."""
    config = model_config(arch, SHAPE, VOCAB, 0, 1)
    if dropout:
        config.attention_dropout = dropout
    training = replace(CONFIG, **settings)
    source = RowSource(rows(), training.batch_rows, shuffle_seed=1)
    return Trainer(build_model(config, seed=0), source, training, "cpu")


def weights(trainer: Trainer) -> Mapping[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def equal(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def tiny_reference(steps: int = 12, **changes: Any) -> ReferenceSettings:
    """A reference series of seconds: 2 layers of width 32, rows of 32 tokens."""
    return ReferenceSettings(
        vocab_size=400,
        tokenizer_passes=2,
        checkpoints=5,
        shape=ModelShape(layers=2, width=32, heads=2, ffn=48, positions=64),
        training=TrainingConfig(steps=steps, batch_rows=2, context=32, warmup_steps=2),
        **changes,
    )
