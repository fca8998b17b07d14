"""Names that nobody bears: eight phonotactic grammars over one collision-free space.

A root is `onset vowel medial [vowel medial] ending`. No ending is the tail of another
ending (of any class or grammar), medials are runs of consonants and endings start with a
vowel, so every root parses in exactly one way: different choices give different strings,
across grammars and classes too. Uniqueness therefore needs no memory of what was used, and
the generator streams. `part` splits the space into injected-public, injected-private and
background thirds by a hash of the root, so that these never share a name whatever their seeds.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from factlife.corpora.fictional.draws import Draws
from factlife.errors import UsageError

PARTS = {"public": 0, "private": 1, "background": 2}
CLASSES = ("surname", "place", "thing", "given_f", "given_m")
MAX_LENGTH, MIN_LENGTH = 12, 5
MAX_COUNTRY_LENGTH = 16


@dataclass(frozen=True)
class Culture:
    """One phonotactic grammar; `countries` pairs an ending with its adjective's ending."""

    name: str
    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    medials: tuple[str, ...]
    endings: dict[str, tuple[str, ...]]
    countries: tuple[tuple[str, str], ...]

    def capacity(self, kind: str, *, long: bool) -> int:
        """Number of roots of a class: short have one medial, long have two."""
        n = len(self.onsets) * len(self.vowels) * len(self.medials) * len(self.endings[kind])
        return n * len(self.vowels) * len(self.medials) if long else n

    def root(self, kind: str, index: int, *, long: bool) -> str:
        """The lower-case root number `index` of a class (0 <= index < capacity)."""
        index, e = divmod(index, len(self.endings[kind]))
        index, m = divmod(index, len(self.medials))
        index, v = divmod(index, len(self.vowels))
        index, o = divmod(index, len(self.onsets))
        body = self.onsets[o] + self.vowels[v] + self.medials[m]
        if long:
            index, m = divmod(index, len(self.medials))
            body += self.vowels[index] + self.medials[m]
        return body + self.endings[kind][e]


def _data(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def cultures() -> tuple[Culture, ...]:
    """All phonotactic grammars, in file order."""
    return tuple(
        Culture(
            name=c["name"],
            onsets=tuple(c["onsets"]),
            vowels=tuple(c["vowels"]),
            medials=tuple(c["medials"]),
            endings={k: tuple(c[k]) for k in CLASSES},
            countries=tuple((a, b) for a, b in c["countries"]),
        )
        for c in _data("names.toml")["cultures"]
    )


@cache
def titles() -> tuple[str, ...]:
    """Patterns of titles of works; each holds one fresh root, so titles are unique."""
    return tuple(_data("names.toml")["titles"])


@cache
def real_names() -> frozenset[str]:
    """Real places, people, companies, myths and English words, lower-case (`real_names.toml`)."""
    lists = _data("real_names.toml")
    words = (w for text in lists.values() for w in re.split(r"[\s,]+", str(text)))
    return frozenset(w.casefold() for w in words if w)


@cache
def _near_real() -> frozenset[str]:
    return frozenset(v for w in real_names() if len(w) >= MIN_LENGTH for v in _shorter(w))


def _shorter(word: str) -> set[str]:
    """The word and every string with one letter taken out of it."""
    return {word} | {word[:i] + word[i + 1 :] for i in range(len(word))}


def is_real(name: str) -> bool:
    """Whether a name is on the real-world list, or one letter changed, added or dropped from it."""
    word = name.casefold()
    return word in real_names() or not _near_real().isdisjoint(_shorter(word))


_AWKWARD = re.compile(
    r"(..)\1|(.)\2\2|uu|ii|aa|iy|yi|wu|iae|eie|([aeiou]{3})|sex|fuc|fuk|shit|cunt|nig|rape|anal|anus|"
    r"nazi|porn|slut|whor|piss|cock|dick|tits|dildo|arse|kike|fag|turd|pube|penis|gimp|dyke|jew|"
    r"islam|satan|hitl|kill|hate|[^aeiouy]{5}"
)


def acceptable(root: str, longest: int = MAX_LENGTH) -> bool:
    """Whether a root is of usable length, sayable, inoffensive and not a real name or word."""
    sized = MIN_LENGTH <= len(root) <= longest
    return sized and _AWKWARD.search(root) is None and not is_real(root)


def part_of(root: str) -> int:
    """The third of the name space a root belongs to: a hash, the same whatever the seed."""
    return hashlib.sha256(root.encode()).digest()[0] % len(PARTS)


class Names:
    """A stream of fresh roots for one seed and split; memory does not grow with the stream."""

    def __init__(self, seed: str, split: str) -> None:
        if split not in PARTS:
            raise UsageError(f"unknown split {split!r}; use one of {', '.join(PARTS)}")
        self._seed = seed
        self._part = PARTS[split]
        self._used: Counter[tuple[str, str, bool]] = Counter()
        self._step: dict[tuple[str, str, bool], tuple[int, int]] = {}

    def root(self, culture: Culture, kind: str) -> str:
        """The next fresh root of a class, lower-case, seven in eight of them short.

        Raises:
            UsageError: the space is exhausted (beyond a million passages).
        """
        long = sum(self._used[culture.name, kind, k] for k in (False, True)) % 8 == 7
        root = self._next(culture, kind, long=long) or self._next(culture, kind, long=True)
        if root is None:
            raise UsageError(f"no {culture.name} {kind} names left; ask for fewer passages")
        return root

    def _next(self, culture: Culture, kind: str, *, long: bool) -> str | None:
        key, capacity = (culture.name, kind, long), culture.capacity(kind, long=long)
        step, offset = self._affine(key, capacity)
        while self._used[key] < capacity:
            index = (step * self._used[key] + offset) % capacity
            self._used[key] += 1
            root = culture.root(kind, index, long=long)
            if part_of(root) == self._part and acceptable(root):
                return root
        return None

    def _affine(self, key: tuple[str, str, bool], capacity: int) -> tuple[int, int]:
        """Multiplier coprime to the capacity and offset: n -> step*n + offset visits all once."""
        if key not in self._step:
            draws = Draws(self._seed, "names", *key)
            step = draws.between(capacity // 3, capacity * 2 // 3)
            while math.gcd(step, capacity) != 1:
                step += 1
            self._step[key] = (step, draws.below(capacity))
        return self._step[key]
