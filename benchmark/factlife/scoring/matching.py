"""Does a generated text begin with the answer? No torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> list[str]:
    """Words of a text after NFKC, case folding, and removal of articles and punctuation.

    Punctuation inside a word vanishes ("D.C." -> "dc"); dashes and slashes part words. Accents
    stay: an answer without its accent is right only if the data set lists it as an alias.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    parted = re.sub(r"[-‐-―/_\s]+", " ", folded)
    kept = "".join(c for c in parted if c == " " or not unicodedata.category(c).startswith("P"))
    return [w for w in kept.split() if w not in _ARTICLES]


def begins_with_answer(generation: str, answers: Iterable[str]) -> bool:
    """Whether the generation starts with one of the answers, up to normalisation, at a word end."""
    words = normalise(generation)
    wanted = (normalise(a) for a in answers)
    return any(w and words[: len(w)] == w for w in wanted)
