"""The folder `datasets/` works as data set repositories, and never as a Python package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.fact_probes.tables import arrow_tables

ROOT = Path(__file__).parents[2]

_LOAD = """
import json, sys
import datasets
found = {"library": datasets.__file__}
for config in ("facts", "prompts", "unseen", "relations"):
    # Before anything is loaded: later the library answers from its cache, not from the card.
    card = datasets.load_dataset_builder("datasets/fact-probes", config).info
    loaded = datasets.load_dataset("datasets/fact-probes", config)
    split = loaded["test"]
    # Read as mere parquet, what is known of a file comes from the file and not from the card.
    path = f"datasets/fact-probes/{config}.parquet"
    plain = datasets.load_dataset("parquet", data_files={"test": path}, split="test")
    found[config] = {
        "splits": list(loaded),
        "rows": split.to_list(),
        "features": [str(split.features), str(plain.features)],
        "bytes": plain.info.splits["test"].num_bytes,
        "card": [str(card.features), card.splits["test"].num_examples,
                 card.splits["test"].num_bytes, card.dataset_size, card.download_size],
    }
found["default"] = len(datasets.load_dataset("datasets/fact-probes", split="test"))
json.dump(found, open(sys.argv[1], "w"))
"""


def _offline(cache: Path) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache)}
    return {**env, **offline, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the Hugging Face library reads from the checkout, without a network or a cache."""
    folder = tmp_path_factory.mktemp("hf")
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder / "found.json")],
        cwd=ROOT,
        env=_offline(folder / "cache"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "found.json").read_text()))


def test_import_datasets_from_the_repo_root_is_the_hugging_face_library(
    loaded: dict[str, Any],
) -> None:
    library = Path(loaded["library"])
    assert library.name == "__init__.py"
    assert ROOT / "datasets" not in library.parents


def test_no_python_file_is_under_datasets() -> None:
    assert list((ROOT / "datasets").rglob("*.py")) == []


@pytest.mark.parametrize("config", ["facts", "prompts", "unseen", "relations"])
def test_every_config_loads_offline_with_every_row(loaded: dict[str, Any], config: str) -> None:
    table = arrow_tables(load_fact_probes())[config]
    assert loaded[config]["splits"] == ["test"]
    assert loaded[config]["rows"] == table.to_pylist()


@pytest.mark.parametrize("config", ["facts", "prompts", "unseen", "relations"])
def test_the_card_announces_what_the_library_finds(loaded: dict[str, Any], config: str) -> None:
    found = loaded[config]
    features, num_examples, num_bytes, dataset_size, download_size = found["card"]
    assert found["features"] == [features, features]
    assert num_examples == len(found["rows"])
    assert num_bytes == dataset_size == found["bytes"]
    assert download_size == (ROOT / "datasets/fact-probes" / f"{config}.parquet").stat().st_size


def test_the_facts_are_the_default_config(loaded: dict[str, Any]) -> None:
    assert loaded["default"] == 160


def test_the_example_on_the_card_prints_what_the_card_says(tmp_path: Path) -> None:
    text = (ROOT / "datasets/fact-probes/README.md").read_text(encoding="utf-8")
    match = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert match is not None
    code = match.group(1)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=_offline(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    promised = re.findall(r"^print\(.*\)\s+# (.*)$", code, re.MULTILINE)
    assert len(promised) == 3
    assert done.stdout.splitlines() == promised
