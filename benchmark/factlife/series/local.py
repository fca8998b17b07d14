"""Series in a local folder or an explicit TOML file.

FOLDER/series.toml                an explicit list; see `read_series_toml`
FOLDER/step0/ step100/ …          one Hugging Face folder a revision
FOLDER/config.json + weights      a series of one checkpoint
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factlife.config import at_least, from_mapping, one_of
from factlife.errors import UsageError
from factlife.series.names import parse_name, stage_key

SERIES_FILE = "series.toml"
SERIES_FORMAT = 1


@dataclass(frozen=True)
class Revision:
    """One checkpoint of a series.

    Attributes:
        name: unique in the series.
        repo: Hub repo id, or the name of the local folder.
        path: folder that holds the checkpoint.
        stage, step, tokens, tokens_source: see the `checkpoints` table.
    """

    name: str
    repo: str
    path: Path
    stage: str
    step: int | None
    tokens: int | None
    tokens_source: str
    commit_sha: str | None = None

    @property
    def partition(self) -> dict[str, str | int]:
        """Partition values of this revision's parts; its name stands in for an unknown step."""
        return {"stage": self.stage, "step": self.name if self.step is None else self.step}


@dataclass(frozen=True)
class Series:
    """Ordered revisions of one model.

    Attributes:
        subsets: named sets of fact ids that are reported apart, e.g. stated and unstated.
        warnings: what a reader should know about the series.
    """

    name: str
    source: str
    revisions: tuple[Revision, ...]
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def open_series(source: str) -> Series:
    """Find the revisions of a local series.

    Args:
        source: a folder of checkpoints, one checkpoint folder, or a series TOML file.

    Raises:
        UsageError: no such folder, no checkpoint in it, a name that says no step, or a broken TOML.
    """
    path = Path(source)
    if path.suffix == ".toml":
        return read_series_toml(path)
    if not path.exists():
        raise UsageError(
            f"no such folder: {source}; give a folder of checkpoints or a series .toml file"
        )
    if not path.is_dir():
        raise UsageError(f"{source} is a file; give a folder of checkpoints or a series .toml file")
    if (path / SERIES_FILE).is_file():
        return read_series_toml(path / SERIES_FILE)
    return _scan(path)


def _scan(folder: Path) -> Series:
    name = folder.resolve().name
    if _holds_checkpoint(folder):
        parsed = parse_name(name)
        revision = Revision(
            name=name,
            repo=name,
            path=folder,
            stage=parsed.stage if parsed else "main",
            step=parsed.step if parsed else None,
            tokens=parsed.tokens if parsed else None,
            tokens_source="name" if parsed and parsed.tokens is not None else "unknown",
        )
        return Series(name, str(folder), (revision,))
    found = sorted(p for p in folder.iterdir() if p.is_dir() and _holds_checkpoint(p))
    if not found:
        raise UsageError(
            f"no checkpoint in {folder}: a checkpoint is a folder with config.json and weights, "
            "such as step100/ or checkpoint-100/"
        )
    revisions = _ordered([_revision(p, name) for p in found])
    return Series(name, str(folder), revisions, warnings=tuple(_gaps(revisions)))


WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.safetensors.index.json")


def _holds_checkpoint(folder: Path) -> bool:
    """A folder that claims to be a checkpoint: it has a config, or weights without one."""
    return (folder / "config.json").is_file() or any(
        any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS
    )


def _revision(path: Path, repo: str) -> Revision:
    parsed = parse_name(path.name)
    if parsed is None:
        raise UsageError(
            f"cannot read a step from the name of {path}: rename it to step<N> or "
            f"checkpoint-<N>, or list the revisions in {path.parent / SERIES_FILE}"
        )
    return Revision(
        name=path.name,
        repo=repo,
        path=path,
        stage=parsed.stage,
        step=parsed.step,
        tokens=parsed.tokens,
        tokens_source="unknown" if parsed.tokens is None else "name",
    )


def _ordered(revisions: list[Revision]) -> tuple[Revision, ...]:
    """Sort by stage, then step; names without a step by their tokens or index.

    Raises:
        UsageError: two revisions claim one place.
    """

    def key(r: Revision) -> tuple[Any, ...]:
        parsed = parse_name(r.name)
        index = parsed.index if parsed else None
        place = next((x for x in (r.step, r.tokens, index) if x is not None), 0)
        return stage_key(r.stage), place, r.name

    ordered = sorted(revisions, key=key)
    for a, b in itertools.pairwise(ordered):
        if a.partition == b.partition:
            raise UsageError(
                f"{a.path} and {b.path} are both stage {a.stage}, step {a.step}: remove one, or "
                f"list the revisions in a {SERIES_FILE}"
            )
    return tuple(ordered)


def _gaps(revisions: tuple[Revision, ...]) -> list[str]:
    if any(r.tokens is None for r in revisions):
        return [
            "training tokens are unknown for some revisions, so that emergence in tokens cannot be "
            f"measured: state them in a {SERIES_FILE}"
        ]
    return []


# ---- explicit lists --------------------------------------------------------------------------


@dataclass(frozen=True)
class RevisionEntry:
    """`[[revision]]` of a series TOML file; the path is relative to the file."""

    name: str
    path: str
    stage: str = "main"
    step: int | None = at_least(0, None)
    tokens: int | None = at_least(0, None)
    tokens_source: str = one_of("name", "registry", "user", default="user")


@dataclass(frozen=True)
class SeriesFile:
    """A series TOML file. Revisions are taken in the order in which they are listed."""

    format: int
    name: str
    revision: tuple[RevisionEntry, ...]
    fact_subsets: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_series_toml(path: Path) -> Series:
    """Read an explicit series. `[training]`, written by the trainer, is provenance and not read.

    Raises:
        UsageError: no such file, broken TOML, unknown keys, a newer format, or a missing folder.
    """
    if not path.is_file():
        raise UsageError(f"no such series file: {path}")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    values.pop("training", None)
    spec = from_mapping(SeriesFile, values, str(path))
    if spec.format > SERIES_FORMAT:
        raise UsageError(
            f"{path}: format {spec.format} is newer than {SERIES_FORMAT}: install a newer factlife"
        )
    if not spec.revision:
        raise UsageError(f"{path}: lists no [[revision]]")
    revisions = tuple(_listed(entry, path, spec.name) for entry in spec.revision)
    _refuse_repeats(revisions, path)
    return Series(spec.name, str(path), revisions, spec.fact_subsets, tuple(_gaps(revisions)))


def _listed(entry: RevisionEntry, file: Path, repo: str) -> Revision:
    folder = file.parent / entry.path
    if not folder.is_dir():
        raise UsageError(f"{file}: revision {entry.name!r}: no such folder: {folder}")
    source = entry.tokens_source if entry.tokens is not None else "unknown"
    return Revision(entry.name, repo, folder, entry.stage, entry.step, entry.tokens, source)


def _refuse_repeats(revisions: tuple[Revision, ...], file: Path) -> None:
    names: set[str] = set()
    places: set[tuple[str, str]] = set()
    for r in revisions:
        place = (r.stage, str(r.partition["step"]))
        if r.name in names or place in places:
            raise UsageError(
                f"{file}: revision {r.name!r} (stage {r.stage}, step {r.step}) is listed twice"
            )
        names.add(r.name)
        places.add(place)
