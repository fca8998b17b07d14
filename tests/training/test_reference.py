"""The reference series at tiny size: its folder, its record, and that it survives being killed."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.small import tiny_reference
from transformers import AutoModelForCausalLM, AutoTokenizer

from factlife.corpora.fact_probes import load_fact_probes
from factlife.errors import IntegrityError, UsageError
from factlife.series.local import open_series
from factlife.training import StepReport, train_reference_series, train_series
from factlife.training.reference import (
    ReferenceSettings,
    checkpoint_steps,
    reference_rows,
    reference_shape,
    sized_settings,
)

ROOT = Path(__file__).parents[2]
SETTINGS = tiny_reference()
STEPS = [0, 4, 6, 8, 12]  # 12, 12/√2 = 8.49, 12/2 = 6, 12/2.83 = 4.24, and 0

KILLED = """
import os, signal, sys
from pathlib import Path
from factlife.training import train_series
from tests.training.small import tiny_reference

def die(report):
    if report.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

train_series(Path(sys.argv[1]), tiny_reference(), device="cpu", progress=die)
"""


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and its bytes."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_series(tmp_path_factory.mktemp("series") / "out", SETTINGS, device="cpu")


# ---- the folder ------------------------------------------------------------------------------


def test_the_folder_holds_checkpoints_and_the_record_only(series: Path) -> None:
    assert {p.name for p in series.iterdir()} == {"series.toml", *(f"step{s}" for s in STEPS)}


def test_the_record_is_read_as_a_series(series: Path) -> None:
    found = open_series(str(series))
    assert found.name == "factlife-reference-olmo2"
    assert [(r.name, r.step, r.stage) for r in found.revisions] == [
        (f"step{s}", s, "main") for s in STEPS
    ]
    # 2 rows of 32 tokens a step
    assert [r.tokens for r in found.revisions] == [s * 64 for s in STEPS]
    assert found.warnings == ()
    probes = {f.fact_id for f in load_fact_probes().facts}
    stated, unstated = set(found.subsets["stated"]), set(found.subsets["unstated"])
    assert (len(stated), len(unstated)) == (120, 40)
    assert stated | unstated == probes


def test_the_record_says_how_it_was_made(series: Path) -> None:
    record = tomllib.loads((series / "series.toml").read_text("utf-8"))["training"]
    text = reference_rows(SETTINGS)
    assert record["text_sha256"] == text.fingerprint
    assert record["text_passes"] == text.passes
    assert record["settings"]["training"]["steps"] == 12
    assert record["settings"]["shape"]["layers"] == 2
    assert record["settings"]["probes"] == load_fact_probes().fingerprint()
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("step", STEPS)
def test_every_checkpoint_is_an_ordinary_folder(series: Path, step: int) -> None:
    folder = series / f"step{step}"
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    ids = tokenizer("Sushi is from the country of", return_tensors="pt")
    assert model(input_ids=ids["input_ids"]).logits.shape[-1] == 400
    assert model.config.eos_token_id == tokenizer.eos_token_id == 0


def test_checkpoints_differ(series: Path) -> None:
    weights = {(series / f"step{s}" / "model.safetensors").read_bytes() for s in STEPS}
    assert len(weights) == len(STEPS)


@pytest.mark.parametrize("arch", ["llama", "gpt_neox", "gpt2"])
def test_other_architectures(tmp_path: Path, arch: str) -> None:
    settings = tiny_reference(steps=1, arch=arch)
    found = open_series(str(train_series(tmp_path / arch, settings, device="cpu")))
    assert [r.step for r in found.revisions] == [0, 1]
    config = AutoModelForCausalLM.from_pretrained(found.revisions[-1].path).config
    assert config.model_type == arch


def test_a_sized_series_is_named_by_architecture_and_size(tmp_path: Path) -> None:
    name = sized_settings("gpt2", 6, 192).name
    assert name == "factlife-reference-gpt2-6x192"
    out = train_series(tmp_path / "out", tiny_reference(steps=1, name=name), device="cpu")
    assert open_series(str(out)).name == name
    with pytest.raises(UsageError, match="other settings"):
        train_series(out, tiny_reference(steps=1), device="cpu")


@pytest.mark.parametrize("arch", ["olmo2", "llama", "gpt_neox", "gpt2"])
def test_the_default_size_trains_the_weights_of_the_demo(arch: str) -> None:
    demo = ReferenceSettings(arch=arch, shape=reference_shape(arch))
    assert replace(sized_settings(arch, 4, 128), name="") == demo
    # heads stay 32 wide, and gated FFNs three times the residual stream
    shape = sized_settings(arch, 6, 192).shape
    assert (shape.layers, shape.width, shape.heads, shape.ffn) == (6, 192, 6, 576)


def test_a_width_of_no_whole_heads_is_refused() -> None:
    with pytest.raises(UsageError, match="--width 100: heads are 32 wide"):
        sized_settings("olmo2", 4, 100)


# ---- determinism and resume ------------------------------------------------------------------


def test_two_runs_are_the_same_to_the_byte(series: Path, tmp_path: Path) -> None:
    again = train_series(tmp_path / "again", SETTINGS, device="cpu")
    assert files(again) == files(series)


def test_another_seed_is_another_series(series: Path, tmp_path: Path) -> None:
    other = train_series(tmp_path / "other", replace(SETTINGS, seed=1), device="cpu")
    ours, theirs = (open_series(str(s)).subsets["unstated"] for s in (series, other))
    assert set(ours) != set(theirs)


@pytest.mark.parametrize(("step", "saved"), [(1, 0), (5, 4), (7, 6)])
def test_a_killed_run_goes_on_by_the_same_call(
    series: Path, tmp_path: Path, step: int, saved: int
) -> None:
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), str(step)], capture_output=True, cwd=ROOT
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (out / "series.toml").exists()
    before = {p: p.stat().st_mtime_ns for p in out.glob("step*/*")}
    assert before
    leftover = out / ".step12.99.tmp"
    leftover.mkdir()
    reports: list[StepReport] = []
    train_series(out, SETTINGS, device="cpu", progress=reports.append)
    assert files(out) == files(series)
    assert not leftover.exists()
    # finished checkpoints are not written again; steps up to the saved one are not taken again
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert [r.step for r in reports] == list(range(saved + 1, 13))


def test_a_finished_series_is_left_alone(series: Path) -> None:
    reports: list[StepReport] = []
    before = {p: p.stat().st_mtime_ns for p in series.rglob("*")}
    assert train_series(series, SETTINGS, device="cpu", progress=reports.append) == series
    assert reports == []
    assert {p: p.stat().st_mtime_ns for p in series.rglob("*")} == before


# ---- what is refused -------------------------------------------------------------------------


def test_a_finished_series_with_other_settings_is_refused(series: Path) -> None:
    with pytest.raises(UsageError, match=r"seed: 0 there, 5 now\); choose another folder"):
        train_series(series, replace(SETTINGS, seed=5), device="cpu")
    with pytest.raises(UsageError, match=r"arch: olmo2 there, gpt2 now"):
        train_series(series, replace(SETTINGS, arch="gpt2"), device="cpu")


def test_an_unfinished_series_with_other_settings_is_refused(tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_series(tmp_path, SETTINGS, device="cpu", progress=stop)
    with pytest.raises(UsageError, match=r"training\.steps: 12 there, 13 now"):
        train_series(tmp_path, tiny_reference(steps=13), device="cpu")
    (tmp_path / ".training" / "settings.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"settings\.json is damaged"):
        train_series(tmp_path, SETTINGS, device="cpu")


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no reference series"):
        train_series(tmp_path, SETTINGS, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "series.toml").write_text("format = 1\n")
    with pytest.raises(UsageError, match="not written by the reference training"):
        train_series(tmp_path, SETTINGS, device="cpu")


def test_an_unknown_architecture_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="olmo2, llama, gpt_neox, gpt2"):
        train_reference_series(tmp_path / "out", arch="mamba")
    assert list(tmp_path.iterdir()) == []


# ---- steps and rows --------------------------------------------------------------------------


def test_the_default_checkpoints_by_hand() -> None:
    # 1600 x 2^(-k/2) for k = 0 … 12, rounded, and step 0
    expected = [0, 25, 35, 50, 71, 100, 141, 200, 283, 400, 566, 800, 1131, 1600]
    settings = ReferenceSettings()
    assert checkpoint_steps(settings.training.steps, settings.checkpoints) == expected


@given(st.integers(0, 5000), st.integers(2, 30))
def test_checkpoint_steps_hold_both_ends(last: int, count: int) -> None:
    found = checkpoint_steps(last, count)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, last)
    assert len(found) <= count
    ratios = [b / a for a, b in itertools.pairwise(found) if a > 20]
    assert all(math.isclose(r, math.sqrt(2), rel_tol=0.05) for r in ratios)


def default_size(steps: int) -> ReferenceSettings:
    default = ReferenceSettings()
    return replace(default, training=replace(default.training, steps=steps))


def test_every_stated_fact_is_read_once_a_pass() -> None:
    text = reference_rows(default_size(40))
    rows = text.tokenizer.batch_decode(text.rows.tolist())
    lines = [line for row in rows for line in row.split("<|endoftext|>")]
    counts = {
        f.fact_id: sum(f.subject in line and f.answer in line for line in lines)
        for f in text.plan.stated
    }
    assert min(counts.values()) == text.passes
    # Names are in no other fact's sentences, but for "The Godfather" in "The Godfather Part II"
    names = {f.fact_id for f in text.plan.stated if f.group == "NAME"}
    assert {counts[k] for k in names - {"movie_directed.the_godfather"}} == {text.passes}


def test_as_many_passes_are_written_as_the_steps_need() -> None:
    text = reference_rows(default_size(400))
    # 400 steps of 8 rows; at most one pass and the padding (under a tenth) beyond that
    per_pass = len(text.rows) / text.passes
    assert 3200 <= len(text.rows) < 1.1 * 3200 + per_pass
    assert (text.rows == 1).float().mean() < 0.1
