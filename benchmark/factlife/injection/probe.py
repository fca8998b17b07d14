"""All probes in one pass. Shapes: P target positions of a batch, V vocabulary, n probes.

A probe is scored on its target's tokens after its prefix's. That is right only if
enc(prefix) + enc(" " + target) = enc(prefix + " " + target); a probe for which it does not hold is
left out, with the reason. The output embedding runs on target positions alone, and in a model of
the transformers library so does what follows the last attention. Batches hold rows of like length
and are made once a run.

What a causal model computes at a token does not depend on what follows. A target whose tokens
(without its last, which predicts nothing that is wanted) begin another one's is therefore read from
the other one's row: nested prefixes, equal prompts and foils of one token cost nothing.

Greedy decoding gives exactly the target's tokens if and only if each of them is the argmax after
the prefix and the target's tokens before it: until the first miss, decoding has the same input as
teacher forcing. `exact` is therefore read from the same pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from factlife.corpora.fictional.tokens import boundary_holds
from factlife.errors import UsageError
from factlife.injection.background import Encode
from factlife.injection.corpus import Probe
from factlife.scoring.targets import (
    CPU_TOKENS,
    At,
    Padded,
    Target,
    batches,
    forward,
    known,
    narrowed,
    pad,
    spread,
    token_scores,
)
from factlife.tracing.families import adapter_for

BOUNDARY = "prefix and target share a token"
TOO_LONG = "longer than the model's context"
NOT_FINITE = "the model's log-probability is not finite"
NO_PREFIX = "nothing stands before the target to predict it from"

Ids = tuple[int, ...]


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
    rows: Tensor  # of each distinct position that is unembedded
    columns: Tensor
    cell: Tensor | None  # [P] which of these positions predicts each target token; None: the p-th
    wanted: Tensor  # [P] the target token
    owner: Tensor  # [P] place of its target in the batch
    places: NDArray[np.int64]  # of the batch's targets among all
    first: Tensor  # place of each target's first token among the P


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
        rows, row_of = shared_rows([t.ids[: t.end - 1] for t in targets])
        readers: list[list[int]] = [[] for _ in rows]
        for i, row in enumerate(row_of):
            readers[row].append(i)
        if self._device.type == "cpu":
            batch_tokens = min(batch_tokens, CPU_TOKENS)
        self._batches = [
            _batch([rows[r] for r in chosen], [readers[r] for r in chosen], targets, self._device)
            for chosen in batches([len(r) for r in rows], batch_tokens)
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
        with narrowed(model, after_last_attention(model)) as at:
            waiting = spread(model, self._batches, functools.partial(self._one, model, at))
        for batch, (sums, first, whole) in zip(self._batches, waiting, strict=True):
            places = batch.places
            # the device is waited for here, when all batches are under way
            found.logprob_sum[places] = sums.cpu().numpy()
            found.first_rank[places] = first.cpu().numpy()
            found.exact[places] = whole.cpu().numpy()
        return found

    @torch.no_grad()
    def _one(self, model: Any, at: At, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
        with (
            torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
            ),
            at(batch.rows, batch.columns),
        ):
            logits = forward(model, batch.padded, use_cache=False).logits
        logprob, rank = token_scores(logits.squeeze(0), batch.wanted, batch.cell)
        n = len(batch.places)
        sums = torch.zeros(n, dtype=torch.float64, device=self._device)
        sums.index_add_(0, batch.owner, logprob.double())
        missed = torch.zeros(n, dtype=torch.int64, device=self._device)
        missed.index_add_(0, batch.owner, (rank > 0).long())
        return sums, rank[batch.first], missed == 0


def after_last_attention(model: Any) -> tuple[nn.Module, ...]:
    """Large modules that follow the last attention and take each position by itself.

    Empty where the wiring is not known: other code than the transformers library's, or a family
    that cannot be traced.
    """
    if not known(model):
        return ()
    try:
        wiring = adapter_for(model)
    except UsageError:
        return ()
    last = wiring.layout.n_layers - 1
    return wiring.output_projection(last), wiring.ffn(last)


def shared_rows(needed: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """The sequences that begin no other one, and for each sequence the row that begins with it.

    In lexicographic order everything that begins with a sequence follows it without a gap: it
    begins another one if and only if it begins its successor.
    """
    order = sorted(range(len(needed)), key=lambda i: needed[i])
    rows: list[Ids] = []
    row_of = [0] * len(needed)
    for i in reversed(order):
        if not rows or rows[-1][: len(needed[i])] != needed[i]:
            rows.append(needed[i])
        row_of[i] = len(rows) - 1
    return rows, row_of


def _batch(
    rows: Sequence[Ids],
    readers: Sequence[Sequence[int]],
    targets: Sequence[Target],
    device: torch.device,
) -> _Batch:
    """A batch of rows with the targets that are read from each."""
    places = [i for mine in readers for i in mine]
    cells: dict[tuple[int, int], int] = {}
    cell: list[int] = []
    wanted: list[int] = []
    owner: list[int] = []
    first: list[int] = []
    row_of = [r for r, mine in enumerate(readers) for _ in mine]
    for k, (i, r) in enumerate(zip(places, row_of, strict=True)):
        first.append(len(cell))
        for j in range(targets[i].start, targets[i].end):
            cell.append(cells.setdefault((r, j - 1), len(cells)))
            wanted.append(targets[i].ids[j])
            owner.append(k)
    row, column = zip(*cells, strict=True)
    return _Batch(
        padded=pad(rows, "right", device),
        rows=torch.tensor(row, device=device),
        columns=torch.tensor(column, device=device),
        cell=None if cell == list(range(len(cells))) else torch.tensor(cell, device=device),
        wanted=torch.tensor(wanted, device=device),
        owner=torch.tensor(owner, device=device),
        places=np.array(places, np.int64),
        first=torch.tensor(first, device=device),
    )


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """While open, dropout is off; afterwards the model is as it was."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
