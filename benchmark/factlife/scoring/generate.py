"""Greedy continuations through the library's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from factlife.scoring.targets import batches, pad


@torch.inference_mode()
def greedy(
    model: Any, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], batch_tokens: int
) -> list[list[int]]:
    """Greedy continuation of each prompt.

    The generation settings that a model ships with (sampling, repetition penalties, suppressed
    tokens) are put aside: two models are compared by the same rule.

    Args:
        prompts: token ids, each at least one.
        new_tokens: bound on new tokens for each prompt.
        batch_tokens: bound on padded tokens of a batch, the new ones included.

    Returns:
        New token ids of each prompt, cut at EOS.
    """
    eos = _eos(model)
    found: list[list[int]] = [[] for _ in prompts]
    kept = model.generation_config
    try:
        for batch in batches(
            [len(p) + n for p, n in zip(prompts, new_tokens, strict=True)], batch_tokens
        ):
            longest = max(new_tokens[i] for i in batch)
            model.generation_config = GenerationConfig(
                do_sample=False, num_beams=1, max_new_tokens=longest, use_cache=True,
                eos_token_id=eos or None, pad_token_id=eos[0] if eos else 0,
            )  # fmt: skip
            padded = pad([prompts[i] for i in batch], "left", next(model.parameters()).device)
            out = model.generate(input_ids=padded.ids, attention_mask=padded.mask)
            for i, row in zip(batch, out[:, padded.ids.shape[1] :].tolist(), strict=True):
                found[i] = _cut(row[: new_tokens[i]], eos)
    finally:
        model.generation_config = kept
    return found


def _eos(model: Any) -> list[int]:
    """Ids that end a text, from the model's generation settings or its config."""
    for holder in (model.generation_config, model.config):
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            return list(value) if isinstance(value, list | tuple) else [int(value)]
    return []


def _cut(ids: list[int], eos: Sequence[int]) -> list[int]:
    end = next((i for i, t in enumerate(ids) if t in eos), len(ids))
    return ids[:end]
