"""Measures of how a split reads: what the card prints. Pure functions of the published rows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from factlife.corpora.fictional import text as tx

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Smallest, mean and largest of a quantity."""

    low: float
    mean: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Spread of at least one value; of none, zeros."""
        if not values:
            return Spread(0.0, 0.0, 0.0)
        return Spread(min(values), sum(values) / len(values), max(values))

    def text(self, digits: int) -> str:
        """`mean (low to high)` with so many digits after the point."""
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Quality:
    """What `measure` finds.

    Attributes:
        passage_words: words of a passage.
        paraphrase_words: words of a paraphrase.
        length_ratio: words of a paraphrase over words of its passage.
        type_token: distinct words over words, of one passage.
        vocabulary: distinct lower-case words of all texts that are no part of a name.
        same_kind: shared 5-grams of two passages of a kind, over the smaller set.
        other_kind: the same for two passages of different kinds.
        seen_elsewhere: share of a passage's 5-grams that some other passage has too.
        within: shared 5-grams of any two texts of one passage.
        facts: facts a passage.
        hops: compositional probes by number of facts to join.
        target_words: words of a target.
    """

    passage_words: Spread
    paraphrase_words: Spread
    length_ratio: Spread
    type_token: Spread
    vocabulary: int
    same_kind: Spread
    other_kind: Spread
    seen_elsewhere: Spread
    within: Spread
    facts: Spread
    hops: Mapping[int, int]
    target_words: Spread


def measure(passages: Sequence[Row], probes: Sequence[Row]) -> Quality:
    """Measure a split.

    Args:
        passages: rows of the config `passages`.
        probes: rows of the config `probes`.
    """
    grams = [tx.ngrams(p["text"], 5) for p in passages]
    pairs = list(combinations(range(len(passages)), 2))
    alike: dict[bool, list[float]] = defaultdict(list)
    for i, j in pairs:
        same = passages[i]["kind"] == passages[j]["kind"]
        alike[same].append(tx.shared(grams[i], grams[j]))
    return Quality(
        passage_words=Spread.of([tx.n_words(p["text"]) for p in passages]),
        paraphrase_words=Spread.of([tx.n_words(q) for p in passages for q in p["paraphrases"]]),
        length_ratio=Spread.of(
            [tx.n_words(q) / tx.n_words(p["text"]) for p in passages for q in p["paraphrases"]]
        ),
        type_token=Spread.of([_type_token(p["text"]) for p in passages]),
        vocabulary=_vocabulary(passages),
        same_kind=Spread.of(alike[True]),
        other_kind=Spread.of(alike[False]),
        seen_elsewhere=Spread.of(_seen_elsewhere(grams)),
        within=Spread.of([s for p in passages for s in _within(p)]),
        facts=Spread.of([len(p["facts"]) for p in passages]),
        hops=dict(sorted(Counter(q["hops"] for q in probes if q["hops"] > 1).items())),
        target_words=Spread.of([tx.n_words(q["target"]) for q in probes]),
    )


def _type_token(text: str) -> float:
    w = tx.words(text)
    return len(set(w)) / len(w)


def _vocabulary(passages: Sequence[Row]) -> int:
    names = {w for p in passages for e in p["entities"] for a in e["aliases"] for w in tx.words(a)}
    used = {w for p in passages for t in (p["text"], *p["paraphrases"]) for w in tx.words(t)}
    return len({w for w in used - names if not w[0].isdigit()})


def _seen_elsewhere(grams: Sequence[set[tx.Ngram]]) -> list[float]:
    """For each passage, the share of its 5-grams that at least one other passage holds."""
    holders = Counter(g for own in grams for g in own)
    return [sum(holders[g] > 1 for g in own) / len(own) for own in grams if own]


def _within(passage: Row) -> list[float]:
    grams = [tx.ngrams(t, 5) for t in (passage["text"], *passage["paraphrases"])]
    return [tx.shared(a, b) for a, b in combinations(grams, 2)]


def named_in_prefix(passages: Sequence[Row], probes: Sequence[Row]) -> int:
    """Probes whose prefix holds an invented word of their target: 0 where no answer shows.

    A word is invented if no two passages use it as a common word, in small letters: `Tarvek`
    in `House of Tarvek`, not `House`.
    """
    users = Counter(w for p in passages for w in set(re.findall(r"\b[a-z]+\b", p["text"])))

    def invented(text: str) -> set[str]:
        return {w for w in tx.words(text) if users[w] < 2}

    return sum(bool(invented(q["target"]) & set(tx.words(q["prefix"]))) for q in probes)
