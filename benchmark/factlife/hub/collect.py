"""Result files -> entries of the board. Everything in them was written by someone else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from factlife.errors import UsageError
from factlife.hub.protocol import is_shipped, protocol_hash
from factlife.report.identity import command, training_command
from factlife.result import load_result, metric_key
from factlife.scores import BY_NAME
from factlife.store import MANIFEST, sha256_json

FILE = "result.json"
RANKED_PROFILE = "standard"
ROW_SCOPES = ("overall", "LOC", "NAME", "stated", "unstated")
SECTIONS = (RANKED_PROFILE, "reference", "demo", "other")


@dataclass(frozen=True)
class Entry:
    """One result on the board.

    Attributes:
        recorded: the command that made it, if a manifest lies beside the result.
        folder: where it lies; tables of the same run may lie there too.
    """

    result: Mapping[str, Any]
    recorded: str | None = None
    folder: Path | None = None

    @property
    def series(self) -> str:
        """Name of the series."""
        return str(self.result["series_name"])

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Profile name, version, hash, badge."""
        found: Mapping[str, Any] = self.result["protocol"]
        return found

    @cached_property
    def digest(self) -> str:
        """sha256 over the result."""
        return sha256_json(self.result)

    @cached_property
    def slug(self) -> str:
        """Its name in addresses and file names: harmless letters of the series, and a hash."""
        kept = re.sub(r"[^a-z0-9]+", "-", self.series.rpartition("/")[2].lower())[:40].strip("-")
        return f"{kept or 'series'}-{self.digest[:10]}"

    @property
    def command(self) -> str:
        """The command that measures it again; what only exists in a reader's folder is trained."""
        run: str = self.result.get("command") or self.recorded or command(self.result)
        train = training_command(self.result, run)
        return f"{train} && {run}" if train else run

    @property
    def section(self) -> str:
        """Section of the board that it belongs to."""
        name = str(self.protocol["name"])
        if name == "demo" or self.protocol["badge"] == "demo":
            return "demo"
        return name if name in SECTIONS else "other"

    @property
    def badge(self) -> str:
        """Mark beside its name; a result that may not be ranked always has one."""
        return str(self.protocol["badge"]) or ("" if self.ranked else "not ranked")

    @cached_property
    def ranked(self) -> bool:
        """Whether it may have a rank: the shipped ranked profile, no badge, a hash that holds."""
        p = self.protocol
        says_so = p["ranked"] and not p["badge"] and p["params"].get("ranked") is True
        holds = says_so and p["name"] == RANKED_PROFILE and self.hash_holds
        return bool(holds and is_shipped(p))

    @cached_property
    def hash_holds(self) -> bool:
        """Whether the protocol hash is that of the parameters and data beside it."""
        return protocol_hash(self.result) == str(self.protocol["hash"])

    @cached_property
    def measured(self) -> list[Mapping[str, Any]]:
        """Revisions that were measured, in order."""
        return [r for r in self.result["series"] if not r["reason"]]

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Training tokens of the first and last measured revision."""
        if not self.measured:
            return None, None
        return self.measured[0]["tokens"], self.measured[-1]["tokens"]

    def metric(self, name: str, scope: str = "overall") -> Mapping[str, Any] | None:
        """A metric of the registry in the registry's unit; None if it is absent or in another."""
        found: Mapping[str, Any] | None = self.result["metrics"].get(metric_key(name, scope))
        return found if found and found["unit"] == BY_NAME[name].unit else None

    def row_only(self) -> Entry:
        """This entry with the metrics that its row shows, and no others."""
        keys = [metric_key(name, scope) for name in BY_NAME for scope in ROW_SCOPES]
        metrics = {k: m for k in keys if (m := self.result["metrics"].get(k)) is not None}
        made = replace(self, result={**self.result, "metrics": metrics})
        made.__dict__["digest"] = self.digest  # of the whole result
        return made

    @cached_property
    def flags(self) -> list[str]:
        """What a reader should know before comparing this row."""
        integrity, env = self.result["integrity"], self.result["env"]
        counts = [
            (len(integrity["warnings"]), "warning"),
            (len(integrity["duplicates"]), "duplicate revision"),
            (sum(integrity["exclusions"].values()), "dropped row"),
        ]
        flags = [f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in counts if n]
        if env["dirty"]:
            flags.append("source had local changes")
        if not (self.series + str(self.result["model"]["repo"])).isascii():
            flags.append("name with letters outside ASCII")
        if None in self.tokens:
            flags.append("tokens not known")
        if not self.hash_holds:
            flags.append("protocol hash does not match its parameters")
        return flags


def collect(paths: Sequence[Path]) -> list[Entry]:
    """Load and validate every result under the paths, in an order that paths do not change.

    Raises:
        UsageError: a path is not there, or nothing was found.
        SubmissionError: a result is not to the format.
    """
    return in_order([read_entry(f) for f in result_files(paths)])


def result_files(paths: Sequence[Path]) -> list[Path]:
    """Every result file under the paths, each once. Raises UsageError where there is none."""
    files = dict.fromkeys(f.resolve() for path in paths for f in _files(path))
    if not files:
        where = ", ".join(map(str, paths)) or "no path given"
        raise UsageError(f"no {FILE} under {where}; give a run folder that `factlife score` wrote")
    return list(files)


def read_entry(file: Path) -> Entry:
    """Load and validate one result. Raises SubmissionError where it is not to the format."""
    return Entry(load_result(file), _recorded(file.parent), file.parent)


def in_order(found: Sequence[Entry]) -> list[Entry]:
    """Entries by name, each result once."""
    unique = {e.digest: e for e in found}  # a copy of a result is no second one
    return sorted(unique.values(), key=lambda e: (e.series.casefold(), e.digest))


def _recorded(folder: Path) -> str | None:
    """The command in the manifest of a run folder; submissions need not have one."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(p for p in path.rglob(FILE) if p.is_file())
    elif path.is_file():
        yield path
    else:
        raise UsageError(f"no such file or folder: {path}")
