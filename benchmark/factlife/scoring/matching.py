"""Does a generated text begin with the answer? No torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str, punctuation: str = "") -> list[str]:
    """Words of a text after NFKC, case folding, and removal of articles and punctuation.

    Dashes and slashes part words; other punctuation becomes `punctuation`: nothing ("D.C." ->
    "dc") or a blank ("Japan.It" -> "japan it"). Accents stay: an answer without its accent is
    right only if the data set lists it as an alias.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    parted = re.sub(r"[-‐-―/_\s]+", " ", folded)
    marked = "".join(punctuation if unicodedata.category(c)[0] == "P" else c for c in parted)
    return [w for w in marked.split() if w not in _ARTICLES]


def begins_with_answer(generation: str, answers: Iterable[str]) -> bool:
    """Whether the generation starts with one of the answers, up to normalisation, at a word end.

    Both ways to treat punctuation count: generations run on without a blank ("Japan.It"), and
    abbreviations are written with and without points.
    """
    return any(
        _starts(normalise(generation, mark), normalise(answer, mark))
        for answer in answers
        for mark in ("", " ")
    )


def _starts(words: list[str], answer: list[str]) -> bool:
    return bool(answer) and words[: len(answer)] == answer
