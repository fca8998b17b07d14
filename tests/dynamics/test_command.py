"""`factlife study dynamics`: planned, trained, resumed, refused; and the demo's own runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.dynamics.small import SMALL, profile
from tests.training.small import tiny_reference
from typer.testing import CliRunner

from factlife.cli import app
from factlife.config import Recall, load_profile
from factlife.errors import UsageError
from factlife.result import load_result
from factlife.runner import demo as demos
from factlife.runner import dynamics as runner
from factlife.runner.dynamics import (
    Shape,
    corpus_fingerprint,
    plan_study,
    shaped,
    study,
    study_profile,
    train_beside,
)
from factlife.runner.progress import Silent
from factlife.runner.score import score_run
from factlife.runner.validate import validate
from factlife.store import RunStore
from factlife.training import train_series

TOML = """
name = "small"
[dynamics]
people = [40]
steps = [12]
attributes = 2
values = 4
names = [8, 8, 8]
held_out = 12
width = 16
heads = 2
ffn = 24
batch_rows = 8
evaluations = 8
eval_people = 8
[execution]
device = "cpu"
"""


@pytest.fixture
def small_toml(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def call(*words: Any) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["study", "dynamics", *(str(w) for w in words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_study_from_the_command_line_and_again(small_toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, stdout, stderr = call("--size", small_toml, "--out", out, "--arch", "gpt2")
    assert code == 0 and stdout.strip() == str(out)
    assert "1 runs trained, 0 kept from before" in stderr and "C11" in stderr
    result = load_result(out / "result.json")
    assert result["series"][0]["revision"] == "n40.uniform.s0"
    assert (out / "report.html").stat().st_size > 10_000
    assert validate(out)["model"]["architecture"] == "gpt2"
    before = RunStore(out).digest("biography_eval")
    code, _, stderr = call("--size", small_toml, "--out", out, "--arch", "gpt2")
    assert code == 0 and "0 runs trained, 1 kept from before" in stderr
    assert RunStore(out).digest("biography_eval") == before


def test_another_study_in_one_folder_is_refused(small_toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert call("--size", small_toml, "--out", out)[0] == 0
    code, _, stderr = call("--size", small_toml, "--out", out, "--width", 32)
    assert code == 2 and "belongs to another measurement" in stderr


def test_a_plan_says_what_would_be_trained_and_trains_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, stdout, _ = call("--size", "cpu", "--plan", "--json", "--out", out)
    plan = json.loads(stdout)
    assert code == 0 and not out.exists()
    names = [r["name"] for r in plan["runs"]]
    assert {"n512.uniform.s0", "n2048.warm_up.s2", "n512.patched.r20.s1"} <= set(names)
    first = plan["runs"][0]
    # 6 FLOPs a parameter and token.
    assert first["flops"] == pytest.approx(6 * plan["parameters"] * first["tokens"], rel=1e-6)
    assert plan["flops"] == pytest.approx(sum(r["flops"] for r in plan["runs"]))
    assert "FLOPs" in call("--size", "cpu", "--plan", "--out", out)[1]


def test_the_published_size_costs_what_the_paper_says(tmp_path: Path) -> None:
    """One run of 64k people: 16 000 steps of 128 biographies of 6 sentences, 25 M parameters."""
    published = study_profile("published", Shape(seeds=1))
    one = replace(published.dynamics, people=(65536,), steps=(16000,), distribution_size=0,
                  patch_size=0, fine_tune_size=0)  # fmt: skip
    plan = plan_study(replace(published, dynamics=one), tmp_path)
    assert 20e6 < plan.parameters < 35e6
    # Our sentences are shorter than the paper's (about 2.8e17 there).
    assert 1e16 < plan.flops < 3e17


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "tiny"], "--size tiny: choose demo, cpu, gpu, published"),
        (["--size", "none.toml"], "no such profile file"),
        (["--arch", "gpt3"], "neither one of olmo2, llama, gpt_neox, gpt2 nor a model folder"),
        (["--width", "0"], "--width"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    code, _, stderr = call(*words, "--out", tmp_path / "run")
    assert code == 2 and message in " ".join(stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_a_shape_that_the_architecture_has_not_is_refused(small_toml: Path, tmp_path: Path) -> None:
    code, _, stderr = call("--size", small_toml, "--out", tmp_path / "run", "--width", 33)
    assert code == 2 and "llama of width 33 with 1 heads" in " ".join(stderr.split())
    assert shaped(SMALL, Shape(width=20)).heads == 2  # of width 10
    assert shaped(SMALL, Shape(width=18)).heads == 1  # two would be 9 wide, which is odd


def test_a_population_beyond_the_names_is_refused(small_toml: Path, tmp_path: Path) -> None:
    small_toml.write_text(TOML.replace("people = [40]", "people = [600]"))
    code, _, stderr = call("--size", small_toml, "--out", tmp_path / "run")
    assert code == 2 and "but the names allow 512" in stderr


# ---- shapes ----------------------------------------------------------------------------------


def test_a_given_models_shape_is_taken_and_scaled(tmp_path: Path) -> None:
    config = {
        "model_type": "gpt_neox", "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = shaped(SMALL, Shape(arch=str(tmp_path)))
    assert (own.arch, own.layers, own.width, own.heads) == ("gpt_neox", 12, 768, 12)
    assert own.ffn == 2048  # ungated: 3/2 of it are the model's 3072
    scaled = shaped(SMALL, Shape(arch=str(tmp_path), width=96, depth=2))
    assert (scaled.layers, scaled.width, scaled.heads, scaled.ffn) == (2, 96, 12, 256)
    odd = shaped(SMALL, Shape(arch=str(tmp_path), width=100))
    assert odd.width % odd.heads == 0 and odd.heads == 10


def test_gpt2s_own_names_of_sizes_are_read(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = shaped(SMALL, Shape(arch=str(tmp_path)))
    assert (own.width, own.layers, own.heads, own.ffn) == (48, 3, 4, 128)  # 4 x 48 x 2 / 3


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"model_type": "mamba"}', "cannot be trained from scratch"), ("{", "no usable config")],
)
def test_a_model_folder_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        shaped(SMALL, Shape(arch=str(tmp_path)))


def test_a_profile_without_people_trains_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n')
    with pytest.raises(UsageError, match="no people"):
        study_profile(str(path), Shape())


# ---- beside a run ----------------------------------------------------------------------------


def test_the_demo_trains_512_people_once() -> None:
    settings = load_profile("demo").dynamics
    assert settings.people == (512,) and settings.seeds == 1
    assert "dynamics" in load_profile("demo").tracks


def test_models_are_trained_beside_what_a_folder_holds(tmp_path: Path) -> None:
    first = study(profile(SMALL), tmp_path, "x", Silent())
    assert len(first.trained) == 2
    more = replace(SMALL, people=(40, 48), steps=(12, 12))
    done = train_beside(more, tmp_path, Silent())
    assert done.trained == ("n48.uniform.s0", "n48.uniform.s1") and len(done.reused) == 2
    score_run(tmp_path)
    with pytest.raises(UsageError, match="no such run folder"):
        train_beside(more, tmp_path / "none", Silent())


def test_the_demo_has_a_stage_of_its_own_for_the_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def series(out: Path, **_: Any) -> Path:
        return train_series(out, tiny_reference(4), device="cpu")

    tiny = replace(
        profile(replace(SMALL, seeds=1, names=(64, 64, 64))),
        tracks=("recall", "dynamics"),
        recall=Recall(templates="source", generation="none"),
    )
    monkeypatch.setattr(demos, "train_reference_series", series)
    monkeypatch.setattr(demos, "load_profile", lambda _: tiny)
    made = demos.demo(tmp_path / "demo", arch="gpt2", seed=0, command="x", progress=Silent())
    stages = {s.name: s for s in made.stages}
    assert stages["dynamics"].budget == 60 and stages["dynamics"].seconds > 0
    assert stages["dynamics"].detail == "1 models trained, 0 kept from before"
    (row,) = RunStore(tmp_path / "demo").read("dynamics_runs").to_pylist()
    assert row["arch"] == "gpt2"
    claims = RunStore(tmp_path / "demo").read("dynamics_claims").to_pylist()
    assert {c["scope"] for c in claims} == {"scratch", "series"}
    assert validate(tmp_path / "demo")["metrics"]["dynamics.final_loss"]["value"] is not None
    again = demos.demo(tmp_path / "demo", arch="gpt2", seed=0, command="x", progress=Silent())
    assert again.result["metrics"] == made.result["metrics"]


def test_a_study_without_a_finished_run_cannot_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(runner.Study, "run", stop)
    with pytest.raises(StoppedError):
        study(profile(SMALL), tmp_path, "x", Silent())
    with pytest.raises(UsageError, match="holds no finished run"):
        score_run(tmp_path)


def test_the_fingerprint_is_of_what_biographies_are_made_of() -> None:
    assert corpus_fingerprint() == corpus_fingerprint() and len(corpus_fingerprint()) == 64
