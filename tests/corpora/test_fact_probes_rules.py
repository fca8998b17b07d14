"""Every rule of fact-probes: it passes on the data, and it finds a defect planted for it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.corpora.expectations import check_rules
from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.fact_probes.rules import RULES, plain_words, slug
from factlife.corpora.fact_probes.tables import arrow_tables

Tables = dict[str, list[dict[str, Any]]]
CLEAN: Tables = {name: t.to_pylist() for name, t in arrow_tables(load_fact_probes()).items()}
BY_NAME = {rule.name: rule for rule in RULES}


def test_the_data_breaks_no_rule() -> None:
    assert check_rules(CLEAN, RULES) == []


def _row(tables: Tables, config: str, column: str, value: str) -> dict[str, Any]:
    return next(row for row in tables[config] if row[column] == value)


def _set(config: str, row: int, **values: Any) -> Callable[[Tables], None]:
    return lambda tables: tables[config][row].update(values)


def _flag(fact_id: str, *flags: str) -> Callable[[Tables], None]:
    return lambda tables: _row(tables, "facts", "fact_id", fact_id).update(flags=list(flags))


def _alias(fact_id: str, alias: str) -> Callable[[Tables], None]:
    return lambda tables: _row(tables, "facts", "fact_id", fact_id)["aliases"].append(alias)


def _dates(fact_id: str, start: str | None, end: str | None) -> Callable[[Tables], None]:
    return lambda tables: _row(tables, "facts", "fact_id", fact_id).update(
        valid_from=start, valid_to=end
    )


def _template(row: int, place: int, **values: str) -> Callable[[Tables], None]:
    return lambda tables: tables["relations"][row]["templates"][place].update(values)


# (rule, how the defect is planted, how many rows break the rule then)
DEFECTS: list[tuple[str, Callable[[Tables], None], int]] = [
    ("fact_ids_follow_the_subject", _set("facts", 0, fact_id="city_in_country.rio"), 1),
    ("fact_ids_follow_the_subject", _set("facts", 0, subject="Recife"), 1),
    ("facts_name_a_relation_of_their_group", _set("facts", 0, relation="city"), 1),
    ("facts_name_a_relation_of_their_group", _set("facts", 0, group="NAME"), 1),
    ("aliases_are_other_spellings", _alias("city_in_country.rio_de_janeiro", "Brazil"), 1),
    ("aliases_are_other_spellings", _alias("city_in_country.rio_de_janeiro", "Brasil"), 1),
    ("aliases_are_other_spellings", _alias("city_in_country.rio_de_janeiro", " Brésil"), 1),
    ("aliases_are_other_spellings", _alias("city_in_country.rio_de_janeiro", "."), 1),
    # Equal to another candidate, whatever the case and punctuation.
    ("aliases_fit_one_answer", _alias("plays_sport.tiger_woods", "Tennis."), 1),
    # Begins with another candidate.
    ("aliases_fit_one_answer", _alias("plays_sport.tiger_woods", "tennis and golf"), 1),
    # A spelling that others begin with: of the 12 athletes, all but the two golfers have an
    # alias `professional …`.
    ("aliases_fit_one_answer", _alias("plays_sport.tiger_woods", "professional"), 10),
    ("flags_are_documented_and_sorted", _flag("city_in_country.rio_de_janeiro", "odd"), 1),
    (
        "flags_are_documented_and_sorted",
        _flag("city_in_country.panama_city", "answer_in_subject", "ambiguous_subject"),
        1,
    ),
    (
        "flags_are_documented_and_sorted",
        _flag("city_in_country.mexico_city", "answer_in_subject", "answer_in_subject"),
        1,
    ),
    ("derived_flags_hold", _flag("city_in_country.mexico_city"), 1),
    ("derived_flags_hold", _flag("city_in_country.casablanca", "answer_shares_stem"), 1),
    ("derived_flags_hold", _flag("books_written.gone_girl"), 1),
    ("time_bound_means_dated", _dates("city_in_country.casablanca", "1912", None), 1),
    ("time_bound_means_dated", _dates("city_in_country.hong_kong", None, None), 1),
    ("time_bound_means_dated", _dates("plays_sport.babe_ruth", "1935-01-02", "1935-01-01"), 1),
    ("chief_executives_are_dated", _dates("company_ceo.aol", None, "2018"), 1),
    ("facts_have_every_prompt", lambda t: t["prompts"].pop(5) and None, 1),
    ("facts_have_every_prompt", _set("facts", 0, relation="city"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, fact_id="city_in_country.recife"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, template_id="city_in_country.x"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, template_id="company_hq.source"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, template_role="extra"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, answer="Brasil"), 1),
    ("prompts_refer_to_the_data", _set("prompts", 0, relation="company_hq"), 1),
    ("prompts_are_template_with_subject", _set("prompts", 0, prompt="Recife is part of"), 1),
    ("prompts_are_template_with_subject", _set("prompts", 0, fact_id="nowhere"), 1),
    ("prompts_are_template_with_subject", _set("facts", 0, subject="Recife"), 4),
    ("unseen_subjects_are_unknown", _set("unseen", 0, subject="casablanca"), 1),
    ("unseen_subjects_are_unknown", _set("unseen", 0, subject="Old Buenos Airesville"), 1),
    ("unseen_subjects_are_unknown", _set("unseen", 0, subject="New Berlin"), 1),  # an answer
    ("unseen_subjects_are_unknown", _set("unseen", 0, subject="Port of Peking"), 1),  # an alias
    ("unseen_subjects_are_unknown", _set("unseen", 0, subject=CLEAN["unseen"][50]["subject"]), 2),
    ("unseen_subjects_match_known_ones", _set("unseen", 0, subject="Quevaro"), 1),
    ("unseen_subjects_match_known_ones", _set("unseen", 0, subject="Vau de Quevarovarovaro"), 1),
    ("unseen_subjects_match_known_ones", _set("unseen", 0, matched_fact_id="nothing"), 1),
    ("unseen_subjects_match_known_ones", _set("unseen", 0, relation="company_hq"), 1),
    (
        "unseen_subjects_match_known_ones",
        _set("unseen", 0, matched_fact_id=CLEAN["unseen"][1]["matched_fact_id"]),
        2,
    ),
    ("unseen_ids_follow_the_subject", _set("unseen", 0, subject_id="city_in_country.vau"), 1),
    (
        "candidates_are_the_distinct_answers",
        _set("relations", 5, candidates=["tennis", "golf", "baseball", "basketball"]),
        1,
    ),
    ("candidates_are_the_distinct_answers", _set("facts", 0, answer="Portugal"), 1),
    ("templates_are_well_formed", _template(0, 0, role="extra"), 1),
    ("templates_are_well_formed", _template(0, 1, role="source"), 1),
    ("templates_are_well_formed", _template(0, 1, text="{} and {} lie in"), 1),
    ("templates_are_well_formed", _template(0, 1, text="This lies in"), 1),
    ("templates_are_well_formed", _template(0, 1, text="{} lies in "), 1),
    ("templates_are_well_formed", _template(0, 1, text="The country that holds {}"), 1),
    ("templates_are_well_formed", _template(0, 1, text="{} is part of the country of"), 1),
    ("templates_are_well_formed", _template(0, 1, template_id="city_in_country.source"), 1),
    ("templates_are_well_formed", _template(0, 1, template_id="other.question"), 1),
    ("templates_are_well_formed", lambda t: t["relations"][0]["templates"].pop() and None, 1),
    # 12 made-up athletes: one fewer is too few.
    (
        "relations_have_enough_unseen",
        lambda t: t["unseen"].remove(_row(t, "unseen", "relation", "plays_sport")),
        1,
    ),
]


@pytest.mark.parametrize(("rule", "plant", "n_bad"), DEFECTS)
def test_a_planted_defect_is_found(rule: str, plant: Callable[[Tables], None], n_bad: int) -> None:
    tables = deepcopy(CLEAN)
    plant(tables)
    assert len(BY_NAME[rule].bad_rows(tables)) == n_bad
    # And nothing stumbles over it: every rule takes every broken table.
    assert rule in {failure.check for failure in check_rules(tables, RULES)}


def test_every_rule_has_a_planted_defect() -> None:
    assert {rule for rule, _, _ in DEFECTS} == set(BY_NAME)
    assert len(BY_NAME) == len(RULES)


def test_rules_return_rows_of_the_table_they_name() -> None:
    for name, plant, _ in DEFECTS:
        tables = deepcopy(CLEAN)
        plant(tables)
        rule = BY_NAME[name]
        assert all(row in tables[rule.config] for row in rule.bad_rows(tables))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rio de Janeiro", "rio_de_janeiro"),
        ("Port-au-Prince", "port_au_prince"),
        ("Tesla, Inc.", "tesla_inc"),
        ("Schindler's List", "schindlers_list"),
        ("Füssen", "fussen"),
        ("12 Angry Men", "12_angry_men"),
        ("Top Gun: Maverick", "top_gun_maverick"),
    ],
)
def test_slug_by_hand(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Washington, D.C.", "washington dc"),
        ("The United Mexican States", "united mexican states"),
        ("People's Republic of China", "peoples republic of china"),
        ("Port-au-Prince", "port au prince"),
    ],
)
def test_spellings_that_count_as_one(left: str, right: str) -> None:
    assert plain_words(left) == plain_words(right)


@given(st.text(max_size=30))
def test_slugs_and_words_have_one_form(text: str) -> None:
    assert slug(slug(text)) == slug(text)
    assert plain_words(" ".join(plain_words(text))) == plain_words(text)
