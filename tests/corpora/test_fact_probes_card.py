"""The card of fact-probes says everything, and says what the data says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from factlife.corpora.fact_probes import FLAGS, load_fact_probes
from factlife.corpora.fact_probes.tables import TABLES

FOLDER = Path(__file__).parents[2] / "datasets" / "fact-probes"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
PROBES = load_fact_probes()


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    return dict(DatasetCard.load(FOLDER / "README.md").data.to_dict())


def _section(title: str) -> str:
    """The text from a heading to the next one of its level or above."""
    level = title.split(" ")[0]
    start = TEXT.index(f"\n{title}\n") + len(title) + 2
    end = re.search(rf"^#{{1,{len(level)}}} ", TEXT[start:], re.MULTILINE)
    return TEXT[start : start + end.start()] if end else TEXT[start:]


def _rows(markdown: str) -> list[list[str]]:
    """The cells of the rows of the one table in a text, without head and rule."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_header_holds_what_the_hub_asks_for(header: dict[str, Any]) -> None:
    assert header["license"] == "cc-by-4.0"
    assert header["language"] == ["en"]
    assert header["pretty_name"] == "Fact probes"
    assert header["size_categories"] == ["n<1K"]  # 160 + 640 + 160 + 10 = 970
    assert {"text-generation", "question-answering"} == set(header["task_categories"])
    assert len(header["tags"]) == len(set(header["tags"])) >= 3


def test_every_config_is_listed_with_a_file_that_is_there(header: dict[str, Any]) -> None:
    assert [c["config_name"] for c in header["configs"]] == list(TABLES)
    assert [c.get("default", False) for c in header["configs"]] == [True, False, False, False]
    files = {entry["path"] for c in header["configs"] for entry in c["data_files"]}
    assert files == {path.name for path in FOLDER.glob("*.parquet")}
    assert {entry["split"] for c in header["configs"] for entry in c["data_files"]} == {"test"}


@pytest.mark.parametrize("config", TABLES)
def test_the_sizes_in_the_header_are_those_of_the_files(
    header: dict[str, Any], config: str
) -> None:
    info = {i["config_name"]: i for i in header["dataset_info"]}[config]
    path = FOLDER / f"{config}.parquet"
    (split,) = info["splits"]
    assert split["num_examples"] == pq.read_metadata(path).num_rows
    assert info["download_size"] == path.stat().st_size
    assert info["dataset_size"] == split["num_bytes"] == pq.read_table(path).nbytes


@pytest.mark.parametrize("config", TABLES)
def test_every_column_is_documented(config: str) -> None:
    rows = _rows(_section(f"### {config}"))
    assert [row[0].strip("`") for row in rows] == pq.read_schema(FOLDER / f"{config}.parquet").names
    assert all(len(row) == 4 and len(row[3]) > 10 for row in rows)
    nullable = [row[0].strip("`") for row in rows if row[2] == "yes"]
    assert nullable == [c.name for c in TABLES[config].columns if c.nullable]


def test_every_flag_is_documented_with_its_number_of_rows() -> None:
    uses = Counter(flag for fact in PROBES.facts for flag in fact.flags)
    rows = _rows(_section("## Flags"))
    assert {row[0].strip("`"): int(row[1]) for row in rows} == dict(uses)
    assert {row[0].strip("`"): row[2] for row in rows} == dict(FLAGS)


def test_every_relation_is_listed_with_its_chance() -> None:
    rows = {row[0].strip("`"): row for row in _rows(_section("## Relations"))}
    assert list(rows) == [r.relation for r in PROBES.relations]
    # 4 sports: 1 in 4. 14 cities: 1 in 14 = 7.14 %. 19 capitals: 5.26 %.
    assert rows["plays_sport"][3:] == ["12", "4", "25.0 %"]
    assert rows["company_hq"][3:] == ["20", "14", "7.1 %"]
    assert rows["country_capital_city"][3:] == ["19", "19", "5.3 %"]
    assert rows["official_language"][2] == "`In {}, the official language is`"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("## How it was made", "kept to the letter"),
        ("## Limits", r"above 0\.75 .* below 0\.10"),
        ("## Limits", "by construction"),
        ("## Limits", r"36 facts are tied to a date"),
        ("## Limits", "In 13 rows the subject holds the answer"),
        ("## Limits", "English only"),
        ("## Relations", "55 answers have several words, among them all 47 answers"),
        ("## Citation", r"2506\.03434"),
        ("## Citation", "Hakimi, Ahmad Dawar"),
        ("## Licence", "CC BY 4.0"),
        ("## Checks", "Great Expectations"),
        ("## Loading", r'load_dataset\("datasets/fact-probes", "facts"'),
    ],
)
def test_the_card_says(section: str, said: str) -> None:
    assert re.search(said, " ".join(_section(section).split()))


def test_nothing_is_left_to_fill_in() -> None:
    body = TEXT.split("---\n", 2)[2]
    assert not re.search(r"\$\w|\bNone\b|\{\{|<org>", body)
