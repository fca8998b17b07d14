"""Files in the schema of `kaist-ai/fictional-knowledge` (injection-2024), and their lint.

An object has `train_context`, `paraphrases` (0 or 9 strings) and, five strings each,
`mem_input`/`mem_target`, `gen_input`/`gen_target` (semantic) and
`hard_gen_input`/`hard_gen_target` (compositional). In the published protocol the first 120
objects are injected.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.fictional import text as tx
from factlife.errors import IntegrityError, UsageError

N_INJECTED = 120
N_PROBES = 5
DEPTHS = {"memorization": "mem", "semantic": "gen", "compositional": "hard_gen"}
_LISTS = [f"{p}_{end}" for p in DEPTHS.values() for end in ("input", "target")]


@dataclass(frozen=True)
class SourcePassage:
    """One object of such a file; `probes` maps a depth to its (prefix, target) pairs."""

    text: str
    paraphrases: tuple[str, ...]
    probes: Mapping[str, tuple[tuple[str, str], ...]]


def read_source(path: Path) -> list[SourcePassage]:
    """Read a file of that schema: .json (a list of objects), .jsonl or .parquet.

    Raises:
        UsageError: no such file, or another ending.
        IntegrityError: not readable, or an object that lacks a field or has one of another type.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}")
    return [source_passage(row, f"{path}, object {i}") for i, row in enumerate(_objects(path))]


def _objects(path: Path) -> list[Any]:
    try:
        if path.suffix == ".parquet":
            return list(pq.read_table(path).to_pylist())
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if path.suffix == ".json":
            value = json.loads(text)
            return list(value) if isinstance(value, list) else [value]
    except (ValueError, OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    raise UsageError(f"{path}: the ending must be .json, .jsonl or .parquet")


def source_passage(row: Any, where: str) -> SourcePassage:
    """One object of the schema, checked; `where` says in messages which one it is.

    Raises:
        IntegrityError: a field is missing, of another type, or of another length.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("train_context"), str):
        raise IntegrityError(f"{where}: no text in train_context")
    lists = {name: _strings(row, name, where) for name in _LISTS}
    for name, values in lists.items():
        if len(values) != N_PROBES:
            raise IntegrityError(f"{where}: {name} holds {len(values)} strings, not {N_PROBES}")
    return SourcePassage(
        text=row["train_context"],
        paraphrases=_strings(row, "paraphrases", where) if row.get("paraphrases") else (),
        probes={
            depth: tuple(zip(lists[f"{p}_input"], lists[f"{p}_target"], strict=True))
            for depth, p in DEPTHS.items()
        },
    )


def _strings(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    values = row.get(name)
    if not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise IntegrityError(f"{where}: {name} is not a list of strings")
    return tuple(values)


@dataclass(frozen=True)
class Defect:
    """One line of the lint: how many of how many, and whether a sound file has none."""

    name: str
    bad: int
    of: int
    sound_is_zero: bool = True

    def __str__(self) -> str:
        share = f" ({100 * self.bad / self.of:.1f} %)" if self.of else ""
        return f"{self.name}: {self.bad} of {self.of}{share}"


def lint_source(passages: Sequence[SourcePassage], n_injected: int = N_INJECTED) -> list[Defect]:
    """Count the defects of a file in that schema.

    Args:
        passages: in the order of the file.
        n_injected: how many of the first are injected; the others are controls.
    """
    memory = _pairs(passages, "memorization")
    joined = _pairs(passages, "compositional")
    stated = [(t, q) for p in passages for t in p.paraphrases for q in _targets(p)]
    shared, distinct = _shared_targets(passages[:n_injected])
    every = [(p, x, t) for d in DEPTHS for p, x, t in _pairs(passages, d)]
    return [
        _count("memorization probes that are not verbatim", (not _verbatim(*m) for m in memory)),
        _count(
            "compositional targets that end in punctuation", (_ends_badly(t) for *_, t in joined)
        ),
        _count(
            "compositional targets that stand in the passage",
            (t.strip(" .") in p.text for p, _, t in joined),
            sound_is_zero=False,
        ),
        Defect("memorization targets shared between injected passages", shared, distinct),
        _count(
            "(paraphrase, target) pairs without the target",
            (q.strip(" .") not in t for t, q in stated),
        ),
        _count("paraphrases shorter than 0.85 or longer than 1.15", _misfits(passages)),
        _count("empty prefixes or targets", (not x.strip() or not t.strip() for _, x, t in every)),
        _count(
            "targets inside their own prefix", (tx.holds(x, t.strip(" .")) for _, x, t in every)
        ),
        _count(
            "probes whose prefix is there twice",
            _repeated([x for _, x, _ in every]),
        ),
    ]


def mean_length_ratio(passages: Iterable[SourcePassage]) -> float | None:
    """Mean words of a paraphrase over words of its passage; None without paraphrases."""
    ratios = [tx.n_words(t) / tx.n_words(p.text) for p in passages for t in p.paraphrases]
    return sum(ratios) / len(ratios) if ratios else None


def lint_report(path: Path, n_injected: int = N_INJECTED) -> str:
    """The lint of a file in that schema, a line a defect.

    Raises:
        UsageError: no such file, or another ending.
        IntegrityError: not in the schema.
    """
    passages = read_source(path)
    ratio = mean_length_ratio(passages)
    lines = [f"{path}: {len(passages)} passages"]
    lines += [f"  {defect}" for defect in lint_source(passages, n_injected)]
    if ratio is not None:
        lines.append(f"  mean length of a paraphrase over its passage: {ratio:.2f}")
    return "\n".join(lines)


def to_source(
    passages: Iterable[Mapping[str, Any]], probes: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Our rows as objects of that schema, injected passages first, for tools that read it."""
    own: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for probe in probes:
        own[probe["passage_id"], probe["depth"]].append(probe)
    for p in sorted(passages, key=lambda p: (p["block"] == "control", p["block"])):
        row = {"train_context": p["text"], "paraphrases": list(p["paraphrases"])}
        for depth, name in DEPTHS.items():
            row[f"{name}_input"] = [q["prefix"] for q in own[p["passage_id"], depth]]
            row[f"{name}_target"] = [q["target"] for q in own[p["passage_id"], depth]]
        yield row


def _pairs(passages: Iterable[SourcePassage], depth: str) -> list[tuple[SourcePassage, str, str]]:
    return [(p, prefix, target) for p in passages for prefix, target in p.probes[depth]]


def _targets(passage: SourcePassage) -> list[str]:
    return [target for pairs in passage.probes.values() for _, target in pairs]


def _verbatim(passage: SourcePassage, prefix: str, target: str) -> bool:
    return f"{prefix.rstrip()} {target.strip()}" in passage.text


def _ends_badly(target: str) -> bool:
    return not target.rstrip()[-1:].isalnum()


def _shared_targets(passages: Iterable[SourcePassage]) -> tuple[int, int]:
    """(distinct memorization targets that two passages share, distinct ones in all)."""
    owners: dict[str, set[int]] = defaultdict(set)
    for i, passage in enumerate(passages):
        for _, target in passage.probes["memorization"]:
            owners[target].add(i)
    return sum(len(o) > 1 for o in owners.values()), len(owners)


def _misfits(passages: Iterable[SourcePassage]) -> Iterator[bool]:
    for p in passages:
        for t in p.paraphrases:
            yield not 0.85 <= tx.n_words(t) / tx.n_words(p.text) <= 1.15


def _repeated(prefixes: Sequence[str]) -> Iterator[bool]:
    seen: set[str] = set()
    for prefix in prefixes:
        yield prefix in seen
        seen.add(prefix)


def _count(name: str, flags: Iterable[bool], *, sound_is_zero: bool = True) -> Defect:
    listed = list(flags)
    return Defect(name, sum(listed), len(listed), sound_is_zero)
