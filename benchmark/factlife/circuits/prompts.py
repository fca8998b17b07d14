"""The prompts of the circuits track: source template + subject + answer, teacher-forced.

A fact that cannot be traced keeps one row, with the reason. Where the tokenizer merges the subject
with the template around it ("Tesla," in one token), the shared token counts as the subject's, and
every row of the fact is flagged `subject_merged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factlife.config import Profile
from factlife.corpora.fact_probes import FactProbes
from factlife.corpora.prompts import Encoded, Prompt, encode

SUBJECT_MERGED = "subject_merged"


@dataclass(frozen=True)
class Item:
    """One fact as tokens.

    Attributes:
        flags: what is unusual about its tokens.
        shown: the edges of its circuit are kept for the report.
    """

    fact_id: str
    relation: str
    encoded: Encoded
    flags: tuple[str, ...] = ()
    shown: bool = False


@dataclass(frozen=True)
class Prepared:
    """All prompts of the track, in the order of the facts."""

    items: tuple[Item, ...]

    @property
    def usable(self) -> list[int]:
        """Places of the items that can be traced."""
        return [i for i, item in enumerate(self.items) if item.encoded.reason is None]


def prepare(
    tokenizer: Any, probes: FactProbes, profile: Profile, max_length: int | None
) -> Prepared:
    """Encode every fact with its relation's source template.

    Args:
        tokenizer: of the checkpoint.
        max_length: tokens the model can take, if bounded.

    Raises:
        UsageError: a tokenizer without character offsets.
    """
    prompts = [
        Prompt(probes.relation(f.relation).source_template.text, f.subject, f.answer)
        for f in probes.facts
    ]
    encoded = encode(tokenizer, prompts, profile.model.bos, max_length)
    merged = _subject_merged(tokenizer, prompts)
    shown: dict[str, int] = {}
    items = []
    for fact, e, m in zip(probes.facts, encoded, merged, strict=True):
        show = e.reason is None and shown.get(fact.relation, 0) < profile.circuits.shown_facts
        shown[fact.relation] = shown.get(fact.relation, 0) + show
        items.append(Item(fact.fact_id, fact.relation, e, (SUBJECT_MERGED,) if m else (), show))
    return Prepared(tuple(items))


def _subject_merged(tokenizer: Any, prompts: Sequence[Prompt]) -> list[bool]:
    """Whether a token holds characters of the subject and of the template around it.

    A blank in front of a word belongs to its token nearly everywhere and does not count.
    """
    texts = [p.text for p in prompts]
    if not texts:
        return []
    batch = tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
    found = []
    for prompt, offsets in zip(prompts, batch["offset_mapping"], strict=True):
        start = prompt.template.index("{}")
        end = start + len(prompt.subject)
        found.append(
            any(
                a < end and b > start and (prompt.text[a:start] + prompt.text[end:b]).strip()
                for a, b in offsets
            )
        )
    return found
