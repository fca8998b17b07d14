"""A synthetic study folder of the dynamics track: curves with known phases, no model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.report.synthetic import sha

from factlife.config import load_profile
from factlife.dynamics.phases import evaluation_steps
from factlife.report import write_report
from factlife.runner.score import score_run
from factlife.store import RunStore

Row = dict[str, Any]
BASELINE = math.log(32)
LAYERS = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the synthetic study holds.

    Attributes:
        sizes: people of the uniform runs.
        others: other distributions at the largest size; `alphas`: of its power laws.
        never: sizes whose runs never leave the plateau.
    """

    sizes: Sequence[int] = (512, 1024, 2048, 4096)
    seeds: int = 3
    others: bool = True
    alphas: Sequence[float] = (0.3, 0.6, 1.0)
    patched: bool = True
    tuned: bool = True
    never: Sequence[int] = ()
    evaluations: int = 40
    name: str = "dynamics-cpu study, llama"


_OPTIONAL = (
    "alpha", "celebrities", "celebrity_weight", "warm_up_people", "warm_up_steps", "groups",
    "parent", "reference_step", "patch_from", "material", "n_taught", "replay_weight",
    "replay_share",
)  # fmt: skip


def run_row(condition: str, seed: int, n: int, steps: int, **more: Any) -> Row:
    """A row of `dynamics_runs`: uniform and from scratch, unless `more` says otherwise."""
    return {
        "dynamics_run": f"{condition}.s{seed}", "condition": condition, "kind": "scratch",
        "seed": seed, "arch": "llama", "layers": LAYERS, "width": 128, "heads": 4,
        "precision": "float32",
        "n_parameters": 650_000, "n_people": n, "n_held_out": 256, "n_attributes": 4,
        "baseline_nats": BASELINE, "uniform_nats": BASELINE, "distribution": "uniform",
        "steps": steps, "batch_rows": 32, "context": 64, "peak_lr": 2e-3,
        "tokens": steps * 32 * 64, **dict.fromkeys(_OPTIONAL), **more,
    }  # fmt: skip


def learned(run: Row, t1: float, t2: float, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """Evaluations of a run that reaches the baseline at t1 and leaves it at t2."""
    for step in evaluation_steps(run["steps"], count):
        early = 3.0 * math.exp(-3.0 * step / t1)
        late = max(0.0, math.log((step + 1) / t2)) if step > 0 else 0.0
        gained = 1 - math.exp(-1.6 * late)
        noise = rng.normal(0, 0.01)
        loss = BASELINE * (1 - 0.9 * gained) + early + noise
        held = BASELINE * (1 + 0.8 * gained) + early - noise
        for population, nats, right, top in (
            ("known", loss, gained, 0.05 + 0.9 * gained),
            ("held_out", held, 0.03, 0.05 + 0.4 * gained),
        ):
            yield {
                "dynamics_run": run["dynamics_run"], "step": step, "population": population,
                "restored": "none", "n_people": 256, "loss_nats": float(nats),
                "accuracy": float(right), "top_probability": float(top),
                "entropy_nats": float(BASELINE * (1 - 0.7 * gained)),
                "auroc": float(0.5 + 0.45 * gained) if population == "held_out" else None,
            }  # fmt: skip


def signatures(run: Row, t1: float, t2: float, count: int) -> Iterator[Row]:
    """Attention that forms between t1 and t2."""
    for step in evaluation_steps(run["steps"], count):
        rise = min(1.0, max(0.0, math.log((step + 1) / t1) / math.log(t2 / t1)))
        for layer in range(LAYERS):
            yield {
                "dynamics_run": run["dynamics_run"], "step": step, "population": "known",
                "layer": layer, "grouping": 0.1 + (0.5 if layer == 0 else 0.1) * rise,
                "extraction": 0.05 + (0.6 if layer else 0.1) * rise, "sharpness": 0.95 - 0.5 * rise,
            }  # fmt: skip


def tuned(run: Row, rng: np.random.Generator) -> Iterator[Row]:
    """A fine-tuning: new people come, old ones go, the less the more they are replayed."""
    keep = 0.25 + 0.7 * run["replay_share"]
    for step in (0, 1, 2, 5, 10, 20, 50, 100):
        gone = 1 - math.exp(-step / 8)
        old = 0.95 * (1 - (1 - keep) * gone) + rng.normal(0, 0.01)
        for population, right in (("old", old), ("taught", 0.9 * gone), ("held_out", 0.03)):
            yield _tuned_row(run, step, population, "none", right)
    for restored, back in (("attention", 0.2), ("mlp", 0.8)):
        yield _tuned_row(run, step, "old", restored, old + back * (0.95 - old))


def _tuned_row(run: Row, step: int, population: str, restored: str, right: float) -> Row:
    return {
        "dynamics_run": run["dynamics_run"], "step": step, "population": population,
        "restored": restored, "n_people": 256, "loss_nats": BASELINE * (1.2 - right),
        "accuracy": min(1.0, max(0.0, float(right))), "top_probability": 0.6, "entropy_nats": 1.0,
        "auroc": 0.8 if population == "held_out" else None,
    }  # fmt: skip


def runs_of(plan: Plan) -> Iterator[tuple[Row, float, float]]:
    """Runs from scratch with their t1 and t2."""
    largest = max(plan.sizes)
    for seed in range(plan.seeds):
        late = 1 + 0.05 * seed
        for n in plan.sizes:
            steps = int(400 * (n / 512) ** 1.1) + 600
            t2 = steps * 10.0 if n in plan.never else 150 * (n / 512) ** 1.1 * late
            yield run_row(f"n{n}.uniform", seed, n, steps), 40.0, t2
        at = 150 * (largest / 512) ** 1.1 * late
        steps = int(400 * (largest / 512) ** 1.1) + 600
        if plan.others:
            for alpha in plan.alphas:
                faster = 0.6 + abs(alpha - 0.6)
                more: Row = {"distribution": "power_law", "alpha": alpha}
                row = run_row(f"n{largest}.power_law.a{alpha:g}", seed, largest, steps, **more)
                yield row, 40.0, at * faster
            more = {"distribution": "warm_up", "warm_up_people": 1024, "warm_up_steps": 900}
            yield run_row(f"n{largest}.warm_up", seed, largest, steps, **more), 40.0, at * 0.4
            more = {"distribution": "celebrities", "celebrities": 1024, "celebrity_weight": 8.0}
            yield run_row(f"n{largest}.celebrities", seed, largest, steps, **more), 40.0, at * 0.5
            row = run_row(f"n{largest}.groups", seed, largest, steps, distribution="groups",
                          groups=4)  # fmt: skip
            yield row, 40.0, at * 0.7
        if plan.patched:
            small = plan.sizes[0]
            for reference, faster in ((20, 1.6), (800, 0.3)):
                more = {"kind": "patched", "parent": f"n{small}.uniform.s{seed}",
                        "reference_step": reference, "patch_from": 0}  # fmt: skip
                row = run_row(f"n{small}.patched.r{reference}", seed, small, 1000, **more)
                yield row, 40.0, 150 * late * faster


def tunings(plan: Plan) -> Iterator[Row]:
    """Fine-tunings of the smallest uniform run, with three weights of replay."""
    n = plan.sizes[0]
    for seed in range(plan.seeds):
        for weight in (0.0, 0.05, 0.25):
            share = weight * n / (weight * n + 64)
            yield run_row(
                f"n{n}.new.w{weight:g}", seed, n, 100, kind="fine_tuned", material="new",
                n_taught=64, parent=f"n{n}.uniform.s{seed}", replay_weight=weight,
                replay_share=share,
            )  # fmt: skip


def manifest(plan: Plan) -> Row:
    profile = load_profile("dynamics-cpu")
    digest = profile.protocol_hash({"synthetic-biographies": sha("people")})
    return {
        "identity": {"study": plan.name, "protocol_hash": digest},
        "study": "dynamics",
        "protocol": {"name": profile.name, "version": profile.version, "hash": digest,
                     "ranked": False, "badge": profile.badge, "params": profile.params()},
        "series": {"name": plan.name, "warnings": []}, "subsets": {}, "chance": {},
        "data": [{"name": "synthetic-biographies", "revision": "0.1.0",
                  "fingerprint": sha("people")}],
        "env": {"image_digest": None, "git_sha": "0123456789abcdef0123456789abcdef01234567",
                "dirty": False, "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
                "device": "cpu", "seeds": {"bootstrap": 0}, "deterministic": True},
        "command": "factlife study dynamics --size cpu --out /somewhere/else",
    }  # fmt: skip


def write_runs(run: RunStore, plan: Plan) -> None:
    """The raw tables of a study."""
    rng = np.random.default_rng(3)
    for row, t1, t2 in runs_of(plan):
        at = {"dynamics_run": row["dynamics_run"]}
        run.write_part("dynamics_runs", [row], at)
        run.write_part("biography_eval", list(learned(row, t1, t2, rng, plan.evaluations)), at)
        run.write_part("attention_signatures", list(signatures(row, t1, t2, plan.evaluations)), at)
    for row in tunings(plan) if plan.tuned else ():
        at = {"dynamics_run": row["dynamics_run"]}
        run.write_part("dynamics_runs", [row], at)
        run.write_part("biography_eval", list(tuned(row, rng)), at)


def build_study(root: Path, plan: Plan) -> RunStore:
    """Write a whole study folder, scored by the track's own functions, with its report."""
    with RunStore.writer(root, manifest(plan)) as run:
        write_runs(run, plan)
    score_run(root)
    write_report(run)
    return run
