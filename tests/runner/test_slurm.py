"""Tasks on a cluster: the tables of one process, whatever happens to a task."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runner.slurm_node import SlurmNode, slurm_node
from tests.tiny import save_series

from factlife.config import Circuits, Intervals, Profile, Recall
from factlife.errors import PartialError, UsageError
from factlife.runner import slurm
from factlife.runner.progress import Silent
from factlife.runner.run import Options, Outcome, run
from factlife.runner.score import score_run
from factlife.runner.slurm import Cluster, minutes, parse_squeue, run_on_cluster
from factlife.series.local import open_series
from factlife.store import RunStore

STEPS = tuple(range(1, 13))
QUICK = Profile(
    name="quick",
    recall=Recall(templates="source", generation="none", candidates=False),
    circuits=Circuits(ablation_draws=2, null_draws=20, tau_sweep=(), theta_sweep=()),
    intervals=Intervals(draws=100),
)


class Told(Silent):
    """Progress that remembers."""

    def __init__(self) -> None:
        self.details: list[tuple[int, str]] = []
        self.warnings: list[str] = []

    def advance(self, done: int, detail: str = "") -> None:
        self.details.append((done, detail))

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def parts(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("tables/**/part.parquet")}


def sent(series: Path, out: Path, cluster: Cluster, told: Told) -> Outcome:
    return run_on_cluster(open_series(str(series)), QUICK, out, Options(), cluster, told)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_series(tmp_path_factory.mktemp("made") / "series", STEPS)


@pytest.fixture(scope="module")
def alone(series: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(open_series(str(series)), QUICK, out, Options(), Silent())
    return parts(out)


# ---- words and answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("02:00:00", 120),
        ("00:00:30", 1),  # rounded up to what submitit can ask for
        ("1-12", 2160),  # 24 x 60 + 12 x 60
        ("1-00:30", 1470),
        ("2-01:00:00", 2940),
    ],
)
def test_a_limit_is_read_as_slurm_writes_it(text: str, wanted: int) -> None:
    assert minutes(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "2h", "1:30", "00:00:00", "-5"])
def test_another_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        minutes(text)


def test_the_queue_is_read_by_job() -> None:
    lines = ["12_0|RUNNING", "12_3|CANCELLED", "", "13|PENDING"]
    assert parse_squeue(lines) == {"12_0": "RUNNING", "12_3": "CANCELLED", "13": "PENDING"}


def test_a_controller_that_does_not_answer_ends_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    job: Any = type("Job", (), {"job_id": "12_0"})()
    assert slurm._slurm_states([job]) == {"12_0": "UNKNOWN"}
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id' >&2\nexit 1\n")
    assert slurm._slurm_states([job]) == {}


def test_without_slurm_the_way_out_is_named(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no srun on the PATH"):
        sent(series, tmp_path / "run", Cluster(), Told())


# ---- processes on this machine -----------------------------------------------------------------


def test_processes_of_one_machine_write_the_tables_of_one(
    series: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    told = Told()
    cluster = Cluster("local", array_size=2, parallel=2, poll=0.2)
    outcome = sent(series, tmp_path / "run", cluster, told)
    assert outcome.measured == () and len(outcome.reused) == len(STEPS)
    assert parts(tmp_path / "run") == alone
    assert told.warnings == []
    assert any(0 < done < 24 for done, _ in told.details)  # told while it was under way
    assert not (tmp_path / "run" / slurm.FOLDER).exists()


def test_a_shard_that_fails_every_time_is_named(series: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    told, out = Told(), tmp_path / "run"
    out.mkdir()
    (out / "tables").write_text("in the way")  # no part can be written
    cluster = Cluster("local", array_size=1, retries=1, poll=0.2)
    with pytest.raises(PartialError, match=r"1 of 1 shards failed 2 times: 1/1 \(.*log "):
        sent(series, out, cluster, told)
    assert [w.rpartition(": ")[2] for w in told.warnings] == ["sent again", "given up"]
    assert list((out / slurm.FOLDER).glob("*_log.err"))


# ---- a real Slurm of one node ------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    pytest.importorskip("submitit")
    with slurm_node(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def wait_until(condition: Any, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_the_background(
    series: Path, out: Path, cluster: Cluster, told: Told
) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(sent(series, out, cluster, told)))
    thread.start()
    return thread, outcomes


@pytest.mark.slow
def test_a_task_cancelled_in_mid_run_changes_nothing(
    node: SlurmNode, series: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Twelve checkpoints in four tasks. Shard 1 has steps 1, 5 and 9, and is held at the second."""
    told, out = Told(), tmp_path / "run"
    cluster = Cluster("slurm", partition="main", array_size=4, parallel=2, minutes=10, poll=0.5)
    with RunStore(out).turn("main", "5"):
        thread, outcomes = in_the_background(series, out, cluster, told)
        wait_until(lambda: next(out.glob("tables/circuit_edges/**/step=5/part.parquet"), None))
        first = min(node.tasks(), key=lambda task: int(task.split("_")[1]))
        assert first.endswith("_0")
        node.call("scancel", first)
        wait_until(lambda: told.warnings)
    thread.join(400)
    assert not thread.is_alive()
    assert [o.measured for o in outcomes] == [()]
    (warning,) = told.warnings
    assert warning.startswith("shard 1/4 failed (CANCELLED, without a result; log ")
    assert warning.endswith(": sent again")
    assert parts(out) == alone
    assert score_run(out)["metrics"]
    assert any("tasks running" in detail for _, detail in told.details)


@pytest.mark.slow
def test_a_preempted_task_is_queued_again_by_itself(
    node: SlurmNode, series: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """The signal that Slurm sends before it takes a node away, or at the time limit."""
    told, out = Told(), tmp_path / "run"
    cluster = Cluster("slurm", partition="main", array_size=1, minutes=10, poll=0.5)
    with RunStore(out).turn("main", "5"):
        thread, outcomes = in_the_background(series, out, cluster, told)
        wait_until(lambda: next(out.glob("tables/circuit_edges/**/step=5/part.parquet"), None))
        (job,) = node.tasks()
        node.call("scancel", "--signal=USR2", job)
        wait_until(lambda: "Restarts=1" in node.call("scontrol", "show", "job", job))
    node.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait two minutes
    thread.join(400)
    assert not thread.is_alive()
    assert [o.measured for o in outcomes] == [()]
    assert told.warnings == []
    assert parts(out) == alone


@pytest.mark.slow
def test_a_partition_that_does_not_exist_is_refused(
    node: SlurmNode, series: Path, tmp_path: Path
) -> None:
    assert node.folder.is_dir()
    with pytest.raises(UsageError, match="the cluster refuses the tasks"):
        sent(series, tmp_path / "run", Cluster("slurm", partition="absent", array_size=2), Told())
