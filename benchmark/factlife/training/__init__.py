"""Training: one deterministic loop, and the reference series made with it."""

from factlife.training.batches import NO_LOSS, Batch, BatchSource, RowSource
from factlife.training.config import TrainingConfig
from factlife.training.loop import DivergedError, StepReport, Trainer, train
from factlife.training.models import ARCHITECTURES, ModelShape, build_model, model_config
from factlife.training.optimiser import learning_rate, make_optimiser
from factlife.training.packing import pack, pack_whole
from factlife.training.reference import (
    ReferenceSettings,
    train_reference_series,
    train_series,
    train_sized_series,
)
from factlife.training.tokenizer import train_tokenizer

__all__ = [
    "ARCHITECTURES",
    "NO_LOSS",
    "Batch",
    "BatchSource",
    "DivergedError",
    "ModelShape",
    "ReferenceSettings",
    "RowSource",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "build_model",
    "learning_rate",
    "make_optimiser",
    "model_config",
    "pack",
    "pack_whole",
    "train",
    "train_reference_series",
    "train_series",
    "train_sized_series",
    "train_tokenizer",
]
