"""Local folders and explicit TOML files -> ordered revisions, or one line why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from factlife.errors import UsageError
from factlife.series.local import open_series


def checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_revisions_come_in_the_order_of_training_not_of_the_alphabet(tmp_path: Path) -> None:
    for name in ("step1000", "step20", "step3", "stage2-step5", "stage10-step1"):
        checkpoint(tmp_path / name)
    names = [r.name for r in open_series(str(tmp_path)).revisions]
    assert names == ["step3", "step20", "step1000", "stage2-step5", "stage10-step1"]


def test_tokens_come_from_the_name_or_stay_unknown(tmp_path: Path) -> None:
    checkpoint(tmp_path / "step10-tokens4B")
    checkpoint(tmp_path / "step20")
    series = open_series(str(tmp_path))
    assert [(r.tokens, r.tokens_source) for r in series.revisions] == [
        (4_000_000_000, "name"),
        (None, "unknown"),
    ]
    assert "tokens are unknown" in series.warnings[0]


def test_a_single_checkpoint_folder_is_a_series_of_one(tmp_path: Path) -> None:
    checkpoint(tmp_path / "my-model")
    (revision,) = open_series(str(tmp_path / "my-model")).revisions
    assert (revision.stage, revision.step) == ("main", None)
    assert revision.partition == {"stage": "main", "step": "my-model"}


def test_other_folders_beside_the_checkpoints_are_left_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "runs" / "logs").mkdir(parents=True)
    assert [r.step for r in open_series(str(tmp_path)).revisions] == [5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "no checkpoint in"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: checkpoint(p / "final"), "cannot read a step from the name of"),
        (lambda p: [checkpoint(p / n) for n in ("step5", "step-5")], "are both stage main, step 5"),
    ],
)
def test_a_folder_that_is_no_series_is_refused(tmp_path: Path, make, message: str) -> None:
    target = tmp_path / "series"
    make(target)
    with pytest.raises(UsageError, match=message):
        open_series(str(target))


GOOD = """
format = 1
name = "org/chain"
[[revision]]
name = "a"
path = "first"
stage = "pretrain"
step = 10
tokens = 1000
[[revision]]
name = "b"
path = "second"
stage = "sft"
step = 2
[fact_subsets]
stated = ["x", "y"]
[training]
anything = 1
"""


def test_a_series_file_says_everything(tmp_path: Path) -> None:
    checkpoint(tmp_path / "first")
    checkpoint(tmp_path / "second")
    (tmp_path / "series.toml").write_text(GOOD)
    for source in (tmp_path, tmp_path / "series.toml"):
        series = open_series(str(source))
        assert series.name == "org/chain"
        assert [(r.name, r.stage, r.step, r.tokens, r.tokens_source) for r in series.revisions] == [
            ("a", "pretrain", 10, 1000, "user"),
            ("b", "sft", 2, None, "unknown"),
        ]
        assert series.subsets == {"stated": ("x", "y")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format 2 is newer"),
        ('path = "first"', 'path = "third"', "no such folder"),
        ("tokens = 1000", "tokns = 1000", "unknown key 'tokns'.*'tokens'"),
        ("step = 10", 'step = "ten"', "expected int"),
        ("tokens = 1000", "tokens = -1", "-1 is below 0"),
        ("step = 10", "step = -10", "-10 is below 0"),
        ('name = "b"', 'name = "a"', "listed twice"),
        ('name = "org/chain"', "", "'name' is missing"),
        ("format = 1", "format = = 1", "not TOML"),
    ],
)
def test_a_broken_series_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    checkpoint(tmp_path / "first")
    checkpoint(tmp_path / "second")
    (tmp_path / "series.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        open_series(str(tmp_path))


def test_a_series_file_without_revisions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('format = 1\nname = "x"\nrevision = []\n')
    with pytest.raises(UsageError, match="lists no"):
        open_series(str(tmp_path / "s.toml"))
