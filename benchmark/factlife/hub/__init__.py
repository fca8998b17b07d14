"""Hub: building the leaderboard from result files.

collect.py      paths -> validated results, as entries of the board
curves.py       the tables beside a result -> curves that can be trusted
ranks.py        places within one metric, for ranked results only
families.py     which charts a series has, read off the registry
published.py    figures of the papers, kept apart
board.py        the page, in the shell that reports use too
series_page.py  what is read on demand about one series
site.py         the files of the board, and the table to download
many.py         hundreds of results, in several processes
serve.py        the board on this machine, for this machine only
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factlife.hub.collect import collect
from factlife.hub.many import build
from factlife.hub.serve import serve

__all__ = ["build_board", "collect", "serve"]


def build_board(results: Sequence[Path], out: Path) -> Path:
    """Write the board of these results, one row each, and return the path of `index.html`.

    Args:
        results: each a result.json, or a folder that is searched for such files; `scores.parquet`
            and `transitions.parquet` beside a result give its curves.

    Raises:
        UsageError: a path is not there, or nothing was found under any of them.
        SubmissionError: a result is not to the format; says file, place, what and how to mend.
        PartialError: the disk refuses the file.
    """
    return build(results, out)
