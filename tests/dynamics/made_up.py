"""Dynamics tables made up from curves that are known: no model, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from factlife.dynamics.phases import evaluation_steps
from factlife.dynamics.plan import RunSpec
from factlife.schema import ATTENTION_SIGNATURES, BIOGRAPHY_EVAL, DYNAMICS_RUNS

Row = dict[str, Any]
B = 3.4
COUNT = 60


def run_row(spec: RunSpec) -> Row:
    sizes = {"layers": 2, "width": 128, "heads": 4, "n_parameters": 500_000, "n_attributes": 4}
    return {
        **spec.columns(), **sizes, "arch": "llama", "n_held_out": 256, "baseline_nats": B,
        "uniform_nats": 3.466, "batch_rows": 32, "context": 80, "peak_lr": 2e-3,
        "tokens": spec.steps * 2000, "precision": "float32",
    }  # fmt: skip


def evaluation(run: str, step: int, population: str, **values: Any) -> Row:
    base = {"loss_nats": B, "accuracy": 0.0, "top_probability": 0.1, "entropy_nats": 3.0}
    return {
        "dynamics_run": run, "step": step, "population": population, "restored": "none",
        "n_people": 64, **base, **values,
    }  # fmt: skip


class Tables:
    """Collects runs."""

    def __init__(self) -> None:
        self.runs: list[Row] = []
        self.evaluations: list[Row] = []
        self.signatures: list[Row] = []

    def learned(
        self, spec: RunSpec, t1: float, t2: float, *, accuracy: float = 0.9, t_held: float = 1e9,
        top: float = 0.9, circuit: tuple[float, float] = (0.1, 0.9),
    ) -> None:  # fmt: skip
        """A run from scratch that reaches the plateau at t1 and leaves it at t2."""
        self.runs.append(run_row(spec))
        for s in evaluation_steps(spec.steps, COUNT):
            known = 9.0 if s < t1 else B if s < t2 else 1.0
            held = 9.0 if s < t1 else B if s < t_held else 1.5 * B
            after = s >= t2
            self.evaluations += [
                evaluation(spec.name, s, "known", loss_nats=known,
                           accuracy=accuracy if after else 0.03,
                           top_probability=top if after else 0.1),
                evaluation(spec.name, s, "held_out", loss_nats=held, auroc=0.8 if after else 0.5),
            ]  # fmt: skip
            extraction = 0.2 if s < t1 else circuit[0] if s < t2 else circuit[1]
            for layer, mass in enumerate((0.2, extraction)):
                self.signatures.append({
                    "dynamics_run": spec.name, "step": s, "population": "known", "layer": layer,
                    "grouping": 0.3, "extraction": mass, "sharpness": 0.5,
                })  # fmt: skip

    def tuned(
        self, spec: RunSpec, old: Mapping[int, float], taught: Mapping[int, float],
        attention: float, mlp: float,
    ) -> None:  # fmt: skip
        """A fine-tuning with these accuracies by step, and old accuracy after a swap-back."""
        self.runs.append(run_row(spec))
        for s in old:
            self.evaluations += [
                evaluation(spec.name, s, "old", accuracy=old[s]),
                evaluation(spec.name, s, "taught", accuracy=taught[s]),
            ]
        for kind, value in (("attention", attention), ("mlp", mlp)):
            self.evaluations += [
                evaluation(spec.name, max(old), p, restored=kind, accuracy=v)
                for p, v in (("old", value), ("taught", value / 2))
            ]

    def arrow(self) -> dict[str, pa.Table]:
        return {
            "dynamics_runs": DYNAMICS_RUNS.from_rows(self.runs),
            "biography_eval": BIOGRAPHY_EVAL.from_rows(self.evaluations),
            "attention_signatures": ATTENTION_SIGNATURES.from_rows(self.signatures),
        }


def uniform(size: int, steps: int = 4000) -> RunSpec:
    return RunSpec(f"n{size}.uniform", "scratch", 0, size, steps)


def seeds(spec: RunSpec, count: int = 3) -> Sequence[RunSpec]:
    parent = spec.parent
    return [
        replace(spec, seed=k, parent=f"{parent}.s{k}" if parent else None) for k in range(count)
    ]


BASE = uniform(4096)
TUNING = RunSpec(
    "n4096.new.w0", "fine_tuned", 0, 4096, 100, parent="n4096.uniform", material="new",
    n_taught=64, replay_weight=0.0,
)  # fmt: skip


def full_study(count: int = 3) -> Tables:
    """A study in which every claim of dynamics-2025 holds, with a little noise over seeds."""
    t = Tables()
    for size in (512, 1024, 2048, 4096):
        for spec in seeds(uniform(size), count):
            t2 = 0.43 * size**0.81 * (1 + 0.03 * spec.seed)
            t.learned(spec, 30, t2, t_held=t2 * 1.1, accuracy=0.5 + 0.01 * spec.seed,
                      top=0.9 - 0.01 * spec.seed)  # fmt: skip
    for alpha, t2, accuracy in ((0.6, 200, 0.7), (1.0, 150, 0.4)):
        spec = replace(
            BASE, condition=f"n4096.power_law.a{alpha:g}", distribution="power_law", alpha=alpha
        )
        for s in seeds(spec, count):
            t.learned(s, 30, t2 * (1 + 0.02 * s.seed), accuracy=accuracy + 0.02 * s.seed)
    warm = replace(BASE, condition="n4096.warm_up", distribution="warm_up", warm_up_people=1024)
    for s in seeds(warm, count):
        t.learned(s, 30, 120, accuracy=0.95 + 0.01 * s.seed)
    for r, t2 in ((10, 3000), (4000, 60)):
        spec = replace(
            BASE, condition=f"n4096.patched.r{r}", kind="patched", parent="n4096.uniform",
            reference_step=r, patch_from=0,
        )  # fmt: skip
        for s in seeds(spec, count):
            t.learned(s, 30, t2 * (1 + 0.02 * s.seed) if r > 100 else 1e9)
    _tunings(t, count)
    return t


def _tunings(t: Tables, count: int) -> None:
    for s in seeds(TUNING, count):
        e = 0.01 * s.seed
        t.tuned(s, {0: 0.8, 10: 0.4 + e, 100: 0.3}, {0: 0.0, 10: 0.2 + e, 100: 0.9}, 0.35 + e, 0.7)
    replayed = replace(TUNING, condition="n4096.new.w0.25", replay_weight=0.25)
    for s in seeds(replayed, count):
        e = 0.01 * s.seed
        t.tuned(s, {0: 0.8, 10: 0.7 + e, 100: 0.65}, {0: 0, 10: 0.1, 100: 0.8}, 0.66, 0.7)
    celebrity = replace(
        BASE, condition="n4096.celebrities", distribution="celebrities", celebrities=1024
    )
    for s in seeds(celebrity, count):
        t.learned(s, 30, 200)
    for label, material, low in (("rare", "rare", 0.75), ("rare_control", "new", 0.3)):
        spec = replace(
            TUNING, condition=f"n4096.{label}.w0", parent="n4096.celebrities", material=material,
            celebrities=1024, distribution="celebrities",
        )  # fmt: skip
        for s in seeds(spec, count):
            e = 0.01 * s.seed
            t.tuned(s, {0: 0.8, 100: low + e}, {0: 0, 100: 0.9}, 0.4, 0.7)
