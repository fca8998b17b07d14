"""Tasks on a cluster: the tables of one process, whatever happens to a task."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runner.four_tracks import four_tracks, parts
from tests.runner.slurm_node import SlurmNode, slurm_node
from tests.tiny import save_series

from factlife.config import Circuits, Intervals, Profile, Recall
from factlife.errors import PartialError, UsageError
from factlife.runner import slurm
from factlife.runner.progress import Silent
from factlife.runner.run import Options, Outcome, run
from factlife.runner.score import score_run
from factlife.runner.shards import Shard
from factlife.runner.slurm import Cluster, State, Task, minutes, parse_squeue, run_on_cluster
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


def sent(
    series: Path, out: Path, cluster: Cluster, told: Told, profile: Profile = QUICK
) -> Outcome:
    return run_on_cluster(open_series(str(series)), profile, out, Options(), cluster, told)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_series(tmp_path_factory.mktemp("made") / "series", STEPS)


@pytest.fixture(scope="module")
def all_tracks(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return four_tracks(tmp_path_factory.mktemp("four") / "corpus")


def tables_of_one(series: Path, profile: Profile, out: Path) -> dict[str, object]:
    run(open_series(str(series)), profile, out, Options(), Silent())
    return parts(out)


@pytest.fixture(scope="module")
def alone(series: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The tables of one process."""
    return tables_of_one(series, QUICK, tmp_path_factory.mktemp("alone") / "run")


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
    lines = ["12_0|RUNNING|None", "12_3|CANCELLED|None", "", "13|PENDING|Priority"]
    assert parse_squeue(lines) == {
        "12_0": State("RUNNING"), "12_3": State("CANCELLED"), "13": State("PENDING", "Priority"),
    }  # fmt: skip


def test_a_controller_that_does_not_answer_ends_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    job: Any = type("Job", (), {"job_id": "12_0"})()
    assert slurm._slurm_states([job]) == {"12_0": State("UNKNOWN")}
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id' >&2\nexit 1\n")
    assert slurm._slurm_states([job]) == {}


@pytest.mark.parametrize(
    ("state", "log", "wanted"),
    [
        ("CANCELLED", "*** STEP 1.0 CANCELLED ***\n", "CANCELLED, without a result; log "),
        ("TIMEOUT", "", "TIMEOUT, without a result: its time was over before"),
        ("FAILED", "x\nsrun: task 0: User defined signal 2\n\n", "give it more --time; log "),
        ("FAILED", "Killed\n", "FAILED, without a result: Killed; log "),
        ("GONE", None, "GONE, without a result; log "),
    ],
)
def test_why_a_task_left_no_result(
    state: str, log: str | None, wanted: str, tmp_path: Path
) -> None:
    path = tmp_path / "1_0_log.err"
    if log is not None:
        path.write_text(log)
    assert wanted in slurm._without_result(state, path)


def test_what_every_task_would_refuse_is_refused_before_any_is_sent(
    series: Path, all_tracks: Profile, tmp_path: Path
) -> None:
    out, opened, cluster = tmp_path / "run", open_series(str(series)), Cluster("local")
    with pytest.raises(UsageError, match="--exclude step99: no such revision"):
        run_on_cluster(opened, QUICK, out, Options(exclude=("step99",)), cluster, Told())
    broken = replace(all_tracks, injection=replace(all_tracks.injection, background="no.jsonl"))
    with pytest.raises(UsageError, match="no such file"):
        run_on_cluster(opened, broken, out, Options(), cluster, Told())
    assert not out.exists()


def test_without_slurm_the_way_out_is_named(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no srun on the PATH"):
        sent(series, tmp_path / "run", Cluster(), Told())


def test_what_is_told_while_tasks_wait() -> None:
    now = {
        "1_0": State("RUNNING"), "1_1": State("PENDING", "Resources"),
        "1_2": State("PENDING", "Priority"), "1_3": State("PENDING", "Priority"),
    }  # fmt: skip
    assert slurm._detail(now, {Shard(5, 6): None, Shard(6, 6): "broken"}, 6) == (
        "1 of 6 tasks running, 3 waiting (Priority), 2 over, 1 failed"
    )


def test_a_shard_for_each_checkpoint_and_track_and_each_start(
    series: Path, all_tracks: Profile, tmp_path: Path
) -> None:
    """12 checkpoints x recall, circuits and dynamics, and 2 revisions to inject into."""
    opened = open_series(str(series))
    pieces = slurm._Pieces.of(opened, all_tracks, tmp_path, Options())
    assert pieces.shards == len(pieces.names) == 12 * 3 + 2
    assert "step7 dynamics" in pieces.names and "step12 late-seed0" in pieces.names
    fewer = slurm._Pieces.of(opened, all_tracks, tmp_path, Options(exclude=("step1", "step12")))
    assert fewer.shards == 10 * 3 + 2 and "step11 late-seed0" in fewer.names
    trains = replace(all_tracks, tracks=("injection",))
    assert slurm._Pieces.of(opened, trains, tmp_path, Options()).shards == 2


def task(out: Path) -> Task:
    return Task("series", QUICK, out, Options(), Shard(1, 1), slurm._stamp(out))


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_signals")
def test_a_task_that_is_stopped_again_and_again_for_nothing_is_given_up(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    stopped = task(tmp_path)
    for _ in range(2):
        stopped = stopped.checkpoint().function
    state = tmp_path / ".injection" / "late-seed0" / "state"
    state.parent.mkdir(parents=True)
    state.touch()  # something was finished: it counts from the beginning
    for _ in range(3):
        stopped = stopped.checkpoint().function
    with pytest.raises(PartialError, match=r"stopped 3 times, and nothing .* give it more --time"):
        stopped.checkpoint()


def test_only_what_is_whole_counts_as_finished(tmp_path: Path) -> None:
    before = slurm._stamp(tmp_path)
    half = tmp_path / ".injection" / "late-seed0" / ".step-00000003.tmp" / "model.safetensors"
    half.parent.mkdir(parents=True)
    half.touch()
    assert slurm._stamp(tmp_path) == before
    half.parent.rename(half.parent.with_name("step-00000003"))
    assert slurm._stamp(tmp_path) != before


def test_folders_that_other_tasks_remove_do_not_stop_the_count(tmp_path: Path) -> None:
    work = tmp_path / ".injection"

    def come_and_go() -> None:
        while not over.is_set():
            (work / "late-seed0" / "states" / "step-1").mkdir(parents=True)
            shutil.rmtree(work)

    over = threading.Event()
    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(2000):
            assert slurm._stamp(tmp_path) == (0, 0)
    finally:
        over.set()
        other.join()


@pytest.mark.usefixtures("own_signals")
def test_who_asks_to_be_queued_again_outlives_the_answer(tmp_path: Path) -> None:
    """Slurm ends a task that it requeues, and `scontrol` with it, before that could exit 0."""
    pytest.importorskip("submitit")
    task(tmp_path).checkpoint()
    done = subprocess.run(["sh", "-c", "kill -TERM $$; sleep 0.1; exit 0"])
    assert done.returncode == 0


# ---- processes on this machine -----------------------------------------------------------------


def test_processes_of_one_machine_write_the_tables_of_one(
    all_tracks: Profile, tmp_path: Path
) -> None:
    """2 checkpoints x 3 tracks and injection from 2 revisions: 8 pieces in 2 processes."""
    pytest.importorskip("submitit")
    series = save_series(tmp_path / "series", (1, 2))
    alone = tables_of_one(series, all_tracks, tmp_path / "alone")
    told = Told()
    cluster = Cluster("local", array_size=2, parallel=2, poll=0.2)
    outcome = sent(series, tmp_path / "run", cluster, told, all_tracks)
    assert outcome.measured == () and outcome.reused == ("step1", "step2")
    assert outcome.injected is not None and len(outcome.injected.reused) == 2
    assert parts(tmp_path / "run") == alone
    assert told.warnings == []
    assert any(0 < done < 8 for done, _ in told.details)  # told while it was under way
    assert (8, "0 of 2 tasks running, 2 over, 0 failed") in told.details
    assert not (tmp_path / "run" / slurm.FOLDER).exists()


def test_a_shard_that_fails_every_time_is_named(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files stay; the token, which its environment has, is in none of them."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    told, out = Told(), tmp_path / "run"
    out.mkdir()
    (out / "tables").write_text("in the way")  # no part can be written
    cluster = Cluster("local", array_size=1, retries=1, poll=0.2)
    with pytest.raises(PartialError, match=r"1 of 1 shards failed 2 times: 1/1 \(.*log "):
        sent(series, out, cluster, told)
    assert [w.rpartition(": ")[2] for w in told.warnings] == ["sent again", "given up"]
    assert list((out / slurm.FOLDER).glob("*_log.err"))
    left = [p for p in out.rglob("*") if p.is_file()]
    assert len(left) > 3 and not [p for p in left if b"hf_secret" in p.read_bytes()]


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
    series: Path, out: Path, cluster: Cluster, told: Told, profile: Profile = QUICK
) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(sent(series, out, cluster, told, profile))
    )
    thread.start()
    return thread, outcomes


@pytest.mark.slow
def test_a_task_cancelled_in_mid_run_changes_nothing(
    node: SlurmNode, series: Path, all_tracks: Profile, tmp_path: Path
) -> None:
    """Twelve checkpoints and all tracks in four tasks.

    Shard 1 has steps 1, 5 and 9 and the first start of injection, and is held at its second step.
    """
    alone = tables_of_one(series, all_tracks, tmp_path / "alone")
    told, out = Told(), tmp_path / "run"
    cluster = Cluster("slurm", partition="main", array_size=4, parallel=2, minutes=10, poll=0.5)
    with RunStore(out).turn("main", "5"):
        thread, outcomes = in_the_background(series, out, cluster, told, all_tracks)
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
    node: SlurmNode, series: Path, alone: dict[str, object], tmp_path: Path
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


@pytest.mark.slow
def test_a_time_that_the_partition_does_not_give_is_told(
    node: SlurmNode, series: Path, tmp_path: Path
) -> None:
    """Slurm takes such tasks and lets them wait."""
    told, out = Told(), tmp_path / "run"
    cluster = Cluster("slurm", "short", array_size=2, minutes=30, retries=0, poll=0.5)
    refused: list[PartialError] = []

    def send() -> None:
        try:
            sent(series, out, cluster, told)
        except PartialError as error:
            refused.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: told.warnings)
    assert "for the reason PartitionTimeLimit: stop this" in told.warnings[0]
    assert "2 waiting (PartitionTimeLimit)" in told.details[-1][1]
    for job in node.tasks():
        node.call("scancel", job)
    thread.join(60)
    said = r"2 of 2 shards failed once: 1/2 \((CANCELLED|GONE), without a result"
    assert re.search(said, str(refused[0]))  # Slurm may forget at once what never ran


@pytest.mark.slow
def test_a_task_that_always_fails_is_listed(node: SlurmNode, series: Path, tmp_path: Path) -> None:
    assert node.folder.is_dir()
    told, out = Told(), tmp_path / "run"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "recall").write_text("in the way")
    cluster = Cluster("slurm", partition="main", array_size=2, retries=1, minutes=10, poll=0.5)
    with pytest.raises(PartialError, match=r"2 of 2 shards failed 2 times: 1/2 \(.*; 2/2 \(.*log"):
        sent(series, out, cluster, told)
    assert sum(w.endswith(": sent again") for w in told.warnings) == 2
    assert sum(w.endswith(": given up") for w in told.warnings) == 2
