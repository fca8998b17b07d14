"""The four tables of the data set, as published: their columns, and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import pyarrow as pa

from factlife.corpora.fact_probes.content import FactProbes
from factlife.schema import Column, Table

_TEXTS = pa.list_(pa.string())
_TEMPLATES = pa.list_(
    pa.struct([("template_id", pa.string()), ("text", pa.string()), ("role", pa.string())])
)

FACTS = Table(
    name="facts",
    version=1,
    grain="one fact",
    key=("fact_id",),
    columns=(
        Column("fact_id", pa.string(), "`<relation>.<subject>`, small ASCII letters and digits"),
        Column("relation", pa.string(), "name of the relation; see the config `relations`"),
        Column("group", pa.string(), "`LOC` or `NAME`, the two groups of the source"),
        Column("subject", pa.string(), "what the prompt is about"),
        Column("answer", pa.string(), "the right answer, as the source writes it"),
        Column("aliases", _TEXTS, "other right ways to write the answer; may be empty"),
        Column(
            "valid_from",
            pa.string(),
            "first day, month or year of the fact (ISO 8601, as exact as it is certain); "
            "null: not recorded",
            nullable=True,
        ),
        Column(
            "valid_to",
            pa.string(),
            "last day, month or year of the fact; null: still true, as far as known",
            nullable=True,
        ),
        Column("flags", _TEXTS, "what to keep in mind about the row; see the list of flags"),
        Column(
            "wikidata_subject",
            pa.string(),
            "Wikidata id of the subject; null: not certain",
            nullable=True,
        ),
        Column(
            "wikidata_answer",
            pa.string(),
            "Wikidata id of the answer; null: not certain",
            nullable=True,
        ),
        Column("note", pa.string(), "what a flag or a date of this row stands for", nullable=True),
    ),
)

PROMPTS = Table(
    name="prompts",
    version=1,
    grain="one fact with one template of its relation",
    key=("fact_id", "template_id"),
    columns=(
        Column("fact_id", pa.string(), "fact of the config `facts`"),
        Column("template_id", pa.string(), "template of the config `relations`"),
        Column("template_role", pa.string(), "`source` (the paper's, to the letter) or `extra`"),
        Column("relation", pa.string(), "relation of the fact"),
        Column("prompt", pa.string(), "the text up to the answer, without a space at its end"),
        Column("answer", pa.string(), "the answer; it follows the prompt after one space"),
    ),
)

UNSEEN = Table(
    name="unseen",
    version=1,
    grain="one made-up subject",
    key=("subject_id",),
    columns=(
        Column("subject_id", pa.string(), "`<relation>.unseen.<subject>`"),
        Column("relation", pa.string(), "relation that the subject is made for"),
        Column("subject", pa.string(), "a name that no real thing of that kind is known by"),
        Column(
            "matched_fact_id",
            pa.string(),
            "fact whose subject it is matched to: the same number of words, and at most "
            "2 characters more or fewer",
        ),
    ),
)

RELATIONS = Table(
    name="relations",
    version=1,
    grain="one relation",
    key=("relation",),
    columns=(
        Column("relation", pa.string(), "name of the relation"),
        Column("group", pa.string(), "`LOC` or `NAME`"),
        Column("templates", _TEMPLATES, "the source's template first; `{}` takes the subject"),
        Column("candidates", _TEXTS, "the distinct answers, in the order of the facts"),
        Column("notes", pa.string(), "what the relation asks for"),
    ),
)

TABLES: Mapping[str, Table] = {t.name: t for t in (FACTS, PROMPTS, UNSEEN, RELATIONS)}


def arrow_tables(probes: FactProbes) -> dict[str, pa.Table]:
    """The data set as Arrow tables, one a config, rows in the order of the source files."""
    prompts = [
        {
            "fact_id": fact.fact_id,
            "template_id": template.template_id,
            "template_role": template.role,
            "relation": fact.relation,
            "prompt": prompt,
            "answer": fact.answer,
        }
        for fact, template, prompt in probes.prompts()
    ]
    return {
        "facts": FACTS.from_rows([asdict(fact) for fact in probes.facts]),
        "prompts": PROMPTS.from_rows(prompts),
        "unseen": UNSEEN.from_rows([asdict(subject) for subject in probes.unseen]),
        "relations": RELATIONS.from_rows([asdict(relation) for relation in probes.relations]),
    }
