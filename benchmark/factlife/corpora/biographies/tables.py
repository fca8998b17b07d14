"""The four tables of the data set, as published: their columns, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from factlife.corpora.biographies.content import N_TRAIN, all_attributes
from factlife.corpora.biographies.population import Ids, Population, draw, texts
from factlife.schema import Column, Table

Row = dict[str, Any]
_TEXTS = pa.list_(pa.string())

_PERSON = (
    Column("person_id", pa.int32(), "number of the person in the population"),
    Column("full_name", pa.string(), "first, middle and last name; no two people share it"),
    Column("first_name", pa.string(), "one word"),
    Column("middle_name", pa.string(), "one word"),
    Column("last_name", pa.string(), "one word"),
    *(
        Column(name, pa.string(), f"the {a.label}, one of {a.n_values:,} values")
        for name, a in all_attributes().items()
    ),
)
_EVAL = Column(
    "eval_templates",
    _TEXTS,
    "the five templates of each attribute that this person is only tested with, in order; "
    "the other twenty are for training",
)

PEOPLE = Table(
    name="people",
    version=1,
    grain="one known person",
    key=("person_id",),
    columns=(
        *_PERSON,
        _EVAL,
        Column("biography", pa.string(), "one of the person's training texts, as an example"),
    ),
)

ATTRIBUTES = Table(
    name="attributes",
    version=1,
    grain="one attribute",
    key=("attribute",),
    columns=(
        Column("attribute", pa.string(), "name of the attribute, a column of `people`"),
        Column("label", pa.string(), "the attribute in words"),
        Column("n_values", pa.int32(), "number of values, K", "values"),
        Column("no_knowledge_nats", pa.float64(), "ln K: the loss of a uniform guess", "nats"),
        Column(
            "parts",
            pa.list_(_TEXTS),
            "lists of words; a value is one entry of each list, joined by spaces (a birth date "
            "has three lists, every other attribute one)",
        ),
        Column("cues", _TEXTS, "phrases of which each template of the attribute holds one"),
    ),
)

TEMPLATES = Table(
    name="templates",
    version=1,
    grain="one sentence",
    key=("template_id",),
    columns=(
        Column("template_id", pa.string(), "`<attribute>.<number>`"),
        Column("attribute", pa.string(), "attribute of the config `attributes`"),
        Column("text", pa.string(), "`{name}` takes the full name, `{value}` the value"),
    ),
)

UNSEEN = Table(
    name="unseen",
    version=1,
    grain="one person held out from all training text",
    key=("person_id",),
    columns=(*_PERSON, _EVAL),
)

TABLES: Mapping[str, Table] = {t.name: t for t in (PEOPLE, ATTRIBUTES, TEMPLATES, UNSEEN)}


def template_id(attribute: str, number: int) -> str:
    """Id of a template: `birth_place.07`."""
    return f"{attribute}.{number:02}"


def person_row(population: Population, person: int) -> Row:
    """What the configs `people` and `unseen` have in common."""
    names = (words[i] for words, i in zip(population.names, population.name[person], strict=True))
    first, middle, last = names
    values = {a.name: population.value_text(person, i) for i, a in enumerate(population.attributes)}
    held = population.templates[person, :, N_TRAIN:]
    return {
        "person_id": person,
        "full_name": population.full_name(person),
        "first_name": first,
        "middle_name": middle,
        "last_name": last,
        **values,
        "eval_templates": [
            template_id(a.name, t)
            for a, numbers in zip(population.attributes, held, strict=True)
            for t in sorted(map(int, numbers))
        ],
    }


def people_rows(population: Population, people: Ids, rng: np.random.Generator) -> list[Row]:
    """Rows of the config `people`, each with a training text drawn for it."""
    written = texts(population, draw(population, people, rng))
    return [
        {**person_row(population, int(person)), "biography": text}
        for person, text in zip(people, written, strict=True)
    ]


def attribute_rows() -> list[Row]:
    """The six attributes with all their values."""
    return [
        {
            "attribute": a.name,
            "label": a.label,
            "n_values": a.n_values,
            "no_knowledge_nats": a.no_knowledge_nats,
            "parts": [list(part) for part in a.parts],
            "cues": list(a.cues),
        }
        for a in all_attributes().values()
    ]


def template_rows() -> list[Row]:
    """All templates as whole sentences."""
    return [
        {
            "template_id": template_id(a.name, number),
            "attribute": a.name,
            "text": f"{text} {{value}} .",
        }
        for a in all_attributes().values()
        for number, text in enumerate(a.templates)
    ]


def rows(population: Population, seed: Iterable[int]) -> dict[str, list[Row]]:
    """Rows of every config; `seed` is that of the example texts."""
    rng = np.random.default_rng(list(seed))
    return {
        "people": people_rows(population, population.known, rng),
        "attributes": attribute_rows(),
        "templates": template_rows(),
        "unseen": [person_row(population, int(person)) for person in population.unseen],
    }
