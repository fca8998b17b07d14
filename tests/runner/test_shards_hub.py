"""Shards of a series on the Hub: each fetches its own; what none sees alone is still seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load, save
from tests.hubserver import ROOT, LoopbackHub, files_of
from tests.tiny import byte_level_tokenizer, save_checkpoint

WEIGHTS = "model.safetensors"
PROFILE = """
name = "tiny"
tracks = ["recall"]
[recall]
templates = "source"
generation = "none"
candidates = false
[intervals]
draws = 100
"""


def in_two_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same tensors, cut up."""
    tensors = load(files[WEIGHTS])
    where = {name: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, name in enumerate(tensors)}
    new = {k: v for k, v in files.items() if k != WEIGHTS}
    for shard in sorted(set(where.values())):
        mine = {n: t for n, t in tensors.items() if where[n] == shard}
        new[shard] = save(mine, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    return new | {"model.safetensors.index.json": json.dumps(index).encode()}


def parts(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("tables/**/part.parquet")}


def weights(hub: LoopbackHub) -> list[str]:
    """Weight files that were sent, without the indices of cut-up ones."""
    return [path for path in hub.downloads() if path.endswith(".safetensors")]


@pytest.mark.slow
def test_shards_of_a_hub_series_write_the_tables_of_one_process(tmp_path: Path) -> None:
    """step2 has the tensors of step1 in other files: the shard that measures it cannot know."""
    tokenizer = byte_level_tokenizer()
    made = [files_of(save_checkpoint(tmp_path / str(i), "llama", i, tokenizer)) for i in range(3)]
    (tmp_path / "tiny.toml").write_text(PROFILE)
    home = tmp_path / "home"
    with LoopbackHub() as hub:
        repo = hub.repo("org/deep")
        for name, files in zip(
            ("step1", "step2", "step3", "step4"),
            (made[0], in_two_files(made[0]), made[1], made[2]),
            strict=True,
        ):
            repo.commit(name, files)

        def call(out: str, *words: str) -> str:
            command = [sys.executable, "-m", "factlife", "run", "org/deep", *words]
            command += ["--profile", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / out)]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=ROOT, env=hub.environment(home)
            )
            assert done.returncode == 0, done.stderr
            return done.stderr

        assert "3 checkpoints measured" in call("one")
        shutil.rmtree(home)
        hub.log.clear()
        assert "2 checkpoints measured" in call("run", "--shard", "1/2")  # step1 and step3
        assert "2 checkpoints measured" in call("run", "--shard=2/2")  # step2 and step4
        assert len(weights(hub)) == 5  # each once; step2 has two files
        for cache in (home / "hub" / "shards").iterdir():
            assert [p for p in cache.rglob("blobs/*") if p.stat().st_size >= 100_000] == []
        hub.log.clear()
        told = call("run")
        assert "0 checkpoints measured, 3 kept from before" in told
        assert "step2: duplicate_of step1: the tensors are equal, in other files" in told
        assert weights(hub) == []  # put together without one of them
        assert parts(tmp_path / "run") == parts(tmp_path / "one")
        assert "0 checkpoints measured, 4 kept from before" in call("run")
        assert parts(tmp_path / "run") == parts(tmp_path / "one")
