"""The learning rate by hand, and which parameters decay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from factlife.errors import UsageError
from factlife.training import TrainingConfig, learning_rate, make_optimiser


def rates(config: TrainingConfig) -> list[float]:
    return [learning_rate(step, config) for step in range(config.steps)]


def test_warm_up_then_cosine() -> None:
    config = TrainingConfig(steps=6, peak_lr=1.0, warmup_steps=2)
    # warm-up: 1/2, 2/2; then 4 steps of cosine at 0, 1/4, 2/4, 3/4 of the way:
    # (1 + cos 0)/2 = 1, (1 + cos 45°)/2 = (1 + √½)/2, (1 + cos 90°)/2 = ½, (1 - √½)/2
    half = math.sqrt(0.5)
    assert rates(config) == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_cosine_ends_at_the_share_of_the_peak() -> None:
    config = TrainingConfig(steps=4, peak_lr=2.0, final_lr_share=0.1)
    # half way: 2 x (0.1 + 0.9 x 0.5) = 1.1; one past the last: 2 x 0.1
    assert learning_rate(2, config) == pytest.approx(1.1)
    assert learning_rate(4, config) == pytest.approx(0.2)


def test_constant_after_warm_up() -> None:
    config = TrainingConfig(steps=5, peak_lr=3.0, schedule="constant", warmup_steps=3)
    assert rates(config) == pytest.approx([1, 2, 3, 3, 3])


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from(["cosine", "constant"]))
def test_never_above_the_peak_and_never_rising_after_the_warm_up(
    steps: int, warmup: int, schedule: str
) -> None:
    config = TrainingConfig(steps=steps, peak_lr=0.7, warmup_steps=warmup, schedule=schedule)
    found = rates(config)
    assert all(0 <= r <= 0.7 for r in found)
    after = found[warmup:]
    assert after == sorted(after, reverse=True)


def test_only_matrices_decay_unless_asked() -> None:
    model = nn.Linear(3, 2)
    by_size = {
        p.ndim: g["weight_decay"]
        for g in make_optimiser(model, TrainingConfig(weight_decay=0.3)).param_groups
        for p in g["params"]
    }
    assert by_size == {2: 0.3, 1: 0.0}
    everything = make_optimiser(model, TrainingConfig(weight_decay=0.3, decay_vectors=True))
    assert {g["weight_decay"] for g in everything.param_groups} == {0.3}


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    held = [p for g in make_optimiser(model, TrainingConfig()).param_groups for p in g["params"]]
    assert [p is model.weight for p in held] == [True]
    assert isinstance(make_optimiser(model, TrainingConfig()), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "linear"}, "schedule: 'linear' is not one of cosine, constant"),
        ({"precision": "float16"}, "precision: 'float16'"),
        ({"batch_rows": 8, "accumulation": 3}, "accumulation 3 does not divide batch_rows 8"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainingConfig(**settings)
