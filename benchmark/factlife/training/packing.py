"""Documents to rows of one length. Shapes: n rows, c tokens per row (the context)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

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
    if context < 2:
        raise UsageError(f"context {context} is too short: a row needs at least 2 tokens")
    stream = np.fromiter(chain.from_iterable((*d, eos) for d in documents), dtype=np.int64)
    whole = len(stream) // context * context
    rows = torch.from_numpy(stream[:whole].reshape(-1, context))
    return rows, torch.from_numpy(stream[whole:])
