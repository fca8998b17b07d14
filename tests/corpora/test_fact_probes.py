"""The content of fact-probes: what was carried over, what was added, and how it loads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

import factlife
from factlife.corpora.fact_probes import (
    FLAGS,
    Fact,
    FactProbes,
    Relation,
    Template,
    UnseenSubject,
    content,
    load_fact_probes,
)
from factlife.corpora.fact_probes.flags import DERIVED, derived_flags
from factlife.errors import IntegrityError, UsageError

PROBES = load_fact_probes()
FACTS = {fact.fact_id: fact for fact in PROBES.facts}

# (group, facts, distinct answers, the source's template): the source's own table.
SOURCE = {
    "city_in_country": ("LOC", 14, 13, "{} is part of the country of"),
    "company_hq": ("LOC", 20, 14, "The headquarters of {} are in the city of"),
    "country_capital_city": ("LOC", 19, 19, "{} has the capital city of"),
    "food_from_country": ("LOC", 17, 13, "{} is from the country of"),
    "official_language": ("LOC", 14, 12, "In {}, the official language is"),
    "plays_sport": ("LOC", 12, 4, "{} plays professionally in the sport of"),
    "sights_in_city": ("LOC", 17, 16, "{} is a landmark in the city of"),
    "books_written": ("NAME", 13, 13, "The Book {} was written by the author with the name of"),
    "company_ceo": ("NAME", 17, 17, "Who is the CEO of {}? Their name is"),
    "movie_directed": (
        "NAME",
        17,
        15,
        "The Movie {} was directed by the director with the name of",
    ),
}

# SHA-256 over the 160 rows of the source, `relation TAB group TAB template TAB subject TAB
# answer`, joined by line feeds; computed once from the source's own file.
SOURCE_SHA256 = "cc794dd7a720dc9630d306a7f500cc31c6a93d1c4225e6cdb5ccf3929a9d80f7"


def test_facts_and_source_templates_are_carried_over_to_the_letter() -> None:
    rows = [
        (f.relation, f.group, PROBES.relation(f.relation).source_template.text, f.subject, f.answer)
        for f in PROBES.facts
    ]
    assert len(rows) == 160
    text = "\n".join("\t".join(row) for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == SOURCE_SHA256


def test_relations_have_the_sizes_of_the_source() -> None:
    facts = Counter(fact.relation for fact in PROBES.facts)
    found = {
        r.relation: (r.group, facts[r.relation], len(r.candidates), r.source_template.text)
        for r in PROBES.relations
    }
    assert found == SOURCE
    assert Counter(fact.group for fact in PROBES.facts) == {"LOC": 113, "NAME": 47}


def test_fifty_five_answers_have_several_words_and_every_name_is_among_them() -> None:
    several = [fact for fact in PROBES.facts if " " in fact.answer]
    assert len(several) == 55
    assert {f.fact_id for f in several} >= {f.fact_id for f in PROBES.facts if f.group == "NAME"}
    assert several == [fact for fact in PROBES.facts if "multiword_answer" in fact.flags]


# ---- flags -----------------------------------------------------------------------------------

# Found by reading all 160 pairs by eye.
ANSWER_IN_SUBJECT = {"city_in_country.mexico_city", "city_in_country.panama_city"}
ANSWER_SHARES_STEM = {
    "food_from_country.pad_thai",  # Thailand
    "official_language.france",
    "official_language.germany",
    "official_language.japan",
    "official_language.italy",
    "official_language.russia",
    "official_language.south_korea",
    "official_language.saudi_arabia",  # Arabic
    "official_language.norway",
    "official_language.turkey",
    "company_ceo.dell_inc",  # Michael Dell
}


@pytest.mark.parametrize(
    ("flag", "expected"),
    [("answer_in_subject", ANSWER_IN_SUBJECT), ("answer_shares_stem", ANSWER_SHARES_STEM)],
)
def test_leaks_from_the_subject_are_the_ones_found_by_hand(flag: str, expected: set[str]) -> None:
    assert {fact.fact_id for fact in PROBES.facts if flag in fact.flags} == expected


@pytest.mark.parametrize(
    ("subject", "answer", "flags"),
    [
        ("Mexico City", "Mexico", ("answer_in_subject",)),
        ("City of New York", "New York", ("answer_in_subject", "multiword_answer")),
        # The words of the answer stand apart, so it is not inside; `york` is a stem of both.
        ("New Amsterdam, York", "New York", ("answer_shares_stem", "multiword_answer")),
        ("The Sun", "The Moon", ("multiword_answer",)),  # `the` is too short for a stem
        ("France", "French", ("answer_shares_stem",)),  # frnc | frnch
        ("Türkiye", "TURKISH", ("answer_shares_stem",)),  # accents and case aside: turk | turk
        ("Egypt", "Arabic", ()),
        ("Mexican City", "Mexico", ("answer_shares_stem",)),
        ("Panamanian", "Panama", ("answer_shares_stem",)),  # inside a word is not inside as a word
        ("AOL", "Tim Armstrong", ("multiword_answer",)),
    ],
)
def test_derived_flags_by_hand(subject: str, answer: str, flags: tuple[str, ...]) -> None:
    assert derived_flags(subject, answer) == flags


@pytest.mark.parametrize(
    ("flag", "subjects"),
    [
        ("contested_status", {"Hong Kong"}),
        ("defunct_subject", {"Ontario Hydro", "World Championship Wrestling", "LaSalle Bank"}),
        ("imprecise", {"Machu Picchu", "Neuschwanstein Castle"}),
        ("de_facto", {"Australia", "Mexico", "Japan", "Argentina"}),
        ("contested_origin", {"Croissant", "Couscous", "Moussaka", "Ceviche", "Fajitas"}),
        ("ambiguous_answer", {"Cummins", "Khachapuri"}),
    ],
)
def test_known_blemishes_are_flagged_and_explained(flag: str, subjects: set[str]) -> None:
    flagged = [fact for fact in PROBES.facts if flag in fact.flags]
    assert subjects <= {fact.subject for fact in flagged}
    assert all(fact.note for fact in flagged)


def test_every_flag_is_used_and_every_judgement_has_a_note() -> None:
    assert {flag for fact in PROBES.facts for flag in fact.flags} == set(FLAGS)
    judged = set(FLAGS) - set(DERIVED) - {"time_bound"}
    assert all(fact.note for fact in PROBES.facts if judged & set(fact.flags))


# ---- dates -----------------------------------------------------------------------------------

TENURES = {
    "tesla_inc": ("2008-10", None),
    "dell_inc": ("2007-01-31", None),
    "ubisoft": ("1988", None),
    "lvmh": ("1989-01", None),
    "bank_of_america": ("2010-01-01", None),
    "gazprom": ("2001-05-30", None),
    "berkshire_hathaway": ("1970", "2025-12-31"),
    "jpmorgan_chase": ("2006-01-01", None),
    "xiaomi": ("2010-04", None),
    "softbank_group": ("1986-02", None),
    "morgan_stanley": ("2010-01-01", "2023-12-31"),
    "mastercard": ("2010-07-01", "2020-12-31"),
    "activision_blizzard": ("2008-07", "2023-12-29"),
    "aol": ("2009-04", "2018"),
    "cvs_health": ("2011-03", "2021-02"),
    "pinterest": ("2010", "2022-06-28"),
    "raytheon_company": ("2014-03-31", "2020-04-03"),
}


def test_every_chief_executive_has_the_tenure_that_was_looked_up() -> None:
    rows = [fact for fact in PROBES.facts if fact.relation == "company_ceo"]
    found = {f.fact_id.removeprefix("company_ceo."): (f.valid_from, f.valid_to) for f in rows}
    assert found == TENURES


@pytest.mark.parametrize(
    ("fact_id", "dates"),
    [
        ("city_in_country.hong_kong", ("1997-07-01", None)),
        ("country_capital_city.germany", ("1990-10-03", None)),
        ("country_capital_city.nigeria", ("1991-12-12", None)),
        ("company_hq.world_championship_wrestling", (None, "2001-03")),
        ("plays_sport.babe_ruth", ("1914", "1935")),
        ("plays_sport.kobe_bryant", ("1996", "2016-04-13")),
    ],
)
def test_other_dates_by_hand(fact_id: str, dates: tuple[str | None, str | None]) -> None:
    assert (FACTS[fact_id].valid_from, FACTS[fact_id].valid_to) == dates
    assert "time_bound" in FACTS[fact_id].flags


# ---- aliases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact_id", "aliases"),
    [
        (
            "country_capital_city.united_states",
            {"Washington, D.C.", "Washington DC", "Washington, DC", "Washington"},
        ),
        ("company_ceo.morgan_stanley", {"James Gorman", "James Patrick Gorman"}),
        ("company_ceo.mastercard", {"Ajay Banga"}),
        ("company_ceo.gazprom", {"Alexei Miller", "Aleksey Miller"}),
        ("sights_in_city.statue_of_liberty", {"New York City", "NYC"}),
        ("sights_in_city.neuschwanstein_castle", {"Fussen", "Fuessen"}),
        ("sights_in_city.machu_picchu", {"Cuzco"}),
        ("city_in_country.rio_de_janeiro", {"Brasil"}),
        ("company_hq.cummins", {"Columbus, Indiana"}),
        ("movie_directed.the_godfather", {"Francis Coppola"}),
    ],
)
def test_common_spellings_are_aliases(fact_id: str, aliases: set[str]) -> None:
    assert aliases <= set(FACTS[fact_id].aliases)


@pytest.mark.parametrize(
    ("fact_id", "wrong"),
    [
        ("company_hq.cummins", "Columbus, Ohio"),
        ("official_language.brazil", "Spanish"),
        ("sights_in_city.neuschwanstein_castle", "Schwangau"),  # true, but another answer
        ("country_capital_city.germany", "Bonn"),
        ("movie_directed.raging_bull", "Scorsese"),  # surnames alone are left out on purpose
        ("food_from_country.khachapuri", "Georgia, USA"),
    ],
)
def test_wrong_spellings_are_no_aliases(fact_id: str, wrong: str) -> None:
    assert wrong not in FACTS[fact_id].aliases


def test_one_answer_has_one_set_of_aliases_but_for_national_forms() -> None:
    seen: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for fact in PROBES.facts:
        seen.setdefault((fact.relation, fact.answer), set()).add(fact.aliases)
    several = {key for key, aliases in seen.items() if len(aliases) > 1}
    assert several == {("official_language", "Spanish")}  # Mexican and Argentine Spanish


# ---- templates and unseen subjects -----------------------------------------------------------


def test_every_relation_has_at_least_three_templates_of_its_own_making() -> None:
    for relation in PROBES.relations:
        roles = [template.role for template in relation.templates]
        assert roles[0] == "source"
        assert roles[1:] == ["extra"] * len(roles[1:])
        assert len(roles) >= 4
        assert len({t.text for t in relation.templates}) == len(roles)
        # Varied in form: a question and answer, and one that does not open with the subject.
        assert sum(t.text.startswith("Question: ") for t in relation.templates) == 1
        assert any(not t.text.startswith(("{}", "Question")) for t in relation.templates[1:])


@pytest.mark.parametrize(
    ("fact_id", "template_id", "sentence"),
    [
        (
            "company_ceo.tesla_inc",
            "company_ceo.source",
            "Who is the CEO of Tesla, Inc.? Their name is Elon Musk",
        ),
        (
            "company_ceo.dell_inc",
            "company_ceo.statement",
            "Dell Inc. is led by its chief executive officer, Michael Dell",
        ),
        (
            "official_language.norway",
            "official_language.laws",
            "Laws and public records in Norway are written in Norwegian",
        ),
        (
            "sights_in_city.the_louvre",
            "sights_in_city.tourists",
            "Tourists who want to visit The Louvre usually travel to Paris",
        ),
    ],
)
def test_prompt_and_answer_read_as_one_sentence(
    fact_id: str, template_id: str, sentence: str
) -> None:
    prompts = {(f.fact_id, t.template_id): prompt for f, t, prompt in PROBES.prompts()}
    assert f"{prompts[fact_id, template_id]} {FACTS[fact_id].answer}" == sentence


def test_prompts_are_every_fact_with_every_template_of_its_relation() -> None:
    made = [(f.fact_id, t.template_id) for f, t, _ in PROBES.prompts()]
    sizes = {r.relation: len(r.templates) for r in PROBES.relations}
    assert len(set(made)) == len(made) == sum(sizes[f.relation] for f in PROBES.facts) == 640
    assert all("{" not in prompt and prompt == prompt.strip() for _, _, prompt in PROBES.prompts())


def test_unseen_subjects_mirror_the_lengths_of_the_known_ones() -> None:
    for relation in PROBES.relations:
        known = [f.subject for f in PROBES.facts if f.relation == relation.relation]
        unseen = [u.subject for u in PROBES.unseen if u.relation == relation.relation]
        assert len(unseen) >= 12
        words = [Counter(len(name.split()) for name in names) for names in (known, unseen)]
        assert words[0] == words[1]
        means = [sum(map(len, names)) / len(names) for names in (known, unseen)]
        assert means[1] == pytest.approx(means[0], abs=1.0)


def test_unseen_subjects_are_unique_across_relations() -> None:
    names = [u.subject.casefold() for u in PROBES.unseen]
    assert len(set(names)) == len(names) == 160


# ---- loading ---------------------------------------------------------------------------------


def test_wikidata_ids_agree_wherever_one_name_comes_twice() -> None:
    # A city or country is a subject here and an answer there; Georgia the state is not in.
    ids: dict[str, set[str]] = {}
    for fact in PROBES.facts:
        for name, wikidata in (
            (fact.subject, fact.wikidata_subject),
            (fact.answer, fact.wikidata_answer),
        ):
            if wikidata:
                ids.setdefault(name, set()).add(wikidata)
    assert {name for name, found in ids.items() if len(found) > 1} == set()
    owners = Counter(found for name, found_ids in ids.items() for found in found_ids)
    assert {wikidata for wikidata, n in owners.items() if n > 1} == set()
    assert ids["Buenos Aires"] == {"Q1486"}
    assert ids["Japan"] == {"Q17"}


def test_relation_by_name_and_the_error_for_an_unknown_one() -> None:
    assert PROBES.relation("plays_sport").candidates == ("baseball", "basketball", "tennis", "golf")
    with pytest.raises(UsageError, match=r"no relation 'sport'.*city_in_country.*movie_directed"):
        PROBES.relation("sport")


def test_it_loads_once_and_cannot_be_changed() -> None:
    assert load_fact_probes() is PROBES
    with pytest.raises(FrozenInstanceError):
        PROBES.facts[0].answer = "Chile"  # type: ignore[misc]


def test_fingerprint_is_the_hash_of_the_canonical_json_written_out_by_hand() -> None:
    fact = Fact("r.é", "r", "LOC", "é", "B", ("b",), None, "2018", ("f",), "Q1", None, None)
    relation = Relation("r", "LOC", (Template("r.source", "{} x", "source"),), ("B",), "N.")
    tiny = FactProbes((fact,), (relation,), (UnseenSubject("r.unseen.u", "r", "U", "r.é"),))
    written = (
        '{"facts":[{"aliases":["b"],"answer":"B","fact_id":"r.é","flags":["f"],"group":"LOC",'
        '"note":null,"relation":"r","subject":"é","valid_from":null,"valid_to":"2018",'
        '"wikidata_answer":null,"wikidata_subject":"Q1"}],'
        '"relations":[{"candidates":["B"],"group":"LOC","notes":"N.","relation":"r",'
        '"templates":[{"role":"source","template_id":"r.source","text":"{} x"}]}],'
        '"unseen":[{"matched_fact_id":"r.é","relation":"r","subject":"U",'
        '"subject_id":"r.unseen.u"}]}'
    )
    assert tiny.fingerprint() == hashlib.sha256(written.encode()).hexdigest()


def test_fingerprint_notices_a_change_anywhere() -> None:
    first, *rest = PROBES.facts
    changed = [
        replace(PROBES, facts=(replace(first, aliases=()), *rest)),
        replace(PROBES, facts=(*rest, first)),
        replace(PROBES, relations=PROBES.relations[1:]),
        replace(PROBES, unseen=PROBES.unseen[:-1]),
    ]
    prints = {PROBES.fingerprint(), *(probes.fingerprint() for probes in changed)}
    assert len(prints) == 5


def test_loading_needs_no_folder_and_no_data_library(tmp_path: Path) -> None:
    code = (
        "import sys, json; from factlife.corpora.fact_probes import load_fact_probes;"
        "n = len(load_fact_probes().facts);"
        "heavy = {'torch', 'pandas', 'datasets', 'great_expectations', 'huggingface_hub'};"
        "print(json.dumps([n, sorted(heavy & set(sys.modules))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(factlife.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [160, []]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("facts.jsonl", "{"),
        ("facts.jsonl", '{"fact_id": "a.b"}'),
        ("relations.toml", "[[relation"),
        ("unseen.jsonl", '{"subject_id": "x"}'),
    ],
)
def test_a_damaged_source_file_is_an_integrity_error(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    real = content._text
    monkeypatch.setattr(content, "_text", lambda n: text if n == name else real(n))
    with pytest.raises(IntegrityError, match="reinstall factlife"):
        load_fact_probes.__wrapped__()


def test_derived_flags_may_not_be_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    real = content._text
    written = real("facts.jsonl").replace('"flags": []', '"flags": ["multiword_answer"]', 1)
    monkeypatch.setattr(content, "_text", lambda n: written if n == "facts.jsonl" else real(n))
    with pytest.raises(IntegrityError, match=r"multiword_answer.*derived"):
        load_fact_probes.__wrapped__()
