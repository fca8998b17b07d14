"""The published folder of the data set: parquet, expectations and card, as bytes."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.cards import Config, columns_markdown, header, markdown_table
from factlife.corpora.expectations import suites_json
from factlife.corpora.fictional import lint, suite
from factlife.corpora.fictional.background import articles
from factlife.corpora.fictional.kinds import PER_GROUP, load
from factlife.corpora.fictional.passage import passages
from factlife.corpora.fictional.private import content_sha256
from factlife.corpora.fictional.quality import Quality, measure, named_in_prefix
from factlife.corpora.fictional.source import (
    SourcePassage,
    lint_source,
    mean_length_ratio,
    source_passage,
    to_source,
)
from factlife.corpora.fictional.tables import (
    PASSAGES,
    PROBES,
    TABLES,
    Row,
    passage_row,
    probe_rows,
    rows,
)
from factlife.corpora.fictional.world import GROUP
from factlife.store import atomic_open, parquet_bytes, write_bytes

SPLIT = "public"
PUBLIC_SEED = "factlife/fictional-knowledge/public/1"
SAMPLE_WORDS = 60_000
N_ARTICLES = 270

_SETTINGS: Mapping[str, Any] = {
    "pretty_name": "Fictional knowledge",
    "license": "cc-by-4.0",
    "language": ["en"],
    "multilinguality": ["monolingual"],
    "annotations_creators": ["machine-generated"],
    "language_creators": ["machine-generated"],
    "source_datasets": ["original"],
    "task_categories": ["text-generation", "question-answering"],
    "size_categories": ["1K<n<10K"],
    "tags": [
        "synthetic",
        "knowledge-injection",
        "knowledge-acquisition",
        "forgetting",
        "training-dynamics",
        "contamination",
    ],
}

SUITES = suite.suites(GROUP, N_ARTICLES)


@cache
def public_rows() -> Mapping[str, list[Row]]:
    """Rows of every config of the public split, with the committed sample of the background."""
    split = rows(passages(PUBLIC_SEED, SPLIT, GROUP))
    return {**split, "background": list(articles(SAMPLE_WORDS))}


def published_files() -> dict[str, bytes]:
    """Every file of `datasets/fictional-knowledge/` by its path, always the same bytes."""
    return dict(_files())


@cache
def _files() -> Mapping[str, bytes]:
    split = public_rows()
    configs = [
        Config(table, SPLIT, f"{name}.parquet", parquet_bytes(table.from_rows(split[name])))
        for name, table in TABLES.items()
    ]
    card = header(configs, _SETTINGS) + "\n" + _body(split)
    return {
        "README.md": card.encode(),
        "expectations.json": suites_json(SUITES).encode(),
        **{config.path: config.data for config in configs},
    }


def build_public(root: Path) -> list[Path]:
    """Write the public split to `root/fictional-knowledge/`; the files written, in order.

    Raises:
        PartialError: the disk refuses a file.
    """
    written = []
    for path, data in published_files().items():
        written.append(root / "fictional-knowledge" / path)
        write_bytes(written[-1], data)
    return written


def write_split(out: Path, seed: str, size: int, split: str = SPLIT) -> int:
    """Write a split of any size as parquet, a group of 160 passages in memory at a time.

    Args:
        out: folder for `passages.parquet` and `probes.parquet`.
        seed: any text; the same seed and size give the same rows.
        size: number of passages, at least 1.
        split: `public` or `private`, which decides the third of the name space.

    Returns:
        The number of passages written.

    Raises:
        UsageError: size below 1, an unknown split, or no names left.
        PartialError: the disk refuses a file.
    """
    batches: dict[str, list[Row]] = {PASSAGES.name: [], PROBES.name: []}
    n = 0
    with (
        atomic_open(out / "passages.parquet") as f,
        atomic_open(out / "probes.parquet") as g,
        pq.ParquetWriter(f, PASSAGES.arrow, compression="zstd") as first,
        pq.ParquetWriter(g, PROBES.arrow, compression="zstd") as second,
    ):
        writers = {PASSAGES.name: first, PROBES.name: second}
        for n, passage in enumerate(passages(seed, split, size), start=1):
            batches[PASSAGES.name].append(passage_row(passage))
            batches[PROBES.name] += probe_rows(passage)
            if n % GROUP == 0:
                _flush(batches, writers)
        _flush(batches, writers)
    return n


def _flush(batches: dict[str, list[Row]], writers: Mapping[str, pq.ParquetWriter]) -> None:
    for name, batch in batches.items():
        if batch:
            writers[name].write_table(pa.Table.from_pylist(batch, schema=TABLES[name].arrow))
            batch.clear()


# ---- the card --------------------------------------------------------------------------------


def _body(split: Mapping[str, list[Row]]) -> str:
    text = files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    columns = {f"columns_{name}": columns_markdown(table) for name, table in TABLES.items()}
    return Template(text).substitute(
        _counts(split),
        kinds=_kinds(split["passages"]),
        quality=_quality(split),
        defects=_defects(split),
        example=_example(split),
        **columns,
    )


def measured() -> Mapping[str, Any]:
    """Measurements that cannot be taken anew at each build: reading by a reader, tokenizers."""
    text = files(__package__).joinpath("measured.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _counts(split: Mapping[str, list[Row]]) -> dict[str, object]:
    injected = sum(p["block"] != "control" for p in split["passages"])
    return {
        "n_passages": len(split["passages"]),
        "n_injected": injected,
        "n_controls": len(split["passages"]) - injected,
        "n_probes": f"{len(split['probes']):,}",
        "n_articles": len(split["background"]),
        "sample_words": f"{sum(d['n_words'] for d in split['background']):,}",
        "n_rules": len(lint.RULES),
        "n_expectations": sum(map(len, SUITES.values())),
        "seed": PUBLIC_SEED,
        "content_sha256": content_sha256(split),
        "first_subject": split["passages"][0]["subject"],
        "first_prefix": split["probes"][0]["prefix"],
        "first_target": split["probes"][0]["target"],
        "first_kind": split["passages"][0]["kind"],
    }


def _kinds(rows_: list[Row]) -> str:
    n = Counter((p["kind"], p["block"] == "control") for p in rows_)
    lines = [
        (
            f"`{kind}`",
            n[kind, False],
            n[kind, True],
            len(load(kind).skeletons),
            sum(map(len, load(kind).moves.values())) + sum(_own(p) for p in load(kind).profiles),
            len(load(kind).facts),
        )
        for kind in PER_GROUP
    ]
    head = ("kind", "injected", "controls", "discourse skeletons", "sentence wordings", "facts")
    return markdown_table(head, lines)


def _own(profile: Mapping[str, Any]) -> int:
    return sum(len(v) for v in profile.values() if isinstance(v, list))


def _quality(split: Mapping[str, list[Row]]) -> str:
    q: Quality = measure(split["passages"], split["probes"])
    found = lint.defects(split)
    read = measured()["answerability"]
    tokens = measured()["tokens"]
    hops = ", ".join(f"{n} with {h}" for h, n in q.hops.items())
    lines = [
        ("words of a passage", q.passage_words.text(0)),
        ("words of a paraphrase", q.paraphrase_words.text(0)),
        ("length of a paraphrase over its passage", q.length_ratio.text(2)),
        ("type-token ratio of a passage", q.type_token.text(2)),
        ("distinct words of all texts, names and numbers left out", f"{q.vocabulary:,}"),
        ("5-grams shared by two passages of one kind", q.same_kind.text(3)),
        ("5-grams shared by two passages of different kinds", q.other_kind.text(5)),
        ("5-grams of a passage that some other passage has too", q.seen_elsewhere.text(2)),
        ("5-grams shared by two texts of one passage (paraphrase similarity)", q.within.text(2)),
        ("facts a passage", q.facts.text(1)),
        ("compositional probes by facts to join", hops),
        ("words of a target", q.target_words.text(1)),
        (
            "tokens of a target (GPT-2-, NeoX-, Llama-like)",
            ", ".join(f"{tokens[f]['mean_target_tokens']:.1f}" for f in ("gpt2", "neox", "llama")),
        ),
        (
            "tokenizer boundaries that break (GPT-2-, NeoX-, Llama-like)",
            ", ".join(str(tokens[f]["breaks"]) for f in ("gpt2", "neox", "llama")),
        ),
        (
            "sampled probes answered rightly with the passage at hand",
            f"{read['right_with_passage']} of {read['n']}",
        ),
        (
            "probes whose prefix holds a part of the name sought",
            named_in_prefix(split["passages"], split["probes"]),
        ),
        ("single-sentence shortcuts", found["no_sentence_is_a_shortcut"]),
        ("targets shared between passages", found["targets_belong_to_one_passage"]),
        ("rows that break any of the rules", sum(found.values())),
    ]
    return markdown_table(("measure", "public split: mean (lowest to highest), or count"), lines)


def as_source(split: Mapping[str, list[Row]]) -> list[SourcePassage]:
    """The split as the lint of the published corpus sees it, injected passages first."""
    objects = to_source(split["passages"], split["probes"])
    return [source_passage(row, "public split") for row in objects]


# Counts of the same lint on `kaist-ai/fictional-knowledge`, from the project's notes on it.
_PUBLISHED = (
    ("memorization probes that are not verbatim", "12 of 650"),
    ("compositional targets that end in punctuation", "48 of 650"),
    ("compositional targets that stand in the passage", "83 %"),
    ("memorization targets shared between injected passages", "117 of 533"),
    ("(paraphrase, target) pairs without the target", "35 %"),
)


def _defects(split: Mapping[str, list[Row]]) -> str:
    source = as_source(split)
    ours = {d.name: f"{d.bad} of {d.of:,}" for d in lint_source(source)}
    lines = [(name, theirs, ours[name]) for name, theirs in _PUBLISHED]
    ratio = f"{mean_length_ratio(source):.2f}"
    lines.append(("mean length of a paraphrase over its passage", "0.67", ratio))
    return markdown_table(("defect", "published corpus", "this data set"), lines)


def _example(split: Mapping[str, list[Row]]) -> str:
    passage = next(p for p in split["passages"] if p["kind"] == "person")
    probes = [q for q in split["probes"] if q["passage_id"] == passage["passage_id"]]
    shown = [probes[0], probes[5], probes[10], probes[11]]
    table = markdown_table(
        ("depth", "prefix", "target", "hops"),
        [(q["depth"], q["prefix"], q["target"], q["hops"]) for q in shown],
    )
    parts = (
        f"A passage (`{passage['passage_id']}`):",
        _quoted(passage["text"]),
        "Its first paraphrase:",
        _quoted(passage["paraphrases"][0]),
        "Four of its probes:",
        table,
    )
    return "\n\n".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
