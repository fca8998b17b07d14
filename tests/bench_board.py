"""How long a board of 1,000 submissions takes and weighs: `python -m tests.bench_board`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.hub.synthetic import KNOWN, submission

from factlife.hub import build_board

SUBMISSIONS = 1000
MOST_SECONDS, MOST_BYTES = 30.0, 2_000_000


def _cpu_seconds() -> float:
    """Of this process and of those that it started and saw end."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main(n: int = SUBMISSIONS, metrics: int = len(KNOWN)) -> int:
    """Build, print sizes and seconds, return 1 if a target is missed."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "results", Path(folder) / "out"
        for i in range(n):
            profile = ("standard", "standard", "reference", "timecourse-2025")[i % 4]
            submission(root / f"{i:04d}", f"org-{i % 37}/model-{i}", i, profile=profile,
                       metrics=KNOWN[:metrics])  # fmt: skip
        given = sum(f.stat().st_size for f in root.rglob("*.*"))
        wall, cpu = time.perf_counter(), _cpu_seconds()
        page = build_board([root], out)
        wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
        series = sum(f.stat().st_size for f in (out / "series").iterdir())
        first = page.stat().st_size
        print(f"{n} submissions of {metrics} metrics, {given / 1e6:.0f} MB")
        print(f"build: {wall:.1f} s ({cpu:.1f} CPU seconds); target {MOST_SECONDS:.0f} s")
        print(f"first view: {first / 1e6:.2f} MB; target {MOST_BYTES / 1e6:.0f} MB")
        for name in ("rows.js", "vega.js", "leaderboard.json", "leaderboard.parquet"):
            print(f"{name}: {(out / name).stat().st_size / 1e6:.2f} MB")
        print(f"series: {series / 1e6:.0f} MB, {series / n / 1e3:.0f} KB each, read on demand")
    return int(wall > MOST_SECONDS or first > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
