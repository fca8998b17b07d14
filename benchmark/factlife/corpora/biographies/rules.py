"""Rules that span rows or tables, each a plain function from the tables to the bad rows.

They see the published rows alone and know nothing of how these were made. Missing references
are findings, never exceptions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from factlife.corpora.expectations import Rule

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]

N_TEMPLATES, N_EVAL = 25, 5
N_VALUES: Mapping[str, int] = {
    "birth_place": 800,
    "current_location": 800,
    "university": 200,
    "major": 100,
    "company": 500,
    "birth_date": 200 * 12 * 31,
}
ATTRIBUTES = tuple(N_VALUES)
_WORDS = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
_TEMPLATE = re.compile(r"(?:[A-Z][A-Za-z]* (?:[A-Za-z]+ )*)?\{name\} (?:[A-Za-z]+ )+\{value\} \.")


def _where(rows: Iterable[Row], bad: Callable[[Row], bool]) -> list[Row]:
    return [row for row in rows if bad(row)]


# ---- people and unseen -----------------------------------------------------------------------


def names_are_three_words(tables: Tables, config: str = "people") -> list[Row]:
    """A full name is the first, middle and last name, one word of letters each."""

    def bad(p: Row) -> bool:
        parts = [p[f"{part}_name"] for part in ("first", "middle", "last")]
        return p["full_name"] != " ".join(parts) or not all(
            re.fullmatch("[A-Z][a-z]+", part) for part in parts
        )

    return _where(tables[config], bad)


def values_are_listed(tables: Tables, config: str = "people") -> list[Row]:
    """Each attribute's value is one of the values that the config `attributes` lists."""
    parts = {a["attribute"]: a["parts"] for a in tables["attributes"]}
    return _where(
        tables[config],
        lambda p: any(not _listed(p[name], parts.get(name, ())) for name in ATTRIBUTES),
    )


def _listed(value: str, parts: Sequence[Sequence[str]]) -> bool:
    if len(parts) == 1:
        return value in parts[0]
    words = value.split(" ")
    return len(words) == len(parts) > 0 and all(
        word in part for word, part in zip(words, parts, strict=True)
    )


def five_eval_templates_of_each_attribute(tables: Tables, config: str = "people") -> list[Row]:
    """A person is tested with five known templates of each attribute, each named once."""
    attribute_of = {t["template_id"]: t["attribute"] for t in tables["templates"]}

    def bad(p: Row) -> bool:
        held = p["eval_templates"]
        count = Counter(attribute_of.get(template) for template in held)
        return len(set(held)) != len(held) or count != dict.fromkeys(ATTRIBUTES, N_EVAL)

    return _where(tables[config], bad)


def biographies_tell_each_attribute_once(tables: Tables) -> list[Row]:
    """A biography has one sentence for each attribute: a template with the person's own facts."""
    told = _Sentences(tables)
    return _where(
        tables["people"],
        lambda p: sorted(map(str, told.attributes(p))) != sorted(ATTRIBUTES),
    )


def biographies_use_no_eval_template(tables: Tables) -> list[Row]:
    """No sentence of a biography is in a template that the person is tested with."""
    told = _Sentences(tables)
    return _where(
        tables["people"],
        lambda p: not set(told.templates(p)).isdisjoint(p["eval_templates"]),
    )


class _Sentences:
    """Reads biographies back into templates."""

    def __init__(self, tables: Tables) -> None:
        self._templates = {
            (t["attribute"], t["text"]): t["template_id"] for t in tables["templates"]
        }

    def templates(self, person: Row) -> list[str | None]:
        """The template of each sentence; None where a sentence fits none."""
        return [template for _, template in self._read(person)]

    def attributes(self, person: Row) -> list[str | None]:
        """The attribute of each sentence; None where a sentence fits none."""
        return [attribute for attribute, _ in self._read(person)]

    def _read(self, person: Row) -> Iterable[tuple[str | None, str | None]]:
        for sentence in re.split(r"(?<= \.) ", person["biography"]):
            yield self._one(sentence.replace(person["full_name"], "{name}"), person)

    def _one(self, sentence: str, person: Row) -> tuple[str | None, str | None]:
        for attribute in ATTRIBUTES:
            text = sentence.removesuffix(f" {person[attribute]} .") + " {value} ."
            if (attribute, text) in self._templates:
                return attribute, self._templates[attribute, text]
        return None, None


def unseen_people_are_not_known(tables: Tables) -> list[Row]:
    """No held-out person has the full name or the number of a known one."""
    names = {p["full_name"] for p in tables["people"]}
    ids = {p["person_id"] for p in tables["people"]}
    return _where(tables["unseen"], lambda u: u["full_name"] in names or u["person_id"] in ids)


def unseen_names_are_three_words(tables: Tables) -> list[Row]:
    """As for known people."""
    return names_are_three_words(tables, "unseen")


def unseen_values_are_listed(tables: Tables) -> list[Row]:
    """As for known people."""
    return values_are_listed(tables, "unseen")


def unseen_have_five_eval_templates(tables: Tables) -> list[Row]:
    """As for known people."""
    return five_eval_templates_of_each_attribute(tables, "unseen")


# ---- attributes and templates ----------------------------------------------------------------


def attributes_have_their_number_of_values(tables: Tables) -> list[Row]:
    """K is the published one, it is what the parts make, and ln K is the no-knowledge loss."""

    def bad(a: Row) -> bool:
        made = math.prod(map(len, a["parts"]))
        k = N_VALUES.get(a["attribute"], 0)
        return not (
            a["n_values"] == made == k and math.isclose(a["no_knowledge_nats"], math.log(k))
        )

    return _where(tables["attributes"], bad)


def values_have_one_spelling(tables: Tables) -> list[Row]:
    """No two values of a list differ in case or spaces only, and all are words of ASCII letters."""

    def bad(a: Row) -> bool:
        return any(
            len({value.casefold().replace(" ", "") for value in part}) != len(part)
            or not all(_WORDS.fullmatch(value) for value in part)
            for part in a["parts"]
        )

    return _where(tables["attributes"], bad)


def values_belong_to_one_attribute(tables: Tables) -> list[Row]:
    """No entry of one attribute's lists is in another's: a value says what it is a value of."""
    owners = Counter(
        value for a in tables["attributes"] for value in {v for part in a["parts"] for v in part}
    )
    return _where(
        tables["attributes"],
        lambda a: any(owners[value] > 1 for part in a["parts"] for value in part),
    )


def twenty_five_templates_each(tables: Tables) -> list[Row]:
    """An attribute has 25 templates."""
    count = Counter(t["attribute"] for t in tables["templates"])
    return _where(tables["attributes"], lambda a: count[a["attribute"]] != N_TEMPLATES)


def templates_are_well_formed(tables: Tables) -> list[Row]:
    """The name once, the value last, a full stop apart, and else letters and single spaces only."""
    known = {a["attribute"] for a in tables["attributes"]}
    return _where(
        tables["templates"],
        lambda t: (
            _TEMPLATE.fullmatch(t["text"]) is None
            or t["attribute"] not in known
            or not t["template_id"].startswith(f"{t['attribute']}.")
        ),
    )


def templates_say_what_they_state(tables: Tables) -> list[Row]:
    """A cue of the template's attribute stands before the value, and none of another attribute."""
    cues = {a["attribute"]: a["cues"] for a in tables["attributes"]}

    def bad(t: Row) -> bool:
        before = t["text"].partition("{value}")[0]
        found = {name for name, phrases in cues.items() if any(c in before for c in phrases)}
        return found != {t["attribute"]}

    return _where(tables["templates"], bad)


def templates_do_not_hold_one_another(tables: Tables) -> list[Row]:
    """No template stands inside another, so that none kept for tests is met in a longer one."""
    found = [t["text"] for t in tables["templates"]]
    return _where(
        tables["templates"],
        lambda t: any(t["text"] in other and t["text"] != other for other in found),
    )


_PEOPLE = (
    names_are_three_words,
    values_are_listed,
    five_eval_templates_of_each_attribute,
    biographies_tell_each_attribute_once,
    biographies_use_no_eval_template,
)
_UNSEEN = (
    unseen_people_are_not_known,
    unseen_names_are_three_words,
    unseen_values_are_listed,
    unseen_have_five_eval_templates,
)
_ATTRIBUTES = (
    attributes_have_their_number_of_values,
    values_have_one_spelling,
    values_belong_to_one_attribute,
    twenty_five_templates_each,
)
_TEMPLATES = (
    templates_are_well_formed,
    templates_say_what_they_state,
    templates_do_not_hold_one_another,
)
RULES: tuple[Rule, ...] = tuple(
    Rule(config, f.__name__, f)
    for config, functions in {
        "people": _PEOPLE,
        "attributes": _ATTRIBUTES,
        "templates": _TEMPLATES,
        "unseen": _UNSEEN,
    }.items()
    for f in functions
)


def defects(tables: Tables) -> dict[str, int]:
    """Rows that break each rule, by the rule's name; all 0 for sound tables."""
    return {rule.name: len(rule.bad_rows(tables)) for rule in RULES}
