"""Tables beside a result: trusted only as far as result.json vouches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hub.results import make_result
from tests.hub.synthetic import add_table, submission

from factlife import schema
from factlife.conform import quick_check
from factlife.hub.collect import Entry, collect
from factlife.hub.curves import pack, read_tables
from factlife.hub.families import families, registry, shared_title
from factlife.hub.published import PUBLISHED
from factlife.hub.series_page import series_data
from factlife.result import problems, result_schema, upgraded
from factlife.scores import BY_NAME, METRICS
from factlife.store import write_json

ACCURACY, EMERGENCE = "recall.whole_answer_accuracy", "recall.emergence50"
SOME = tuple(BY_NAME[m] for m in (ACCURACY, EMERGENCE, "circuits.active_head_share"))


def entry_of(folder: Path) -> Entry:
    (entry,) = collect([folder])
    return entry


def score(metric: str, scope: str, revision: str, value: float, n: int = 10) -> dict[str, Any]:
    m = BY_NAME[metric]
    return {
        "metric": metric, "scope": scope, "revision": revision, "value": value,
        "ci_low": value - 1, "ci_high": value + 1, "n": n, "unit": m.unit,
        "direction": m.direction, "interval_method": "bootstrap", "reason": None,
    }  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.SCORES.arrow)


# ---- packing ---------------------------------------------------------------------------------


def test_rows_become_columns_over_the_checkpoints() -> None:
    rows = table(
        score(EMERGENCE, "overall", "", 12_345_678.9),
        score(ACCURACY, "overall", "b", 0.123456),
        score(ACCURACY, "LOC", "c", 1.0, 4),
        score(ACCURACY, "overall", "c", 2.0, 11),
    )
    assert pack(rows, ["a", "b", "c"]) == {
        # Five digits: 0.123456 -> 0.12346, its ends -0.876544 -> -0.87654 and 1.123456 -> 1.1235.
        ACCURACY: {
            "overall": [[None, 0.12346, 2], [None, -0.87654, 1], [None, 1.1235, 3], [None, 10, 11]],
            "LOC": [[None, None, 1], [None, None, 0], [None, None, 2], 4],
        },
        EMERGENCE: {"overall": [[12_346_000], [12_346_000], [12_346_000], 10]},
    }


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_numbers_keep_five_significant_digits(value: float) -> None:
    found = pack(table(score(ACCURACY, "overall", "a", value)), ["a"])[ACCURACY]["overall"][0][0]
    assert found == pytest.approx(value, rel=5.1e-5)
    assert len(f"{found:e}".partition("e")[0].replace("-", "").replace(".", "").rstrip("0")) <= 5


# ---- trust -----------------------------------------------------------------------------------


def test_curves_come_from_the_table_that_the_result_names(tmp_path: Path) -> None:
    submission(tmp_path / "a", "org/model", 0, metrics=SOME)
    data = series_data(entry_of(tmp_path))
    assert data["own"]
    assert len(data["curves"][ACCURACY]["LOC"][0]) == len(data["checkpoints"]) == 14
    assert len(data["curves"][EMERGENCE]["overall"][0]) == 1
    # Five roles before and after; the shade of a cell is its probability.
    assert len(data["transitions"]["shade"]) == 25
    assert data["transitions"]["shade"] == data["transitions"]["probability"]


def test_a_run_folder_gives_its_curves_too(tmp_path: Path) -> None:
    submission(tmp_path, "org/model", 0, metrics=SOME, transitions=False)
    part = tmp_path / "tables" / "scores" / "part.parquet"
    part.parent.mkdir(parents=True)
    (tmp_path / "scores.parquet").rename(part)
    assert read_tables(entry_of(tmp_path)).own


def test_a_result_alone_has_its_last_checkpoint(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_result("org/model"))
    data = series_data(entry_of(tmp_path))
    assert not data["own"]
    assert data["transitions"] is None
    assert data["curves"][ACCURACY]["overall"][0] == [None, None, 0.51]
    assert "only its last checkpoint is known" in data["provenance"]


def swapped(folder: Path, result: dict[str, Any]) -> None:
    other = submission(folder.parent / "other", "org/other", 1, metrics=SOME)
    (folder.parent / "other" / "scores.parquet").rename(folder / "scores.parquet")
    (folder.parent / "other" / "result.json").unlink()
    assert other["tables"]["scores"] != result["tables"]["scores"]


def rewritten(folder: Path, result: dict[str, Any]) -> None:
    """A table with a better last checkpoint, whose digest the forged result names."""
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    for r in rows:
        r["value"], r["ci_high"] = r["value"] + 0.001, r["ci_high"] + 0.001
    add_table(folder, result, "scores", rows)


def with_nan(folder: Path, result: dict[str, Any]) -> None:
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    rows[0]["value"] = float("nan")
    add_table(folder, result, "scores", rows)


def no_table(folder: Path, result: dict[str, Any]) -> None:  # noqa: ARG001
    (folder / "scores.parquet").write_bytes(b"PAR1 not really")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (swapped, "not the table whose sha256 result.json names"),
        (rewritten, "where result.json has"),
        (with_nan, "NaN or infinity"),
        (no_table, "not the table whose sha256"),
    ],
)
def test_a_table_that_is_not_the_results_is_left_out_and_said(
    tmp_path: Path, spoil: Any, why: str
) -> None:
    result = submission(tmp_path / "a", "org/model", 0, metrics=SOME)
    spoil(tmp_path / "a", result)
    write_json(tmp_path / "a" / "result.json", result)
    tables = read_tables(entry_of(tmp_path / "a"))
    assert not tables.own
    assert len(tables.problems) == 1
    assert why in tables.problems[0]
    assert str(tmp_path) not in tables.problems[0]
    assert set(tables.scores["revision"].to_pylist()) == {"", "step13"}


def test_rows_that_the_registry_does_not_know_are_not_drawn(tmp_path: Path) -> None:
    result = submission(tmp_path, "org/model", 0, metrics=SOME, transitions=False)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    good = len(rows)
    rows.append({**rows[0], "metric": "magic.score"})
    rows.append({**rows[0], "scope": "per cent", "unit": "per cent"})
    rows.append({**rows[0], "scope": "turned", "ci_low": 2.0, "ci_high": 1.0})
    rows.append({**rows[0], "scope": "elsewhere", "revision": "step99"})
    add_table(tmp_path, result, "scores", rows)
    write_json(tmp_path / "result.json", result)
    tables = read_tables(entry_of(tmp_path))
    assert tables.own
    assert tables.scores.num_rows == good


# ---- the registry on the page ----------------------------------------------------------------


def test_every_metric_of_the_registry_is_on_the_page_and_every_headline_has_a_chart() -> None:
    assert [m["name"] for m in registry()] == [m.name for m in METRICS]
    drawn = {line["metric"] for f in families() for line in f["lines"]}
    assert {m.name for m in METRICS if m.headline and m.per_revision} <= drawn
    assert {f["unit"] for f in families()} <= {m.unit for m in METRICS}


def test_families_are_metrics_that_differ_in_their_last_word() -> None:
    roles = next(f for f in families() if f["lines"][0]["metric"] == "circuits.head_share_general")
    assert roles["title"] == "Share of heads in each role"
    assert [line["label"] for line in roles["lines"]] == ["general", "entity", "relation", "fact"]
    iou = next(f for f in families() if f["lines"][0]["metric"] == "circuits.iou_last_general")
    assert [line["null"] for line in iou["lines"]] == [False, True] * 5
    assert shared_title(["Loss without the general heads", "Loss without the fact heads"]) == (
        "Loss without the heads"
    )


def test_published_figures_name_source_and_a_metric_that_exists() -> None:
    for p in PUBLISHED:
        assert "arXiv" in p.source
        assert not p.beside or p.beside in BY_NAME


# ---- the quick yes ---------------------------------------------------------------------------


def test_a_valid_result_conforms_and_every_broken_one_is_left_to_the_validator() -> None:
    check, schema_ = quick_check(result_schema()), result_schema()
    assert check(upgraded(make_result()))
    for name in schema_["required"]:
        assert not check({**upgraded(make_result()), name: object()}), name
        assert not check({k: v for k, v in upgraded(make_result()).items() if k != name}), name
    for place, wrong in (
        (("protocol", "hash"), "x" * 64), (("model", "parameters"), 0),
        (("model", "parameters"), True),
        (("env", "deterministic"), None), (("series", 0, "tokens"), -1), (("data", 0, "name"), ""),
        (("series", 0, "tokens_source"), "guess"), (("metrics", ACCURACY, "n"), 1.5),
        (("series", 0, "weights_sha256"), ["0"]), (("metrics", ACCURACY, "more"), 1),
    ):  # fmt: skip
        result = upgraded(make_result())
        at: Any = result
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = wrong
        assert not check(result), place
        assert problems(result, "x"), place


_TEXT = st.text("ab0", max_size=3)
_PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | _TEXT
_VALUES = st.recursive(
    _PLAIN,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("abc"), v, max_size=3),
    max_leaves=6,
)
_SMALL = {
    "type": "object",
    "properties": {
        "a": {"type": ["integer", "null"], "minimum": 0},
        "b": {"type": "array", "items": {"type": "string", "pattern": "^a"}},
    },
    "required": ["a"],
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
}


@given(_VALUES | st.fixed_dictionaries({"a": _VALUES}, optional={"b": _VALUES, "c": _VALUES}))
def test_a_quick_yes_is_never_wrong(value: Any) -> None:
    if quick_check(_SMALL)(value):
        jsonschema.Draft202012Validator(_SMALL).validate(value)


def test_an_unknown_keyword_is_never_passed() -> None:
    assert not quick_check({"type": "string", "format": "uri"})("x")
    assert problems(make_result(), "x") == []
