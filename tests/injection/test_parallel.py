"""Two processes over gloo train as one does: the same batches, losses equal to 1e-4."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factlife.errors import UsageError

WORKER = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.injection.small import *
from factlife.injection.measure import measure
from factlife.training import parallel
import pyarrow.parquet as pq

class StopError(Exception):
    pass

def stop(report):
    if report.step == 9:
        raise StopError

work, out = Path(sys.argv[1]), Path(sys.argv[2])
with parallel.group(torch.device("cpu")):
    made = plan(accumulation=2)
    how = dict(state_seconds=0.0)
    try:
        measure(loaded(), made, corpus(), facts(), PLACE, means(work, on_step=stop, **how))
    except StopError:
        pass
    tables = measure(loaded(), made, corpus(), facts(), PLACE, means(work, **how))
    if parallel.rank() == 0:
        out.mkdir()
        for name, table in tables.items():
            pq.write_table(table, out / f"{name}.parquet")
"""


def run(folder: Path, processes: int) -> Path:
    script, out = folder / "worker.py", folder / f"out-{processes}"
    script.write_text(WORKER)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [sys.executable, *(launcher if processes > 1 else []), str(script)]
    done = subprocess.run(
        [*words, str(folder / f"work-{processes}"), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_two_processes_give_the_losses_and_probes_of_one(tmp_path: Path) -> None:
    """Broken off at step 9 and gone on, in both cases: states are gathered and scattered."""
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    for table, column, bound in [
        ("training_log", "loss", 1e-4),
        ("training_log", "background_loss", 1e-4),
        ("probes", "logprob_sum_nats", 1e-2),
    ]:
        a, b = (pq.read_table(d / f"{table}.parquet")[column].to_pylist() for d in (one, two))
        assert len(a) == len(b) > 5
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert x == pytest.approx(y, abs=bound)
    for table in ("injections", "injection_passages", "injection_runs"):
        assert pq.read_table(one / f"{table}.parquet").equals(
            pq.read_table(two / f"{table}.parquet")
        )


def factlife(*words: str | Path, processes: int) -> str:
    """The output of a command, under torchrun where there are several processes."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *(launcher if processes > 1 else []), "factlife", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PROFILE = """
name = "two"
tracks = ["recall", "injection"]
[recall]
templates = "source"
generation = "none"
candidates = false
[injection]
corpus = "datasets/fictional-knowledge"
starts = ["late"]
seeds = 1
per_arm = 2
controls = 2
lead_in = 2
injections = 2
interval = 3
after = 2
window = 2
batch_rows = 8
context = 32
peak_lr = 1e-3
heldout_rows = 2
"""


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes(tmp_path: Path) -> None:
    from tests.tiny import save_series

    series = save_series(tmp_path / "series", (0, 10))
    (tmp_path / "two.toml").write_text(PROFILE)
    words = ("run", series, "--profile", tmp_path / "two.toml", "--out")
    logs = []
    for processes in (1, 2):
        out = tmp_path / f"run{processes}"
        assert factlife(*words, out, processes=processes).strip() == str(out)
        part = "tables/training_log/injection_run=late-seed0/part.parquet"
        logs.append(pq.read_table(out / part, partitioning=None)["loss"].to_pylist()[1:])
    assert logs[0] == pytest.approx(logs[1], abs=1e-4) and len(logs[0]) == 10


def test_a_state_of_one_process_is_not_taken_for_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.training.small import tiny_trainer

    from factlife.training import parallel
    from factlife.training.state import restore_latest, save_state

    trainer = tiny_trainer()
    save_state(trainer, tmp_path)
    monkeypatch.setattr(parallel, "size", lambda: 2)
    with pytest.raises(UsageError, match="saved by one process and cannot be gone on with by sev"):
        restore_latest(trainer, tmp_path)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.small import tiny_trainer

    from factlife.training import parallel

    monkeypatch.setattr(parallel, "size", lambda: 3)
    with pytest.raises(UsageError, match="batch_rows 4 cannot be shared by 3 processes"):
        tiny_trainer()
