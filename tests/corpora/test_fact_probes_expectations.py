"""Every expectation of the fact-probes suites, and the engine that runs them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pyarrow as pa
import pytest

from factlife.corpora.expectations import (
    FACT_PROBES,
    Expectation,
    check_table,
    rows_failure,
    suites_json,
)
from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.fact_probes.tables import TABLES, arrow_tables
from factlife.errors import IntegrityError, UsageError

CLEAN = arrow_tables(load_fact_probes())
ALL = [(config, e) for config, suite in FACT_PROBES.items() for e in suite]

# A value that each column's pattern or set refuses, and why.
WRONG_VALUE = {
    "fact_id": "Rio",  # no relation, a capital letter
    "template_id": "source",  # no relation
    "subject_id": "city in country.unseen.x",  # spaces
    "relation": "city",
    "group": "PERSON",
    "template_role": "main",
    "subject": "Rio ",  # a space at the end
    "answer": "Brazil\n",  # a line break at the end, which `$` alone would let through
    "valid_from": "2018-13",  # no such month
    "valid_to": "31.12.2018",
    "wikidata_subject": "155",
    "wikidata_answer": "Q",
    "note": "no full stop",
    "notes": " padded.",
}


def _replace(table: pa.Table, row: int, column: str, value: Any) -> pa.Table:
    rows = table.to_pylist()
    rows[row][column] = value
    loose = pa.schema([pa.field(f.name, f.type) for f in table.schema])
    return pa.Table.from_pylist(rows, schema=loose)


def _broken(table: pa.Table, expectation: Expectation) -> tuple[pa.Table, int | None]:
    """The table with one defect for this expectation, and how many bad rows that makes."""
    kind, kwargs = expectation.type, expectation.kwargs
    if kind == "expect_table_columns_to_match_ordered_list":
        return table.select(table.column_names[::-1]), None
    if kind == "expect_table_row_count_to_equal":
        return table.slice(1), None
    if kind == "expect_column_values_to_be_unique":
        return _replace(table, 1, kwargs["column"], table[kwargs["column"]][0].as_py()), 2
    if kind == "expect_compound_columns_to_be_unique":
        twin = table
        for column in kwargs["column_list"]:
            twin = _replace(twin, 1, column, table[column][0].as_py())
        return twin, 2
    if kind == "expect_column_values_to_not_be_null":
        return _replace(table, 3, kwargs["column"], None), 1
    if kwargs["column"] == "prompt":
        value = "{} lies in" if kind == "expect_column_values_to_match_regex" else "Rio lies in "
        return _replace(table, 3, "prompt", value), 1
    return _replace(table, 3, kwargs["column"], WRONG_VALUE[kwargs["column"]]), 1


@pytest.mark.parametrize(("config", "table"), CLEAN.items())
def test_the_data_meets_its_suite(config: str, table: pa.Table) -> None:
    assert check_table(config, table, FACT_PROBES[config], TABLES[config].key) == []


@pytest.mark.parametrize(
    ("config", "expectation"), ALL, ids=[f"{config}-{e.name[:60]}" for config, e in ALL]
)
def test_every_expectation_finds_a_planted_defect(config: str, expectation: Expectation) -> None:
    table, n_bad = _broken(CLEAN[config], expectation)
    (failure,) = check_table(config, table, [expectation], TABLES[config].key)
    assert (failure.config, failure.check) == (config, expectation.name)
    assert failure.bad_rows == n_bad
    assert not failure.detail.startswith("could not run")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("subject", ""),
        ("subject", " Rio"),
        ("subject", "Rio\nde Janeiro"),
        ("valid_from", "2018-1"),
        ("valid_from", "2018-02-32"),
        ("wikidata_answer", "Q0155"),
        ("fact_id", "city_in_country.río"),
    ],
)
def test_other_values_that_the_patterns_refuse(column: str, value: str) -> None:
    table = _replace(CLEAN["facts"], 0, column, value)
    failures = check_table("facts", table, FACT_PROBES["facts"], ("fact_id",))
    assert [(f.bad_rows, f"({column})" in f.check) for f in failures] == [(1, True)]


def test_a_failure_names_the_row_by_its_key_and_shows_the_value() -> None:
    table = _replace(CLEAN["prompts"], 2, "template_role", "main")
    (failure,) = check_table("prompts", table, FACT_PROBES["prompts"], ("fact_id", "template_id"))
    assert str(failure) == (
        "prompts: expect_column_values_to_be_in_set(template_role): 1 bad row(s), first: "
        '{"fact_id": "city_in_country.rio_de_janeiro", "template_id": "city_in_country.map", '
        '"template_role": "main"}'
    )


def test_only_the_first_five_bad_rows_are_shown_but_all_are_counted() -> None:
    failure = rows_failure("facts", "rule", [{"a": i, "b": "é"} for i in range(7)], ["a"])
    assert str(failure) == (
        'facts: rule: 7 bad row(s), first: {"a": 0}; {"a": 1}; {"a": 2}; {"a": 3}; {"a": 4}'
    )


def test_a_missing_column_is_reported_and_the_other_expectations_still_run() -> None:
    table = _replace(CLEAN["facts"].drop_columns(["answer"]), 0, "group", "PERSON")
    failures = check_table("facts", table, FACT_PROBES["facts"], ("fact_id",))
    said = {f.check.split("(")[0] + f.check[f.check.rfind("(") :]: f for f in failures}
    null = said["expect_column_values_to_not_be_null(answer)"]
    assert null.bad_rows is None
    assert 'could not run: Error: The column "answer"' in null.detail
    assert said["expect_column_values_to_be_in_set(group)"].bad_rows == 1
    assert any(f.check.startswith("expect_table_columns_to_match_ordered_list") for f in failures)


def test_an_expectation_that_cannot_be_read_is_an_error_and_no_pass() -> None:
    # A type that this version does not know: Great Expectations drops it and goes on.
    wrong = Expectation("expect_column_values_to_be_unik", {"column": "fact_id"}, "misspelled")
    with pytest.raises(IntegrityError, match="cannot run expect_column_values_to_be_unik"):
        check_table("facts", CLEAN["facts"], [wrong], ("fact_id",))


@pytest.mark.filterwarnings("error")
def test_checking_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for config, table in CLEAN.items():
        check_table(config, table, FACT_PROBES[config], TABLES[config].key)
    assert capfd.readouterr() == ("", "")


def test_the_export_is_what_great_expectations_reads() -> None:
    import great_expectations as gx

    exported = json.loads(suites_json(FACT_PROBES))
    assert list(exported) == ["facts", "prompts", "unseen", "relations"]
    for config, suite in exported.items():
        loaded = gx.ExpectationSuite(**suite)
        assert loaded.name == config
        assert [(c.type, c.kwargs, c.meta) for c in loaded.expectation_configurations] == [
            (e.type, dict(e.kwargs), {"why": e.why}) for e in FACT_PROBES[config]
        ]


def test_the_export_carries_nothing_that_changes_by_itself() -> None:
    text = suites_json(FACT_PROBES)
    assert text == suites_json(FACT_PROBES)
    for word in ("version", '"id"', "1.24", "timestamp", "20:"):
        assert word not in text


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(UsageError, match=r"great_expectations; install .*factlife\[data\]"):
        check_table("facts", CLEAN["facts"], FACT_PROBES["facts"], ("fact_id",))
