"""Log-probabilities and ranks of target tokens, teacher-forced.

Shapes: R = rows of a batch, S = padded length, P = target positions of a batch, V = vocabulary.

The model's own forward is used, so that clipping, soft caps, QK-norm and rotary are its own. The
output embedding runs on target positions only: a hook hands it [P, D] instead of [R, S, D].
Positions are passed explicitly, so that the side of the padding makes no difference.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """Token ids and the span [start, end) whose tokens are scored; start is at least 1."""

    ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Scored:
    """Scores of one target.

    Attributes:
        logprob_sum: nats.
        n_tokens: tokens of the target.
        first_rank: vocabulary entries above the first target token.
        whole: every target token is the argmax (rank 0).
    """

    logprob_sum: float
    n_tokens: int
    first_rank: int
    whole: bool


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Cut rows into batches of at most `batch_tokens` padded tokens, similar lengths together.

    A single row longer than that is a batch by itself.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@dataclass(frozen=True)
class Padded:
    """A batch of rows as tensors [R, S]."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    shift: tuple[int, ...]


def pad(rows: Sequence[Sequence[int]], side: str, device: torch.device, fill: int = 0) -> Padded:
    """Pad rows to one length; `shift[r]` is the column of row r's first token."""
    width = max(len(r) for r in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    shift = []
    for i, row in enumerate(rows):
        at = width - len(row) if side == "left" else 0
        ids[i, at : at + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, at : at + len(row)] = 1
        shift.append(at)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Padded(ids.to(device), mask.to(device), positions.to(device), tuple(shift))


def forward(model: Any, padded: Padded, **more: Any) -> Any:
    """The Hugging Face forward with explicit positions where the model takes them."""
    if "position_ids" in inspect.signature(model.forward).parameters:
        more["position_ids"] = padded.positions
    return model(input_ids=padded.ids, attention_mask=padded.mask, return_dict=True, **more)


@contextmanager
def logits_at(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """While open, the model computes logits only at (rows[p], columns[p]) -> [P, V].

    Raises:
        RuntimeError: the model did not call its output embedding, or not on [R, S, D].
    """
    with narrowed(model) as at, at(rows, columns):
        yield


At = Callable[[Tensor, Tensor], AbstractContextManager[None]]


@contextmanager
def narrowed(model: Any, inner: Sequence[nn.Module] = ()) -> Iterator[At]:
    """`logits_at` for many forwards, of several threads too: yields what opens a thread's forward.

    Args:
        inner: modules of the last block that take each position of [R, S, D] by itself, after its
            attention. They run on the chosen positions too and write 0 elsewhere, where nothing is
            read any more.

    Raises:
        RuntimeError: as `logits_at`, when a forward is over.
    """
    head = model.get_output_embeddings()
    own = threading.local()  # of the forward that this thread has open

    def narrow(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if getattr(own, "chosen", None) is None:
            return None
        hidden = args[0]
        if hidden.dim() != 3:
            name = type(module).__name__
            raise RuntimeError(f"{name} got {tuple(hidden.shape)}, expected [R, S, D]")
        own.shape = hidden.shape[:2]
        own.calls += module is head
        return (hidden[own.chosen].unsqueeze(0), *args[1:])

    def widen(_: nn.Module, __: Any, output: Any) -> Any:
        if getattr(own, "chosen", None) is None:
            return None
        found = output[0] if isinstance(output, tuple) else output
        wide = found.new_zeros((*own.shape, found.shape[-1]))
        wide[own.chosen] = found.squeeze(0)
        return (wide, *output[1:]) if isinstance(output, tuple) else wide

    @contextmanager
    def at(rows: Tensor, columns: Tensor) -> Iterator[None]:
        own.chosen, own.calls = (rows, columns), 0
        try:
            yield
        finally:
            own.chosen = None
        if own.calls != 1:
            raise RuntimeError(f"the output embedding ran {own.calls} times, expected once")

    with ExitStack() as hooks:
        for module in (head, *inner):
            hooks.callback(module.register_forward_pre_hook(narrow).remove)
        for module in inner:
            hooks.callback(module.register_forward_hook(widen).remove)
        yield at


def target_logits(
    model: Any, targets: Sequence[Target], side: str = "right"
) -> tuple[Float[Tensor, "P V"], Int[Tensor, " P"]]:
    """Logits (fp32) at the position before every target token, and the target tokens.

    Positions are in the order of the targets, then of their tokens.
    """
    with narrowed(model) as at:
        return _target_logits(model, at, targets, side)


def _target_logits(
    model: Any, at: At, targets: Sequence[Target], side: str
) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    padded = pad([t.ids for t in targets], side, device)
    places = [
        (r, padded.shift[r] + j - 1, t.ids[j])
        for r, t in enumerate(targets)
        for j in range(t.start, t.end)
    ]
    rows, columns, wanted = (torch.tensor(x, device=device) for x in zip(*places, strict=True))
    with at(rows, columns):
        logits = forward(model, padded, use_cache=False).logits
    return logits.squeeze(0).float(), wanted


def token_scores(
    logits: Float[Tensor, "C V"],
    wanted: Int[Tensor, " P"],
    rows: Int[Tensor, " P"] | None = None,
) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Log-probability (nats) and rank of wanted tokens.

    Rank: entries above, and equal ones that come earlier in the vocabulary, as argmax breaks
    ties. A model whose logits are all equal must not look as if it knew everything.

    Args:
        logits: of any floating type; scored in float32.
        wanted: tokens of the vocabulary.
        rows: the row of logits that predicts each token; without it the p-th predicts the p-th.
    """
    at_once = _AT_ONCE
    if logits.device.type == "cpu":
        at_once = max(1, _CACHED // logits.shape[1])
    found = []
    for start in range(0, len(wanted), at_once):
        part = slice(start, start + at_once)
        block = logits[part] if rows is None else logits.index_select(0, rows[part])
        found.append(_token_scores(block.float(), wanted[part]))
    return torch.cat([lp for lp, _ in found]), torch.cat([rank for _, rank in found])


_AT_ONCE = 1024  # rows of logits that are held again in float32
_CACHED = 1 << 19  # logits that are read six times before they leave a CPU's cache


def _token_scores(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    own = wanted[:, None]
    chosen = logits.gather(1, own)
    scratch = torch.log_softmax(logits, dim=1)
    logprob = scratch.gather(1, own).squeeze(1)
    # comparisons written as 1.0 and 0.0 are summed several times as fast as booleans, and exactly
    # (up to 2 ** 24 entries)
    equal = scratch.copy_(logits).eq_(chosen).sum(dim=1)
    rank = scratch.copy_(logits).gt_(chosen).sum(dim=1).long()
    tied = torch.nonzero(equal > 1).squeeze(1)
    if len(tied):  # rare, and an order of the vocabulary costs more than all of the above
        earlier = torch.arange(logits.shape[1], device=logits.device) < own[tied]
        rank[tied] += ((logits[tied] == chosen[tied]) & earlier).sum(dim=1)
    return logprob, rank


def known(model: Any) -> bool:
    """Whether the model's code is the transformers library's, and nothing is wrapped around it."""
    return type(model).__module__.startswith("transformers.")


T = TypeVar("T")
R = TypeVar("R")


def spread(model: Any, items: Sequence[T], one: Callable[[T], R]) -> list[R]:
    """`one` of every item, in order; on a CPU each in a thread of its own, the last ones first.

    Products as large as a batch of a small model keep one core busy. Cores that share each of them
    wait for one another several times a layer; with batches of their own they wait at the end
    alone. Numbers are those of one thread. Code that is not the transformers library's may keep
    what it works on in its modules: it runs in the calling thread.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    cores = torch.get_num_threads() if on_cpu and known(model) else 1
    if cores == 1 or len(items) < 2 * cores:
        return [one(item) for item in items]
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as own:
            return list(own.map(one, reversed(items)))[::-1]
    finally:
        torch.set_num_threads(cores)


CPU_TOKENS = 1024  # of a batch: more fill no core better, and what is in flight leaves its cache


def score(
    model: Any, targets: Sequence[Target], batch_tokens: int, side: str = "right"
) -> list[Scored | None]:
    """Score targets in batches of similar length.

    Args:
        model: a Hugging Face causal LM in eval mode.
        batch_tokens: bound on padded tokens a forward.
        side: where rows are padded; both give the same numbers.

    Returns:
        One result a target, in order; None where the model gave a number that is not finite.
    """
    if next(model.parameters()).device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_TOKENS)
    cut = list(batches([len(t.ids) for t in targets], batch_tokens))
    found: list[Scored | None] = [None] * len(targets)
    with narrowed(model) as at:

        @torch.inference_mode()
        def one(batch: list[int]) -> list[Scored | None]:
            chosen = [targets[i] for i in batch]
            logprob, rank = token_scores(*_target_logits(model, at, chosen, side))
            sums = [t.end - t.start for t in chosen]
            pieces = zip(logprob.cpu().split(sums), rank.cpu().split(sums), strict=True)
            return [_scored(*piece) for piece in pieces]

        for batch, scored in zip(cut, spread(model, cut, one), strict=True):
            for i, value in zip(batch, scored, strict=True):
                found[i] = value
    return found


def _scored(logprob: Tensor, rank: Tensor) -> Scored | None:
    total = float(logprob.double().sum())
    if not torch.isfinite(logprob).all():
        return None
    return Scored(total, len(logprob), int(rank[0]), bool((rank == 0).all()))
