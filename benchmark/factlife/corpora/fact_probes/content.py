"""The content of the data set, read from the source files inside the package."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from factlife.corpora.fact_probes.flags import DERIVED, derived_flags
from factlife.errors import IntegrityError, UsageError

SLOT = "{}"


@dataclass(frozen=True)
class Template:
    """A sentence with one slot for the subject; the answer follows after one space.

    Attributes:
        template_id: `<relation>.<word>`; the word is `source` for the source's template.
        text: the sentence up to the answer, holding `{}` once and no space at its end.
        role: `source` (kept to the letter from the source paper) or `extra` (ours).
    """

    template_id: str
    text: str
    role: str

    def prompt(self, subject: str) -> str:
        """The sentence about this subject, up to the answer."""
        return self.text.replace(SLOT, subject)


@dataclass(frozen=True)
class Fact:
    """One fact: a subject, the relation that is asked for, and its answer.

    Attributes:
        fact_id: `<relation>.<subject>` in small ASCII letters, digits and underscores.
        group: `LOC` or `NAME`, the source's two groups of relations.
        aliases: other right ways to write the answer; never the answer itself.
        valid_from: first day, month or year that the fact was true (ISO 8601, as exact as it
            is certain); None where no date is recorded.
        valid_to: last day, month or year; None where it still holds as far as known.
        flags: keys of `FLAGS`, in alphabetical order.
        wikidata_subject: Wikidata id of the subject, only where certain.
        wikidata_answer: Wikidata id of the answer, only where certain.
        note: one sentence on what a flag or a date means here.
    """

    fact_id: str
    relation: str
    group: str
    subject: str
    answer: str
    aliases: tuple[str, ...]
    valid_from: str | None
    valid_to: str | None
    flags: tuple[str, ...]
    wikidata_subject: str | None
    wikidata_answer: str | None
    note: str | None


@dataclass(frozen=True)
class Relation:
    """One relation: its templates (the source's first) and its distinct answers.

    Attributes:
        candidates: the distinct answers, in the order in which the facts first give them.
        notes: what the relation asks for, and what to keep in mind about it.
    """

    relation: str
    group: str
    templates: tuple[Template, ...]
    candidates: tuple[str, ...]
    notes: str

    @property
    def source_template(self) -> Template:
        """The template of the source paper."""
        return self.templates[0]


@dataclass(frozen=True)
class UnseenSubject:
    """A made-up subject, of the kind and length of one known subject.

    Attributes:
        subject_id: `<relation>.unseen.<subject>`.
        matched_fact_id: the fact whose subject it matches: as many words, and a number of
            characters that differs by at most two.
    """

    subject_id: str
    relation: str
    subject: str
    matched_fact_id: str


@dataclass(frozen=True)
class FactProbes:
    """The whole data set."""

    facts: tuple[Fact, ...]
    relations: tuple[Relation, ...]
    unseen: tuple[UnseenSubject, ...]

    def relation(self, name: str) -> Relation:
        """The relation of this name.

        Raises:
            UsageError: no such relation.
        """
        for relation in self.relations:
            if relation.relation == name:
                return relation
        known = ", ".join(r.relation for r in self.relations)
        raise UsageError(f"no relation {name!r} in fact-probes; its relations are {known}")

    def prompts(self) -> Iterator[tuple[Fact, Template, str]]:
        """Every fact with every template of its relation and the prompt they make, in order."""
        relations = {r.relation: r for r in self.relations}
        for fact in self.facts:
            for template in relations[fact.relation].templates:
                yield fact, template, template.prompt(fact.subject)

    def fingerprint(self) -> str:
        """SHA-256 over the content as canonical JSON: 64 hexadecimal digits.

        Canonical: keys sorted, no spaces, UTF-8 unescaped, rows in the order of the data.
        """
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def load_fact_probes() -> FactProbes:
    """Read the data set from the files inside the package (once; later calls share it).

    Raises:
        IntegrityError: a source file is damaged.
    """
    try:
        return _parse(_text("facts.jsonl"), _text("relations.toml"), _text("unseen.jsonl"))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"the fact-probes source files in the factlife package are damaged ({error}); "
            "reinstall factlife"
        ) from error


def _text(name: str) -> str:
    return files(__package__).joinpath("source", name).read_text(encoding="utf-8")


def _parse(facts_jsonl: str, relations_toml: str, unseen_jsonl: str) -> FactProbes:
    facts = tuple(_fact(row) for row in _rows(facts_jsonl))
    tables = tomllib.loads(relations_toml)["relation"]
    return FactProbes(
        facts=facts,
        relations=tuple(_relation(table, facts) for table in tables),
        unseen=tuple(UnseenSubject(**row) for row in _rows(unseen_jsonl)),
    )


def _rows(jsonl: str) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in jsonl.splitlines())


def _fact(row: Mapping[str, Any]) -> Fact:
    if written := set(row["flags"]) & set(DERIVED):
        raise ValueError(f"{row['fact_id']}: flags {sorted(written)} are derived, not written")
    flags = {*row["flags"], *derived_flags(row["subject"], row["answer"])}
    return Fact(**{**row, "aliases": tuple(row["aliases"]), "flags": tuple(sorted(flags))})


def _relation(table: Mapping[str, Any], facts: tuple[Fact, ...]) -> Relation:
    templates = tuple(
        Template(role="source" if i == 0 else "extra", **entry)
        for i, entry in enumerate(table["templates"])
    )
    answers = dict.fromkeys(f.answer for f in facts if f.relation == table["relation"])
    return Relation(
        relation=table["relation"],
        group=table["group"],
        templates=templates,
        candidates=tuple(answers),
        notes=table["notes"],
    )
