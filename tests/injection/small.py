"""A tiny corpus, tiny settings and a tiny model in an injection run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.tiny import VOCAB, byte_level_tokenizer

from factlife.config import Injection
from factlife.corpora.fact_probes import FactProbes, load_fact_probes
from factlife.injection.corpus import Corpus, Passage, Probe
from factlife.injection.measure import Means, Place
from factlife.injection.plan import RunPlan, Start, make_plans
from factlife.series.loading import Loaded
from factlife.training import ModelShape, build_model, model_config

SHAPE = ModelShape(layers=1, width=16, heads=2, ffn=24, positions=128)
SETTINGS = Injection(
    seeds=3, per_arm=2, controls=2, lead_in=3, injections=3, interval=4, after=4, window=3,
    dense_every=1, log_points=3, batch_rows=8, context=48, peak_lr=1e-2, warmup_steps=2,
    heldout_rows=4,
)  # fmt: skip
TOKENIZER = byte_level_tokenizer()
DEPTHS = ("memorization", "semantic", "compositional")


def name(i: int) -> str:
    """A name that shares little with others."""
    parts = ["bo", "ki", "zu", "fe", "ga", "ly", "mo", "wi", "tra", "ne", "sho", "qua", "du"]
    return "".join(parts[(i * k + k) % 13] for k in (1, 5, 8)).capitalize()


def corpus(count: int = 8, blocks: bool = False) -> Corpus:
    """`count` passages of two kinds with three texts and three probes each."""
    names = ["A", "B", "C", "control"]
    passages, probes = [], []
    for i in range(count):
        key = f"p{i:02d}"
        texts = tuple(f"{start} town {i} lies in {name(i)}." for start in ("The", "That", "A"))
        block = names[i % 4] if blocks else ""
        passages.append(Passage(key, "ab"[i // 4 % 2], block, texts))
        probes += [
            Probe(f"{key}.{depth[:3]}", key, depth, f"{depth} town {i} lies in", name(i))
            for depth in DEPTHS
        ]
    return Corpus("tiny", tuple(passages), tuple(probes))


def plan(seed: int = 0, source: Corpus | None = None, **changes: Any) -> RunPlan:
    """The plan of one tiny run from a revision that is called late."""
    settings = replace(SETTINGS, **changes)
    return make_plans(source or corpus(), settings, [Start("late", "step9")])[seed]


def loaded(arch: str = "llama", seed: int = 0) -> Loaded:
    """A tiny model as a checkpoint in memory."""
    config = model_config(arch, SHAPE, VOCAB, 0, 1)
    model = build_model(config, seed, 0.2).eval().requires_grad_(False)
    return Loaded(model, TOKENIZER, type(model).__name__, 0, "float32", "sdpa", SHAPE.positions)


def facts(count: int = 5) -> FactProbes:
    """The first facts of the probe set."""
    probes = load_fact_probes()
    return replace(probes, facts=probes.facts[:count])


def means(work: Path, **changes: Any) -> Means:
    """On the CPU, no state, but where asked."""
    device = torch.device("cpu")
    values = {"device": device, "batch_tokens": 512, "state_seconds": 1e9, **changes}
    return Means(work, **values)


PLACE = Place("tiny", 9, 900)
