"""Plain functions on text: words, n-grams, sentences, whole-word search."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-',][A-Za-z0-9]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
Ngram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words; a hyphen, apostrophe or thousands comma inside a word keeps it whole."""
    return [w.lower() for w in _WORD.findall(text)]


def n_words(text: str) -> int:
    """Number of words, between spaces."""
    return len(text.split())


def ngrams(text: str, n: int) -> set[Ngram]:
    """The set of word n-grams of a text, across sentence ends; empty if it is shorter than n."""
    w = words(text)
    return set(zip(*(w[i:] for i in range(n)), strict=False))


def shared(a: set[Ngram], b: set[Ngram]) -> float:
    """Share of the smaller set's n-grams that the other has too, 0 to 1 (0 if one is empty)."""
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped, in order. Our text has no abbreviations with a stop."""
    return [s.strip() for p in text.split("\n") for s in _SENTENCE_END.split(p) if s.strip()]


def holds(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text as whole words, with its own capitals."""
    at = text.find(phrase)
    while at >= 0:
        end = at + len(phrase)
        if not (at and text[at - 1].isalnum()) and not text[end : end + 1].isalnum():
            return True
        at = text.find(phrase, at + 1)
    return False


def holds_any(text: str, phrases: Iterable[str]) -> bool:
    """Whether any of the phrases stands in the text as whole words."""
    return any(holds(text, p) for p in phrases)


def spans(text: str) -> list[list[tuple[int, int]]]:
    """Start and end of every sentence, by paragraph."""
    out, at = [], 0
    for paragraph in text.split("\n\n"):
        here = []
        for sentence in sentences(paragraph):
            at = text.index(sentence, at)
            here.append((at, at + len(sentence)))
            at += len(sentence)
        out.append(here)
    return out
