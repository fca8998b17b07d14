"""Companions: made-up subjects that show the probe templates' form and no probe fact."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from factlife.corpora.fact_probes import FactProbes
from factlife.errors import IntegrityError

ATTEMPTS_PER_NAME = 200


@dataclass(frozen=True)
class Companion:
    """A made-up subject with an answer drawn from its relation's candidates."""

    relation: str
    subject: str
    answer: str


def made_up_companions(
    probes: FactProbes, count: int, rng: np.random.Generator
) -> dict[str, tuple[Companion, ...]]:
    """Draw `count` companions per relation; every candidate is given equally often within one.

    No companion's name holds, or is held by, the name of a probe subject, an answer or an unseen
    subject, and no two companions share a name.

    Raises:
        IntegrityError: the name grammar gives too few new names.
    """
    names = _Names(_taken(probes), rng)
    result = {}
    for relation in probes.relations:
        order = np.concatenate([rng.permutation(len(relation.candidates)) for _ in range(count)])[
            :count
        ]
        result[relation.relation] = tuple(
            Companion(relation.relation, names.draw(relation.relation), relation.candidates[i])
            for i in order
        )
    return result


def _taken(probes: FactProbes) -> set[str]:
    unseen = {u.subject for u in probes.unseen}
    return unseen | {f.subject for f in probes.facts} | {f.answer for f in probes.facts}


class _Names:
    """Draws names that are new, one relation's shape after another."""

    def __init__(self, taken: Iterable[str], rng: np.random.Generator) -> None:
        self._taken = [t.casefold() for t in taken]
        self._given: set[str] = set()
        self._words: set[str] = set()
        self._rng = rng
        self._grammar = grammar()

    def draw(self, relation: str) -> str:
        shapes = self._grammar["shapes"][relation]
        for _ in range(ATTEMPTS_PER_NAME):
            shape = self._pick(shapes)
            name = shape.replace("{w}", self._word()).replace("{v}", self._word())
            if name not in self._given and not self._clashes(name):
                self._given.add(name)
                return name
        raise IntegrityError(
            f"no new made-up name for {relation} in {ATTEMPTS_PER_NAME} attempts: "
            "add syllables or shapes to reference_text/names.toml"
        )

    def _clashes(self, name: str) -> bool:
        folded = name.casefold()
        return any(t in folded or folded in t for t in self._taken)

    def _word(self) -> str:
        parts = self._grammar["syllables"]
        kinds = ("onset", "vowel", "middle", "ending")
        return "".join(self._pick(parts[k]) for k in kinds).capitalize()

    def _pick(self, items: list[str]) -> str:
        return items[int(self._rng.integers(len(items)))]


def grammar() -> dict[str, Any]:
    """The shapes and syllables of `names.toml`."""
    return tomllib.loads(resources.files(__package__).joinpath("names.toml").read_text("utf-8"))
