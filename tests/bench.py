"""Speed as ratios against a baseline in the same run: `tox run -e bench`.

Each pair runs in turn, A B A B …, and the ratio is taken pair by pair; the median and the range
are printed. A target that is missed is printed as such, and the exit code is 1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tests import bench_circuits, bench_dynamics, bench_gpu, bench_injection, bench_series
from tests.tiny import byte_level_tokenizer
from transformers import AutoModelForCausalLM, Olmo2Config
from transformers.utils import logging as transformers_logging

from factlife.config import Profile, Recall
from factlife.corpora.fact_probes import load_fact_probes
from factlife.recall.measure import Prepared, prepare
from factlife.scoring.candidates import Group, score_groups
from factlife.scoring.targets import Target, batches, pad, score

PAIRS = 5


@dataclass(frozen=True)
class Ratio:
    """Outcome of one benchmark: a / b, pair by pair."""

    name: str
    a: str
    b: str
    seconds_a: float
    seconds_b: float
    ratios: tuple[float, ...]
    target: str
    holds: bool


def timed(f: Callable[[], Any]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def compare(
    name: str, a: tuple[str, Callable[[], Any]], b: tuple[str, Callable[[], Any]],
    at_most: float | None = None, at_least: float | None = None,
) -> Ratio:  # fmt: skip
    """Time a against b. The target bounds the median of a/b."""
    a[1](), b[1]()  # warm up
    times = [(timed(a[1]), timed(b[1])) for _ in range(PAIRS)]
    ratios = tuple(x / y for x, y in times)
    median = statistics.median(ratios)
    holds = (at_most is None or median <= at_most) and (at_least is None or median >= at_least)
    target = f"<= {at_most}" if at_most is not None else f">= {at_least}"
    seconds = [statistics.median(t) for t in zip(*times, strict=True)]
    return Ratio(name, a[0], b[0], seconds[0], seconds[1], ratios, target, holds)


def bench_model(layers: int = 4, width: int = 256, vocab: int = 8192) -> Any:
    """A model large enough that arithmetic, not Python, decides."""
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
        intermediate_size=4 * width, max_position_embeddings=256,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def prompts() -> Prepared:
    """The probe set as tokens, source templates."""
    profile = Profile("bench", recall=Recall(templates="source", generation="none"))
    return prepare(byte_level_tokenizer(2000), load_fact_probes(), profile, None)


@torch.inference_mode()
def plain_forward(model: Any, targets: list[Target], batch_tokens: int) -> None:
    """What everybody else does: the model over the same rows, in the same batches, all logits."""
    for batch in batches([len(t.ids) for t in targets], batch_tokens):
        padded = pad([targets[i].ids for i in batch], "right", torch.device("cpu"))
        model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False)


@torch.inference_mode()
def bare_forward(model: Any, targets: list[Target], batch_tokens: int) -> None:
    """The transformer without its output embedding: a lower bound on any scoring."""
    for batch in batches([len(t.ids) for t in targets], batch_tokens):
        padded = pad([targets[i].ids for i in batch], "right", torch.device("cpu"))
        model.base_model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False)


def run() -> list[Ratio]:
    """All benchmarks."""
    model, prepared = bench_model(), prompts()
    facts = [Target(i.encoded.ids, *i.encoded.answer) for i in prepared.recall]
    groups = [
        Group(tuple(Target(i.encoded.ids, *i.encoded.answer) for i in g))
        for g in prepared.candidates[:60]
    ]
    flat = [t for g in groups for t in g.targets]
    tokens = 8192
    batched = ("160 facts, batched", lambda: score(model, facts, tokens))
    return [
        compare(
            "scoring one by one against batched",
            ("160 facts, one by one", lambda: score(model, facts, 1)), batched, at_least=2.0,
        ),
        compare(
            "scoring against a plain forward", batched,
            ("forward, all logits", lambda: plain_forward(model, facts, tokens)), at_most=1.3,
        ),
        compare(
            "scoring against a forward without unembedding", batched,
            ("forward, no logits", lambda: bare_forward(model, facts, tokens)), at_most=1.3,
        ),
        compare(
            "candidates: whole sentences against a shared prompt",
            ("whole sentences", lambda: score(model, flat, tokens)),
            ("shared prompt", lambda: score_groups(model, groups, tokens)), at_least=2.0,
        ),
    ]  # fmt: skip


def main() -> int:
    """Print the table; 1 when a target is missed."""
    transformers_logging.disable_progress_bar()
    table = Table(title=f"{torch.get_num_threads()} threads, {PAIRS} pairs each")
    for heading in ("benchmark", "a", "s", "b", "s", "a / b (range)", "target", ""):
        table.add_column(heading)
    found = run() + bench_circuits.run(compare, Ratio) + bench_series.run(compare, Ratio)
    found += bench_injection.run(compare, Ratio, bench_model())
    found += bench_dynamics.run(compare, Ratio)
    for r in found:
        low, high = min(r.ratios), max(r.ratios)
        ratio = f"{statistics.median(r.ratios):.2f} ({low:.2f} to {high:.2f})"
        verdict = "holds" if r.holds else "MISSED"
        table.add_row(
            r.name, r.a, f"{r.seconds_a:.3f}", r.b, f"{r.seconds_b:.3f}", ratio, r.target, verdict
        )
    Console(width=150).print(table)
    if torch.cuda.is_available():
        bench_gpu.main([])
    return 0 if all(r.holds for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
