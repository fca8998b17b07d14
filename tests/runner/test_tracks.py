"""The runner over recall and circuits: what is measured where, and what is kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import CONFIGS, random_model, save_series

from factlife.config import Circuits, Intervals, Profile, Recall
from factlife.errors import UsageError
from factlife.result import metric_key
from factlife.runner.progress import Silent
from factlife.runner.run import RANDOM_INIT, Options, Outcome, run
from factlife.runner.score import score_and_report, score_run
from factlife.runner.tracks import MEASURED_TABLES, refuse_untraceable, reinitialise
from factlife.series.local import open_series
from factlife.store import RunStore

QUICK = Profile(
    name="quick",
    recall=Recall(templates="source", generation="none", candidates=False),
    circuits=Circuits(ablation_draws=2, null_draws=20),
    intervals=Intervals(draws=100),
)


def measured(series: Path, out: Path, profile: Profile = QUICK) -> Outcome:
    return run(open_series(str(series)), profile, out, Options(), Silent())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A series without step 0, and its run."""
    folder = tmp_path_factory.mktemp("tracks")
    series = save_series(folder / "series", steps=(10, 100, 1000))
    measured(series, folder / "run")
    score_and_report(folder / "run")
    return series, folder / "run"


@pytest.fixture
def copy(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, for a test to change."""
    series, out = tmp_path / "series", tmp_path / "run"
    return Path(shutil.copytree(made[0], series)), Path(shutil.copytree(made[1], out))


def bytes_of(out: Path, table: str) -> dict[str, bytes]:
    parts = (out / "tables" / table).rglob("part.parquet")
    return {str(p.relative_to(out)): p.read_bytes() for p in parts}


def revisions(out: Path, table: str) -> set[str]:
    return set(RunStore.existing(out).read(table)["revision"].to_pylist())


def test_every_table_is_there_and_only_the_last_checkpoint_is_ablated(
    made: tuple[Path, Path],
) -> None:
    every = {"step10", "step100", "step1000"}
    assert revisions(made[1], "circuits") == every | {"random-init"}
    assert revisions(made[1], "circuits_sweep") == every
    assert revisions(made[1], "circuit_edges") == every
    assert revisions(made[1], "recall") == every
    assert revisions(made[1], "ablations") == {"step1000"}
    assert revisions(made[1], "roles") == every


def test_a_published_step_0_stands_in_for_the_random_model(tmp_path: Path) -> None:
    series = save_series(tmp_path / "series", steps=(0, 10))
    measured(series, tmp_path / "run")
    assert revisions(tmp_path / "run", "circuits") == {"step0", "step10"}


def test_the_same_command_measures_nothing_twice(copy: tuple[Path, Path]) -> None:
    series, out = copy
    before = {t: bytes_of(out, t) for t in MEASURED_TABLES}
    outcome = measured(series, out)
    assert outcome.measured == () and len(outcome.reused) == 3
    assert {t: bytes_of(out, t) for t in MEASURED_TABLES} == before


@pytest.mark.parametrize("table", MEASURED_TABLES)
def test_a_lost_part_of_any_table_is_measured_again_to_the_same_bytes(
    table: str, copy: tuple[Path, Path]
) -> None:
    series, out = copy
    before = {t: bytes_of(out, t) for t in MEASURED_TABLES}
    part = sorted((out / "tables" / table).rglob("step=1000/part.parquet"))[0]
    part.unlink()
    outcome = measured(series, out)
    assert outcome.measured == ("step1000",)
    assert {t: bytes_of(out, t) for t in MEASURED_TABLES} == before


def test_a_lost_random_model_is_measured_again_to_the_same_bytes(
    copy: tuple[Path, Path],
) -> None:
    series, out = copy
    store, before = RunStore(out), bytes_of(out, "circuits")
    store.remove_part("circuits", RANDOM_INIT)
    measured(series, out)
    assert bytes_of(out, "circuits") == before


def test_scores_without_recall_or_without_circuits(made: tuple[Path, Path], tmp_path: Path) -> None:
    for track in ("recall", "circuits"):
        out = tmp_path / track
        measured(made[0], out, replace(QUICK, tracks=(track,)))
        names = {m["metric"].split(".")[0] for m in score_run(out)["metrics"].values()}
        assert names == {"circuits"} if track == "circuits" else "circuits" not in names
        score_and_report(out)
        assert (out / "report.html").is_file()


def test_scores_of_both_tracks_are_those_of_each_alone(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    both = score_run(made[1])["metrics"]
    for track in ("recall", "circuits"):
        measured(made[0], tmp_path / track, replace(QUICK, tracks=(track,)))
        alone = score_run(tmp_path / track)["metrics"]
        assert alone == {k: both[k] for k in alone}
        assert len(alone) > 5


def test_scoring_again_gives_the_same_bytes(copy: tuple[Path, Path]) -> None:
    out = copy[1]
    derived = ("roles", "transitions", "scores")
    before = [bytes_of(out, t) for t in derived], (out / "result.json").read_bytes()
    score_run(out)
    assert ([bytes_of(out, t) for t in derived], (out / "result.json").read_bytes()) == before


def test_one_checkpoint_has_no_evolution_and_says_why(tmp_path: Path) -> None:
    series = save_series(tmp_path / "series", steps=(10,))
    measured(series, tmp_path / "run", replace(QUICK, tracks=("circuits",)))
    metrics = score_run(tmp_path / "run")["metrics"]
    stability = metrics[metric_key("circuits.iou_general_excess", "overall")]
    assert stability["value"] is None
    assert "only one checkpoint" in stability["reason"]
    assert metrics[metric_key("circuits.active_heads", "overall")]["value"] > 0


# ---- a randomly initialised model ------------------------------------------------------------


@pytest.mark.parametrize("arch", CONFIGS)
def test_reinitialising_forgets_every_weight_and_repeats_itself(arch: str) -> None:
    model = random_model(arch)
    for parameter in model.parameters():  # what training leaves: nothing as it was drawn
        parameter.data.add_(1.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reinitialise(model)
    assert torch.equal(torch.rand(1), expected), "the global generator was disturbed"
    first = {k: v.clone() for k, v in model.state_dict().items()}
    assert not any(torch.equal(first[k], before[k]) for k in first)
    reinitialise(model)
    assert all(torch.equal(first[k], v) for k, v in model.state_dict().items())


def test_a_model_that_cannot_be_traced_is_refused_before_anything_is_measured() -> None:
    config: dict[str, Any] = {"model_type": "mamba"}
    with pytest.raises(UsageError, match=r"mamba.*supported: .*olmo2.*--tracks recall"):
        refuse_untraceable(config, Path("somewhere"), QUICK)
    refuse_untraceable(config, Path("somewhere"), replace(QUICK, tracks=("recall",)))
    refuse_untraceable({"model_type": "olmo2"}, Path("somewhere"), QUICK)
