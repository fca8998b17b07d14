"""What each table must hold to, as Great Expectations suites, and the engine that runs them.

A suite is plain data here, so that exporting it needs no Great Expectations and does not
change with its version. The library takes seconds to import: only `check_table` does it.
Rules that span rows or tables, or look into lists, are plain functions (`Rule`) that stand
in the package of their data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from factlife.corpora.fact_probes.tables import FACTS, PROMPTS, RELATIONS, UNSEEN
from factlife.errors import IntegrityError, UsageError
from factlife.schema import Table

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]

ROWS_SHOWN = 5


@dataclass(frozen=True)
class Expectation:
    """One expectation of Great Expectations: its type, arguments, and why it is there."""

    type: str
    kwargs: Mapping[str, Any]
    why: str

    @property
    def name(self) -> str:
        """The type with the column it is about, as failures show it."""
        columns = self.kwargs.get("column") or ", ".join(self.kwargs.get("column_list", ()))
        return f"{self.type}({columns})"

    def to_json(self) -> dict[str, Any]:
        """The configuration that Great Expectations reads."""
        return {"type": self.type, "kwargs": dict(self.kwargs), "meta": {"why": self.why}}


@dataclass(frozen=True)
class Rule:
    """A check that no single-table expectation can make.

    Attributes:
        config: the table whose rows it returns.
        name: what failures call it.
        bad_rows: from every table of the data set to the rows of `config` that break it.
    """

    config: str
    name: str
    bad_rows: Callable[[Tables], Sequence[Row]]


@dataclass(frozen=True)
class Failure:
    """One check that did not hold.

    Attributes:
        bad_rows: how many rows break it; None where it is about the table as a whole.
        detail: the first rows, or what was seen instead.
    """

    config: str
    check: str
    bad_rows: int | None
    detail: str

    def __str__(self) -> str:
        count = "" if self.bad_rows is None else f"{self.bad_rows} bad row(s), first: "
        return f"{self.config}: {self.check}: {count}{self.detail}"


# ---- the suites ------------------------------------------------------------------------------

_ID = r"^[a-z0-9_]+(?:\.[a-z0-9_]+)+$"
_UNTIDY = r"^$|^\s|\s$|\n"
_DATE = r"^[0-9]{4}(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?$"


def _table(table: Table, rows: int) -> Iterator[Expectation]:
    """What every table is asked: its columns, its size, its key, and no nulls but allowed ones."""
    yield Expectation(
        "expect_table_columns_to_match_ordered_list",
        {"column_list": [c.name for c in table.columns]},
        "the columns are the published ones, in the published order",
    )
    yield Expectation("expect_table_row_count_to_equal", {"value": rows}, "no row is lost or added")
    yield _unique(table.key)
    for column in table.columns:
        if not column.nullable:
            yield Expectation(
                "expect_column_values_to_not_be_null", {"column": column.name}, "always known"
            )


def _unique(columns: Sequence[str]) -> Expectation:
    if len(columns) == 1:
        return Expectation(
            "expect_column_values_to_be_unique", {"column": columns[0]}, "names one row"
        )
    return Expectation(
        "expect_compound_columns_to_be_unique",
        {"column_list": list(columns)},
        "together they name one row",
    )


def _matches(column: str, regex: str, why: str) -> Expectation:
    kwargs = {"column": column, "regex": regex}
    return Expectation("expect_column_values_to_match_regex", kwargs, why)


def _tidy(column: str) -> Expectation:
    # Said as what may not match: `$` before a last line break differs between regex engines.
    kwargs = {"column": column, "regex": _UNTIDY}
    why = "not empty, no space at either end, no line break"
    return Expectation("expect_column_values_to_not_match_regex", kwargs, why)


def _one_of(column: str, values: Sequence[str], why: str) -> Expectation:
    kwargs = {"column": column, "value_set": list(values)}
    return Expectation("expect_column_values_to_be_in_set", kwargs, why)


_RELATIONS = (
    "city_in_country",
    "company_hq",
    "country_capital_city",
    "food_from_country",
    "official_language",
    "plays_sport",
    "sights_in_city",
    "books_written",
    "company_ceo",
    "movie_directed",
)
_RELATION = _one_of("relation", _RELATIONS, "one of the ten relations")
_GROUP = _one_of("group", ("LOC", "NAME"), "one of the source's two groups")

FACT_PROBES: Mapping[str, tuple[Expectation, ...]] = {
    "facts": (
        *_table(FACTS, 160),
        _RELATION,
        _GROUP,
        _unique(("relation", "subject")),
        _matches("fact_id", _ID, "ids are plain"),
        _tidy("subject"),
        _tidy("answer"),
        _matches("valid_from", _DATE, "a day, a month or a year"),
        _matches("valid_to", _DATE, "a day, a month or a year"),
        _matches("wikidata_subject", r"^Q[1-9][0-9]*$", "a Wikidata item"),
        _matches("wikidata_answer", r"^Q[1-9][0-9]*$", "a Wikidata item"),
        _matches("note", r"^\S.*\.$", "a sentence"),
    ),
    "prompts": (
        *_table(PROMPTS, 640),
        _RELATION,
        _one_of("template_role", ("source", "extra"), "one of the two roles"),
        _matches("template_id", _ID, "ids are plain"),
        _tidy("prompt"),
        _matches("prompt", r"^[^{}]*$", "no slot is left"),
        _tidy("answer"),
    ),
    "unseen": (
        *_table(UNSEEN, 160),
        _RELATION,
        _unique(("subject",)),
        _matches("subject_id", _ID, "ids are plain"),
        _tidy("subject"),
    ),
    "relations": (
        *_table(RELATIONS, 10),
        _RELATION,
        _GROUP,
        _matches("notes", r"^\S.*\.$", "sentences"),
    ),
}


def suites_json(suites: Mapping[str, Sequence[Expectation]]) -> str:
    """The suites of a data set, one a config, as text that is always the same.

    Each is what `great_expectations.ExpectationSuite(**suite)` reads.
    """
    value = {
        config: {"name": config, "expectations": [e.to_json() for e in suite]}
        for config, suite in suites.items()
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# ---- the engine ------------------------------------------------------------------------------


def check_table(
    config: str, table: pa.Table, suite: Sequence[Expectation], key: Sequence[str]
) -> list[Failure]:
    """Run one suite on one table with Great Expectations, in memory.

    Args:
        config: name of the table, for the failures.
        key: columns that name a row when failures show it.

    Raises:
        UsageError: Great Expectations is not installed.
        IntegrityError: Great Expectations did not run every expectation.
    """
    gx = _great_expectations()
    # The suite object would drop an expectation it cannot read with no more than a log line,
    # so each carries its position, and every position must come back.
    settings = [
        {"type": e.type, "kwargs": dict(e.kwargs), "meta": {"position": i}}
        for i, e in enumerate(suite)
    ]
    loaded = gx.ExpectationSuite(name=config, expectations=settings)
    results = _batch(table).validate(loaded, result_format="COMPLETE").results
    by_position = {r.expectation_config.meta["position"]: r for r in results}
    if len(by_position) != len(suite):
        missing = next(e for i, e in enumerate(suite) if i not in by_position)
        raise IntegrityError(
            f"{config}: great_expectations cannot run {missing.name}; install the version that "
            "constraints.txt pins"
        )
    rows = table.to_pylist()
    return [
        _failure(config, e, by_position[i], rows, key)
        for i, e in enumerate(suite)
        if not by_position[i].success
    ]


def _great_expectations() -> Any:
    try:
        import great_expectations as gx
    except ImportError as error:
        raise UsageError(
            f"checking data sets needs {error.name}; install it with pip install 'factlife[data]'"
        ) from error
    return gx


def _batch(table: pa.Table) -> Any:
    """The table as a batch of a context that leaves no trace: in memory, no bars, no analytics."""
    context = _great_expectations().get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("table")
    definition = asset.add_batch_definition_whole_dataframe("whole")
    return definition.get_batch({"dataframe": table.to_pandas()})


def _failure(
    config: str,
    expectation: Expectation,
    result: Any,
    rows: Sequence[Row],
    key: Sequence[str],
) -> Failure:
    """Put one result of Great Expectations into words."""
    if "unexpected_index_list" in result.result:
        bad = [rows[i] for i in result.result["unexpected_index_list"] or ()]
        column = expectation.kwargs.get("column")
        shown = [*key, column] if column else [*key, *expectation.kwargs["column_list"]]
        return rows_failure(config, expectation.name, bad, shown)
    if result.result:
        seen = result.result.get("observed_value")
        return Failure(config, expectation.name, None, f"found {json.dumps(seen, default=str)}")
    # No result at all: an exception, most often a column that is not there.
    return Failure(config, expectation.name, None, _why_not_run(result.exception_info))


def _why_not_run(info: Mapping[str, Any]) -> str:
    reports = [info, *(v for v in info.values() if isinstance(v, Mapping))]
    message = next((m for r in reports if (m := r.get("exception_message"))), "no reason given")
    return "could not run: " + " ".join(str(message).split())


def rows_failure(
    config: str, check: str, bad: Sequence[Row], columns: Iterable[str] | None = None
) -> Failure:
    """A failure that shows the first five bad rows, cut to some columns if any are named."""
    wanted = None if columns is None else dict.fromkeys(columns)
    shown = [
        {k: v for k, v in row.items() if wanted is None or k in wanted} for row in bad[:ROWS_SHOWN]
    ]
    detail = "; ".join(json.dumps(row, ensure_ascii=False, default=str) for row in shown)
    return Failure(config, check, len(bad), detail)


def check_rules(tables: Tables, rules: Iterable[Rule]) -> list[Failure]:
    """Run the rules on every table of one data set; the failures, in the rules' order."""
    found = [(rule, rule.bad_rows(tables)) for rule in rules]
    return [rows_failure(rule.config, rule.name, bad) for rule, bad in found if bad]
