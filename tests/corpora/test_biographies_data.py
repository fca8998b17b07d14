"""The published folder: each check finds its defect, it loads offline, and the card is true."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from factlife.corpora.biographies import Population, all_attributes, capacity, product, rules
from factlife.corpora.biographies.tables import PEOPLE, TABLES, rows
from factlife.corpora.build import DATA_SETS, validate
from factlife.corpora.expectations import Expectation, check_table
from factlife.errors import UsageError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets" / "synthetic-biographies"
ALL = [(config, e) for config, suite in product.SUITES.items() for e in suite]

Split = dict[str, list[dict[str, Any]]]


# ---- expectations ----------------------------------------------------------------------------

# A value that each column's pattern, set or range refuses, and why.
WRONG_VALUE: dict[str, Any] = {
    "person_id": -1,
    "full_name": "Ann Bell",  # two names
    "birth_place": "Alderbeck ",  # a space at the end
    "current_location": "Avel-bar",
    "university": "",
    "major": "Law\n",  # a line break at the end, which `$` alone would let through
    "company": "Abrion Foods.",
    "birth_date": "32 March 1954",
    "biography": "He was born in Alderbeck.",  # the full stop is not apart
    "attribute": "shoe_size",
    "label": "Birth Place",
    "n_values": 99,
    "no_knowledge_nats": 12.0,
    "template_id": "birth_place.25",  # 00 to 24
    "text": "{value} is where {name} was born .",
}


@pytest.fixture(scope="module")
def clean() -> dict[str, pa.Table]:
    return {name: pq.read_table(FOLDER / f"{name}.parquet") for name in TABLES}


def _replace(table: pa.Table, row: int, column: str, value: Any) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    at = table.column_names.index(column)
    return table.set_column(at, column, pa.array(values, table.schema.field(column).type))


def _broken(table: pa.Table, expectation: Expectation) -> tuple[pa.Table, int | None]:
    """The table with one defect for this expectation, and how many bad rows that makes."""
    kind, kwargs = expectation.type, expectation.kwargs
    if kind == "expect_table_columns_to_match_ordered_list":
        return table.select(table.column_names[::-1]), None
    if kind == "expect_table_row_count_to_equal":
        return table.slice(1), None
    column = kwargs["column"]
    if kind == "expect_column_values_to_be_unique":
        return _replace(table, 1, column, table[column][0].as_py()), 2
    if kind == "expect_column_values_to_not_be_null":
        return _replace(table, 3, column, None), 1
    return _replace(table, 3, column, WRONG_VALUE[column]), 1


@pytest.mark.parametrize("config", TABLES)
def test_the_data_meets_its_suite(config: str, clean: dict[str, pa.Table]) -> None:
    suite = product.SUITES[config]
    assert check_table(config, clean[config], suite, TABLES[config].key) == []


@pytest.mark.parametrize(
    ("config", "expectation"), ALL, ids=[f"{config}-{e.name[:60]}" for config, e in ALL]
)
def test_every_expectation_finds_a_planted_defect(
    config: str, expectation: Expectation, clean: dict[str, pa.Table]
) -> None:
    # Some rows are enough, and what the size of the whole table says does not matter here.
    table, n_bad = _broken(clean[config].slice(0, 40), expectation)
    (failure,) = check_table(config, table, [expectation], TABLES[config].key)
    assert (failure.config, failure.check) == (config, expectation.name)
    assert failure.bad_rows == n_bad
    assert not failure.detail.startswith("could not run")


# ---- rules -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound() -> Split:
    return rows(Population.make(40, 5, unseen=10), [5])


def _rename(s: Split) -> None:
    s["people"][3]["full_name"] = "Somebody Quite Else"


def _hyphen(s: Split) -> None:
    name = s["unseen"][3]["last_name"]
    s["unseen"][3]["last_name"] = f"{name}-Smith"
    s["unseen"][3]["full_name"] += "-Smith"


def _other_value(s: Split) -> None:
    s["people"][3]["major"] = "Alchemy"


def _other_date(s: Split) -> None:
    s["unseen"][3]["birth_date"] = "3 March 1854"


def _half_date(s: Split) -> None:
    s["unseen"][3]["birth_date"] = "March 1954"


def _no_attribute(s: Split) -> None:
    s["attributes"].pop()


def _lose_eval_template(s: Split) -> None:
    s["people"][3]["eval_templates"].pop()


def _repeat_eval_template(s: Split) -> None:
    held = s["unseen"][3]["eval_templates"]
    held[1] = held[0]


def _unknown_eval_template(s: Split) -> None:
    s["people"][3]["eval_templates"][0] = "birth_place.99"


def _train_on_a_test(s: Split) -> None:
    p = s["people"][3]
    texts = {t["template_id"]: t["text"] for t in s["templates"]}
    for attribute in all_attributes():
        test = next(t for t in p["eval_templates"] if t.startswith(attribute))
        told = _tell(texts[test], p, attribute)
        for template, text in texts.items():
            if template.startswith(attribute):
                p["biography"] = p["biography"].replace(_tell(text, p, attribute), told)


def _tell(text: str, person: dict[str, Any], attribute: str) -> str:
    return text.replace("{name}", person["full_name"]).replace("{value}", person[attribute])


def _lie(s: Split) -> None:
    p = s["people"][3]
    p["biography"] = p["biography"].replace(p["university"], "Life")


def _of_somebody_else(s: Split) -> None:
    s["people"][3]["biography"] = s["people"][4]["biography"]


def _tell_less(s: Split) -> None:
    p = s["people"][3]
    p["biography"] = p["biography"].partition(" . ")[0] + " ."


def _tell_twice(s: Split) -> None:
    p = s["people"][3]
    p["biography"] += " " + p["biography"].partition(" . ")[0] + " ."


def _meet_again(s: Split) -> None:
    s["unseen"][3]["full_name"] = s["people"][5]["full_name"]


def _number_again(s: Split) -> None:
    s["unseen"][3]["person_id"] = s["people"][5]["person_id"]


def _lose_a_value(s: Split) -> None:
    s["attributes"][0]["parts"][0].pop()


def _wrong_loss(s: Split) -> None:
    s["attributes"][2]["no_knowledge_nats"] += 0.01


def _two_spellings(s: Split) -> None:
    values = s["attributes"][2]["parts"][0]
    values[1] = values[0].upper()


def _punctuated_value(s: Split) -> None:
    s["attributes"][2]["parts"][0][1] = "St. John College"


def _shared_value(s: Split) -> None:
    s["attributes"][1]["parts"][0][1] = s["attributes"][0]["parts"][0][1]


def _lose_a_template(s: Split) -> None:
    s["templates"].pop()


def _value_first(s: Split) -> None:
    s["templates"][30]["text"] = "{value} is where {name} lives in ."


def _comma(s: Split) -> None:
    s["templates"][30]["text"] = "Today, {name} lives in {value} ."


def _name_twice(s: Split) -> None:
    s["templates"][30]["text"] = "{name} says that {name} lives in {value} ."


def _orphan(s: Split) -> None:
    s["templates"][30]["attribute"] = "shoe_size"


def _mute(s: Split) -> None:
    s["templates"][30]["text"] = "{name} has something to do with {value} ."


def _of_two_minds(s: Split) -> None:
    s["templates"][30]["text"] = "{name} lives in a town and works for {value} ."


def _inside(s: Split) -> None:
    s["templates"][30]["text"] = f"Indeed {s['templates'][25]['text']}"


DEFECTS: list[tuple[Callable[[Split], None], str]] = [
    (_rename, "names_are_three_words"),
    (_hyphen, "unseen_names_are_three_words"),
    (_other_value, "values_are_listed"),
    (_other_date, "unseen_values_are_listed"),
    (_half_date, "unseen_values_are_listed"),
    (_no_attribute, "values_are_listed"),
    (_lose_eval_template, "five_eval_templates_of_each_attribute"),
    (_unknown_eval_template, "five_eval_templates_of_each_attribute"),
    (_repeat_eval_template, "unseen_have_five_eval_templates"),
    (_train_on_a_test, "biographies_use_no_eval_template"),
    (_lie, "biographies_tell_each_attribute_once"),
    (_of_somebody_else, "biographies_tell_each_attribute_once"),
    (_tell_less, "biographies_tell_each_attribute_once"),
    (_tell_twice, "biographies_tell_each_attribute_once"),
    (_meet_again, "unseen_people_are_not_known"),
    (_number_again, "unseen_people_are_not_known"),
    (_lose_a_value, "attributes_have_their_number_of_values"),
    (_wrong_loss, "attributes_have_their_number_of_values"),
    (_two_spellings, "values_have_one_spelling"),
    (_punctuated_value, "values_have_one_spelling"),
    (_shared_value, "values_belong_to_one_attribute"),
    (_lose_a_template, "twenty_five_templates_each"),
    (_value_first, "templates_are_well_formed"),
    (_comma, "templates_are_well_formed"),
    (_name_twice, "templates_are_well_formed"),
    (_orphan, "templates_are_well_formed"),
    (_mute, "templates_say_what_they_state"),
    (_of_two_minds, "templates_say_what_they_state"),
    (_inside, "templates_do_not_hold_one_another"),
]


def test_sound_tables_break_no_rule(sound: Split) -> None:
    assert {name: n for name, n in rules.defects(sound).items() if n} == {}
    published = {name: n for name, n in rules.defects(product.public_rows()).items() if n}
    assert published == {}


@pytest.mark.parametrize(("plant", "rule"), DEFECTS, ids=[plant.__name__ for plant, _ in DEFECTS])
def test_every_rule_finds_its_defect(
    plant: Callable[[Split], None], rule: str, sound: Split
) -> None:
    broken = copy.deepcopy(sound)
    plant(broken)
    assert rules.defects(broken)[rule] > 0


def test_every_rule_has_a_planted_defect() -> None:
    assert {rule for _, rule in DEFECTS} == {rule.name for rule in rules.RULES}


# ---- the folder ------------------------------------------------------------------------------

_LOAD = """
import json, sys
import datasets
found = {"rows": {}, "splits": {}, "announced": {}}
for config in ("people", "attributes", "templates", "unseen"):
    info = datasets.load_dataset_builder("datasets/synthetic-biographies", config).info
    loaded = datasets.load_dataset("datasets/synthetic-biographies", config)
    found["splits"][config] = list(loaded)
    found["rows"][config] = loaded["public"].to_list()
    split = info.splits["public"]
    found["announced"][config] = [str(info.features), split.num_examples]
    found["announced"][config] += [str(loaded["public"].features), info.download_size]
found["default"] = len(datasets.load_dataset("datasets/synthetic-biographies", split="public"))
json.dump(found, open(sys.argv[1], "w"))
"""


def _run(code: str, tmp: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp / "cache")}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hf")
    _run(_LOAD, folder, str(folder / "found.json"))
    return dict(json.loads((folder / "found.json").read_text()))


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", TABLES)
def test_every_config_loads_offline_with_every_row(config: str, loaded: dict[str, Any]) -> None:
    assert loaded["splits"][config] == ["public"]
    assert loaded["rows"][config] == product.public_rows()[config]
    features, n, seen, size = loaded["announced"][config]
    assert features == seen
    assert n == len(loaded["rows"][config])
    assert size == (FOLDER / f"{config}.parquet").stat().st_size


def test_people_are_the_default_config(loaded: dict[str, Any]) -> None:
    assert loaded["default"] == 4_096


def test_the_suite_and_the_rules_pass_on_the_committed_folder() -> None:
    name = "synthetic-biographies"
    checks = sum(map(len, product.SUITES.values())) + len(TABLES) + len(rules.RULES)
    assert validate(ROOT / "datasets", [name]) == {name: checks}
    assert DATA_SETS[name].rules is rules.RULES


def test_a_table_of_any_size_holds_the_rows_of_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "_ROWS", 8)
    assert product.write_people(tmp_path / "people.parquet", 20, 9) == 20
    table = pq.read_table(tmp_path / "people.parquet")
    assert table.column_names == [c.name for c in PEOPLE.columns]
    made = {**rows(Population.make(20, 9), [9]), "people": table.to_pylist()}
    assert {name: n for name, n in rules.defects(made).items() if n} == {}
    with pytest.raises(UsageError, match="the names allow"):
        product.write_people(tmp_path / "none.parquet", capacity() + 1, 9)
    assert not (tmp_path / "none.parquet").exists()


# ---- the card --------------------------------------------------------------------------------


def test_the_header_holds_what_the_hub_asks_for(card: str) -> None:
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["language"] == ["en"]
    assert header["pretty_name"] == "Synthetic biographies"
    assert {c["config_name"] for c in header["configs"]} == set(TABLES)
    assert {c["config_name"] for c in header["dataset_info"]} == set(TABLES)
    assert header["task_categories"]
    assert header["tags"]


@pytest.mark.parametrize(
    "section",
    [
        "Loading",
        "An example",
        "Attributes",
        "Templates and the split by person",
        "The generator",
        "How it was made",
        "Limits",
        "Columns",
        "Validation",
        "Licence and citation",
    ],
)
def test_the_card_has_its_sections(section: str, card: str) -> None:
    assert f"\n## {section}\n" in card


def test_the_card_names_every_attribute_and_column_and_its_figures(card: str) -> None:
    assert all(f"| `{name}` | {a.n_values:,} |" in card for name, a in all_attributes().items())
    assert all(f"| `{c.name}` |" in card for t in TABLES.values() for c in t.columns)
    assert "**6.784 nats**" in card
    assert f"{capacity():,}" in card
    assert "$" not in card


def test_the_example_on_the_card_prints_what_the_card_says(card: str, tmp_path: Path) -> None:
    match = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert match is not None
    promised = re.findall(r"^print\(.*\)\s+# (.*)$", match.group(1), re.MULTILINE)
    assert len(promised) == 3
    assert _run(match.group(1), tmp_path).splitlines() == promised


def test_the_text_on_the_card_is_the_first_row(card: str) -> None:
    told = re.findall(r"^- (.* \.)$", card, re.MULTILINE)
    assert " ".join(told) == product.public_rows()["people"][0]["biography"]


def test_the_exported_suites_are_read_by_great_expectations() -> None:
    gx = pytest.importorskip("great_expectations")
    for suite in json.loads((FOLDER / "expectations.json").read_text()).values():
        assert len(gx.ExpectationSuite(**suite).expectations) == len(suite["expectations"])
