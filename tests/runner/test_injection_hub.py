"""Start revisions that lie on the Hub: fetched by commit, trained from, and removed again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.drive import Driver
from tests.hubserver import LoopbackHub, files_of
from tests.tiny import byte_level_tokenizer, save_checkpoint

from factlife.runner.injection import WORK, WRITTEN
from factlife.store import RunStore

Files = dict[str, bytes]
STEPS = (10, 30, 100)
PROFILE = """
name = "tiny"
tracks = ["recall", "injection"]
[recall]
templates = "source"
generation = "none"
candidates = false
[intervals]
draws = 100
[injection]
starts = ["mid", "late"]
seeds = 1
per_arm = 2
controls = 2
lead_in = 2
injections = 2
interval = 2
after = 2
window = 2
batch_rows = 8
context = 32
heldout_rows = 2
background_runs = "last"
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """Random checkpoints of one model; the middle one has no tokenizer of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("made"), byte_level_tokenizer()
    made = [files_of(save_checkpoint(folder / str(i), "llama", i, tokenizer)) for i in range(4)]
    made[1] = {k: v for k, v in made[1].items() if not k.startswith(("tokenizer", "special"))}
    return made


@pytest.fixture(scope="module")
def hub(checkpoints: list[Files]) -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        repo = running.repo("org/tiny")
        for step, files in zip(STEPS, checkpoints, strict=False):
            repo.commit(f"step{step}-tokens{step}B", files)
        repo.commit("main", checkpoints[2])
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def drive(hub: LoopbackHub, home: Path) -> Iterator[Driver]:
    with Driver(hub.environment(home)) as driver:
        yield driver


def weights(home: Path) -> list[Path]:
    """Weight files in the cache."""
    found = home.rglob("*.safetensors")
    return [p for p in found if p.exists()]


def tables(root: Path) -> dict[str, list[dict[str, Any]]]:
    read: dict[str, pa.Table] = {name: RunStore(root).read(name) for name in WRITTEN}
    read["training_log"] = read["training_log"].drop(["seconds"])
    read["injection_runs"] = read["injection_runs"].drop(["series"])
    return {name: table.to_pylist() for name, table in read.items()}


def test_starts_on_the_hub_give_the_tables_of_a_folder_and_leave_nothing(
    hub: LoopbackHub, drive: Driver, home: Path, tmp_path: Path, checkpoints: list[Files]
) -> None:
    (tmp_path / "tiny.toml").write_text(PROFILE)
    out, words = tmp_path / "run", ("--profile", tmp_path / "tiny.toml", "--json")
    done = drive("run", "org/tiny", *words, "--out", out)
    assert done.code == 0, done.stderr
    ours = tables(out)
    starts = {(r["injection_run"], r["revision"]) for r in ours["injection_runs"]}
    mid, late = ("step30-tokens30B", "step100-tokens100B")
    assert starts == {("mid-seed0", mid), ("late-seed0", late), ("background-late-seed0", late)}
    assert all(re.search(r"/resolve/[0-9a-f]{40}/", p) for p in hub.downloads())
    assert not weights(home) and not (out / ".downloads").exists() and not (out / WORK).exists()

    hub.log.clear()
    again = drive("run", "org/tiny", *words, "--out", out)
    assert again.code == 0 and hub.downloads() == []
    assert tables(out) == ours

    # The same weights in folders: the same rows, but for the name of the series.
    local = tmp_path / "local"
    for step, files in zip(STEPS, checkpoints, strict=False):
        folder = local / f"step{step}-tokens{step}B"
        folder.mkdir(parents=True)
        for name, data in {**checkpoints[2], **files}.items():
            (folder / name).write_bytes(data)
    made = drive("run", local, *words, "--out", tmp_path / "other")
    assert made.code == 0, made.stderr
    assert tables(tmp_path / "other") == ours

    # The branch moves on: its runs begin anew from the new weights, the others are kept.
    for branch in (late, "main"):
        hub.repos["org/tiny"].commit(branch, checkpoints[3])
    moved = drive("run", "org/tiny", *words, "--out", out)
    assert moved.code == 0, moved.stderr
    now = tables(out)

    def of(found: dict[str, list[dict[str, Any]]], run: str) -> list[dict[str, Any]]:
        return [r for r in found["probes"] if r["injection_run"] == run]

    assert of(now, "mid-seed0") == of(ours, "mid-seed0")
    assert of(now, "late-seed0") != of(ours, "late-seed0")
    assert not weights(home) and not (out / ".downloads").exists()


def test_a_start_that_was_in_the_cache_stays_there(
    hub: LoopbackHub, drive: Driver, home: Path, tmp_path: Path
) -> None:
    """What a user had downloaded is the user's."""
    shutil.rmtree(home / "hub", ignore_errors=True)
    (tmp_path / "tiny.toml").write_text(PROFILE)
    words = ("--profile", tmp_path / "tiny.toml", "--json")
    first = drive("run", "org/tiny", *words, "--out", tmp_path / "a", "--keep-cache")
    assert first.code == 0, first.stderr
    kept = len(weights(home))
    assert kept >= 3
    hub.log.clear()
    second = drive("run", "org/tiny", *words, "--out", tmp_path / "b")
    assert second.code == 0, second.stderr
    assert len(weights(home)) == kept
    assert not any(p.endswith(".safetensors") for p in hub.downloads())
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
