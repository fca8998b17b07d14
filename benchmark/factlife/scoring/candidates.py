"""Log-probabilities of many answers after one prompt, the prompt computed once.

All candidates of a subject share the tokens of the prompt. The shared tokens run once and leave
their keys and values in a cache; only the candidates' own tokens run per candidate, and a
candidate of one token needs no run at all. The result equals scoring every sentence whole
(`targets.score`), which is what models without an ordinary cache fall back on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from factlife.scoring.targets import (
    At,
    Padded,
    Target,
    batches,
    forward,
    narrowed,
    pad,
    score,
    spread,
)


@dataclass(frozen=True)
class Group:
    """Sentences that begin with the same tokens."""

    targets: tuple[Target, ...]

    def shared(self) -> int:
        """Number of leading tokens that all sentences share, up to the first target token."""
        limit = min(t.start for t in self.targets)
        first = self.targets[0].ids
        for i in range(limit):
            if any(t.ids[i] != first[i] for t in self.targets):
                return i
        return limit


def score_groups(
    model: Any, groups: Sequence[Group], batch_tokens: int
) -> list[list[float | None]]:
    """Summed log-probability (nats) of every target of every group.

    Args:
        groups: each with at least one target.
        batch_tokens: bound on padded tokens a forward, the cached ones included.

    Returns:
        One list a group, in the order of its targets; None where a number was not finite.
    """
    if not groups:
        return []
    shared = [g.shared() for g in groups]
    if min(shared) < 1 or not _has_plain_cache(model, groups[0]):
        return _score_whole(model, groups, batch_tokens)
    found: list[list[float | None]] = [[] for _ in groups]
    cost = [max(len(t.ids) for t in g.targets) * len(g.targets) for g in groups]
    cut = list(batches(cost, batch_tokens))
    with narrowed(model) as at:

        def one(batch: list[int]) -> list[list[float]]:
            return _score_batch(model, at, [groups[i] for i in batch])

        for batch, scored in zip(cut, spread(model, cut, one), strict=True):
            for i, values in zip(batch, scored, strict=True):
                found[i] = [v if math.isfinite(v) else None for v in values]
    return found


@torch.inference_mode()
def _has_plain_cache(model: Any, group: Group) -> bool:
    """Whether the model keeps its past in full attention keys and values that can be repeated."""
    device = next(model.parameters()).device
    out = forward(model, pad([group.targets[0].ids[:1]], "left", device), use_cache=True)
    past = getattr(out, "past_key_values", None)
    return type(past) is DynamicCache and not any(
        getattr(layer, "is_sliding", False) for layer in past.layers
    )


def _score_whole(
    model: Any, groups: Sequence[Group], batch_tokens: int
) -> list[list[float | None]]:
    flat = score(model, [t for g in groups for t in g.targets], batch_tokens)
    sums = iter([s.logprob_sum if s else None for s in flat])
    return [[next(sums) for _ in g.targets] for g in groups]


@dataclass(frozen=True)
class _Tail:
    """The tokens of one sentence after the shared ones; `row` is its group's row."""

    row: int
    cut: int
    target: Target

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens to run: the last one predicts nothing that is wanted."""
        return self.target.ids[self.cut : self.target.end - 1]


@torch.inference_mode()
def _score_batch(model: Any, at: At, groups: Sequence[Group]) -> list[list[float]]:
    device = next(model.parameters()).device
    cuts = [g.shared() for g in groups]
    prefix = pad([g.targets[0].ids[:c] for g, c in zip(groups, cuts, strict=True)], "left", device)
    rows = torch.arange(len(groups), device=device)
    last = torch.full_like(rows, prefix.ids.shape[1] - 1)
    with at(rows, last):
        out = forward(model, prefix, use_cache=True)
    first = torch.log_softmax(out.logits.squeeze(0).float(), dim=-1)
    tails = [_Tail(r, cuts[r], t) for r, g in enumerate(groups) for t in g.targets]
    sums = torch.zeros(len(tails), dtype=torch.float64)
    for k, tail in enumerate(tails):
        if tail.target.start == tail.cut:  # predicted by the last shared token
            sums[k] = float(first[tail.row, tail.target.ids[tail.cut]])
    running = [k for k, tail in enumerate(tails) if tail.ids]
    if running:
        chosen = [tails[k] for k in running]
        sums[running] += _continue(model, at, out.past_key_values, prefix, chosen)
    values = iter(sums.tolist())
    return [[next(values) for _ in g.targets] for g in groups]


def _continue(model: Any, at: At, cache: Any, prefix: Padded, tails: Sequence[_Tail]) -> Tensor:
    """Log-probability sums of the target tokens that the tails themselves predict -> [tails]."""
    device = prefix.ids.device
    select = torch.tensor([t.row for t in tails], device=device)
    cache.batch_select_indices(select)
    own = pad([t.ids for t in tails], "right", device)
    mask = torch.cat([prefix.mask[select], own.mask], dim=1)
    start = prefix.mask[select].sum(dim=1, keepdim=True)
    positions = start + torch.arange(own.ids.shape[1], device=device)
    places = [
        (k, j - 1 - t.cut, t.target.ids[j])
        for k, t in enumerate(tails)
        for j in range(max(t.target.start, t.cut + 1), t.target.end)
    ]
    rows, columns, wanted = (torch.tensor(x, device=device) for x in zip(*places, strict=True))
    padded = Padded(own.ids, mask, positions, own.shift)
    with at(rows, columns):
        out = forward(model, padded, past_key_values=cache, use_cache=True)
    logits = out.logits.squeeze(0).float()
    logprob = torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None]).squeeze(1)
    sums = torch.zeros(len(tails), dtype=torch.float64, device=device)
    return sums.index_add_(0, rows, logprob.double()).cpu()
