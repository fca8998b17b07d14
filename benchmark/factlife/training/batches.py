"""Where batches come from. Shapes: b rows per batch, c tokens per row, n rows in all."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from factlife.errors import UsageError

NO_LOSS = -100


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, and what is to be predicted.

    Attributes:
        ids: input tokens.
        labels: the token itself where it counts as a target, `NO_LOSS` where it does not; None:
            every token counts (but the first of a row, which nothing predicts).
    """

    ids: Int64[Tensor, "b c"]
    labels: Int64[Tensor, "b c"] | None = None


@runtime_checkable
class BatchSource(Protocol):
    """A stream of batches whose position can be saved and taken up again."""

    def next_batch(self) -> Batch:
        """The batch at the current position; moves on by one."""
        ...

    def position(self) -> dict[str, int]:
        """The position, to be written as JSON."""
        ...

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        ...


class RowSource:
    """Rows in order, or in a new seeded order each epoch; begins anew at the end.

    An epoch is floor(n / b) batches, so that every batch is full; the rows left over take their
    turn in other epochs when a `shuffle_seed` is given. Tokens equal to `pad` are no targets.
    """

    def __init__(
        self,
        rows: Int64[Tensor, "n c"],
        batch_rows: int,
        shuffle_seed: int | None = None,
        pad: int | None = None,
    ) -> None:
        """Raises UsageError when there are fewer rows than one batch needs."""
        if len(rows) < batch_rows:
            raise UsageError(
                f"{len(rows)} rows of text are too few for a batch of {batch_rows}: "
                "give more text or a smaller batch"
            )
        self._rows, self._batch_rows, self._seed = rows, batch_rows, shuffle_seed
        self._pad = pad
        self._batch = 0

    def next_batch(self) -> Batch:
        """The next `batch_rows` rows."""
        epoch, index = divmod(self._batch, len(self._rows) // self._batch_rows)
        span = slice(index * self._batch_rows, (index + 1) * self._batch_rows)
        self._batch += 1
        rows = self._rows[span if self._seed is None else self._order(self._seed, epoch)[span]]
        labels = None if self._pad is None else rows.masked_fill(rows == self._pad, NO_LOSS)
        return Batch(rows, labels)

    def _order(self, seed: int, epoch: int) -> Int64[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(len(self._rows), generator=generator)

    def position(self) -> dict[str, int]:
        """Batches handed out so far."""
        return {"batch": self._batch}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        self._batch = position["batch"]


class Ahead:
    """A source whose next batch is made in a thread while the present one is trained on.

    The position is that of the batches handed out: what is made ahead is not counted.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._position = source.position()
        self._worker = ThreadPoolExecutor(1)
        self._waiting: Future[tuple[Batch, dict[str, int]]] | None = None

    def _make(self) -> tuple[Batch, dict[str, int]]:
        return self._source.next_batch(), self._source.position()

    def next_batch(self) -> Batch:
        """The batch at the current position. Raises what the source raises for this batch."""
        waiting = self._waiting or self._worker.submit(self._make)
        self._waiting = None
        batch, self._position = waiting.result()
        self._waiting = self._worker.submit(self._make)
        return batch

    def position(self) -> dict[str, int]:
        """The source's position after the last batch that was handed out."""
        return dict(self._position)

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        if self._waiting is not None:
            wait([self._waiting])
            self._waiting = None
        self._source.seek(position)
        self._position = dict(position)
