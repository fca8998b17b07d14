"""The published folder of the data set: parquet, expectations and card, as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.biographies import rules, suite
from factlife.corpora.biographies.content import (
    N_EVAL,
    N_TRAIN,
    all_attributes,
    capacity,
    name_lists,
)
from factlife.corpora.biographies.encode import WordTokenizer
from factlife.corpora.biographies.population import Population
from factlife.corpora.biographies.tables import PEOPLE, TABLES, Row, people_rows, rows
from factlife.corpora.cards import Config, columns_markdown, header, markdown_table
from factlife.corpora.expectations import suites_json
from factlife.store import atomic_open, parquet_bytes

SPLIT = "public"
SEED = 2025
N_PEOPLE, N_UNSEEN = 4_096, 1_024
_ROWS = 16_384

_SETTINGS: Mapping[str, Any] = {
    "pretty_name": "Synthetic biographies",
    "license": "cc-by-4.0",
    "language": ["en"],
    "multilinguality": ["monolingual"],
    "annotations_creators": ["machine-generated"],
    "language_creators": ["machine-generated"],
    "source_datasets": ["original"],
    "task_categories": ["text-generation"],
    "size_categories": ["1K<n<10K"],
    "tags": [
        "synthetic",
        "biographies",
        "knowledge-acquisition",
        "training-dynamics",
        "hallucination",
        "curriculum",
    ],
}

SUITES = suite.suites(N_PEOPLE, N_UNSEEN)


@cache
def public_population() -> Population:
    """The published people: 4,096 known and 1,024 held out."""
    return Population.make(N_PEOPLE, SEED, unseen=N_UNSEEN)


@cache
def public_rows() -> Mapping[str, list[Row]]:
    """Rows of every config."""
    return rows(public_population(), [SEED])


def published_files() -> dict[str, bytes]:
    """Every file of `datasets/synthetic-biographies/` by its path, always the same bytes."""
    return dict(_files())


@cache
def _files() -> Mapping[str, bytes]:
    found = public_rows()
    configs = [
        Config(table, SPLIT, f"{name}.parquet", parquet_bytes(table.from_rows(found[name])))
        for name, table in TABLES.items()
    ]
    card = header(configs, _SETTINGS) + "\n" + _body(found)
    return {
        "README.md": card.encode(),
        "expectations.json": suites_json(SUITES).encode(),
        **{config.path: config.data for config in configs},
    }


def write_people(path: Path, n: int, seed: int) -> int:
    """Write the config `people` for a population of any size, 16,384 rows in memory at a time.

    Args:
        path: the parquet file.
        n: people, at least 1 and at most what the names allow.
        seed: any whole number from 0.

    Returns:
        The number of people written.

    Raises:
        UsageError: n or seed out of range.
        PartialError: the disk refuses the file.
    """
    population = Population.make(n, seed)
    with (
        atomic_open(path) as f,
        pq.ParquetWriter(f, PEOPLE.arrow, compression="zstd") as writer,
    ):
        for batch in _batches(population, np.random.default_rng([seed])):
            writer.write_table(pa.Table.from_pylist(batch, schema=PEOPLE.arrow))
    return n


def _batches(population: Population, rng: np.random.Generator) -> Iterator[list[Row]]:
    for start in range(0, population.n_known, _ROWS):
        yield people_rows(population, population.known[start : start + _ROWS], rng)


# ---- the card --------------------------------------------------------------------------------


def _body(found: Mapping[str, list[Row]]) -> str:
    text = files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    columns = {f"columns_{name}": columns_markdown(table) for name, table in TABLES.items()}
    return Template(text).substitute(
        _counts(found), attributes=_attributes(), sizes=_sizes(), **columns
    )


def _counts(found: Mapping[str, list[Row]]) -> dict[str, object]:
    population = public_population()
    first = found["people"][0]
    return {
        "n_people": f"{len(found['people']):,}",
        "n_people_plain": len(found["people"]),
        "n_unseen": f"{len(found['unseen']):,}",
        "n_templates": len(found["templates"]),
        "n_train": N_TRAIN,
        "n_eval": N_EVAL,
        "n_rules": len(rules.RULES),
        "n_expectations": sum(map(len, SUITES.values())),
        "n_words": f"{len(WordTokenizer(population)):,}",
        "capacity": f"{capacity():,}",
        "baseline": f"{population.baseline_nats():.3f}",
        "entropy": f"{population.entropy_nats():.3f}",
        "seed": SEED,
        "split": SPLIT,
        "first_name": first["full_name"],
        "first_place": first["birth_place"],
        "first_template": found["templates"][0]["text"],
        "biography": _sentences(first["biography"]),
    }


def _sentences(text: str) -> str:
    return "\n".join(f"- {sentence} ." for sentence in text.removesuffix(" .").split(" . "))


def _attributes() -> str:
    lines = [
        (
            f"`{a.name}`",
            f"{a.n_values:,}",
            f"{a.no_knowledge_nats:.3f}",
            a.value(0),
            f"`{a.templates[0]} {{value}} .`",
        )
        for a in all_attributes().values()
    ]
    head = ("attribute", "values K", "ln K (nats)", "a value", "a template")
    return markdown_table(head, lines)


def _sizes() -> str:
    first, middle, last = name_lists()
    return f"{len(first)} first, {len(middle)} middle and {len(last):,} last names"
