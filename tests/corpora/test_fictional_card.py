"""The published folder: rebuilt to the byte, loaded offline, and a card that tells the truth."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from factlife.corpora.build import DATA_SETS, validate
from factlife.corpora.fictional import lint, product
from factlife.corpora.fictional.kinds import PER_GROUP
from factlife.corpora.fictional.private import content_sha256
from factlife.corpora.fictional.tables import TABLES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets" / "fictional-knowledge"

_LOAD = """
import json, sys
import datasets
from factlife.corpora.fictional.private import content_sha256
found = {"rows": {}, "splits": {}, "announced": {}}
for config in ("passages", "probes", "background"):
    info = datasets.load_dataset_builder("datasets/fictional-knowledge", config).info
    loaded = datasets.load_dataset("datasets/fictional-knowledge", config)
    found["splits"][config] = list(loaded)
    found["rows"][config] = loaded["public"].to_list()
    split = info.splits["public"]
    found["announced"][config] = [str(info.features), split.num_examples]
    found["announced"][config] += [str(loaded["public"].features), info.download_size]
found["default"] = len(datasets.load_dataset("datasets/fictional-knowledge", split="public"))
json.dump(found, open(sys.argv[1], "w"))
"""


def _run(code: str, tmp: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp / "cache")}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT / "benchmark")}
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
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hf")
    _run(_LOAD, folder, str(folder / "found.json"))
    return dict(json.loads((folder / "found.json").read_text()))


def test_building_gives_the_committed_bytes(tmp_path: Path) -> None:
    written = product.build_public(tmp_path)
    assert {p.name for p in written} == {p.name for p in FOLDER.iterdir()}
    for path in written:
        here = hashlib.sha256(path.read_bytes()).hexdigest()
        assert here == hashlib.sha256((FOLDER / path.name).read_bytes()).hexdigest(), path.name


def test_the_suite_and_the_rules_pass_on_the_committed_folder() -> None:
    checks = sum(map(len, product.SUITES.values())) + len(TABLES) + len(lint.RULES)
    assert validate(ROOT / "datasets", ["fictional-knowledge"]) == {"fictional-knowledge": checks}


def test_the_data_set_is_registered_with_its_own_parts() -> None:
    assert DATA_SETS["fictional-knowledge"].rules is lint.RULES


@pytest.mark.parametrize("config", TABLES)
def test_every_config_loads_offline_with_every_row(config: str, loaded: dict[str, Any]) -> None:
    assert loaded["splits"][config] == ["public"]
    assert loaded["rows"][config] == product.public_rows()[config]
    features, n, seen, size = loaded["announced"][config]
    assert features == seen
    assert n == len(loaded["rows"][config])
    assert size == (FOLDER / f"{config}.parquet").stat().st_size


def test_passages_are_the_default_config(loaded: dict[str, Any]) -> None:
    assert loaded["default"] == 160


def test_the_header_holds_what_the_hub_asks_for(card: str) -> None:
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["language"] == ["en"]
    assert header["pretty_name"] == "Fictional knowledge"
    assert {c["config_name"] for c in header["configs"]} == set(TABLES)
    assert {c["config_name"] for c in header["dataset_info"]} == set(TABLES)
    assert header["task_categories"]
    assert header["tags"]


@pytest.mark.parametrize(
    "section",
    [
        "Loading",
        "Arms and controls",
        "An example",
        "How it was made",
        "Measured quality",
        "Defects of the published corpus, and of this one",
        "The private split",
        "Limits",
        "Columns",
        "Validation",
        "Licence and citation",
    ],
)
def test_the_card_has_its_sections(section: str, card: str) -> None:
    assert f"\n## {section}\n" in card


def test_the_card_names_every_kind_column_and_the_hash_of_its_rows(card: str) -> None:
    assert all(f"| `{kind}` |" in card for kind in PER_GROUP)
    assert all(f"| `{c.name}` |" in card for t in TABLES.values() for c in t.columns)
    assert content_sha256(product.public_rows()) in card
    assert "$" not in card


@pytest.mark.parametrize(
    "line",
    [
        "| memorization probes that are not verbatim | 12 of 650 | 0 of 800 |",
        "| compositional targets that end in punctuation | 48 of 650 | 0 of 800 |",
        "| memorization targets shared between injected passages | 117 of 533 | 0 of 600 |",
        "| (paraphrase, target) pairs without the target | 35 % | 0 of 21,600 |",
        "| single-sentence shortcuts | 0 |",
        "| targets shared between passages | 0 |",
        "| sampled probes answered rightly with the passage at hand | 50 of 50 |",
        "| probes whose prefix holds a part of the name sought | 0 |",
        "| rows that break any of the rules | 0 |",
    ],
)
def test_the_card_prints_the_figures(line: str, card: str) -> None:
    assert line in card.splitlines()


def test_the_card_shows_paraphrases_as_long_as_their_passages(card: str) -> None:
    row = r"\| mean length of a paraphrase over its passage \| 0\.67 \| (\d\.\d\d) \|"
    match = re.search(row, card)
    assert match is not None
    assert 0.95 <= float(match.group(1)) <= 1.05


def test_the_example_on_the_card_prints_what_the_card_says(card: str, tmp_path: Path) -> None:
    match = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert match is not None
    promised = re.findall(r"^print\(.*\)\s+# (.*)$", match.group(1), re.MULTILINE)
    assert len(promised) == 4
    assert _run(match.group(1), tmp_path).splitlines() == promised


def test_the_exported_suites_are_read_by_great_expectations() -> None:
    gx = pytest.importorskip("great_expectations")
    for suite in json.loads((FOLDER / "expectations.json").read_text()).values():
        assert len(gx.ExpectationSuite(**suite).expectations) == len(suite["expectations"])
