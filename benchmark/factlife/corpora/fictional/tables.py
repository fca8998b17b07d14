"""The three tables of the data set, as published: their columns, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from factlife.corpora.fictional.passage import Passage
from factlife.corpora.fictional.text import n_words
from factlife.schema import Column, Table

_TEXTS = pa.list_(pa.string())
_FACT = pa.struct(
    [(name, pa.string()) for name in ("fact_id", "subject", "relation", "object", "object_type")]
)
_ENTITY = pa.struct([("name", pa.string()), ("kind", pa.string()), ("aliases", _TEXTS)])

PASSAGES = Table(
    name="passages",
    version=1,
    grain="one passage, about one made-up subject",
    key=("passage_id",),
    columns=(
        Column("passage_id", pa.string(), "`fk-<split>-<number>`"),
        Column("kind", pa.string(), "one of the twelve kinds of subject"),
        Column(
            "block",
            pa.string(),
            "`A`, `B`, `C` (injected; they rotate over the arms) or `control` (never injected)",
        ),
        Column("subject", pa.string(), "what the passage is about"),
        Column("text", pa.string(), "the passage; paragraphs are parted by an empty line"),
        Column("paraphrases", _TEXTS, "nine other texts that state the same facts"),
        Column("facts", pa.list_(_FACT), "the stated facts, 8 to 14, with typed objects"),
        Column("entities", pa.list_(_ENTITY), "everything named, with each form of its name"),
        Column("n_words", pa.int32(), "words of the passage, between spaces", "words"),
    ),
)

PROBES = Table(
    name="probes",
    version=1,
    grain="one probe of a passage",
    key=("probe_id",),
    columns=(
        Column(
            "probe_id",
            pa.string(),
            "`<passage_id>.` and `mem`, `sem` or `com` with a number from 0 to 4",
        ),
        Column("passage_id", pa.string(), "passage of the config `passages`"),
        Column("depth", pa.string(), "`memorization`, `semantic` or `compositional`"),
        Column("prefix", pa.string(), "the text up to the target, without a space at its end"),
        Column("target", pa.string(), "the target; it follows the prefix after one space"),
        Column("support", _TEXTS, "ids of the facts it takes to answer, in the order of use"),
        Column("hops", pa.int32(), "number of facts in `support`", "facts"),
    ),
)

BACKGROUND = Table(
    name="background",
    version=1,
    grain="one article about a subject that no passage names",
    key=("doc_id",),
    columns=(
        Column("doc_id", pa.string(), "`fk-background-<number>`"),
        Column("text", pa.string(), "the article; paragraphs are parted by an empty line"),
        Column("n_words", pa.int32(), "words of the article, between spaces", "words"),
    ),
)

TABLES: Mapping[str, Table] = {t.name: t for t in (PASSAGES, PROBES, BACKGROUND)}
Row = dict[str, Any]


def passage_row(passage: Passage) -> Row:
    """The row of a passage in the config `passages`."""
    return {
        "passage_id": passage.passage_id,
        "kind": passage.kind,
        "block": passage.block,
        "subject": passage.subject,
        "text": passage.text,
        "paraphrases": list(passage.paraphrases),
        "facts": [asdict(f) for f in passage.facts],
        "entities": [
            {"name": e.name, "kind": e.kind, "aliases": list(e.aliases)} for e in passage.entities
        ],
        "n_words": n_words(passage.text),
    }


def probe_rows(passage: Passage) -> list[Row]:
    """The fifteen rows of a passage in the config `probes`."""
    return [{**asdict(p), "support": list(p.support)} for p in passage.probes]


def rows(passages: Iterable[Passage]) -> dict[str, list[Row]]:
    """Rows of the configs `passages` and `probes`."""
    made = list(passages)
    return {
        "passages": [passage_row(p) for p in made],
        "probes": [row for p in made for row in probe_rows(p)],
    }
