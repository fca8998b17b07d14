"""The private split: kept out of repositories, committed to, and proved by building it again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factlife.corpora.fictional import private
from factlife.corpora.fictional.private import build_private, new_seed_file, read_seed, reveal
from factlife.corpora.fictional.product import public_rows
from factlife.errors import IntegrityError, UsageError

ROOT = Path(__file__).parents[2]
SEED = "0123456789abcdef" * 2


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret" / "seed"
    path.parent.mkdir()
    path.write_text(SEED + "\n")
    return path


def test_a_split_is_written_committed_to_and_proved(tmp_path: Path, seed_file: Path) -> None:
    out = tmp_path / "split"
    made = build_private(out, seed_file, size=12)
    assert {p.name for p in out.iterdir()} == {
        "passages.parquet",
        "probes.parquet",
        "commitment.json",
    }
    assert pq.read_table(out / "passages.parquet").num_rows == made.size == 12
    published = (out / "commitment.json").read_text()
    assert SEED not in published
    assert reveal(seed_file, out / "commitment.json", out) == made
    assert build_private(out, seed_file, size=12) == made


def test_private_and_public_share_no_name_and_no_target(tmp_path: Path, seed_file: Path) -> None:
    build_private(tmp_path / "split", seed_file, size=12)
    hidden = pq.read_table(tmp_path / "split" / "passages.parquet").to_pylist()
    targets = pq.read_table(tmp_path / "split" / "probes.parquet")["target"].to_pylist()
    public = "\n".join(t for p in public_rows()["passages"] for t in [p["text"], *p["paraphrases"]])
    assert not [t for t in targets if t in public]
    names = {e["name"] for p in hidden for e in p["entities"]}
    assert not names & {e["name"] for p in public_rows()["passages"] for e in p["entities"]}


def test_another_seed_does_not_prove_it(tmp_path: Path, seed_file: Path) -> None:
    build_private(tmp_path / "split", seed_file, size=4)
    seed_file.write_text(SEED[::-1])
    with pytest.raises(IntegrityError, match="not a commitment to the seed"):
        reveal(seed_file, tmp_path / "split" / "commitment.json")


@pytest.mark.parametrize("field", ["commitment", "content_sha256", "size"])
def test_a_changed_commitment_is_not_proved(tmp_path: Path, seed_file: Path, field: str) -> None:
    build_private(tmp_path / "split", seed_file, size=4)
    path = tmp_path / "split" / "commitment.json"
    value = json.loads(path.read_text())
    value[field] = 3 if field == "size" else "0" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="not a commitment to the seed"):
        reveal(seed_file, path)


def test_changed_rows_are_not_proved(tmp_path: Path, seed_file: Path) -> None:
    out = tmp_path / "split"
    build_private(out, seed_file, size=4)
    table = pq.read_table(out / "probes.parquet")
    pq.write_table(table.slice(0, table.num_rows - 1), out / "probes.parquet")
    with pytest.raises(IntegrityError, match="not those that were committed to"):
        reveal(seed_file, out / "commitment.json", out)


def test_a_commitment_of_another_generator_says_so(
    tmp_path: Path, seed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_private(tmp_path / "split", seed_file, size=4)
    monkeypatch.setattr(private, "generator_sha256", lambda: "0" * 64)
    with pytest.raises(IntegrityError, match="another version of the generator"):
        reveal(seed_file, tmp_path / "split" / "commitment.json")


def test_the_generator_hash_covers_the_grammar_and_the_code() -> None:
    assert len(private.generator_sha256()) == 64
    modules = {p.stem for p in Path(private.__file__).parent.glob("*.py")}
    checking = {"__init__", "background", "lint", "private", "product", "quality", "source"}
    assert modules == set(private._GENERATOR) | checking | {"suite", "tokens"}


@pytest.mark.parametrize("place", [ROOT, ROOT / "datasets" / "fictional-knowledge", ROOT / "new"])
def test_nothing_private_is_written_into_a_repository(place: Path, seed_file: Path) -> None:
    with pytest.raises(UsageError, match="must not lie"):
        build_private(place, seed_file, size=4)
    with pytest.raises(UsageError, match="must not lie"):
        new_seed_file(place / "seed")


def test_nothing_private_is_written_among_published_data_sets(
    tmp_path: Path, seed_file: Path
) -> None:
    card = tmp_path / "datasets" / "some" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("card")
    with pytest.raises(UsageError, match="among published data sets"):
        build_private(tmp_path / "datasets" / "mine", seed_file, size=4)


def test_a_seed_beside_the_data_or_a_folder_with_another_split_is_refused(
    tmp_path: Path, seed_file: Path
) -> None:
    with pytest.raises(UsageError, match="beside the data"):
        build_private(seed_file.parent, seed_file, size=4)
    build_private(tmp_path / "split", seed_file, size=4)
    seed_file.write_text(SEED[::-1])
    with pytest.raises(UsageError, match="another seed"):
        build_private(tmp_path / "split", seed_file, size=4)


def test_a_split_with_defects_is_not_written(
    tmp_path: Path, seed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private.lint, "defects", lambda split: {"some_rule": 2})
    with pytest.raises(IntegrityError, match="some_rule"):
        build_private(tmp_path / "split", seed_file, size=4)
    assert not (tmp_path / "split").exists()


def test_a_new_seed_has_chance_enough_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    new_seed_file(tmp_path / "a")
    new_seed_file(tmp_path / "b")
    assert len(read_seed(tmp_path / "a")) == 64
    assert read_seed(tmp_path / "a") != read_seed(tmp_path / "b")
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="never written over"):
        new_seed_file(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "hunter2", "12345", "z" * 64])
def test_a_weak_seed_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "seed").write_text(text)
    with pytest.raises(UsageError, match="holds no seed") as caught:
        read_seed(tmp_path / "seed")
    assert not text or text not in str(caught.value)


def test_missing_and_broken_files_are_clear_errors(tmp_path: Path, seed_file: Path) -> None:
    with pytest.raises(UsageError, match="no seed file"):
        read_seed(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no commitment file"):
        reveal(seed_file, tmp_path / "nothing")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(IntegrityError, match="is not a commitment"):
        reveal(seed_file, tmp_path / "c.json")
    made = build_private(tmp_path / "split", seed_file, size=4)
    with pytest.raises(UsageError, match="no readable split"):
        reveal(seed_file, tmp_path / "split" / "commitment.json", tmp_path)
    value = {**made.__dict__, "format": 9}
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="has format 9"):
        reveal(seed_file, tmp_path / "c.json")
