"""Speed of the injection track, in the form of `tests.bench`: training against a bare loop, one
probing pass against the forward over its tokens and against one probe at a time.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from tests.tiny import byte_level_tokenizer
from torch.nn import functional

from factlife.injection.background import PackedText
from factlife.injection.batches import Heads, InjectionSource
from factlife.injection.corpus import Corpus, load_corpus
from factlife.injection.measure import plain_encoder
from factlife.injection.probe import ProbePass, encode_probes
from factlife.scoring.targets import Target
from factlife.training import Trainer, TrainingConfig

ROWS, CONTEXT, STEPS = 16, 128, 4
PROBES = 1800
ONE_BY_ONE = 120  # of them, and their share of the pass
TOKENS = 8192


def trainer(model: Any) -> Trainer:
    """The engine's loop over packed text with nothing injected."""
    encode = plain_encoder(byte_level_tokenizer(2000))
    text = PackedText(lambda: iter(["some words of filler text"] * 10**6), encode, CONTEXT, 0)
    config = TrainingConfig(
        steps=10**6, batch_rows=ROWS, context=CONTEXT, schedule="constant", peak_lr=1e-4
    )
    return Trainer(model, InjectionSource(text, ROWS, Heads({}, ())), config, "cpu")


def bare(model: Any) -> Any:
    """The same step as everybody writes it."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    rows = torch.randint(2, 2000, (ROWS, CONTEXT), generator=torch.Generator().manual_seed(0))

    def steps() -> None:
        model.train()
        for _ in range(STEPS):
            logits = model(input_ids=rows, use_cache=False).logits
            loss = functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

    return steps


def targets() -> list[Target]:
    """1,800 probes of the built-in corpus."""
    corpus: Corpus = load_corpus("fictional-knowledge")
    encode = plain_encoder(byte_level_tokenizer(2000))
    made = [e.target for e in encode_probes(corpus.probes, encode, [], 256)]
    return [t for t in made if t is not None][:PROBES]


@torch.no_grad()
def unpadded(model: Any, wanted: list[Target]) -> None:
    """The forward over the probes' tokens alone: rows of 256 with no padding in them."""
    ids = [i for t in wanted for i in t.ids]
    rows = torch.tensor(ids[: len(ids) // 256 * 256]).reshape(-1, 256)
    for batch in rows.split(TOKENS // 256):
        model(input_ids=batch, use_cache=False)


@torch.no_grad()
def one_by_one(model: Any, wanted: list[Target]) -> list[float]:
    """The plain loop: one probe, one forward, its log-probabilities."""
    found = []
    for t in wanted:
        logits = model(input_ids=torch.tensor([t.ids]), use_cache=False).logits[0].float()
        logprob = torch.log_softmax(logits[t.start - 1 : t.end - 1], dim=-1)
        own = torch.tensor(t.ids[t.start : t.end])
        found.append(float(logprob.gather(1, own[:, None]).sum()))
    return found


def run(compare: Any, ratio: Any, model: Any) -> list[Any]:
    """All benchmarks, in the form of `tests.bench`."""
    engine = trainer(model)

    def advance() -> None:
        for _ in range(STEPS):
            engine.advance()

    trained = compare(
        "a bare training loop against the engine",
        (f"bare PyTorch, {STEPS} steps", bare(model)), (f"engine, {STEPS} steps", advance),
        at_least=0.95,
    )  # fmt: skip
    wanted = targets()
    whole = ProbePass(wanted, TOKENS, "cpu")
    some = wanted[:: PROBES // ONE_BY_ONE]
    probed = compare(
        "probing against the forward over unpadded tokens",
        (f"{len(wanted):,} probes, one pass", lambda: whole(model)),
        ("forward, unpadded", lambda: unpadded(model.eval(), wanted)), at_most=1.3,
    )  # fmt: skip
    one, one_pass = [], []
    for _ in range(3):
        model.eval()
        started = time.perf_counter()
        one_by_one(model, some)
        one.append((time.perf_counter() - started) * len(wanted) / len(some))
        started = time.perf_counter()
        whole(model)
        one_pass.append(time.perf_counter() - started)
    ratios = tuple(a / b for a, b in zip(one, one_pass, strict=True))
    median = sorted(ratios)[1]
    name = f"probing one by one (every {PROBES // ONE_BY_ONE}th) against one pass"
    return [
        trained,
        probed,
        ratio(name, "one by one", "one pass", sorted(one)[1], sorted(one_pass)[1], ratios,
              ">= 5", median >= 5.0),
    ]  # fmt: skip
