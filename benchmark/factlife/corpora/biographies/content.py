"""Names, attributes and templates, read from the source files inside the package."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from factlife.errors import UsageError

NAME, END = "{name}", "."
N_TRAIN, N_EVAL = 20, 5
N_TEMPLATES = N_TRAIN + N_EVAL
NAME_PARTS = ("first", "middle", "last")


@dataclass(frozen=True)
class Attribute:
    """What is told of a person, and the values it can have.

    A value is one entry of each of `parts`, joined by spaces: a birth date has a day, a month
    and a year, every other attribute has one part. Value number v counts through the parts
    with the first part fastest.

    Attributes:
        name: as in columns and configs (`birth_place`).
        label: in words (`birth place`).
        parts: the lists that a value is made of.
        n_values: how many values there are (K).
        templates: the 25 sentences up to the value, each with `{name}` in it.
        cues: phrases one of which stands in every template of this attribute and in no other.
    """

    name: str
    label: str
    parts: tuple[tuple[str, ...], ...]
    n_values: int
    templates: tuple[str, ...]
    cues: tuple[str, ...]

    @property
    def no_knowledge_nats(self) -> float:
        """Loss of the uniform guess over the values: ln K, in nats."""
        return math.log(self.n_values)

    def value(self, number: int) -> str:
        """The value of this number (0 <= number < n_values) as text."""
        words = []
        for part in self.parts:
            number, i = divmod(number, len(part))
            words.append(part[i])
        return " ".join(words)


@cache
def all_attributes() -> Mapping[str, Attribute]:
    """The six attributes by name, with every value, in the published order."""
    values, templates = _toml("values.toml"), _toml("templates.toml")
    return {name: _attribute(name, table, templates[name]) for name, table in values.items()}


def choose_attributes(
    names: Sequence[str] | None = None, values: int | None = None
) -> tuple[Attribute, ...]:
    """Some attributes, each with its first `values` values at most.

    Args:
        names: which attributes, in this order; None takes all six.
        values: the largest number of values of an attribute, at least 2; None keeps all.

    Raises:
        UsageError: no attribute, one without templates, one named twice, or fewer than 2 values.
    """
    known = all_attributes()
    wanted = list(known) if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"no templates for the attribute {name!r}; the attributes are {', '.join(known)}"
            )
    if not wanted or len(set(wanted)) != len(wanted):
        raise UsageError(f"attributes must be one or more, each once; got {wanted}")
    if values is not None and values < 2:
        raise UsageError(f"values must be at least 2, got {values}: one value is nothing to learn")
    return tuple(_shortened(known[name], values) for name in wanted)


def _shortened(attribute: Attribute, values: int | None) -> Attribute:
    if values is None or values >= attribute.n_values:
        return attribute
    parts, left = [], values
    for part in attribute.parts:
        parts.append(part[:left])
        left = -(-left // len(part))
    return replace(attribute, parts=tuple(parts), n_values=values)


def _attribute(name: str, table: Mapping[str, Any], templates: Mapping[str, Any]) -> Attribute:
    parts = _parts(table)
    return Attribute(
        name=name,
        label=table["label"],
        parts=parts,
        n_values=math.prod(map(len, parts)),
        templates=tuple(templates["texts"]),
        cues=tuple(templates["cues"]),
    )


def _parts(table: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    if "months" in table:
        days = tuple(str(day + 1) for day in range(table["days"]))
        years = tuple(str(table["first_year"] + year) for year in range(table["years"]))
        return days, tuple(table["months"].split()), years
    if "list" in table:
        return (tuple(value.strip() for value in " ".join(table["list"].split()).split(",")),)
    return (_pairs(table, table["glue"]),)


def _pairs(table: Mapping[str, str], glue: str) -> tuple[str, ...]:
    stems = table["stems"].split()
    return tuple(f"{stem}{glue}{ending}" for ending in table["endings"].split() for stem in stems)


@cache
def name_lists() -> tuple[tuple[str, ...], ...]:
    """First, middle and last names; no word is in two of the lists."""
    table = _toml("names.toml")
    return tuple(table["first"].split()), tuple(table["middle"].split()), _pairs(table["last"], "")


def capacity() -> int:
    """How many people the names allow: every triple of first, middle and last name once."""
    return math.prod(map(len, name_lists()))


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))
