"""The linked world: countries, the subjects of passages, and what joins them.

A world is made in groups of at most 160 subjects, so memory does not grow with size. Each
group has its own 16 countries. Subjects link only to subjects of their own block (A, B, C or
control): a control passage's subject is then never named in an injected passage, nor one
arm's in another's. Polities come first, then settlements and institutes, so that links
point backwards and a subject can take its country from the place it is linked to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from factlife.corpora.fictional.draws import Draws
from factlife.corpora.fictional.kinds import PER_GROUP, load
from factlife.corpora.fictional.names import (
    MAX_COUNTRY_LENGTH,
    Culture,
    Names,
    acceptable,
    cultures,
    titles,
)
from factlife.corpora.fictional.template import Entity, Value
from factlife.errors import IntegrityError, UsageError

BLOCKS = ("A", "B", "C", "control")
GROUP = sum(PER_GROUP.values())
_UNITS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_UNITS += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"]
_UNITS += ["eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


@dataclass(frozen=True)
class Country:
    """A country of the setting: named in many passages, never a subject and never a target."""

    name: str
    adjective: str
    culture: Culture


@dataclass
class Subject:
    """What one passage is about.

    Attributes:
        index: place in the corpus, from 0.
        block: A, B or C (the three injected blocks that rotate over the arms) or control.
        values: slot -> entity or text, `S` being the subject itself.
        profile: the set of details drawn for it.
    """

    index: int
    kind: str
    block: str
    country: Country
    profile: dict[str, Any]
    values: dict[str, Value] = field(default_factory=dict)


def number_words(n: int) -> str:
    """A whole number below 100 in words; from 100 on in digits."""
    if n < 20:
        return _UNITS[n]
    if n >= 100:
        return str(n)
    tens, unit = divmod(n, 10)
    return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")


def quad_kinds() -> list[str]:
    """Kinds of the 40 quads of a group, in order: every kind once, then again."""
    left = {k: n // 4 for k, n in PER_GROUP.items()}
    order = []
    while any(left.values()):
        for kind in PER_GROUP:
            if left[kind]:
                left[kind] -= 1
                order.append(kind)
    return order


def assignment(size: int, seed: str) -> list[tuple[str, str]]:
    """(kind, block) of the first passages of a group.

    Each run of four passages is of one kind, and its four members are dealt to A, B, C and
    control at random: kind cannot be confounded with arm.
    """
    out = []
    for quad, kind in enumerate(quad_kinds()):
        blocks = Draws(seed, "blocks", quad).shuffled(BLOCKS)
        out += [(kind, block) for block in blocks]
    return out[:size]


def subjects(seed: str, split: str, size: int) -> Iterator[Subject]:
    """All subjects of a corpus in order, one group in memory at a time.

    Args:
        seed: any text; the same seed gives the same world.
        split: public, private or background; they share no names.
        size: number of passages, at least 1.

    Raises:
        UsageError: size below 1.
    """
    if size < 1:
        raise UsageError(f"size must be at least 1, got {size}")
    names = Names(seed, split)
    for start in range(0, size, GROUP):
        n = min(GROUP, size - start)
        yield from _group(seed, start, n, names)


def _group(seed: str, start: int, n: int, names: Names) -> list[Subject]:
    draws = Draws(seed, "group", start)
    taken: set[str] = set()
    countries = [_country(c, names, draws, taken) for c in cultures() for _ in range(2)]
    plan = assignment(n, f"{seed}/{start}")
    made: dict[int, Subject] = {}
    rank = list(PER_GROUP)
    for i in sorted(range(n), key=lambda i: (rank.index(plan[i][0]), i)):
        kind, block = plan[i]
        peers = [s for s in made.values() if s.block == block]
        made[i] = _Maker(seed, start + i, kind, block, countries, peers, names).subject()
    return [made[i] for i in range(n)]


def _country(culture: Culture, names: Names, draws: Draws, taken: set[str]) -> Country:
    """A fresh country: the stem of a place with an ending of its own, and nothing real."""
    start = draws.below(len(culture.countries))
    while True:
        root = names.root(culture, "place")
        stem = next(root.removesuffix(e) for e in culture.endings["place"] if root.endswith(e))
        for turn in range(len(culture.countries)):
            noun, adjective = culture.countries[(start + turn) % len(culture.countries)]
            name = stem + noun
            if acceptable(name, MAX_COUNTRY_LENGTH) and name not in taken:
                taken.add(name)
                return Country(name.capitalize(), (stem + adjective).capitalize(), culture)


class _Maker:
    """Fills the slots of one subject, in the order of its grammar."""

    def __init__(
        self,
        seed: str,
        index: int,
        kind: str,
        block: str,
        countries: list[Country],
        peers: list[Subject],
        names: Names,
    ) -> None:
        self.draws = Draws(seed, "subject", index)
        self.grammar = load(kind)
        self.names = names
        self.titles: set[str] = set()
        self.peers = peers
        country = self.draws.pick(countries)
        profile = self.grammar.profiles[self._profile_of(index, seed)]
        self.made = Subject(index, kind, block, country, profile)
        self.countries = countries

    def _profile_of(self, index: int, seed: str) -> int:
        """Profiles are dealt in turn within a kind, so that near neighbours differ."""
        n = len(self.grammar.profiles)
        start, within = divmod(index, 4)
        return (Draws(seed, "deal", self.grammar.name).below(n) + (start // 12) * 4 + within) % n

    def subject(self) -> Subject:
        """Links first (they decide the country), then the subject's own name, then the rest."""
        slots = self.grammar.slots
        for name, spec in slots.items():
            if spec.startswith("link "):
                self.made.values[name] = self._link(spec)
        self._countries()
        self.made.values["S"] = self._self()
        for name, spec in slots.items():
            if name not in self.made.values:
                self.made.values[name] = self._value(spec)
        for name, phrases in self.grammar.notes.items():
            self.made.values[name] = self.draws.pick(phrases)
        for name, value in self.made.profile.items():
            if isinstance(value, str) and name != "name":
                self.made.values[name] = value
        return self.made

    def _countries(self) -> None:
        home = self.made.country
        other = self.draws.pick([c for c in self.countries if c is not home])
        for slot, country in (("country", home), ("country2", other)):
            self.made.values[slot] = country.name
            self.made.values[f"{slot}_adj"] = country.adjective

    def _link(self, spec: str) -> Value:
        """A subject of the same block if one fits, else a fresh name: `link kind [field]|spec`.

        With a field, the peer's name must hold the word that the profile has in that field: a
        botanist studies at a botanical institute, not at a school of mines.
        """
        wanted, fallback = spec.removeprefix("link ").split("|")
        kind, _, slot = wanted.partition(" ")
        word = str(self.made.profile[slot]) if slot else ""
        candidates = [s for s in self.peers if s.kind == kind and word in str(s.values["S"])]
        if not candidates:
            return self._value(fallback)
        peer = self.draws.pick(candidates)
        self.made.country = peer.country
        value = peer.values["S"]
        if not isinstance(value, Entity):
            raise IntegrityError(f"subject {peer.index} has no name")
        return value

    def _self(self) -> Entity:
        spec = self.made.profile.get("name", self.grammar.slots.get("S", "place"))
        value = self._value(spec)
        if not isinstance(value, Entity):
            raise IntegrityError(f"grammar of {self.grammar.name}: {spec!r} is no name")
        root = next((w for w in spec.split() if "{root}" in w), "")
        prefix, _, suffix = root.rpartition(":")[2].partition("{root}")
        index = spec.rpartition(":")[2].split().index(prefix + "{root}" + suffix) if root else 0
        root = value.name.split()[index].removeprefix(prefix).removesuffix(suffix)
        self.made.values["root"] = root
        short = root if self.grammar.short_is_root else value.short
        return Entity(self.grammar.name, value.name, short, value.gender)

    def _value(self, spec: str) -> Value:
        """The value of a slot: a name, a year, a number, or number words."""
        head, _, rest = spec.partition(" ")
        if head == "person":
            return self._person()
        if head == "year":
            return self._year(*rest.split())
        if head == "num":
            low, high, step = (int(x) for x in rest.split())
            return f"{self.draws.between(low // step, high // step) * step:,}"
        if head == "words":
            low, high = (int(x) for x in rest.split())
            return number_words(self.draws.between(low, high))
        if head == "gap":
            return number_words(self._gap(*rest.split()))
        return self._named(spec)

    def _root(self, kind: str) -> str:
        return self.names.root(self.made.country.culture, kind)

    def _person(self) -> Entity:
        gender = self.draws.pick("fm")
        culture = self.made.country.culture
        endings = culture.endings[f"given_{gender}"]
        surname = self._root("surname").capitalize()
        given = self._given(culture, endings)
        return Entity("person", f"{given} {surname}", surname, gender)

    def _given(self, culture: Culture, endings: tuple[str, ...]) -> str:
        """A given name; these may recur, as they do in life. Only surnames are unique."""
        while True:
            stem = (culture.onsets, culture.vowels, culture.medials, endings)
            name = "".join(self.draws.pick(part) for part in stem)
            if acceptable(name):
                return name.capitalize()

    def _named(self, spec: str) -> Entity:
        """A name: `place`, `thing`, `word`, `title`, or a pattern such as `Cape {root}`."""
        if spec == "title":
            return self._title()
        kind, _, pattern = spec.partition(":")
        if "{root}" in kind:
            kind, pattern = "thing", spec
        if kind == "word":
            word = self._root("thing")
            return Entity("word", word, word)
        if kind == "binomial":
            name = f"{self._root('thing').capitalize()}ia {self._root('place')}ensis"
            return Entity("binomial", name, name)
        root = self._root(kind).capitalize()
        name = pattern.replace("{root}", root) if pattern else root
        for slot in re.findall(r"{(\w+)}", name):
            name = name.replace("{" + slot + "}", str(self.made.profile[slot]))
        return Entity(kind, name, name)

    def _title(self) -> Entity:
        pattern = self.draws.pick([t for t in titles() if t not in self.titles])
        self.titles.add(pattern)
        kind = "place" if "{place}" in pattern else "thing"
        name = pattern.replace("{" + kind + "}", self._root(kind).capitalize())
        return Entity("work", name, name)

    def _year(self, first: str, low: str, high: str = "") -> str:
        """`year 1790 1850`, or `year founded 9 25`: that many years after another slot."""
        if first.isdigit():
            return str(self.draws.between(int(first), int(low)))
        return str(int(_text(self.made.values, first)) + self.draws.between(int(low), int(high)))

    def _gap(self, first: str, last: str) -> int:
        return int(_text(self.made.values, last)) - int(_text(self.made.values, first))


def _text(values: Mapping[str, Value], slot: str) -> str:
    value = values[slot]
    if isinstance(value, Entity):
        raise IntegrityError(f"slot {slot!r} holds a name where a number is needed")
    return value
