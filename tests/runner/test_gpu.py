"""The same numbers on a GPU as on a CPU: a whole run of recall and circuits on each.

In float32, with matrix products that are not rounded to TF32 (PyTorch's default): what differs is
the order of sums. Random tiny models have near ties, so a few ranks and activations may flip.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from tests.tiny import save_series

from factlife.circuits.bits import unpack
from factlife.config import Circuits, Execution, Intervals, Profile, Recall
from factlife.runner.progress import Silent
from factlife.runner.run import Options, run
from factlife.runner.score import score_run
from factlife.schema import TABLES
from factlife.series.local import open_series
from factlife.store import RunStore

QUICK = Profile(
    name="quick",
    recall=Recall(templates="source"),
    circuits=Circuits(ablation_draws=2, null_draws=20),
    intervals=Intervals(draws=100),
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MEASURED = ("recall", "candidates", "circuits", "ablations")


@pytest.fixture(scope="module", params=["llama", "olmo2", "gpt_neox", "gpt2", "gemma2", "olmoe"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run folders of one series, measured on the CPU and on the GPU."""
    folder = tmp_path_factory.mktemp(request.param)
    series = open_series(str(save_series(folder / "series", (10, 100), request.param)))
    outs = []
    for device in ("cpu", "cuda"):
        profile = replace(QUICK, tracks=("recall", "circuits"), execution=Execution(device=device))
        run(series, profile, folder / device, Options(), Silent())
        outs.append(folder / device)
    return outs


def both(pair: list[Path], table: str) -> list[pa.Table]:
    keys = [(k, "ascending") for k in TABLES[table].key]
    return [RunStore.existing(p).read(table).sort_by(keys) for p in pair]


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False)


@pytest.mark.parametrize("table", MEASURED)
def test_log_probabilities_and_reasons_agree(table: str, pair: list[Path]) -> None:
    cpu, gpu = both(pair, table)
    if table == "ablations":  # a flipped activation changes which heads are taken out
        cpu, gpu = (t.filter(pc.equal(t["condition"], "intact")) for t in (cpu, gpu))
    for key in (*TABLES[table].key, "reason"):
        assert cpu[key].equals(gpu[key]), key
    if "logprob_sum_nats" in cpu.column_names:
        a, b = (column(t, "logprob_sum_nats") for t in (cpu, gpu))
        assert np.nanmax(np.abs(a - b)) < 1e-3


def test_ranks_and_generations_agree(pair: list[Path]) -> None:
    cpu, gpu = both(pair, "recall")
    assert np.mean(column(cpu, "rank") == column(gpu, "rank")) > 0.99
    assert np.mean(column(cpu, "generation") == column(gpu, "generation")) > 0.95


def test_circuits_agree_edge_for_edge(pair: list[Path]) -> None:
    cpu, gpu = (t.filter(t["n_heads"].is_valid()) for t in both(pair, "circuits"))
    n = cpu["n_layers"][0].as_py() * cpu["n_heads"][0].as_py()
    a, b = (unpack(t["heads"], n) for t in (cpu, gpu))
    assert a.any() and np.mean(a == b) > 0.995


def test_scores_agree(pair: list[Path]) -> None:
    cpu, gpu = (score_run(p)["metrics"] for p in pair)
    assert cpu.keys() == gpu.keys()
    name = "recall.whole_answer_accuracy"
    found = [k for k in cpu if k.startswith(name)]
    assert found
    for key in found:
        assert cpu[key]["value"] == pytest.approx(gpu[key]["value"], abs=0.02)
