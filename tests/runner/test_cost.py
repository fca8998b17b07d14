"""The cost model by hand, and the table that docs/scaling.md prints from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.runner.cost import (
    CPU_EFFICIENCY,
    Checkpoint,
    Machine,
    Work,
    disk,
    flops,
    memory,
    run_cost,
    seconds,
    training_flops,
    training_memory,
)

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
# Tokens of `standard` with 1.3 tokens a word, as large vocabularies have: see the page.
STANDARD = Work(scored=29_000, traced=3_100, ablated=540_000)
# One H100's fp32 (no TF32), and 100 MB a second from the Hub.
GPU, HUB = Machine(67e12), Machine(67e12, download=100e6)
# name, parameters, width, vocabulary: Pythia-160M, OLMo-2 1B, 7B and 32B
MODELS = (
    ("160M", 162_322_944, 768, 50_304),
    ("1B", 1_484_916_736, 2048, 100_352),
    ("7B", 7_298_617_344, 4096, 100_352),
    ("32B", 32_234_279_936, 5120, 100_352),
)
COUNTS = (20, 40, 154)
FILE_BYTES = 2  # a parameter, as most series publish


def series(parameters: int, n: int) -> list[Checkpoint]:
    one = Checkpoint(parameters, FILE_BYTES * parameters)
    return [one] * (n - 1) + [Checkpoint(parameters, FILE_BYTES * parameters, ablated=True)]


def table() -> list[str]:
    """The rows of the page's table."""
    rows = []
    for name, parameters, width, vocabulary in MODELS:
        for n in COUNTS:
            here, hub = (run_cost(series(parameters, n), STANDARD, m) for m in (GPU, HUB))
            held = memory(parameters, width, vocabulary, 8192) / 1e9
            cached = disk(FILE_BYTES * parameters, n) / 1e9
            rows.append(
                f"| {name} | {n} | {here.bytes / 1e9:,.1f} | {here.flops / 1e15:,.1f} "
                f"| {held:,.1f} | {cached:,.1f} | {here.hours:,.2f} | {hub.hours:,.2f} |"
            )
    return rows


def test_flops_by_hand() -> None:
    # 2 x 1e9 x (1000 + 1.3 x 100) = 2.26e12; with 5000 tokens of ablation more, 1.226e13
    work = Work(scored=1000, traced=100, ablated=5000)
    assert flops(Checkpoint(10**9, 0), work) == pytest.approx(2.26e12)
    assert flops(Checkpoint(10**9, 0, ablated=True), work) == pytest.approx(1.226e13)


def test_seconds_by_hand() -> None:
    # 1 s + 2e12 FLOPs / (0.25 x 1e12 FLOP/s) + twice 4 GB at 1 GB/s = 1 + 8 + 8
    c, work = Checkpoint(10**9, 4 * 10**9), Work(1000)
    assert seconds(c, work, Machine(1e12)) == pytest.approx(17)
    # 4 GB at 0.1 GB/s take 40 s, beside the work; at 1 GB/s 4 s, which do not show
    assert seconds(c, work, Machine(1e12, download=0.1e9)) == pytest.approx(40)
    assert seconds(c, work, Machine(1e12, download=1e9)) == pytest.approx(17)


def test_memory_disk_and_training_by_hand() -> None:
    # 128 MiB + 4 x (1e6 + 100 x (24 x 10 + 80 // 8)) + 512 MiB
    assert memory(10**6, 10, 80, 100) == 640 * 2**20 + 4_100_000
    assert (disk(5, 2), disk(5, 3), disk(5, 20)) == (10, 15, 15)
    assert training_flops(10, 3, 100) == 6 * 10 * 3 * 100
    assert training_flops(10, 3, 100, recompute=True) == 8 * 10 * 3 * 100
    assert training_memory(10**9, 4) == 4 * 10**9  # 16 bytes a parameter over four devices


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 10**11))
def test_a_run_costs_the_sum_of_its_checkpoints(ablated: list[bool], parameters: int) -> None:
    all_ = [Checkpoint(parameters, 2 * parameters, a) for a in ablated]
    cost = run_cost(all_, STANDARD, GPU)
    assert cost.flops == pytest.approx(sum(flops(c, STANDARD) for c in all_))
    assert cost.seconds >= len(all_)
    assert cost.bytes == 2 * parameters * len(all_)


def test_the_page_prints_what_the_model_says() -> None:
    page = PAGE.read_text("utf-8")
    assert [row for row in table() if row not in page] == []


def test_the_measured_points_of_the_page_lie_by_the_model() -> None:
    """| parameters | tokens scored, traced, ablated | GFLOP/s | predicted s | measured s | … |"""
    rows = re.findall(r"^\| ([\d,]+) \| (\d+), (\d+), (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|",
                      PAGE.read_text("utf-8"), re.M)  # fmt: skip
    assert len(rows) == 5
    for parameters, scored, traced, ablated, speed, predicted, measured in rows:
        n = int(parameters.replace(",", ""))
        work = Work(int(scored), int(traced), int(ablated))
        both = [Checkpoint(n, 4 * n), Checkpoint(n, 4 * n, ablated=work.ablated > 0)]
        cost = run_cost(both, work, Machine(float(speed) * 1e9, efficiency=CPU_EFFICIENCY))
        assert cost.seconds == pytest.approx(float(predicted), rel=0.01)
        assert 0.7 <= float(predicted) / float(measured) <= 1.4
