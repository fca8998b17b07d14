"""Prompts with spans: template + subject + answer, encoded once as a whole.

Spans come from the tokenizer's character offsets of that one encoding. Encoding the parts
by themselves and searching for them, as the source paper's code does, finds the wrong
tokens wherever a token crosses a boundary ("Tesla, Inc.?").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factlife.errors import UsageError

MERGED = "answer shares a token with the template"
TOO_LONG = "longer than the model's context"


@dataclass(frozen=True)
class Prompt:
    """A sentence to score: `template` with its "{}" filled, one space, `answer`."""

    template: str
    subject: str
    answer: str

    @property
    def prefix(self) -> str:
        """The text before the answer, without the space."""
        return self.template.replace("{}", self.subject)

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prefix} {self.answer}"


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens.

    Attributes:
        ids: token ids of the whole sentence, with BOS if the tokenizer or `bos` adds one.
        subject: [start, end) token span of the subject.
        answer: [start, end) token span of the answer; it ends the sentence.
        reason: why the prompt cannot be scored, else None.
    """

    ids: tuple[int, ...]
    subject: tuple[int, int]
    answer: tuple[int, int]
    reason: str | None = None

    @property
    def n_answer(self) -> int:
        """Number of answer tokens."""
        return self.answer[1] - self.answer[0]


def encode(
    tokenizer: Any, prompts: Sequence[Prompt], bos: str = "auto", max_length: int | None = None
) -> list[Encoded]:
    """Encode prompts with the spans of subject and answer.

    Args:
        tokenizer: a Hugging Face tokenizer that gives character offsets.
        bos: `auto` (what the tokenizer puts before the text), `never`, or `always`.
        max_length: tokens the model can take; longer prompts get a reason.

    Raises:
        UsageError: the tokenizer gives no offsets, or `always` is asked of one without BOS.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets, which the spans of "
            "subject and answer come from: save it as a fast tokenizer (tokenizer.json)"
        )
    if bos == "always" and tokenizer.bos_token_id is None:
        raise UsageError("bos = always, but the tokenizer has no BOS token: use auto or never")
    if not prompts:
        return []
    batch = tokenizer(
        [p.text for p in prompts], return_offsets_mapping=True, add_special_tokens=bos == "auto"
    )
    encodings = zip(prompts, batch["input_ids"], batch["offset_mapping"], strict=True)
    return [_encoded(p, ids, offsets, tokenizer, bos, max_length) for p, ids, offsets in encodings]


def _encoded(
    prompt: Prompt,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    tokenizer: Any,
    bos: str,
    max_length: int | None,
) -> Encoded:
    ids, spans = list(ids), [tuple(o) for o in offsets]
    while ids and spans[-1][0] == spans[-1][1]:  # an EOS or SEP that the tokenizer appends
        ids.pop()
        spans.pop()
    if bos == "always" and (not ids or ids[0] != tokenizer.bos_token_id):
        ids.insert(0, tokenizer.bos_token_id)
        spans.insert(0, (0, 0))
    subject_at = prompt.template.index("{}")
    subject = _span(spans, subject_at, subject_at + len(prompt.subject))
    answer_at = len(prompt.prefix) + 1
    answer = _span(spans, answer_at, len(prompt.text))
    reason = None
    if prompt.text[spans[answer[0]][0] : answer_at].strip():
        reason = MERGED
    elif answer[0] == 0:
        reason = "the answer is the first token: nothing stands before it to predict it from"
    elif max_length is not None and len(ids) > max_length:
        reason = f"{TOO_LONG} ({len(ids)} > {max_length} tokens)"
    return Encoded(tuple(ids), subject, answer, reason)


def _span(spans: Sequence[tuple[int, ...]], start: int, end: int) -> tuple[int, int]:
    """Tokens that hold any character of [start, end)."""
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    return inside[0], inside[-1] + 1
