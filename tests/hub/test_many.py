"""Several processes build the board that one builds, byte for byte, and name the first fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.hub.results import make_result
from tests.hub.synthetic import submission

from factlife.errors import SubmissionError
from factlife.hub import build_board, many
from factlife.hub.collect import Entry, read_entry
from factlife.scores import METRICS

Folder = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve submissions, one of them twice, and one without tables."""
    root = tmp_path_factory.mktemp("many") / "results"
    for i in range(10):
        profile = ("standard", "reference")[i % 2]
        submission(root / f"{i}", f"org/m{i}", i, profile=profile, metrics=METRICS[:30])
    shutil.copytree(root / "3", root / "copy")
    submission(root / "bare", "org/bare", 99, metrics=METRICS[:30])
    (root / "bare" / "scores.parquet").unlink()
    return root


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes for any number of results."""
    monkeypatch.setattr(many, "FEWEST", 2)
    monkeypatch.setattr(many, "processes", lambda: 2)


def test_one_process_and_two_write_the_same_bytes(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = build_board([results], tmp_path / "one").parent
    monkeypatch.setattr(many, "FEWEST", 2)
    monkeypatch.setattr(many, "processes", lambda: 2)
    two = build_board([results], tmp_path / "two").parent
    assert files(one) == files(two)
    assert len(list((one / "series").iterdir())) == 11  # the copy is no second result
    assert not list(two.glob(".drawn-*"))


@pytest.mark.usefixtures("two")
def test_the_first_broken_result_is_named_and_nothing_is_built(
    folder: Folder, tmp_path: Path
) -> None:
    broken: dict[str, Any] = {**make_result("b"), "submitter": 3}
    root = folder(make_result("a"), broken, {**make_result("c"), "env": None})
    out = tmp_path / "out"
    with pytest.raises(SubmissionError, match=r"results/1/result\.json"):
        build_board([root], out)
    assert files(out) == {}


@pytest.mark.usefixtures("two")
def test_processes_that_die_leave_the_work_to_this_one(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "_alone", many.os._exit)  # called without its argument: it breaks
    page = build_board([folder(make_result("a"), make_result("b"))], tmp_path / "out")
    assert page.is_file() and len(list((tmp_path / "out" / "series").iterdir())) == 2


def test_a_row_keeps_its_numbers_its_address_and_its_flags(results: Path) -> None:
    result = dict(read_entry(results / "4" / "result.json").result)
    first = next(iter(result["metrics"].values()))
    deep = {**first, "scope": "city_in_country"}  # of one relation: shown on demand only
    result["metrics"] = {**result["metrics"], f"{first['metric']}@city_in_country": deep}
    whole = Entry(result)
    row = whole.row_only()
    assert (row.slug, row.ranked, row.flags) == (whole.slug, whole.ranked, whole.flags)
    shown = [(m.name, s) for m in METRICS for s in ("overall", "LOC", "NAME")]
    assert [row.metric(*k) for k in shown] == [whole.metric(*k) for k in shown]
    assert Entry(row.result).digest != row.digest == whole.digest
