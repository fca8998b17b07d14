"""Hub: building the leaderboard from result files.

collect.py   paths -> validated results, as entries of the board
ranks.py     places within one metric, for ranked results only
board.py     the static page, in the shell that reports use too
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factlife.hub.board import render
from factlife.hub.collect import collect
from factlife.store import write_text

__all__ = ["build_board", "collect", "render"]


def build_board(results: Sequence[Path], out: Path) -> Path:
    """Write `out/index.html` with one row a result and return its path.

    Args:
        results: each a result.json, or a folder that is searched for such files.

    Raises:
        UsageError: a path is not there, or nothing was found under any of them.
        SubmissionError: a result is not to the format; says file, place, what and how to mend.
        PartialError: the disk refuses the file.
    """
    page = out / "index.html"
    write_text(page, render(collect(results)))
    return page
