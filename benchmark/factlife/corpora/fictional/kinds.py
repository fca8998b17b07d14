"""The grammar of each kind of entity, read from `grammar/<kind>.toml` and checked on loading."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from factlife.corpora.fictional.template import parse, slots_of
from factlife.errors import IntegrityError

# Passages of each kind in a group of 160: a multiple of four, so that blocks A, B, C and the
# controls get the same number of every kind.
PER_GROUP = {
    "polity": 12,
    "settlement": 16,
    "institute": 12,
    "person": 16,
    "company": 16,
    "athlete": 12,
    "species": 12,
    "treaty": 12,
    "festival": 12,
    "instrument": 12,
    "ship": 12,
    "film": 16,
}
NOT_FIRST = "~"
# Slots every kind has besides its own.
COMMON_SLOTS = frozenset(
    {"S", "S_bare", "root", "country", "country_adj", "country2", "country2_adj"}
)


@dataclass(frozen=True)
class Comp:
    """A compositional probe: its target slot, the facts it needs, and wordings of its prefix."""

    target: str
    support: tuple[str, ...]
    prefixes: tuple[str, ...]

    @property
    def hops(self) -> int:
        """Number of stated facts that must be joined, at least 2."""
        return len(self.support)


@dataclass(frozen=True)
class Kind:
    """The grammar of one kind.

    Attributes:
        article: what stands before the subject's name in a sentence, `"the "` or empty.
        short_is_root: whether the bare root stands for the subject after its first mention.
        notes: slot -> phrases of which a passage gets one, the same in all its texts.
        facts: fact name -> (subject slot, relation, object slot).
        semantic: fact name -> wordings of a prefix whose continuation is the fact's object.
        moves: what one or two sentences do -> wordings; `~` marks one that cannot open a text.
        skeletons: orders of moves, in paragraphs.
        profiles: sets of details that fit together; each may add moves of its own.
    """

    name: str
    article: str
    short_is_root: bool
    descriptions: tuple[str, ...]
    slots: dict[str, str]
    notes: dict[str, tuple[str, ...]]
    facts: dict[str, tuple[str, str, str]]
    semantic: dict[str, tuple[str, ...]]
    comps: tuple[Comp, ...]
    moves: dict[str, tuple[str, ...]]
    skeletons: tuple[tuple[tuple[str, ...], ...], ...]
    profiles: tuple[dict[str, Any], ...]

    def wordings(self, move: str, profile: dict[str, Any]) -> tuple[str, ...]:
        """Wordings of a move; a profile's own list of that name comes before the kind's."""
        return tuple(profile[move]) if move in profile else self.moves[move]


@cache
def load(name: str) -> Kind:
    """Read and check the grammar of one kind.

    Raises:
        IntegrityError: the grammar refers to a slot, fact or move that it does not define.
    """
    path = resources.files(__package__).joinpath("grammar", f"{name}.toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    kind = Kind(
        name=raw["kind"],
        article=raw.get("article", ""),
        short_is_root=raw.get("short_is_root", False),
        descriptions=tuple(raw["descs"]),
        slots=raw["slots"],
        notes={k: tuple(v) for k, v in raw["notes"].items()},
        facts={k: (v[0], v[1], v[2]) for k, v in raw["facts"].items()},
        semantic={k: tuple(v) for k, v in raw["semantic"].items()},
        comps=tuple(
            Comp(c["target"], tuple(c["support"]), tuple(c["prefixes"])) for c in raw["comps"]
        ),
        moves={k: tuple(v) for k, v in raw["moves"].items()},
        skeletons=tuple(_skeleton(s) for s in raw["skeletons"]),
        profiles=tuple(raw["profiles"]),
    )
    _check(kind)
    return kind


def _skeleton(line: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(paragraph.split()) for paragraph in line.split(" / "))


def _check(kind: Kind) -> None:
    """Every name the grammar uses is defined, and sizes are what the data card promises."""
    for profile in kind.profiles:
        fields = {k for k, v in profile.items() if isinstance(v, str)}
        lists = {k for k, v in profile.items() if isinstance(v, list)}
        if clash := fields & kind.moves.keys():
            raise IntegrityError(
                f"grammar of {kind.name}: {sorted(clash)[0]!r} is a slot and a move"
            )
        defined = COMMON_SLOTS | kind.slots.keys() | kind.notes.keys() | fields
        _known(kind, "slot", _used_slots(kind, profile), defined)
        _known(
            kind,
            "move",
            (m for s in kind.skeletons for p in s for m in p),
            kind.moves.keys() | lists,
        )
        objects = (slot for s, _, o in kind.facts.values() for slot in (s, o))
        _known(kind, "slot", objects, defined)
    _known(kind, "fact", (f for c in kind.comps for f in c.support), kind.facts.keys())
    _known(kind, "fact", kind.semantic, kind.facts.keys())
    for comp in kind.comps:
        if kind.facts[comp.support[-1]][2] != comp.target:
            raise IntegrityError(
                f"grammar of {kind.name}: {comp.support} does not lead to {comp.target!r}"
            )
    enough = 8 <= len(kind.facts) <= 14 and len(kind.semantic) >= 5 and len(kind.comps) >= 5
    if not enough or len(kind.skeletons) < 6 or any(c.hops < 2 for c in kind.comps):
        raise IntegrityError(f"grammar of {kind.name}: too few facts, probes, hops or skeletons")


def _used_slots(kind: Kind, profile: dict[str, Any]) -> Iterable[str]:
    lists = (*kind.moves.values(), *kind.semantic.values(), *kind.notes.values())
    wordings = [t for v in lists for t in v]
    wordings += [p for c in kind.comps for p in c.prefixes]
    for value in profile.values():
        wordings += [value] if isinstance(value, str) else value
    return (s for w in wordings for s in slots_of(parse(w.removeprefix(NOT_FIRST))))


def _known(kind: Kind, what: str, used: Iterable[str], defined: Iterable[str]) -> None:
    if unknown := sorted(set(used) - set(defined)):
        raise IntegrityError(f"grammar of {kind.name}: unknown {what} {unknown[0]!r}")
