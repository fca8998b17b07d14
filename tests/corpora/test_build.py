"""Building writes the committed bytes; validating finds what is wrong with a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factlife.corpora import build as module
from factlife.corpora.build import DATA_SETS, build, validate
from factlife.errors import IntegrityError, PartialError, UsageError

DATASETS = Path(__file__).parents[2] / "datasets"


def _hashes(folder: Path) -> Mapping[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the committed data sets that a test may break."""
    return Path(shutil.copytree(DATASETS, tmp_path / "datasets"))


def _rewrite(path: Path, column: str, values: Mapping[int, Any]) -> None:
    rows = pq.read_table(path).to_pylist()
    for row, value in values.items():
        rows[row][column] = value
    pq.write_table(pa.Table.from_pylist(rows), path)


# ---- build -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA_SETS)
def test_building_gives_the_committed_files_byte_for_byte(name: str, tmp_path: Path) -> None:
    build(tmp_path, [name])
    assert _hashes(tmp_path / name) == _hashes(DATASETS / name)


def test_building_fact_probes_writes_these_files(tmp_path: Path) -> None:
    written = build(tmp_path, ["fact-probes"])
    assert {path.relative_to(tmp_path / "fact-probes").as_posix() for path in written} == {
        "README.md",
        "expectations.json",
        "facts.parquet",
        "prompts.parquet",
        "unseen.parquet",
        "relations.parquet",
    }
    assert all(path.is_file() for path in written)


def test_building_twice_gives_the_same_bytes_and_restores_a_changed_file(tmp_path: Path) -> None:
    build(tmp_path, ["fact-probes"])
    first = _hashes(tmp_path)
    (tmp_path / "fact-probes" / "facts.parquet").write_bytes(b"spoilt")
    build(tmp_path, ["fact-probes", "fact-probes"])
    assert _hashes(tmp_path) == first


def test_every_data_set_is_built_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = DATA_SETS["fact-probes"]
    monkeypatch.setattr(module, "DATA_SETS", {"a": one, "b": one})
    assert {path.parent.name for path in build(tmp_path)} == {"a", "b"}
    assert {path.parent.name for path in build(tmp_path, [])} == set()


@pytest.mark.parametrize("function", [build, validate])
def test_an_unknown_data_set_is_named_together_with_the_known_ones(
    function: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no data set 'facts'; the data sets are fact-probes"):
        function(tmp_path, ["facts"])
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, ["fact-probes"])
    before = _hashes(tmp_path)

    def refuse(*_: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PartialError, match=r"README\.md: No space left"):
        build(tmp_path, ["fact-probes"])
    assert _hashes(tmp_path) == before


# ---- validate --------------------------------------------------------------------------------


def test_the_committed_data_passes_and_says_how_many_checks_ran() -> None:
    data_set = DATA_SETS["fact-probes"]
    # Each expectation, one check of the columns' types a table, and each rule.
    expected = sum(map(len, data_set.suites.values())) + 4 + len(data_set.rules)
    assert validate(DATASETS, ["fact-probes"]) == {"fact-probes": expected}
    assert expected > 70


def test_a_missing_folder_or_file_is_a_usage_error_that_says_what_to_do(copy: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*factlife datasets build fact-probes"):
        validate(copy / "nowhere", ["fact-probes"])
    (copy / "fact-probes" / "unseen.parquet").unlink()
    with pytest.raises(UsageError, match=r"unseen\.parquet.*factlife datasets build fact-probes"):
        validate(copy, ["fact-probes"])


@pytest.mark.parametrize("data", [b"", b"PAR1 and nothing else", None])
def test_a_file_that_is_no_parquet_is_an_integrity_error_naming_it(
    copy: Path, data: bytes | None
) -> None:
    path = copy / "fact-probes" / "prompts.parquet"
    # None: cut in half, as an interrupted download is.
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if data is None else data)
    with pytest.raises(IntegrityError, match=r"prompts\.parquet cannot be read as parquet") as e:
        validate(copy, ["fact-probes"])
    assert "\n" not in str(e.value)


def test_a_failed_validation_says_which_rows_of_what_break_which_check(copy: Path) -> None:
    _rewrite(copy / "fact-probes" / "facts.parquet", "group", dict.fromkeys(range(7), "PLACE"))
    with pytest.raises(IntegrityError) as caught:
        validate(copy, ["fact-probes"])
    assert caught.value.exit_code == 4
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("2 check(s) failed in ")
    assert head.endswith("`factlife datasets build fact-probes` mends it")
    expectation, rule = lines
    assert expectation.startswith(
        "  fact-probes / facts: expect_column_values_to_be_in_set(group): 7 bad row(s), first: "
        '{"fact_id": "city_in_country.rio_de_janeiro", "group": "PLACE"}; '
    )
    assert expectation.count('"fact_id"') == 5
    assert rule.startswith(
        "  fact-probes / facts: facts_name_a_relation_of_their_group: 7 bad row(s), first: "
    )


def test_a_defect_between_tables_is_found(copy: Path) -> None:
    _rewrite(copy / "fact-probes" / "prompts.parquet", "prompt", {0: "Recife is part of"})
    with pytest.raises(IntegrityError, match=r"prompts: prompts_are_template_with_subject: 1 bad"):
        validate(copy, ["fact-probes"])


def test_columns_of_another_type_are_found_and_nothing_stumbles_over_them(copy: Path) -> None:
    path = copy / "fact-probes" / "facts.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("aliases")
    joined = pa.array([", ".join(row) for row in table["aliases"].to_pylist()])
    pq.write_table(table.set_column(at, "aliases", joined), path)
    with pytest.raises(IntegrityError, match=r"facts: columns_have_their_types: .*aliases: string"):
        validate(copy, ["fact-probes"])


def test_a_missing_column_is_found_and_nothing_stumbles_over_it(copy: Path) -> None:
    path = copy / "fact-probes" / "relations.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["candidates"]), path)
    with pytest.raises(IntegrityError, match=r"relations: expect_table_columns_to_match") as caught:
        validate(copy, ["fact-probes"])
    assert "columns_have_their_types" in str(caught.value)
