"""The dynamics code on a CUDA device: the study of a CPU, to rounding. Skips itself without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.dynamics.small import EVERYTHING, SMALL

from factlife.config import Dynamics
from factlife.dynamics.study import Study
from factlife.store import RunStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Key = tuple[str, int, str, str]


def losses(root: Path, settings: Dynamics, device: str) -> dict[Key, float]:
    """(run, step, population, restored) -> loss in nats, of a whole study."""
    with RunStore.writer(root / device, {"identity": {"study": "small"}}) as store:
        Study(settings, store, root / ".work", device).run()
        rows = store.read("biography_eval").to_pylist()
    return {
        (r["dynamics_run"], r["step"], r["population"], r["restored"]): r["loss_nats"] for r in rows
    }


def test_every_kind_of_run_is_that_of_a_cpu(tmp_path: Path) -> None:
    """From scratch, all distributions, patched, fine-tuned with swap-back; float32."""
    settings = replace(EVERYTHING, seeds=1)
    cpu, cuda = (losses(tmp_path, settings, d) for d in ("cpu", "cuda"))
    assert cpu.keys() == cuda.keys() and len(cpu) > 100
    for key, loss in cpu.items():
        # Untrained models differ by rounding, later ones by its growth in a dozen steps.
        assert cuda[key] == pytest.approx(loss, rel=1e-4 if key[1] == 0 else 5e-3), key


def test_bfloat16_training_follows_float32(tmp_path: Path) -> None:
    settings = replace(SMALL, seeds=1, steps=(40,), peak_lr=1e-2)
    exact = losses(tmp_path / "float32", settings, "cuda")
    rough = losses(tmp_path / "bfloat16", replace(settings, precision="bfloat16"), "cuda")
    first, last = min(k[1] for k in exact), max(k[1] for k in exact)
    run = "n40.uniform.s0"
    key = (run, last, "known", "none")
    assert rough[run, first, "known", "none"] == exact[run, first, "known", "none"]
    assert rough[key] == pytest.approx(exact[key], rel=0.05) and rough[key] != exact[key]
    assert rough[key] < 0.8 * rough[run, first, "known", "none"]
