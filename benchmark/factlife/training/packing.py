"""Documents to rows of one length. Shapes: n rows, c tokens per row (the context).

`pack` lays documents end to end and cuts anywhere, as large pretraining runs do. `pack_whole`
keeps documents whole: in rows of 64 tokens and documents of 15, a quarter of the statements would
otherwise be cut between subject and answer, and hardly a row would begin as a probe does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from factlife.errors import UsageError


def pack(
    documents: Iterable[Sequence[int]], context: int, eos: int
) -> tuple[Int64[Tensor, "n c"], Int64[Tensor, " rest"]]:
    """Lay documents end to end, each followed by `eos`, and cut the stream into rows.

    Nothing is lost, doubled or reordered: the rows, then the rest (shorter than a row), read in
    order, are the stream. A document may go on in the next row. There is no padding.

    Raises:
        UsageError: `context` is below 2, too short to predict anything.
    """
    _refuse_short(context)
    stream = np.fromiter(chain.from_iterable((*d, eos) for d in documents), dtype=np.int64)
    whole = len(stream) // context * context
    rows = torch.from_numpy(stream[:whole].reshape(-1, context))
    return rows, torch.from_numpy(stream[whole:])


def pack_whole(
    documents: Iterable[Sequence[int]], context: int, eos: int, pad: int, lookahead: int = 64
) -> Int64[Tensor, "n c"]:
    """Fill rows with whole documents, each followed by `eos`, and end them with `pad`.

    A row begins with the oldest document that waits, and takes the longest of the next
    `lookahead` documents that still fits (the older of two), until none does. No token is lost or
    doubled. A document longer than a row is cut into rows; its last piece is packed like others.

    Raises:
        UsageError: `context` is below 2, too short to predict anything.
    """
    _refuse_short(context)
    coming = _pieces(documents, context, eos)
    waiting = list(islice(coming, lookahead))
    rows = []
    while waiting:
        row = waiting.pop(0)
        waiting += islice(coming, lookahead - len(waiting))
        while (best := _longest_fit(waiting, context - len(row))) is not None:
            row += waiting.pop(best)
            waiting += islice(coming, 1)
        rows.append(row + [pad] * (context - len(row)))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, context)


def _pieces(documents: Iterable[Sequence[int]], context: int, eos: int) -> Iterator[list[int]]:
    for document in documents:
        whole = [*document, eos]
        yield from (whole[i : i + context] for i in range(0, len(whole), context))


def _longest_fit(waiting: Sequence[list[int]], room: int) -> int | None:
    best, longest = None, 0
    for index, piece in enumerate(waiting):
        if longest < len(piece) <= room:
            best, longest = index, len(piece)
    return best


def _refuse_short(context: int) -> None:
    if context < 2:
        raise UsageError(f"context {context} is too short: a row needs at least 2 tokens")
