"""Populations: who there is, what is true of them, and which templates each one keeps for tests.

Every draw comes from the raw 64-bit stream of PCG64, which NumPy keeps the same in all versions,
one stream for names, for each attribute's values and for each attribute's template split. So
person i of a seed is the same in a population of any size.

Shapes: n people, a attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factlife.corpora.biographies.content import (
    END,
    N_TEMPLATES,
    N_TRAIN,
    NAME,
    NAME_PARTS,
    Attribute,
    all_attributes,
    choose_attributes,
    name_lists,
)
from factlife.errors import UsageError

Ids = NDArray[np.int64]
POOLS = {"train": slice(0, N_TRAIN), "eval": slice(N_TRAIN, N_TEMPLATES)}
_CHUNK = 65_536


@dataclass(frozen=True, eq=False)
class Population:
    """People with unique names, the value of each attribute, and a template split of their own.

    The known people come first, then the unseen ones (who are never to be trained on), then the
    new ones (for fine-tuning). No two people share a full name, so the three never overlap.

    Attributes:
        seed: what it was made from.
        attributes: the a attributes.
        names: lists of first, middle and last names.
        n_known, n_unseen, n_new: sizes of the three groups; n is their sum.
        name: [n, 3] numbers into `names`.
        value: [n, a] numbers of values, uniform and independent.
        templates: [n, a, 25] a permutation of the templates: 20 for training, then 5 for tests.
    """

    seed: int
    attributes: tuple[Attribute, ...]
    names: tuple[tuple[str, ...], ...]
    n_known: int
    n_unseen: int
    n_new: int
    name: Ids
    value: Ids
    templates: NDArray[np.uint8]

    @classmethod
    def make(
        cls,
        n: int,
        seed: int,
        *,
        unseen: int = 0,
        new: int = 0,
        attributes: Sequence[str] | None = None,
        values: int | None = None,
        names: Sequence[int] | None = None,
    ) -> Population:
        """Draw a population.

        Args:
            n: known people, at least 1.
            seed: any whole number from 0.
            unseen: people held out from training altogether.
            new: people kept for fine-tuning.
            attributes: names of attributes; None takes all six.
            values: at most so many values an attribute; None takes all.
            names: at most so many first, middle and last names; None takes all.

        Raises:
            UsageError: a size or seed out of range, more people than the names allow, or an
                attribute that has no templates.
        """
        chosen = choose_attributes(attributes, values)
        lists = _name_lists(names)
        total = _total(n, unseen, new, math.prod(map(len, lists)))
        if seed < 0:
            raise UsageError(f"seed must be at least 0, got {seed}")
        known = list(all_attributes())
        streams = [known.index(a.name) for a in chosen]
        return cls(
            seed=seed,
            attributes=chosen,
            names=lists,
            n_known=n,
            n_unseen=unseen,
            n_new=new,
            name=_unique_names(total, seed, lists),
            value=_values(total, seed, chosen, streams),
            templates=_templates(total, seed, streams),
        )

    @property
    def n(self) -> int:
        """All people: known, unseen and new."""
        return self.n_known + self.n_unseen + self.n_new

    @property
    def known(self) -> Ids:
        """Ids of the known people: 0 to n_known - 1."""
        return np.arange(self.n_known)

    @property
    def unseen(self) -> Ids:
        """Ids of the people held out from training."""
        return self.n_known + np.arange(self.n_unseen)

    @property
    def new(self) -> Ids:
        """Ids of the people kept for fine-tuning."""
        return self.n_known + self.n_unseen + np.arange(self.n_new)

    def full_name(self, person: int) -> str:
        """First, middle and last name, joined by spaces."""
        return " ".join(words[i] for words, i in zip(self.names, self.name[person], strict=True))

    def value_text(self, person: int, attribute: int) -> str:
        """The value of an attribute (by its place in `attributes`) of a person."""
        return self.attributes[attribute].value(int(self.value[person, attribute]))

    def sentence(self, person: int, attribute: int, template: int) -> str:
        """The sentence that a template (0 to 24) makes, its full stop set apart by a space."""
        start = self.attributes[attribute].templates[template].replace(NAME, self.full_name(person))
        return f"{start} {self.value_text(person, attribute)} {END}"

    def baseline_nats(self) -> float:
        """B: mean over the attributes of ln K, the loss of who knows the lists and nobody."""
        return float(np.mean([a.no_knowledge_nats for a in self.attributes]))

    def entropy_nats(self, people: Ids | None = None) -> float:
        """Mean over the attributes of the entropy of the values that these people have, in nats.

        At small n this is below ln K. None takes the known people.
        """
        value = self.value[self.known if people is None else people]
        return float(np.mean([_entropy(column) for column in value.T]))


def _name_lists(sizes: Sequence[int] | None) -> tuple[tuple[str, ...], ...]:
    lists = name_lists()
    if sizes is None:
        return lists
    fits = len(sizes) == 3 and all(
        1 <= size <= len(full) for size, full in zip(sizes, lists, strict=False)
    )
    if not fits:
        raise UsageError(
            f"names must be three sizes from 1 to {', '.join(str(len(full)) for full in lists)}; "
            f"got {list(sizes)}"
        )
    return tuple(full[:size] for size, full in zip(sizes, lists, strict=True))


def _total(n: int, unseen: int, new: int, allowed: int) -> int:
    if n < 1 or unseen < 0 or new < 0:
        raise UsageError(
            f"people must be 1 or more, unseen and new 0 or more: {n}, {unseen}, {new}"
        )
    total = n + unseen + new
    if total > allowed:
        raise UsageError(
            f"{total} people, but the names allow {allowed}; ask for fewer people or more names"
        )
    return total


def _stream(seed: int, *path: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([seed, *path]))


def _raw(bits: np.random.PCG64, size: int) -> NDArray[np.uint64]:
    return np.asarray(bits.random_raw(size), np.uint64)


def _unique_names(n: int, seed: int, lists: Sequence[Sequence[str]]) -> Ids:
    """[n, 3]: triples in the order of their first appearance in the stream, each once.

    64 bits modulo the number of triples: no triple is likelier than another by 1 in 10^11.
    """
    sizes = [len(words) for words in lists]
    bits, allowed = _stream(seed, 0), math.prod(sizes)
    codes = np.empty(0, np.uint64)
    while len(codes) < n:
        drawn = _raw(bits, _CHUNK) % np.uint64(allowed)
        codes = np.concatenate([codes, drawn])
        codes = codes[np.sort(np.unique(codes, return_index=True)[1])]
    # The first part counts slowest, as in a table of names.
    return np.stack(np.unravel_index(codes[:n].astype(np.int64), sizes), axis=1)


def _values(n: int, seed: int, attributes: Sequence[Attribute], streams: Sequence[int]) -> Ids:
    columns = [
        _raw(_stream(seed, 1, stream), n) % np.uint64(attribute.n_values)
        for attribute, stream in zip(attributes, streams, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.int64)


def _templates(n: int, seed: int, streams: Sequence[int]) -> NDArray[np.uint8]:
    out = np.empty((n, len(streams), N_TEMPLATES), np.uint8)
    for column, stream in enumerate(streams):
        bits = _stream(seed, 2, stream)
        for start in range(0, n, _CHUNK):
            part = out[start : start + _CHUNK, column]
            part[:] = np.argsort(_raw(bits, part.size).reshape(part.shape), axis=1)
    return out


def _entropy(values: Ids) -> float:
    counts = np.unique(values, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


# ---- text ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Draw:
    """The free choices of b biographies: whose, in which order, in which words.

    Attributes:
        people: [b] ids.
        order: [b, a] which attribute each sentence is about.
        template: [b, a] which of the 25 templates it is in.
    """

    people: Ids
    order: Ids
    template: Ids


def draw(
    population: Population, people: Ids, rng: np.random.Generator, pool: str = "train"
) -> Draw:
    """Draw one biography for each of `people` ([b] ids, repeats allowed).

    Args:
        pool: `train` (the 20 templates of a person and attribute) or `eval` (the other 5).

    Raises:
        UsageError: an unknown pool.
    """
    if pool not in POOLS:
        raise UsageError(f"unknown template pool {pool!r}; use one of {', '.join(POOLS)}")
    b, a = len(people), len(population.attributes)
    order = np.argsort(rng.random((b, a)), axis=1)
    allowed = POOLS[pool]
    which = rng.integers(allowed.start, allowed.stop, (b, a))
    template = population.templates[people[:, None], order, which].astype(np.int64)
    return Draw(np.asarray(people, np.int64), order, template)


def texts(population: Population, drawn: Draw) -> Iterator[str]:
    """The biographies as text: the slow way, for people to read."""
    for person, order, template in zip(drawn.people, drawn.order, drawn.template, strict=True):
        yield " ".join(
            population.sentence(int(person), int(a), int(t))
            for a, t in zip(order, template, strict=True)
        )


__all__ = ["NAME_PARTS", "POOLS", "Draw", "Ids", "Population", "draw", "texts"]
