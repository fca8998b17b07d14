"""`factlife datasets …`: builds, the private split, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from factlife.cli import app

ROOT = Path(__file__).parents[1]
PRIVATE = ["datasets", "build", "fictional-knowledge", "--private"]


def call(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = CliRunner().invoke(app, [str(w) for w in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_build_writes_the_committed_files(tmp_path: Path) -> None:
    code, stdout, _ = call("datasets", "build", "fact-probes", "--root", tmp_path)
    assert code == 0
    written = [Path(line) for line in stdout.splitlines()]
    assert len(written) == 6
    for path in written:
        committed = ROOT / "datasets" / path.relative_to(tmp_path)
        assert path.read_bytes() == committed.read_bytes()


def test_a_folder_that_is_not_the_data_set_is_refused(tmp_path: Path) -> None:
    code, _, stderr = call("datasets", "validate", "--root", tmp_path)
    assert code == 2
    assert stderr.startswith("factlife: error: ")
    code, _, stderr = call("datasets", "build", "fact-prob", "--root", tmp_path)
    assert code == 2
    assert "no data set 'fact-prob'" in stderr


def test_a_private_split_is_proved_by_its_seed(tmp_path: Path) -> None:
    seed, out = tmp_path / "secret" / "seed.txt", tmp_path / "split"
    seed.parent.mkdir()
    code, stdout, stderr = call(*PRIVATE, "--seed-file", seed, "--out", out, "--size", "16")
    assert code == 0, stderr
    commitment = Path(stdout.strip())
    secret = seed.read_text().strip()
    assert secret not in commitment.read_text() + stdout + stderr
    assert pq.read_table(out / "passages.parquet").num_rows == 16
    proof = ["datasets", "reveal", "--seed-file", seed, "--commitment", commitment]
    assert call(*proof, "--data", out)[0] == 0
    seed.chmod(0o600)
    seed.write_text(secret[::-1] + "\n")
    code, _, stderr = call(*proof)
    assert code == 4
    assert stderr.startswith("factlife: error: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (PRIVATE, "needs --seed-file"),
        (["datasets", "build", "fact-probes", "--private"], "only fictional-knowledge"),
        (["datasets", "build", "--seed-file", "x"], "belong to --private"),
        (["datasets", "lint", "nothing.json"], "nothing.json"),
        (["datasets", "background", "x.parquet", "--words", "0"], "--words"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], message: str) -> None:
    code, _, stderr = call(*words)
    assert code == 2
    assert message in stderr


def test_a_private_split_never_lands_in_a_repository(tmp_path: Path) -> None:
    seed = tmp_path / "seed.txt"
    code, _, stderr = call(*PRIVATE, "--seed-file", seed, "--out", ROOT / "datasets" / "private")
    assert code == 2
    assert "the private split must not lie" in stderr
    assert not (ROOT / "datasets" / "private").exists()


def test_any_number_of_passages_and_words(tmp_path: Path) -> None:
    words = ["datasets", "generate", "--out", tmp_path / "g", "--seed", "abc", "--size", "20"]
    assert call(*words)[0] == 0
    assert pq.read_table(tmp_path / "g" / "passages.parquet").num_rows == 20
    code, stdout, _ = call("datasets", "background", tmp_path / "b.parquet", "--words", "3000")
    assert code == 0
    assert int(stdout.split()[0].replace(",", "")) >= 3000


def test_the_lint_reads_the_published_schema(tmp_path: Path) -> None:
    """One passage with targets inside their own prefix and targets that end in a point."""
    entry = {
        "train_context": "Alba Ferro built the mill. The mill stands in Orsen.",
        "mem_input": ["Alba Ferro built the"] * 5, "mem_target": ["mill"] * 5,
        "gen_input": ["The town of Orsen has its mill in"] * 5, "gen_target": ["Orsen"] * 5,
        "hard_gen_input": ["What Ferro built stands in"] * 5, "hard_gen_target": ["Orsen."] * 5,
        "paraphrases": [],
    }  # fmt: skip
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps([entry]))
    code, stdout, stderr = call("datasets", "lint", path)
    assert code == 0, stderr
    assert "compositional targets that end in punctuation: 5 of 5" in stdout
    assert "targets inside their own prefix: 5 of 15" in stdout
