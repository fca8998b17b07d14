"""Tables hold what their columns promise, and say where they do not."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.write_docs import PAGES, ROOT

from factlife.errors import IntegrityError
from factlife.schema import SCORES, TABLE_KEY, TABLES, VERSION_KEY, Column, Table

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=3000)


def score(**changes: Any) -> dict[str, Any]:
    """A good row of `scores`."""
    row = {
        "metric": "recall.area", "scope": "overall", "revision": "", "value": 0.5, "ci_low": 0.4,
        "ci_high": 0.6, "n": 160, "unit": "mean share of facts", "direction": "higher",
    }  # fmt: skip
    return row | changes


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_table_is_described_and_keyed_by_columns_that_are_never_null(table: Table) -> None:
    columns = {c.name: c for c in table.columns}
    assert len(columns) == len(table.columns)
    assert all(c.doc and c.doc == c.doc.strip() for c in table.columns)
    assert set(table.partitions) <= set(columns)
    assert [k for k in table.key if columns[k].nullable] == []


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_the_arrow_schema_carries_name_version_docs_and_units(table: Table) -> None:
    assert table.arrow.metadata[TABLE_KEY] == table.name.encode()
    assert int(table.arrow.metadata[VERSION_KEY]) == table.version
    for column, field in zip(table.columns, table.arrow, strict=True):
        assert (field.name, field.type, field.nullable) == (
            column.name, column.type, column.nullable,
        )  # fmt: skip
        assert field.metadata == {b"doc": column.doc.encode(), b"unit": column.unit.encode()}


def test_an_absent_optional_key_becomes_null() -> None:
    (row,) = SCORES.from_rows([score()]).to_pylist()
    assert row["reason"] is None and row["interval_method"] is None
    assert (row["value"], row["n"]) == (0.5, 160)


def test_no_rows_give_an_empty_table_with_all_columns() -> None:
    table = SCORES.from_rows([])
    assert (table.num_rows, table.schema.names) == (0, [c.name for c in SCORES.columns])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vlaue": 1.0}, "unknown column 'vlaue'"),
        ({"unit": None}, "1 nulls in required column unit"),
        ({"value": math.nan}, "NaN or infinity in column value"),
        ({"ci_high": math.inf}, "NaN or infinity in column ci_high"),
        ({"ci_low": -math.inf}, "NaN or infinity in column ci_low"),
        ({"n": "many"}, "column n holds int64"),
        ({"n": 1.5}, "column n holds int64"),
        ({"n": 2**63}, "column n holds int64"),
        ({"value": "high"}, "column value holds double"),
        ({"metric": 3}, "column metric holds string"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_and_the_column_named(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message) as caught:
        SCORES.from_rows([score(**change)])
    assert "table scores" in str(caught.value)
    assert caught.value.exit_code == 4


def test_one_bad_number_among_good_ones_and_nulls_is_found() -> None:
    rows = [score(scope="LOC"), score(scope="NAME", value=None), score(value=math.nan)]
    with pytest.raises(IntegrityError, match="column value"):
        SCORES.from_rows(rows)


def test_a_repeated_key_is_refused_and_shown() -> None:
    rows = [score(scope="LOC"), score(scope="NAME"), score(scope="LOC", value=0.1)]
    with pytest.raises(IntegrityError, match="one key: metric 'recall.area', scope 'LOC'"):
        SCORES.from_rows(rows)


def test_rows_that_differ_in_one_key_column_are_kept() -> None:
    rows = [score(), score(scope="LOC"), score(revision="step1"), score(metric="recall.flip_rate")]
    assert SCORES.from_rows(rows).num_rows == 4


def small(*columns: Column) -> Table:
    return Table("small", 1, "a row", (columns[0].name,), columns)


@pytest.mark.parametrize(
    "other",
    [
        pa.table({"id": pa.array([1], pa.int64())}),
        pa.table({"id": pa.array([1], pa.int32()), "x": pa.array([1.0])}),
        pa.table({"x": pa.array([1.0]), "id": pa.array([1], pa.int64())}),
        pa.table({"id": pa.array([1]), "x": pa.array([1.0]), "y": pa.array([1.0])}),
    ],
    ids=["missing", "type", "order", "more"],
)
def test_a_table_with_other_columns_is_refused(other: pa.Table) -> None:
    table = small(Column("id", pa.int64(), "d"), Column("x", pa.float64(), "d", nullable=True))
    with pytest.raises(IntegrityError, match="columns are .* expected version 1"):
        table.check(other)


@EXACT
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), max_size=20))
def test_finite_numbers_and_nulls_come_back_as_they_were(values: list[float | None]) -> None:
    rows = [score(scope=f"s{i}", value=v) for i, v in enumerate(values)]
    assert SCORES.from_rows(rows)["value"].to_pylist() == values


def test_the_published_table_reference_is_the_code() -> None:
    page = "docs/tables.md"
    assert (ROOT / page).read_text("utf-8") == PAGES[page](), "run tox -e docs"
    for table in TABLES.values():
        assert f"## {table.name} (version {table.version})" in PAGES[page]()
