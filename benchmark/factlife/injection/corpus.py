"""What is injected, and what is asked about it: one form for every corpus.

fictional-knowledge             the public split, written anew from its seed
FOLDER/passages.parquet         the same columns; real facts belong here after the audit
FOLDER/probes.parquet
FILE.json, .jsonl, .parquet     the schema of `kaist-ai/fictional-knowledge`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.fictional.source import read_source
from factlife.errors import IntegrityError, UsageError
from factlife.store import sha256_json

BUILT_IN = "fictional-knowledge"
CONTROL = "control"
_SHORT = {"memorization": "mem", "semantic": "sem", "compositional": "com"}


@dataclass(frozen=True)
class Passage:
    """A text with its paraphrases; `block` is A, B, C or control, empty where none is given."""

    passage_id: str
    kind: str
    block: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """A prefix and the target that follows it after one space."""

    probe_id: str
    passage_id: str
    depth: str
    prefix: str
    target: str


@dataclass(frozen=True)
class Corpus:
    """Passages in order, and their probes.

    Attributes:
        published: it came in the published schema, where place decides the arm.
    """

    name: str
    passages: tuple[Passage, ...]
    probes: tuple[Probe, ...]
    published: bool = False

    def fingerprint(self) -> str:
        """Hex sha256 of everything in it."""
        return sha256_json([[asdict(p) for p in self.passages], [asdict(p) for p in self.probes]])

    def without(self, passages: Collection[str]) -> Corpus:
        """The corpus without some passages and their probes."""
        return replace(
            self,
            passages=tuple(p for p in self.passages if p.passage_id not in passages),
            probes=tuple(p for p in self.probes if p.passage_id not in passages),
        )

    def probes_of(self, passages: Sequence[str]) -> tuple[Probe, ...]:
        """The probes of these passages, in the order of the corpus."""
        wanted = set(passages)
        return tuple(p for p in self.probes if p.passage_id in wanted)


def load_corpus(source: str) -> Corpus:
    """Read a corpus by name or path.

    Raises:
        UsageError: no such corpus.
        IntegrityError: a file that cannot be read, lacks columns, or names a passage twice.
    """
    if source == BUILT_IN:
        return _built_in()
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix not in (".json", ".jsonl", ".parquet"):
        raise UsageError(
            f"no corpus {source!r}: give {BUILT_IN}, a folder with passages.parquet and "
            "probes.parquet, or a .json, .jsonl or .parquet file of the published schema"
        )
    return _published(path)


@cache
def _built_in() -> Corpus:
    from factlife.corpora.fictional.passage import passages
    from factlife.corpora.fictional.product import PUBLIC_SEED, SPLIT
    from factlife.corpora.fictional.world import GROUP

    made = list(passages(PUBLIC_SEED, SPLIT, GROUP))
    return Corpus(
        BUILT_IN,
        tuple(Passage(p.passage_id, p.kind, p.block, p.texts) for p in made),
        tuple(
            Probe(q.probe_id, q.passage_id, q.depth, q.prefix, q.target)
            for p in made
            for q in p.probes
        ),
    )


def _folder(folder: Path) -> Corpus:
    passages = [
        Passage(r["passage_id"], r["kind"], r["block"], (r["text"], *r["paraphrases"]))
        for r in _rows(folder / "passages.parquet", ("passage_id", "kind", "block", "text"))
    ]
    wanted = ("probe_id", "passage_id", "depth", "prefix", "target")
    probes = [Probe(**{k: r[k] for k in wanted}) for r in _rows(folder / "probes.parquet", wanted)]
    return _checked(Corpus(str(folder), tuple(passages), tuple(probes)))


def _rows(path: Path, columns: Sequence[str]) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise UsageError(f"no file {path}: a corpus folder has passages.parquet and probes.parquet")
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for row in rows:
        row.setdefault("paraphrases", [])
        if absent := [c for c in columns if not isinstance(row.get(c), str)]:
            raise IntegrityError(f"{path}: a row has no text in column {absent[0]}")
    return list(rows)


def _checked(corpus: Corpus) -> Corpus:
    ids = [p.passage_id for p in corpus.passages]
    if len(set(ids)) != len(ids) or len({p.probe_id for p in corpus.probes}) != len(corpus.probes):
        raise IntegrityError(f"{corpus.name}: two passages or two probes share one id")
    if lost := {p.passage_id for p in corpus.probes} - set(ids):
        raise IntegrityError(f"{corpus.name}: probes of a passage that is not there: {min(lost)}")
    if bad := sorted({p.depth for p in corpus.probes} - set(_SHORT)):
        raise IntegrityError(f"{corpus.name}: depth {bad[0]!r} is not one of {', '.join(_SHORT)}")
    return corpus


def _published(path: Path) -> Corpus:
    """Ids by place: `passage-000` and `passage-000.mem0`."""
    passages, probes = [], []
    for place, one in enumerate(read_source(path)):
        name = f"passage-{place:03d}"
        passages.append(Passage(name, "", "", (one.text, *one.paraphrases)))
        probes += [
            Probe(f"{name}.{_SHORT[depth]}{k}", name, depth, prefix, target)
            for depth, pairs in one.probes.items()
            for k, (prefix, target) in enumerate(pairs)
        ]
    return _checked(Corpus(str(path), tuple(passages), tuple(probes), published=True))
