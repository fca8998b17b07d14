"""Speed of the injection track, in the form of `tests.bench`: training against a bare loop, one
probing pass against the forward over its tokens and against one probe at a time.

How much one pass gains over single probes depends on the model. With a vocabulary of 50,000, as
published series have it, most of a plain forward are logits that nobody asked for; with a small one
both sides are products of matrices, which 40 rows fill a core with nearly as well as 1,000: on two
cores that target is met on some days and missed on others. The plain loop gives log-probabilities;
who wants the greedy match too, which the pass has, decodes.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from tests.tiny import byte_level_tokenizer
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from factlife.injection.background import PackedText
from factlife.injection.batches import Heads, InjectionSource
from factlife.injection.corpus import Corpus, load_corpus
from factlife.injection.measure import encoder_of_many, plain_encoder
from factlife.injection.probe import ProbePass, encode_probes
from factlife.scoring.targets import Target
from factlife.training import Trainer, TrainingConfig

ROWS, CONTEXT, STEPS = 16, 128, 4
PROBES = 1800
TOKENS = 8192


def trainer(model: Any) -> Trainer:
    """The engine's loop over packed text with nothing injected."""
    encode = encoder_of_many(byte_level_tokenizer(2000))
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


@torch.no_grad()
def with_match(model: Any, wanted: list[Target]) -> tuple[list[float], list[bool]]:
    """What the pass gives, by the plain loop: log-probabilities, and the greedy match decoded."""
    found = []
    for t in wanted:
        prefix = torch.tensor([t.ids[: t.start]])
        n = t.end - t.start
        made = model.generate(
            prefix, attention_mask=torch.ones_like(prefix), do_sample=False, max_new_tokens=n,
            min_new_tokens=n, pad_token_id=0,
        )  # fmt: skip
        found.append(tuple(made[0, t.start :].tolist()) == t.ids[t.start : t.end])
    return one_by_one(model, wanted), found


def pythia_14m() -> Any:
    """A random model of the shape of the smallest published series."""
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=128, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=512, max_position_embeddings=2048,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).eval()


def against_one_pass(
    ratio: Any, name: str, model: Any, loop: Any, wanted: list[Target], every: int
) -> Any:
    """Seconds of a loop over every so manieth probe, times that, over seconds of one pass."""
    whole, some = ProbePass(wanted, TOKENS, "cpu"), wanted[::every]
    whole(model), loop(model, some[:2])  # warm up
    singly, at_once = [], []
    for _ in range(3):
        model.eval()
        started = time.perf_counter()
        loop(model, some)
        singly.append((time.perf_counter() - started) * len(wanted) / len(some))
        started = time.perf_counter()
        whole(model)
        at_once.append(time.perf_counter() - started)
    ratios = tuple(a / b for a, b in zip(singly, at_once, strict=True))
    return ratio(
        f"{name} (every {every}th) against one pass", "one by one", "one pass",
        sorted(singly)[1], sorted(at_once)[1], ratios, ">= 5", sorted(ratios)[1] >= 5.0,
    )  # fmt: skip


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
    probed = compare(
        "probing against the forward over unpadded tokens",
        (f"{len(wanted):,} probes, one pass", lambda: whole(model)),
        ("forward, unpadded", lambda: unpadded(model.eval(), wanted)), at_most=1.3,
    )  # fmt: skip
    return [
        trained,
        probed,
        against_one_pass(ratio, "probing one by one", model, one_by_one, wanted, 15),
        against_one_pass(ratio, "the same, greedy match decoded", model, with_match, wanted, 60),
        against_one_pass(
            ratio, "Pythia 14M's shape: probing one by one", pythia_14m(), one_by_one, wanted, 15
        ),
    ]
