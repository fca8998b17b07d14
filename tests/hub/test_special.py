"""Retention and phases as the page of a series gets them, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.hub.synthetic import submission

from factlife.hub.collect import read_entry
from factlife.hub.curves import read_tables
from factlife.hub.series_page import series_data
from factlife.hub.special import phases, retention
from factlife.scores import BY_NAME

NAMES = (
    "recall.whole_answer_accuracy", "injection.retention", "dynamics.series_loss",
    "dynamics.series_loss_unseen", "dynamics.series_baseline",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("special")
    submission(made, "org/m", 0, metrics=[BY_NAME[n] for n in NAMES])
    return made


def test_the_logarithmic_law_of_a_straight_line_is_the_line(folder: Path) -> None:
    rows = retention(read_tables(read_entry(folder / "result.json")).scores)
    assert {r["start"] for r in rows} == {"early", "mid", "late"}
    late = [r for r in rows if r["start"] == "late"]
    measured = {r["t"]: r["value"] for r in late if r["law"] == "measured"}
    assert list(measured) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32] and measured[1] == 1.0
    fitted = {r["t"]: r["value"] for r in late if r["law"] == "logarithmic"}
    assert fitted == pytest.approx(measured)  # 1 - 0.25 log10 t, without noise
    assert {r["law"] for r in late} == {"measured", "logarithmic", "power", "exponential"}


def test_phases_are_read_off_the_losses(folder: Path) -> None:
    entry = read_entry(folder / "result.json")
    found = phases(read_tables(entry).scores, entry)
    assert found is not None and (found["axis"], found["baseline"]) == ("tokens", 2.0)
    at = {int(r["step"]) // 500: r["tokens"] for r in entry.measured}
    # loss 5, 5, then 2 from step2 on; below 1.9 from step8 (2/3) on, step7 is 2/2 = 1
    assert found["t1"] == at[2] and found["t2"] == at[7]
    # made-up names: 2.3 at step8, above 2.1 from there on
    assert found["onset"] == at[8] and found["why"] == {}


def test_a_result_without_them_has_no_such_chart(tmp_path: Path) -> None:
    submission(tmp_path, "org/m", 0, metrics=[BY_NAME[NAMES[0]]])
    data = series_data(read_entry(tmp_path / "result.json"))
    assert data["retention"] is None and data["phases"] is None
