"""Speed and memory of tracing: run by `tests.bench`.

The model has the shape of Pythia-160M (12 layers, width 768, 12 heads, parallel blocks) with random
weights: of the families, its FFN is the smallest against the output projections, so that tracing
costs most of a forward. Speed does not depend on the weights.

Memory is the peak of all bytes that torch holds during a call beyond those at its start, from the
profiler's allocation events (temporaries inside operators are counted, unlike by looking at
tensors), less the result itself. Parts stored whole would take T^2 H D numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from tests.tiny import byte_level_tokenizer
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from factlife.circuits.measure import measure
from factlife.circuits.prompts import Item, Prepared
from factlife.config import Profile
from factlife.corpora.prompts import Encoded
from factlife.scoring.targets import Padded, pad
from factlife.tracing import Contributions, adapter_for, contributions

LAYERS, WIDTH, HEADS, TOKENS, PROMPTS = 12, 768, 12, 16, 20
LENGTHS = (16, 64, 256)


def traced_model(layers: int = LAYERS) -> Any:
    """A random model of the benchmark's shape, with a small vocabulary."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=2000, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def rows(prompts: int, tokens: int) -> Padded:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2000, (prompts, tokens), generator=generator).tolist()
    return pad(ids, "right", torch.device("cpu"))


@torch.inference_mode()
def bare_forward(model: Any, padded: Padded) -> None:
    """The plain batched forward without unembedding, with the model's own (sdpa) attention."""
    model.base_model(
        input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions,
        use_cache=False,
    )  # fmt: skip


def peak_bytes(call: Callable[[], Any]) -> tuple[int, Any]:
    """Largest number of bytes held beyond those at the start, and what the call returned."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak, result


def result_bytes(found: Contributions) -> int:
    """Bytes of the result's own tensors."""
    tensors = [getattr(found, f.name) for f in fields(found)]
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))


def extra_bytes(model: Any, tokens: int, kernel: str) -> int:
    """Bytes that tracing one prompt holds at most, beyond its result."""
    padded, adapter = rows(1, tokens), adapter_for(model)
    contributions(model, adapter, padded, kernel)  # buffers of the libraries themselves
    peak, found = peak_bytes(lambda: contributions(model, adapter, padded, kernel))
    return peak - result_bytes(found)


def memory(ratio: Any, kernel: str) -> list[Any]:
    """Extra bytes a number of T H D, at each length: it may not grow with T."""
    model = traced_model(layers=2)
    found = {t: extra_bytes(model, t, kernel) / (4 * t * HEADS * WIDTH) for t in LENGTHS}
    shortest, longest = LENGTHS[0], LENGTHS[-1]
    growth = found[longest] / found[shortest]
    values = ", ".join(f"T = {t}: {v:.2f} T H D" for t, v in found.items())
    print(f"memory of tracing beyond its result, {kernel} kernel, fp32 numbers: {values}")
    return [
        ratio(
            f"memory a T H D, {kernel} kernel (16 if it grew as T^2)", f"T = {longest}",
            f"T = {shortest}", found[longest], found[shortest], (growth,), "<= 2.0", growth <= 2.0,
        )
    ]  # fmt: skip


def stage(model: Any) -> Callable[[], Any]:
    """The whole stage on as many prompts: forward, contributions, reachability, all tables."""
    tokenizer = byte_level_tokenizer()
    ids = rows(PROMPTS, TOKENS).ids.remainder(len(tokenizer)).tolist()
    items = tuple(
        Item(f"fact{i}", "relation", Encoded(tuple(row), (2, 5), (TOKENS - 2, TOKENS)), shown=not i)
        for i, row in enumerate(ids)
    )
    prepared, keys = Prepared(items), {"revision": "r", "stage": "main", "step": 1}
    return lambda: measure(model, tokenizer, prepared, Profile("bench"), keys)


def run(compare: Any, ratio: Any) -> list[Any]:
    """All benchmarks, in the form of `tests.bench`."""
    model, padded = traced_model(), rows(PROMPTS, TOKENS)
    adapter = adapter_for(model)
    plain = ("forward, no logits", lambda: bare_forward(model, padded))
    speed = [
        compare(
            f"contributions, {kernel} kernel, against a forward",
            (
                f"{PROMPTS} prompts of {TOKENS}",
                lambda kernel=kernel: contributions(model, adapter, padded, kernel),
            ), plain, at_most=at_most,
        )
        for kernel, at_most in (("c", 1.3), ("eager", 3.0))
    ]  # fmt: skip
    whole = ("forward, reach, tables", stage(model))
    speed.append(compare("the whole circuits stage against a forward", whole, plain, at_most=1.3))
    return speed + memory(ratio, "c") + memory(ratio, "eager")
