"""Many results at once: each is read, checked and drawn by one of several processes.

A process hands back only what the table needs of a result: names, provenance, and the numbers that
stand in its row. What is read on demand about a series is written where the caller says.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from factlife.hub.collect import Entry, in_order, read_entry, result_files
from factlife.hub.site import put_series, write_site

FEWEST = 60  # results for which starting processes pays


def processes() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_many(files: Sequence[Path], out: Path, workers: int) -> Path | None:
    """Build the board of these files; None where no processes can be had.

    Raises:
        As `build_board`, and of several broken results for the first one.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".drawn-") as folder:
        drawn = Path(folder)
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_alone) as pool:
                found = list(pool.map(partial(_draw, drawn), files, chunksize=8))
        except BrokenProcessPool:  # a caller's script without `if __name__ == "__main__"`, say
            return None
        return write_site(in_order(found), out, drawn)


def _alone() -> None:
    """One thread a process: there are as many processes as CPUs."""
    pa.set_cpu_count(1)


def _draw(folder: Path, file: Path) -> Entry:
    entry = read_entry(file)
    put_series(entry, folder)
    return entry.row_only()


def build(paths: Sequence[Path], out: Path) -> Path:
    """Build the board of all results under the paths, in several processes where that pays."""
    files = result_files(paths)
    workers = processes()
    if len(files) >= FEWEST and workers > 1 and (page := build_many(files, out, workers)):
        return page
    return write_site(in_order([read_entry(f) for f in files]), out)
