"""Batches with passages in them. Shapes: b rows, c tokens per row.

A text replaces the head of a background row: its tokens, end-of-text, then the row from its own
beginning, cut to the length of a row (injection-2024, appendix; every token carries loss). A
text longer than a row is cut off, laid over several rows, or left out; each is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from factlife.errors import UsageError
from factlife.injection.background import Encode, PackedText
from factlife.injection.plan import Line, RunPlan
from factlife.training.batches import Batch

TRUNCATED = "longer than a row: its end was cut off"
TOO_LONG = "longer than a row: left out"


@dataclass(frozen=True)
class Head:
    """What stands at the beginning of one row, at most a row long.

    Attributes:
        total: tokens of the whole text with its end-of-text.
        reason: TRUNCATED where the row holds less of it than there is.
    """

    line: Line
    row: int
    ids: tuple[int, ...]
    total: int
    reason: str | None = None


@dataclass(frozen=True)
class Heads:
    """All heads of a run by step, and the lines that were left out."""

    by_step: Mapping[int, Sequence[Head]]
    left_out: tuple[tuple[Line, int], ...]


def make_heads(plan: RunPlan, encode: Encode, eos: int, context: int) -> Heads:
    """Turn a plan into tokens.

    Raises:
        UsageError: a step's texts need more rows than a batch has.
    """
    texts = {a.passage.passage_id: a.passage.texts for a in plan.assignments}
    known: dict[tuple[str, int], list[int]] = {}
    by_step: dict[int, list[Head]] = {}
    left_out = []
    for line in sorted(plan.lines):
        key = (line.passage, line.variant)
        if key not in known:
            known[key] = [*encode(texts[line.passage][line.variant]), eos]
        ids, heads = known[key], by_step.setdefault(line.step, [])
        if len(ids) > context and plan.settings.long == "exclude":
            left_out.append((line, len(ids)))
        else:
            heads += _heads(line, ids, context, plan.settings.long, _next_row(line, heads, plan))
    for step, heads in by_step.items():
        needed = max((h.row for h in heads), default=-1) + 1
        if needed > plan.settings.batch_rows:
            raise UsageError(
                f"{plan.name}: the texts of step {step} take {needed} rows, a batch has "
                f"{plan.settings.batch_rows}: raise batch_rows or lower per_arm"
            )
    return Heads(by_step, tuple(left_out))


def _next_row(line: Line, heads: Sequence[Head], plan: RunPlan) -> int:
    """Where texts may take several rows they follow one another; else the plan says the row."""
    if plan.settings.long != "split":
        return line.row
    return heads[-1].row + 1 if heads else 0


def _heads(line: Line, ids: list[int], context: int, long: str, row: int) -> list[Head]:
    if long == "split":
        pieces = [tuple(ids[i : i + context]) for i in range(0, len(ids), context)]
        return [Head(line, row + k, piece, len(ids)) for k, piece in enumerate(pieces)]
    reason = TRUNCATED if len(ids) > context else None
    return [Head(line, row, tuple(ids[:context]), len(ids), reason)]


class InjectionSource:
    """Background rows with the plan's texts at their heads; its position can be saved."""

    def __init__(self, background: PackedText, batch_rows: int, heads: Heads) -> None:
        self._background, self._batch_rows, self._heads = background, batch_rows, heads
        self._step = 0

    def next_batch(self) -> Batch:
        """The batch of the current step.

        Raises:
            UsageError: the background text is exhausted.
        """
        rows = self._background.take(self._batch_rows)
        for head in self._heads.by_step.get(self._step, ()):
            ids = torch.tensor(head.ids, dtype=torch.int64)
            rows[head.row] = torch.cat([ids, rows[head.row]])[: rows.shape[1]]
        self._step += 1
        return Batch(rows)

    def position(self) -> dict[str, int]:
        """Step and place in the background."""
        return {"batch": self._step, **self._background.position()}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        self._step = position["batch"]
        self._background.seek(position)
