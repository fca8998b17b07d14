"""A run that is killed or stopped goes on by the same command, and ends as if unbroken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tiny import save_series

STEPS = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_series(tmp_path_factory.mktemp("made") / "series", STEPS)


def start(series: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "factlife", "run", str(series)]
    return subprocess.Popen(
        [*words, "--profile", "demo", "--tracks", "recall", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def parts(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("tables/**/part.parquet")}


def wait_for_parts(out: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Until n checkpoints are finished."""
    deadline = time.monotonic() + 120
    while len(list(out.glob("tables/checkpoints/**/part.parquet"))) < n:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def unbroken(series: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(series, out)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    return parts(out)


@pytest.mark.parametrize(
    ("stop", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 5), (signal.SIGTERM, 5)],
)
def test_the_same_command_goes_on(
    series: Path, unbroken: dict[str, bytes], tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    first = start(series, out)
    wait_for_parts(out, 2, first)
    first.send_signal(stop)
    _, stderr = first.communicate(timeout=120)
    assert first.returncode == code, stderr
    if code == 5:
        assert "factlife: error: stopped; finished parts are kept" in stderr
    finished = {p: p.stat().st_mtime_ns for p in out.glob("tables/checkpoints/**/part.parquet")}
    assert 2 <= len(finished) < len(STEPS)

    second = start(series, out)
    _, stderr = second.communicate(timeout=240)
    assert second.returncode == 0, stderr
    todo = len(STEPS) - len(finished)
    assert f"{todo} checkpoints measured, {len(finished)} kept from before" in stderr
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert parts(out) == unbroken
    assert next(out.rglob("*.tmp"), None) is None
