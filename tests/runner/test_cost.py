"""The cost model by hand, and the table that docs/scaling.md prints from it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.config import Injection, load_profile
from factlife.injection.corpus import load_corpus
from factlife.injection.cost import Shape, cost, forward_flops, largest, training_flops
from factlife.injection.plan import RunPlan, Start, make_plans
from factlife.runner.cost import (
    CPU_EFFICIENCY,
    CPU_TRAINING,
    CPU_TUNING,
    GPU_TRAINING,
    Checkpoint,
    Machine,
    Tuning,
    Work,
    disk,
    flops,
    memory,
    run_cost,
    seconds,
    tuning_flops,
    tuning_memory,
    tuning_seconds,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "scaling.md"
# Tokens of `standard`: with 1.3 tokens a word, as large vocabularies have: see the page.
STANDARD = Work(scored=29_000, traced=3_100, ablated=540_000, attended=2_200)
TUNING = Tuning(trained=450_000, read=147_000)
PROBE_TOKENS, FACT_TOKENS = 68_000, 2_200
# One H100's fp32 (no TF32) and bfloat16, and 100 MB a second from the Hub.
FP32, BF16, TRAINING = 67e12, 989e12, GPU_TRAINING
GPU, HUB = Machine(FP32), Machine(FP32, download=100e6)
MODELS = {
    "160M": Shape(162_322_944, 12, 768, 50_304, "gpt_neox", tied=False),  # Pythia
    "1B": Shape(1_011_781_632, 16, 2048, 50_304, "gpt_neox", tied=False),  # Pythia
    "1.5B": Shape(1_484_916_736, 16, 2048, 100_352, "olmo2", tied=False),  # OLMo 2, called 1B
    "7B": Shape(7_298_617_344, 32, 4096, 100_352, "olmo2", tied=False),
    "32B": Shape(32_234_279_936, 64, 5120, 100_352, "olmo2", tied=False),
}
COUNTS = (20, 40, 154)
FILE_BYTES = 2  # a parameter, as most series publish


def series(parameters: int, n: int) -> list[Checkpoint]:
    one = Checkpoint(parameters, FILE_BYTES * parameters)
    return [one] * (n - 1) + [Checkpoint(parameters, FILE_BYTES * parameters, ablated=True)]


@functools.cache
def plans() -> list[RunPlan]:
    """The injection runs of `standard`."""
    settings = load_profile("standard").injection
    starts = [Start(name, name) for name in settings.starts]
    return make_plans(load_corpus(settings.corpus), settings, starts)


def table() -> list[str]:
    """The rows of the page's table of time."""
    rows = []
    for name, s in MODELS.items():
        n = s.parameters
        injected = cost(plans(), s, PROBE_TOKENS, FACT_TOKENS, TRAINING * BF16, half=True)
        tuned = tuning_seconds(n, TUNING, GPU) / 3600
        for k in COUNTS:
            here, hub = (run_cost(series(n, k), STANDARD, m) for m in (GPU, HUB))
            all_ = here.flops + tuning_flops(n, TUNING) + injected.flops
            more = tuned + injected.seconds / 3600
            rows.append(
                f"| {name} | {k} | {here.bytes / 1e9:,.1f} | {disk(FILE_BYTES * n, k) / 1e9:,.1f} "
                f"| {all_ / 1e18:,.2f} | {here.hours:,.2f} | {tuned:,.2f} "
                f"| {injected.seconds / 3600:,.2f} | {here.hours + more:,.2f} "
                f"| {hub.hours + more:,.2f} |"
            )
    return rows


def memory_table() -> list[str]:
    """The rows of the page's table of memory."""
    rows = []
    for name, s in MODELS.items():
        measured = memory(s.parameters, s.width, s.vocabulary, 8192) / 1e9
        held = {d: largest(plans(), s, half=True, devices=d) for d in (1, 2, 4, 8, 16)}
        fits = next((f"{d} x {m.fits}" for d, m in held.items() if m and m.fits), "none")
        each = " | ".join(f"{m.total / 1e9:,.0f}" for m in held.values() if m)
        rows.append(
            f"| {name} | {measured:,.1f} | {tuning_memory(s.parameters) / 1e9:,.1f} | {each} "
            f"| {fits} |"
        )
    return rows


def budget() -> list[str]:
    """The rows of docs/injection.md."""
    rows = []
    for name, s in MODELS.items():
        c = cost(plans(), s, PROBE_TOKENS, FACT_TOKENS, TRAINING * BF16, half=True)
        one = largest(plans(), s, half=True)
        assert one is not None
        rows.append(
            f"| {name} | {c.flops:.1e} | {c.seconds / 3600:,.1f} | {one.total / 1e9:,.0f} "
            f"| {one.fits or 'more than one device'} |"
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
    # 6 x 3 tokens trained and 2 x 5 read, of 10 parameters; 16 bytes a parameter and 128 MiB
    assert tuning_flops(10, Tuning(3, 5)) == 10 * 28
    assert tuning_seconds(10, Tuning(3, 5), Machine(100)) == 280 / (0.25 * 100)
    assert tuning_memory(10**9) == 16 * 10**9 + 128 * 2**20


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 10**11))
def test_a_run_costs_the_sum_of_its_checkpoints(ablated: list[bool], parameters: int) -> None:
    all_ = [Checkpoint(parameters, 2 * parameters, a) for a in ablated]
    cost = run_cost(all_, STANDARD, GPU)
    assert cost.flops == pytest.approx(sum(flops(c, STANDARD) for c in all_))
    assert cost.seconds >= len(all_)
    assert cost.bytes == 2 * parameters * len(all_)


def test_the_pages_print_what_the_model_says() -> None:
    page = PAGE.read_text("utf-8")
    assert [row for row in (*table(), *memory_table()) if row not in page] == []
    page = (DOCS / "injection.md").read_text("utf-8")
    assert [row for row in budget() if row not in page] == []


def test_the_pages_state_the_sizes_of_the_profile() -> None:
    """`standard`: runs, updates and tokens of both pages."""
    c = cost(plans(), MODELS["1B"], PROBE_TOKENS, FACT_TOKENS, TRAINING * BF16, half=True)
    runs, updates = len(plans()), {p.schedule.steps for p in plans()}
    trained, read = round(c.tokens / 1e6), round(c.probe_tokens / 1e6)
    line = f"{trained:,} million tokens trained on and {read:,} million read"
    words = (DOCS / "injection.md").read_text("utf-8")
    assert line in " ".join(words.split())
    assert f"{runs} runs of {max(updates)} updates" in words and len(updates) == 1
    assert c.seconds < 3 * 3600, "a 1B model stays under three GPU-hours"


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


def test_the_measured_points_of_training_lie_by_the_model() -> None:
    """| what | model | parameters | tokens | GFLOP/s | predicted s | measured s |"""
    lines = PAGE.read_text("utf-8").splitlines()
    cells = [[c.strip() for c in line.strip("| ").split("|")] for line in lines]
    rows = [c for c in cells if c[0] in ("update", "probes", "fine-tuning")]
    assert len(rows) >= 9
    for what, model, parameters, tokens, speed, predicted, measured in rows:
        kind, layers, _, width = model.split()
        n, product = int(parameters.replace(",", "")), float(speed) * 1e9
        trained, _, read = tokens.replace(",", "").partition(" + ")
        shape = Shape(n, int(layers), int(width), 2000, kind, tied=kind == "llama")
        seconds_ = {
            "update": training_flops(shape, Injection(context=128)) * int(trained),
            "probes": forward_flops(shape, 128) * int(trained),
            "fine-tuning": tuning_flops(n, Tuning(int(trained), int(read or 0))),
        }[what] / product
        share = CPU_TUNING if what == "fine-tuning" else CPU_TRAINING
        assert seconds_ / share == pytest.approx(float(predicted), rel=0.03, abs=0.006)
        assert 0.6 <= float(predicted) / float(measured) <= 1.7
