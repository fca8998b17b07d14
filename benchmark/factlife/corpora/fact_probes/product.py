"""The published folder of the data set: parquet, expectations and card, as bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from factlife.corpora.cards import Config, columns_markdown, header, markdown_table
from factlife.corpora.expectations import FACT_PROBES, suites_json
from factlife.corpora.fact_probes.content import FactProbes, load_fact_probes
from factlife.corpora.fact_probes.flags import FLAGS
from factlife.corpora.fact_probes.tables import TABLES, arrow_tables
from factlife.store import parquet_bytes

SPLIT = "test"

_SETTINGS: Mapping[str, Any] = {
    "pretty_name": "Fact probes",
    "license": "cc-by-4.0",
    "language": ["en"],
    "multilinguality": ["monolingual"],
    "annotations_creators": ["expert-generated"],
    "language_creators": ["expert-generated"],
    "task_categories": ["text-generation", "question-answering"],
    "size_categories": ["n<1K"],
    "tags": [
        "factual-recall",
        "knowledge-probing",
        "training-dynamics",
        "mechanistic-interpretability",
        "hallucination",
        "evaluation",
    ],
}


def published_files() -> dict[str, bytes]:
    """Every file of `datasets/fact-probes/` by its path in that folder, always the same bytes."""
    probes = load_fact_probes()
    configs = [
        Config(TABLES[name], SPLIT, f"{name}.parquet", parquet_bytes(table))
        for name, table in arrow_tables(probes).items()
    ]
    card = header(configs, _SETTINGS) + "\n" + _body(probes)
    return {
        "README.md": card.encode(),
        "expectations.json": suites_json(FACT_PROBES).encode(),
        **{config.path: config.data for config in configs},
    }


def _body(probes: FactProbes) -> str:
    text = files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    columns = {f"columns_{name}": columns_markdown(table) for name, table in TABLES.items()}
    return Template(text).substitute(
        _counts(probes), relations=_relations(probes), flags=_flags(probes), **columns
    )


def _counts(probes: FactProbes) -> dict[str, int]:
    flags = Counter(flag for fact in probes.facts for flag in fact.flags)
    templates = [t for relation in probes.relations for t in relation.templates]
    return {
        "n_facts": len(probes.facts),
        "n_relations": len(probes.relations),
        "n_prompts": sum(1 for _ in probes.prompts()),
        "n_unseen": len(probes.unseen),
        "n_extra": sum(t.role == "extra" for t in templates),
        "n_multiword": flags["multiword_answer"],
        "n_name": sum(fact.group == "NAME" for fact in probes.facts),
        "n_time_bound": flags["time_bound"],
        "n_undated": len(probes.facts) - flags["time_bound"],
        "n_leaks": flags["answer_in_subject"] + flags["answer_shares_stem"],
    }


def _relations(probes: FactProbes) -> str:
    facts = Counter(fact.relation for fact in probes.facts)
    rows = [
        (
            f"`{r.relation}`",
            r.group,
            f"`{r.source_template.text}`",
            facts[r.relation],
            len(r.candidates),
            f"{100 / len(r.candidates):.1f} %",
        )
        for r in probes.relations
    ]
    head = ("relation", "group", "source template", "facts", "candidates", "chance")
    return markdown_table(head, rows)


def _flags(probes: FactProbes) -> str:
    uses = Counter(flag for fact in probes.facts for flag in fact.flags)
    rows = [(f"`{flag}`", uses[flag], meaning) for flag, meaning in FLAGS.items()]
    return markdown_table(("flag", "rows", "meaning"), rows)
