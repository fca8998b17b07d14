"""A tiny injection run on a CUDA device: bfloat16 autocast over float32 weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.injection.small import PLACE, corpus, facts, loaded, means, plan

from factlife.injection.measure import measure
from factlife.training.loop import StepReport

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL_STEPS: dict[str, Any] = {"peak_lr": 1e-3}


class KilledError(Exception):
    """Stands for a signal."""


def run(work: Path, device: str, stop_at: int = 0, **changes: Any) -> Mapping[str, pa.Table]:
    made = loaded()
    made.model.to(device)

    def on_step(report: StepReport) -> None:
        if stop_at and report.step == stop_at:
            raise KilledError

    how = means(work, device=torch.device(device), state_seconds=0.0, on_step=on_step)
    return measure(made, plan(**{**SMALL_STEPS, **changes}), corpus(), facts(), PLACE, how)


def levels(tables: Mapping[str, pa.Table], table: str = "probes") -> np.ndarray[Any, Any]:
    """Log-probabilities in nats in one order."""
    found: np.ndarray[Any, Any] = tables[table]["logprob_sum_nats"].to_numpy()
    return found


def test_float32_on_cuda_is_float32_on_the_cpu(tmp_path: Path) -> None:
    cpu = run(tmp_path / "cpu", "cpu")
    cuda = run(tmp_path / "cuda", "cuda", precision="float32")
    # TF32 is off by default in matrix products; the order of sums is another.
    assert np.allclose(levels(cpu), levels(cuda), atol=5e-2)
    assert cuda["injection_runs"].to_pylist()[0]["precision"] == "float32"


def test_bfloat16_is_near_float32_on_the_cpu(tmp_path: Path) -> None:
    """Eight bits of mantissa: logits of size 10 are off by some hundredths, sums of tokens more."""
    cpu, cuda = run(tmp_path / "cpu", "cpu"), run(tmp_path / "cuda", "cuda")
    assert cuda["injection_runs"].to_pylist()[0]["precision"] == "bfloat16"
    for table in ("probes", "injection_recall"):
        one, two = levels(cpu, table), levels(cuda, table)
        assert np.allclose(one, two, rtol=0.02, atol=0.3)
        assert not np.array_equal(one, two)
    loss = [t["training_log"]["loss"].to_numpy(zero_copy_only=False)[1:] for t in (cpu, cuda)]
    assert np.allclose(*loss, rtol=0.02)
    held = [t["training_log"]["background_loss"].drop_null().to_numpy() for t in (cpu, cuda)]
    assert np.allclose(*held, rtol=0.02)


def test_weights_and_moments_stay_float32(tmp_path: Path) -> None:
    made = loaded()
    made.model.to("cuda")
    how = means(tmp_path, device=torch.device("cuda"))
    measure(made, plan(**SMALL_STEPS), corpus(), facts(), PLACE, how)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}


def test_a_killed_run_goes_on_on_cuda(tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken", "cuda")
    with pytest.raises(KilledError):
        run(tmp_path / "broken", "cuda", stop_at=11)
    resumed = run(tmp_path / "broken", "cuda")
    assert resumed["probes"]["step"].equals(unbroken["probes"]["step"])
    assert np.allclose(levels(resumed), levels(unbroken), rtol=0.02, atol=0.3)


def test_memory_that_does_not_do_is_said(tmp_path: Path) -> None:
    """More rows than any device holds; the message says what to lower."""
    from factlife.errors import UsageError

    def too_much(_: StepReport) -> None:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")

    made = loaded()
    made.model.to("cuda")
    how = means(tmp_path, device=torch.device("cuda"), on_step=too_much)
    with pytest.raises(UsageError, match="raise accumulation"):
        measure(made, plan(**SMALL_STEPS), corpus(), facts(), PLACE, how)
