"""Every wrong input: one line on stderr that says what, where and how to mend it, and its code."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from tests.tiny import byte_level_tokenizer, save_series
from typer.testing import CliRunner

from factlife import schema, store
from factlife.cli import app
from factlife.store import RunStore, canonical_json

PROFILE = """
name = "tiny"
[recall]
templates = "source"
generation = "none"
[intervals]
draws = 100
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "tiny.toml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_series(tmp_path_factory.mktemp("made") / "series")


@pytest.fixture
def series(pristine: Path, tmp_path: Path) -> Path:
    """A series that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "series"))


def call(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = CliRunner().invoke(app, [str(w) for w in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("factlife: error: ")]


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def truncate(series: Path) -> None:
    path = series / "step10" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_header(series: Path) -> None:
    path = series / "step10" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20] + b"\xff" * 20 + path.read_bytes()[40:])


def put_nan(series: Path) -> None:
    path = series / "step10" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})


def drop_tokenizer(series: Path) -> None:
    for file in (series / "step10").glob("tokenizer*"):
        file.unlink()


def pickle_only(series: Path) -> None:
    (series / "step10" / "model.safetensors").rename(series / "step10" / "pytorch_model.bin")


def empty(series: Path) -> None:
    shutil.rmtree(series)
    series.mkdir()


def odd_name(series: Path) -> None:
    (series / "series.toml").unlink()
    (series / "step10").rename(series / "best")


def add_subset(series: Path, line: str) -> None:
    path = series / "series.toml"
    path.write_text(path.read_text() + f"[fact_subsets]\n{line}\n")


BAD: list[tuple[Callable[[Path], Any], int, list[str]]] = [
    (shutil.rmtree, 2, ["no such folder: ", "series"]),
    (empty, 2, ["no checkpoint in ", "config.json and weights"]),
    (odd_name, 2, ["cannot read a step from the name of ", "best", "rename it to step<N>"]),
    (truncate, 4, ["step10/model.safetensors is truncated or corrupt", "copy it again"]),
    (flip_header, 4, ["step10/model.safetensors is truncated or corrupt", "copy it again"]),
    (put_nan, 4, ["step10", "model.norm.weight holds 1 NaN", "--exclude"]),
    (drop_tokenizer, 2, ["step10 has no tokenizer", "tokenizer.json"]),
    (
        lambda s: byte_level_tokenizer(900).save_pretrained(s / "step10"),
        2,
        ["step10: the tokenizer has 900 entries, the model's vocabulary 600"],
    ),
    (
        lambda s: edit_config(s / "step10", architectures=["BertForMaskedLM"]),
        2,
        ["step10: BertForMaskedLM is not a causal language model"],
    ),
    (
        lambda s: edit_config(s / "step10", auto_map={"AutoModelForCausalLM": "x.Y"}),
        2,
        ["step10", "runs code from its own repo", "--trust-remote-code"],
    ),
    (pickle_only, 2, ["step10 holds only pickled weights", "--allow-pickle-weights"]),
    (
        lambda s: (s / "step10" / "config.json").write_text("{"),
        4,
        ["step10/config.json is not JSON", "copy it again"],
    ),
    (
        lambda s: add_subset(s, 'told = ["food_from_country.shushi"]'),
        2,
        ["fact subset 'told': no fact has the id", "did you mean 'food_from_country.sushi'?"],
    ),
    (lambda s: add_subset(s, "LOC = []"), 2, ["fact subset 'LOC': the name is taken"]),
    (
        lambda s: (s / "series.toml").write_text('format = 1\nnam = "x"'),
        2,
        ["series.toml: unknown key 'nam' (did you mean 'name'?)"],
    ),
]


@pytest.mark.parametrize(("damage", "code", "parts"), BAD)
def test_a_series_that_cannot_be_measured(
    series: Path, tmp_path: Path, profile: str, damage: Any, code: int, parts: list[str]
) -> None:
    damage(series)
    got, _, stderr = call("run", series, "--profile", profile, "--out", tmp_path / "run")
    assert got == code, stderr
    (line,) = errors(stderr)
    for part in parts:
        assert part in line
    assert "Traceback" not in stderr


def test_a_broken_revision_may_be_left_out(series: Path, tmp_path: Path, profile: str) -> None:
    put_nan(series)
    out = tmp_path / "run"
    code, stdout, stderr = call(
        "run", series, "--profile", profile, "--out", out, "--exclude", "step10", "--json"
    )
    assert code == 0, stderr
    result = json.loads(stdout)["result"]
    assert [r["reason"] for r in result["series"]] == [None, "excluded by the user", None]
    assert "step10: excluded by the user" in result["integrity"]["warnings"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--profile", "standrd"], ["unknown profile 'standrd' (did you mean 'standard'?)"]),
        (["--profile", "none.toml"], ["no such profile file: none.toml"]),
        (["--tracks", "recal"], ["'recal' is not one of recall", "(did you mean 'recall'?)"]),
        (["--tracks", ","], ["--tracks is empty"]),
        (["--device", "cuda:77"], ["device 'cuda:77' cannot be used here"]),
        (["--exclude", "step7"], ["--exclude step7: no such revision", "step0, step10, step100"]),
    ],
)
def test_a_wrong_argument(
    pristine: Path, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    code, _, stderr = call("run", pristine, "--out", tmp_path / "run", *words)
    assert code == 2
    (line,) = errors(stderr)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "words", [["run"], ["run", "x", "--nonsense"], ["runn"], ["run", "x", "--batch-tokens", "0"]]
)
def test_a_command_line_that_does_not_parse(words: list[str]) -> None:
    code, _, stderr = call(*words)
    assert code == 2
    assert "Error" in stderr


# ---- the run folder --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untouched(pristine: Path, profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untouched") / "run"
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", out)
    assert code == 0, stderr
    return out


@pytest.fixture
def finished(untouched: Path, tmp_path: Path) -> Path:
    """A run that a test may damage or go on with."""
    return Path(shutil.copytree(untouched, tmp_path / "run"))


def tables_of(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted((run / "tables").rglob("*.p*"))}


def test_the_same_command_again_measures_nothing(
    pristine: Path, finished: Path, profile: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "tables" / "recall").rglob("*.parquet")}
    contents = tables_of(finished)
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", finished)
    assert code == 0
    assert "0 checkpoints measured, 3 kept from before" in stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert tables_of(finished) == contents


def test_a_damaged_part_is_noticed_and_measured_again(
    pristine: Path, finished: Path, profile: str
) -> None:
    contents = tables_of(finished)
    part = next((finished / "tables" / "recall").rglob("step=10/part.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    code, _, stderr = call("score", finished)
    assert code == 4
    assert "checksum is wrong" in errors(stderr)[0]
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", finished)
    assert code == 0
    assert "1 checkpoints measured, 2 kept from before" in stderr
    assert tables_of(finished) == contents


def test_other_weights_under_an_old_name_are_noticed(
    series: Path, finished: Path, profile: str
) -> None:
    path = series / "step10" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    code, _, stderr = call("run", series, "--profile", profile, "--out", finished)
    assert code == 0
    assert "1 checkpoints measured, 2 kept from before" in stderr


def test_tokens_that_are_stated_later_reach_the_result(
    series: Path, tmp_path: Path, profile: str
) -> None:
    """The report advises to state unknown tokens; nothing needs measuring again for that."""
    path, out = series / "series.toml", tmp_path / "run"
    stated = path.read_text()
    path.write_text("".join(x for x in stated.splitlines(True) if not x.startswith("tokens")))
    words = ["run", series, "--profile", profile, "--out", out, "--json"]
    code, stdout, stderr = call(*words)
    assert code == 0
    assert "training tokens are unknown" in stderr
    area = json.loads(stdout)["result"]["metrics"]["recall.area"]
    assert "tokens are unknown" in area["reason"]
    path.write_text(stated)
    code, stdout, stderr = call(*words)
    assert code == 0
    assert "0 checkpoints measured, 3 kept from before" in stderr
    result = json.loads(stdout)["result"]
    assert result["metrics"]["recall.area"]["value"] is not None
    assert [r["tokens"] for r in result["series"]] == [0, 10_000, 100_000]
    assert result["integrity"]["warnings"] == []


def test_measurements_of_a_revision_that_is_gone_are_kept(
    series: Path, finished: Path, profile: str
) -> None:
    path = series / "series.toml"
    path.write_text(
        path.read_text().split("[[revision]]", 2)[0]
        + "[[revision]]"
        + path.read_text().split("[[revision]]", 2)[2]
    )
    code, stdout, stderr = call("run", series, "--profile", profile, "--out", finished, "--json")
    assert code == 0
    assert "1 revisions measured earlier are kept" in stderr
    names = [r["revision"] for r in json.loads(stdout)["result"]["series"]]
    assert sorted(names) == ["step0", "step10", "step100"]


def test_a_run_folder_of_another_protocol(pristine: Path, finished: Path) -> None:
    code, _, stderr = call("run", pristine, "--profile", "demo", "--out", finished)
    assert code == 2
    (line,) = errors(stderr)
    assert "belongs to another measurement (protocol_hash: " in line
    assert "choose another --out" in line


def test_a_run_folder_of_a_newer_format(pristine: Path, finished: Path, profile: str) -> None:
    path = finished / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", finished)
    assert code == 2
    assert "format 99, this factlife reads up to 1: install a newer factlife" in errors(stderr)[0]


def test_a_table_of_a_newer_schema(pristine: Path, finished: Path, profile: str) -> None:
    part = next((finished / "tables" / "recall").rglob("step=10/part.parquet"))
    table = pq.read_table(part, partitioning=None)
    newer = {**table.schema.metadata, schema.VERSION_KEY: b"99"}
    pq.write_table(table.replace_schema_metadata(newer), part)
    store.checksum_path(part).write_text(f"{store.sha256_file(part)}  part.parquet\n")
    for words in (["run", pristine, "--profile", profile, "--out", finished], ["score", finished]):
        code, _, stderr = call(*words)
        assert code == 2
        assert "table recall has version 99" in errors(stderr)[0]
        assert "install a newer factlife" in errors(stderr)[0]


def test_a_run_folder_in_use(pristine: Path, finished: Path, profile: str) -> None:
    manifest = RunStore(finished).manifest()
    with RunStore.writer(finished, manifest):
        code, _, stderr = call("run", pristine, "--profile", profile, "--out", finished)
    assert code == 2
    assert f"is in use by process {os.getpid()}" in errors(stderr)[0]


def test_disk_full_keeps_what_is_finished_and_goes_on(
    pristine: Path, tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert call("run", pristine, "--profile", profile, "--out", whole)[0] == 0
    calls = 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 40:  # somewhere in the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", out)
    assert code == 5
    (line,) = errors(stderr)
    assert "No space left on device" in line
    assert "run the same command again" in line
    assert next(out.rglob("*.tmp"), None) is None
    monkeypatch.undo()
    code, _, stderr = call("run", pristine, "--profile", profile, "--out", out)
    assert code == 0
    assert "2 checkpoints measured, 1 kept from before" in stderr
    assert tables_of(out) == tables_of(whole)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for command in ("score", "report"):
        code, _, stderr = call(command, tmp_path / "nothing")
        assert (code, "no such run folder" in errors(stderr)[0]) == (2, True)
        code, _, stderr = call(command, tmp_path)
        assert (code, "is no run folder" in errors(stderr)[0]) == (2, True)


# ---- what comes out --------------------------------------------------------------------------


def test_a_run_gives_a_valid_result_a_report_and_a_board(finished: Path, tmp_path: Path) -> None:
    code, stdout, _ = call("validate", finished)
    assert (code, stdout.strip()) == (0, f"{finished}: valid")
    assert (finished / "report.html").stat().st_size > 10_000
    code, stdout, _ = call("leaderboard", "build", finished, "--out", tmp_path / "board")
    assert code == 0
    assert "tiny-llama" in (tmp_path / "board" / "index.html").read_text()


def test_scoring_again_gives_the_same_result(finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    assert call("score", finished)[0] == 0
    assert (finished / "result.json").read_bytes() == before


def test_a_result_that_was_touched_is_not_valid(finished: Path) -> None:
    path = finished / "result.json"
    result = json.loads(path.read_text())
    result["tables"]["recall"]["rows"] += 1
    path.write_text(canonical_json(result))
    code, _, stderr = call("validate", finished)
    assert code == 3
    assert "/tables/recall/rows: says 481, the folder has 480" in errors(stderr)[0]
    del result["model"]["repo"]
    path.write_text(canonical_json(result))
    code, _, stderr = call("validate", path)
    assert code == 3
    assert "/model: 'repo' is a required property" in errors(stderr)[0]


def test_equal_weights_are_measured_once(series: Path, tmp_path: Path, profile: str) -> None:
    source = series / "step0" / "model.safetensors"
    shutil.copy(source, series / "step100" / "model.safetensors")
    code, stdout, stderr = call(
        "run", series, "--profile", profile, "--out", tmp_path / "run", "--json"
    )
    assert code == 0
    result = json.loads(stdout)["result"]
    assert result["integrity"]["duplicates"] == ["step100"]
    assert result["series"][2]["reason"] == "duplicate_of step0: the weights are equal"
    assert "warning: step100: duplicate_of step0" in stderr


def test_the_plan_measures_nothing(pristine: Path, tmp_path: Path, profile: str) -> None:
    out = tmp_path / "run"
    code, stdout, stderr = call("plan", pristine, "--profile", profile, "--out", out, "--json")
    assert code == 0, stderr
    plan = json.loads(stdout)
    assert not out.exists()
    assert [r["revision"] for r in plan["revisions"]] == ["step0", "step10", "step100"]
    assert [r["finished"] for r in plan["revisions"]] == [False] * 3
    assert plan["revisions"][0]["parameters"] == 56992
    assert plan["prompts"] > 160
    assert plan["seconds"] > 0


def test_series_train_hands_on_the_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from factlife import training

    given: dict[str, Any] = {}
    monkeypatch.setattr(training, "train_sized_series", lambda out, **k: given.update(k, out=out))
    words = ("--arch", "gpt2", "--depth", "6", "--width", "192", "--steps", "9", "--device", "cpu")
    code, out, _ = call("series", "train", tmp_path / "made", *words)
    assert (code, out.strip()) == (0, str(tmp_path / "made"))
    assert given.pop("progress") is not None
    assert given == {
        "out": tmp_path / "made", "arch": "gpt2", "depth": 6, "width": 192, "seed": 0, "steps": 9,
        "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--width", "100"), "--width 100: heads are 32 wide; give a multiple of that"),
        (("--arch", "gpt3"), "unknown architecture 'gpt3' (did you mean 'gpt2'?)"),
    ],
)
def test_series_train_refuses(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    code, out, err = call("series", "train", tmp_path / "made", *words)
    assert (code, out) == (2, "") and expected in errors(err)[0]
    assert not (tmp_path / "made").exists()
