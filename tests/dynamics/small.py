"""A study of seconds: 40 people, a model of width 16, a dozen steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from factlife.config import Dynamics, Execution, Intervals, Profile
from factlife.dynamics.study import Done, Study
from factlife.store import RunStore

SMALL = Dynamics(
    people=(40,), steps=(12,), attributes=2, values=4, names=(8, 8, 8), held_out=12, seeds=2,
    layers=2, width=16, heads=2, ffn=24, batch_rows=8, evaluations=8, eval_people=8, new_people=10,
    fine_tune_steps=8,
)  # fmt: skip
EVERYTHING = replace(
    SMALL, distribution_size=40, alphas=(0.5, 1.0), warm_up_people=10, warm_up_steps=4,
    celebrities=12, celebrity_weight=4.0, groups=2, patch_size=40, patch_references=(0, 12),
    fine_tune_size=40, replay_weights=(0.0, 0.5),
)  # fmt: skip


def profile(settings: Dynamics) -> Profile:
    return Profile(
        "small",
        tracks=("dynamics",),
        dynamics=settings,
        intervals=Intervals(draws=100),
        execution=Execution(device="cpu"),
    )


def run_study(root: Path, settings: Dynamics, **hooks: Any) -> Done:
    """Train a study in a folder of its own."""
    with RunStore.writer(root, {"identity": {"study": "small"}}) as store:
        return Study(settings, store, root / ".work", "cpu", **hooks).run()
