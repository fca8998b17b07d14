"""Rules that span rows or tables, each a plain function from the tables to the bad rows.

A rule gets every table of the data set as a list of dict rows and returns the rows that
break it, in their order. The rules assume the columns of `tables`, nothing else: missing
references are findings, never exceptions.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from factlife.corpora.expectations import Rule
from factlife.corpora.fact_probes.content import SLOT
from factlife.corpora.fact_probes.flags import DERIVED, FLAGS, derived_flags

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]

MIN_EXTRA_TEMPLATES = 3
MIN_UNSEEN = 12
MAX_LENGTH_DIFFERENCE = 2


def slug(text: str) -> str:
    """Small ASCII letters and digits, joined by underscores: the last part of an id."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().casefold()
    return re.sub("[^a-z0-9]+", "_", plain.replace("'", "")).strip("_")


def plain_words(text: str) -> tuple[str, ...]:
    """The words that are left once case, dots, commas, hyphens and articles do not count."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace(".", "").replace("'", "")
    return tuple(w for w in re.findall(r"\w+", folded) if w not in {"a", "an", "the"})


def fact_ids_follow_the_subject(tables: Tables) -> list[Row]:
    """A fact's id is its relation and its subject, spelled as an id."""
    return [f for f in tables["facts"] if f["fact_id"] != f"{f['relation']}.{slug(f['subject'])}"]


def facts_name_a_relation_of_their_group(tables: Tables) -> list[Row]:
    """A fact's relation is in the relations, with the same group."""
    groups = {r["relation"]: r["group"] for r in tables["relations"]}
    return [f for f in tables["facts"] if groups.get(f["relation"]) != f["group"]]


def aliases_are_other_spellings(tables: Tables) -> list[Row]:
    """No alias is empty, padded, the answer itself, or there twice."""
    return [f for f in tables["facts"] if not _clean_aliases(f["answer"], f["aliases"])]


def _clean_aliases(answer: str, aliases: Sequence[str]) -> bool:
    tidy = all(alias and alias == alias.strip() and plain_words(alias) for alias in aliases)
    return tidy and len({answer, *aliases}) == len(aliases) + 1


def aliases_fit_one_answer(tables: Tables) -> list[Row]:
    """No spelling of one answer begins with a spelling of another answer of the relation.

    A generation is matched by how it begins, so equal is not the only way to collide.
    """
    spellings: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for fact in tables["facts"]:
        for text in (fact["answer"], *fact["aliases"]):
            spellings[fact["relation"]].setdefault(plain_words(text), fact["answer"])
    return [f for f in tables["facts"] if _collides(f, spellings[f["relation"]])]


def _collides(fact: Row, spellings: Mapping[tuple[str, ...], str]) -> bool:
    starts = (
        words[:n]
        for words in map(plain_words, (fact["answer"], *fact["aliases"]))
        for n in range(1, len(words) + 1)
    )
    return any(spellings.get(start, fact["answer"]) != fact["answer"] for start in starts)


def flags_are_documented_and_sorted(tables: Tables) -> list[Row]:
    """Every flag is in the list of flags, once, in alphabetical order."""
    return [
        f
        for f in tables["facts"]
        if list(f["flags"]) != sorted(set(f["flags"])) or not set(f["flags"]) <= FLAGS.keys()
    ]


def derived_flags_hold(tables: Tables) -> list[Row]:
    """The flags that follow from subject and answer are set exactly where they follow."""
    return [
        f
        for f in tables["facts"]
        if set(f["flags"]) & set(DERIVED) != set(derived_flags(f["subject"], f["answer"]))
    ]


def time_bound_means_dated(tables: Tables) -> list[Row]:
    """A row has a date exactly if it is flagged as time-bound, and no window ends early."""
    return [f for f in tables["facts"] if not _dates_hold(f)]


def _dates_hold(fact: Row) -> bool:
    start, end = fact["valid_from"], fact["valid_to"]
    # Cut to the shorter one: the year 2018 does not end before 2018-06.
    n = min(len(start or ""), len(end or ""))
    in_order = start is None or end is None or start[:n] <= end[:n]
    return in_order and ("time_bound" in fact["flags"]) == bool(start or end)


def chief_executives_are_dated(tables: Tables) -> list[Row]:
    """Every row of `company_ceo` says when its person took office."""
    return [
        f for f in tables["facts"] if f["relation"] == "company_ceo" and f["valid_from"] is None
    ]


def prompts_refer_to_the_data(tables: Tables) -> list[Row]:
    """A prompt's fact and template exist, and relation, role and answer are theirs."""
    facts = {f["fact_id"]: f for f in tables["facts"]}
    templates = _templates(tables)

    def resolves(p: Row) -> bool:
        fact, template = facts.get(p["fact_id"]), templates.get(p["template_id"])
        if fact is None or template is None:
            return False
        told = (p["relation"], p["relation"], p["template_role"], p["answer"])
        return told == (fact["relation"], template[0], template[1]["role"], fact["answer"])

    return [p for p in tables["prompts"] if not resolves(p)]


def prompts_are_template_with_subject(tables: Tables) -> list[Row]:
    """A prompt is its template with the fact's subject in the slot."""
    subjects = {f["fact_id"]: f["subject"] for f in tables["facts"]}
    templates = _templates(tables)

    def written(p: Row) -> str | None:
        subject, template = subjects.get(p["fact_id"]), templates.get(p["template_id"])
        if subject is None or template is None:
            return None
        return str(template[1]["text"]).replace(SLOT, subject)

    return [p for p in tables["prompts"] if p["prompt"] != written(p)]


def facts_have_every_prompt(tables: Tables) -> list[Row]:
    """A fact has one prompt with each template of its relation."""
    made = {(p["fact_id"], p["template_id"]) for p in tables["prompts"]}
    wanted = defaultdict(set)
    for template_id, (relation, _) in _templates(tables).items():
        wanted[relation].add(template_id)
    return [
        f
        for f in tables["facts"]
        if not wanted[f["relation"]]
        or any((f["fact_id"], template_id) not in made for template_id in wanted[f["relation"]])
    ]


def _templates(tables: Tables) -> dict[str, tuple[str, Row]]:
    return {
        t["template_id"]: (r["relation"], t) for r in tables["relations"] for t in r["templates"]
    }


def candidates_are_the_distinct_answers(tables: Tables) -> list[Row]:
    """A relation's candidates are its facts' answers, each once, in the facts' order."""
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in tables["facts"]:
        answers[fact["relation"]][fact["answer"]] = None
    return [r for r in tables["relations"] if list(r["candidates"]) != [*answers[r["relation"]]]]


def templates_are_well_formed(tables: Tables) -> list[Row]:
    """The source's template first, at least three more, and the answer can follow each.

    One slot, which is not the end; no space at either end; texts and ids differ.
    """
    return [r for r in tables["relations"] if not _well_formed(r["relation"], r["templates"])]


def _well_formed(relation: str, templates: Sequence[Row]) -> bool:
    texts, ids = [t["text"] for t in templates], [t["template_id"] for t in templates]
    roles = [t["role"] for t in templates]
    return (
        roles == ["source", *["extra"] * (len(roles) - 1)]
        and len(roles) > MIN_EXTRA_TEMPLATES
        and len(set(texts)) == len(set(ids)) == len(ids)
        and all(template_id.startswith(f"{relation}.") for template_id in ids)
        and all(t.count(SLOT) == 1 and t == t.strip() and not t.endswith(SLOT) for t in texts)
    )


def unseen_subjects_are_unknown(tables: Tables) -> list[Row]:
    """No made-up subject holds the name of a known subject, answer or alias, or comes twice.

    Subjects and answers count anywhere in the text, aliases (`LA`, `SF`) as whole words.
    """
    names = {f[key].casefold() for f in tables["facts"] for key in ("subject", "answer")}
    aliases = {plain_words(alias) for f in tables["facts"] for alias in f["aliases"]}
    uses = Counter(u["subject"].casefold() for u in tables["unseen"])

    def unknown(text: str) -> bool:
        words = plain_words(text)
        runs = {words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        return not any(name in text for name in names) and not runs & aliases and uses[text] == 1

    return [u for u in tables["unseen"] if not unknown(u["subject"].casefold())]


def unseen_subjects_match_known_ones(tables: Tables) -> list[Row]:
    """A made-up subject has the relation, words and length of the fact it is matched to.

    Each fact is the match of one subject at most, so that the lengths are distributed alike.
    """
    facts = {f["fact_id"]: f for f in tables["facts"]}
    uses = Counter(u["matched_fact_id"] for u in tables["unseen"])

    def matches(u: Row) -> bool:
        fact = facts.get(u["matched_fact_id"])
        if fact is None or uses[u["matched_fact_id"]] > 1 or fact["relation"] != u["relation"]:
            return False
        known, new = fact["subject"], u["subject"]
        close = abs(len(known) - len(new)) <= MAX_LENGTH_DIFFERENCE
        return close and len(known.split()) == len(new.split())

    return [u for u in tables["unseen"] if not matches(u)]


def unseen_ids_follow_the_subject(tables: Tables) -> list[Row]:
    """A made-up subject's id is its relation, `unseen` and the subject, spelled as an id."""
    return [
        u
        for u in tables["unseen"]
        if u["subject_id"] != f"{u['relation']}.unseen.{slug(u['subject'])}"
    ]


def relations_have_enough_unseen(tables: Tables) -> list[Row]:
    """A relation has at least 12 made-up subjects."""
    counts = Counter(u["relation"] for u in tables["unseen"])
    return [r for r in tables["relations"] if counts[r["relation"]] < MIN_UNSEEN]


def _rules(config: str, functions: Iterable[Callable[[Tables], list[Row]]]) -> list[Rule]:
    return [Rule(config, function.__name__, function) for function in functions]


RULES: tuple[Rule, ...] = (
    *_rules(
        "facts",
        (
            fact_ids_follow_the_subject,
            facts_name_a_relation_of_their_group,
            aliases_are_other_spellings,
            aliases_fit_one_answer,
            flags_are_documented_and_sorted,
            derived_flags_hold,
            time_bound_means_dated,
            chief_executives_are_dated,
            facts_have_every_prompt,
        ),
    ),
    *_rules("prompts", (prompts_refer_to_the_data, prompts_are_template_with_subject)),
    *_rules(
        "unseen",
        (
            unseen_subjects_are_unknown,
            unseen_subjects_match_known_ones,
            unseen_ids_follow_the_subject,
        ),
    ),
    *_rules(
        "relations",
        (
            candidates_are_the_distinct_answers,
            templates_are_well_formed,
            relations_have_enough_unseen,
        ),
    ),
)
