"""All probes in one pass. Shapes: P target positions of a batch, V vocabulary, n probes.

A probe is scored on its target's tokens after its prefix's. That is right only if
enc(prefix) + enc(" " + target) = enc(prefix + " " + target); a probe for which it does not hold is
left out, with the reason. The output embedding runs on target positions alone. Batches hold probes
of like length and are made once a run.

Greedy decoding gives exactly the target's tokens if and only if each of them is the argmax after
the prefix and the target's tokens before it: until the first miss, decoding has the same input as
teacher forcing. `exact` is therefore read from the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factlife.corpora.fictional.tokens import boundary_holds
from factlife.injection.background import Encode
from factlife.injection.corpus import Probe
from factlife.scoring.targets import (
    Padded,
    Target,
    batches,
    forward,
    logits_at,
    pad,
    token_scores,
)

BOUNDARY = "prefix and target share a token"
TOO_LONG = "longer than the model's context"
NOT_FINITE = "the model's log-probability is not finite"
NO_PREFIX = "nothing stands before the target to predict it from"


@dataclass(frozen=True)
class EncodedProbe:
    """A probe as tokens; `target` is None where `reason` says why it cannot be scored."""

    probe: Probe
    target: Target | None
    n_tokens: int | None
    reason: str | None = None


def encode_probes(
    probes: Sequence[Probe], encode: Encode, before: Sequence[int], max_length: int | None
) -> list[EncodedProbe]:
    """Encode probes and check where prefix and target meet.

    Args:
        encode: text to token ids, without special tokens.
        before: tokens in front of every probe (BOS), often none.
        max_length: tokens the model can take, if bounded.
    """
    return [_encoded(p, encode, list(before), max_length) for p in probes]


def _encoded(
    probe: Probe, encode: Encode, before: list[int], max_length: int | None
) -> EncodedProbe:
    if not boundary_holds(encode, probe.prefix, probe.target):
        return EncodedProbe(probe, None, None, BOUNDARY)
    prefix, target = list(encode(probe.prefix)), list(encode(f" {probe.target}"))
    ids = (*before, *prefix, *target)
    start = len(before) + len(prefix)
    if start == 0 or not target:
        return EncodedProbe(probe, None, len(target), NO_PREFIX)
    if max_length is not None and len(ids) > max_length:
        reason = f"{TOO_LONG} ({len(ids)} > {max_length} tokens)"
        return EncodedProbe(probe, None, len(target), reason)
    return EncodedProbe(probe, Target(ids, start, len(ids)), len(target))


@dataclass(frozen=True)
class _Batch:
    padded: Padded
    rows: Tensor
    columns: Tensor
    wanted: Tensor
    owner: Tensor  # place of each position's probe in the batch
    places: NDArray[np.int64]  # of the batch's probes among all
    first: Tensor  # index of each probe's first target position


@dataclass(frozen=True)
class Scores:
    """Of n targets: summed log-probability (nats, NaN where not finite), rank of the first token,
    and whether every token is the argmax."""

    logprob_sum: NDArray[np.float64]
    first_rank: NDArray[np.int64]
    exact: NDArray[np.bool_]


class ProbePass:
    """Targets as batches on a device, scored again and again while a model trains."""

    def __init__(
        self,
        targets: Sequence[Target],
        batch_tokens: int,
        device: torch.device | str,
        precision: str = "float32",
    ) -> None:
        self._count, self._device = len(targets), torch.device(device)
        self._precision = precision
        lengths = [len(t.ids) for t in targets]
        self._batches = [
            _batch([targets[i] for i in chosen], chosen, self._device)
            for chosen in batches(lengths, batch_tokens)
        ]

    @property
    def forwards(self) -> int:
        """Forwards of the model in one pass: processes that share a model must agree on them."""
        return len(self._batches)

    def __call__(self, model: Any) -> Scores:
        """Score every target; the model is left in eval mode, its gradients untouched."""
        model.eval()
        found = Scores(
            np.zeros(self._count), np.zeros(self._count, np.int64), np.zeros(self._count, np.bool_)
        )
        with torch.no_grad():
            waiting = [(b.places, *self._one(model, b)) for b in self._batches]
        for places, sums, first, whole in waiting:  # the device is waited for once, at the end
            found.logprob_sum[places] = sums.cpu().numpy()
            found.first_rank[places] = first.cpu().numpy()
            found.exact[places] = whole.cpu().numpy()
        return found

    def _one(self, model: Any, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
        with (
            torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
            ),
            logits_at(model, batch.rows, batch.columns),
        ):
            logits = forward(model, batch.padded, use_cache=False).logits
        logprob, rank = token_scores(logits.squeeze(0).float(), batch.wanted)
        n = len(batch.places)
        sums = torch.zeros(n, dtype=torch.float64, device=self._device)
        sums.index_add_(0, batch.owner, logprob.double())
        missed = torch.zeros(n, dtype=torch.int64, device=self._device)
        missed.index_add_(0, batch.owner, (rank > 0).long())
        return sums, rank[batch.first], missed == 0


def _batch(targets: Sequence[Target], places: Sequence[int], device: torch.device) -> _Batch:
    padded = pad([t.ids for t in targets], "right", device)
    cells = [(r, j - 1, t.ids[j], r) for r, t in enumerate(targets) for j in range(t.start, t.end)]
    rows, columns, wanted, owner = (
        torch.tensor(x, device=device) for x in zip(*cells, strict=True)
    )
    lengths = [t.end - t.start for t in targets]
    first = torch.tensor(np.cumsum([0, *lengths[:-1]]), device=device)
    return _Batch(padded, rows, columns, wanted, owner, np.array(places, np.int64), first)


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """While open, dropout is off; afterwards the model is as it was."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
