"""A run in several processes: which pieces each one measures, and what they share. No torch.

A piece is one track at one checkpoint; of the injection track, one revision that it starts from.
All shards of a run write into one folder; a part, its key and its bytes are the same whichever
shard writes it and however many shards there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factlife.errors import UsageError
from factlife.series.integrity import Weights, check_weights, weight_files
from factlife.store import SHARDS, sha256_json, waiting_lock, write_json

INJECTION = "injection"  # the one track that is not dealt out by checkpoint
ROW = "row"  # stands for the tracks of a last checkpoint where only the injection track runs


@dataclass(frozen=True)
class Shard:
    """Share `index` of `total`, counted from 1: `--shard 3/20`.

    Attributes:
        index: 1 to total.
    """

    index: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`. Raises UsageError for anything but 1 <= i <= n."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        index, total = (int(g) for g in found.groups()) if found else (0, 0)
        if not 1 <= index <= total:
            raise UsageError(f"--shard {text}: give i/n with 1 <= i <= n, for example 1/8 … 8/8")
        return cls(index, total)

    def __str__(self) -> str:
        return f"{self.index}/{self.total}"

    def share(self, checkpoint: int, checkpoints: int, tracks: Sequence[str]) -> tuple[str, ...]:
        """The tracks that this shard measures at one of the checkpoints.

        With at most as many shards as checkpoints, a checkpoint belongs to one shard, which
        loads it once. With more, every n-th piece does, counted track by track.

        Args:
            checkpoint: its place among the measured ones, 0 to checkpoints - 1.
        """
        whole = self.total <= checkpoints
        places = [checkpoint + (0 if whole else t * checkpoints) for t in range(len(tracks))]
        chosen = zip(tracks, places, strict=True)
        return tuple(t for t, place in chosen if place % self.total == self.index - 1)

    def starts(self, starts: int, checkpoints: int, tracks: Sequence[str]) -> tuple[int, ...]:
        """Which of the revisions that injection starts from are trained by this shard.

        They are dealt out after the pieces (or whole checkpoints) of `share`.

        Args:
            starts: how many there are; they are counted from 0.
            tracks: those of `share`.
        """
        before = checkpoints * (1 if self.total <= checkpoints else len(tracks))
        return tuple(k for k in range(starts) if (before + k) % self.total == self.index - 1)


def dealt_by_checkpoint(tracks: Sequence[str], *, last: bool) -> tuple[str, ...]:
    """The tracks of a profile that `Shard.share` deals out at a checkpoint.

    Args:
        last: whether it is the last checkpoint, whose row is written even if no track but
            injection runs.
    """
    dealt = tuple(t for t in tracks if t != INJECTION)
    return dealt or ((ROW,) if last else ())


def order(n: int, shard: Shard | None) -> list[int]:
    """0 to n - 1, beginning at another place for each shard: who comes later finds work done."""
    start = 0 if shard is None else (shard.index - 1) * n // shard.total
    return [*range(start, n), *range(start)]


def own_downloads(source: str, shard: Shard) -> None:
    """Give this process a cache of its own for a series on the Hub.

    Shards remove what they have downloaded; in one cache they would remove it for one another.
    """
    if Path(source).is_dir():
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    common = cache.parents[1] if cache.parent.name == "shards" else cache
    place = common / "shards" / f"{shard.index}-of-{shard.total}"
    constants.HF_HUB_CACHE = str(place)  # the library reads it at each call


class SharedChecks:
    """Hashes of weight files, taken once for all shards of a run.

    A file whose size or time of change differs is hashed again.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / SHARDS / "weights"

    def check(self, folder: Path, *, allow_pickle: bool = False) -> Weights:
        """As `check_weights`; waits where another shard reads the same checkpoint."""
        name = sha256_json([str(folder.resolve()), allow_pickle])[:32]
        path = self._folder / f"{name}.json"
        with waiting_lock(self._folder / f"{name}.lock"):
            files = weight_files(folder, allow_pickle=allow_pickle)
            stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
            if (known := _read(path)) and known["stamp"] == stamp:
                return Weights(
                    files,
                    tuple(known["sha256"]),
                    known["tensor_hash"],
                    tuple(known["flags"]),
                    known["bytes"],
                )
            w = check_weights(folder, allow_pickle=allow_pickle)
            found = {"sha256": w.sha256, "tensor_hash": w.tensor_hash, "flags": w.flags}
            write_json(path, {"stamp": stamp, "bytes": w.bytes, **found})
            return w


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
