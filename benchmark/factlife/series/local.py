"""Series in a local folder or an explicit TOML file.

FOLDER/series.toml                an explicit list; see `read_series_toml`
FOLDER/step0/ step100/ …          one Hugging Face folder a revision
FOLDER/checkpoint-500/ …          the same, as the Trainer names them
FOLDER/global_step500/hf/         one level deeper, as Megatron-like tools do
FOLDER/config.json + weights      a series of one checkpoint
"""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factlife.config import at_least, from_mapping, one_of
from factlife.errors import UsageError
from factlife.series.names import parse_name, stage_key
from factlife.series.registry import tokens_of

SERIES_FILE = "series.toml"
SERIES_FORMAT = 1


@dataclass(frozen=True)
class Revision:
    """One checkpoint of a series.

    Attributes:
        name: unique in the series.
        repo: Hub repo id, or the name of the local folder.
        path: folder that holds the checkpoint; of a remote one, its place in the cache.
        stage, step, tokens, tokens_source: see the `checkpoints` table.
        commit_sha: Hub commit that the revision is pinned to.
        remote: whether its files are fetched from the Hub when they are wanted.
        aliases: other names of the same checkpoint, such as main.
    """

    name: str
    repo: str
    path: Path
    stage: str
    step: int | None
    tokens: int | None
    tokens_source: str
    commit_sha: str | None = None
    remote: bool = False
    aliases: tuple[str, ...] = ()

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
        training_seed: the seed it was trained with, where its file says so.
    """

    name: str
    source: str
    revisions: tuple[Revision, ...]
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    training_seed: int | None = None


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
    found = [c for p in sorted(folder.iterdir()) if p.is_dir() and (c := _checkpoint_in(p))]
    beside = _holds_checkpoint(folder)
    if beside:  # a Trainer saves its final model beside the checkpoints
        found = [(n, p) for n, p in found if parse_name(n)]
    if beside and not found:
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
    if not found:
        raise UsageError(
            f"no checkpoint in {folder}: a checkpoint is a folder with config.json and weights, "
            "such as step100/ or checkpoint-100/"
        )
    revisions = ordered([_revision(n, p, name) for n, p in found])
    warnings = [*gaps(revisions)]
    if beside:
        warnings.append(f"{folder} itself holds weights beside its checkpoints: not measured")
    return Series(name, str(folder), revisions, warnings=tuple(warnings))


def _checkpoint_in(folder: Path) -> tuple[str, Path] | None:
    """(name, place) of a checkpoint in `folder`, or in its only subfolder that holds one."""
    if _holds_checkpoint(folder):
        return folder.name, folder
    if parse_name(folder.name) is None:
        return None
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and _holds_checkpoint(p)]
    return (folder.name, inner[0]) if len(inner) == 1 else None


WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.safetensors.index.json")


def _holds_checkpoint(folder: Path) -> bool:
    """A folder that claims to be a checkpoint: it has a config, or weights without one."""
    return (folder / "config.json").is_file() or any(
        any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS
    )


def _revision(name: str, path: Path, repo: str) -> Revision:
    parsed = parse_name(name)
    if parsed is None:
        raise UsageError(
            f"cannot read a step from the name of {path}: rename it to step<N> or "
            f"checkpoint-<N>, or list the revisions in {path.parent / SERIES_FILE}"
        )
    return Revision(
        name=name,
        repo=repo,
        path=path,
        stage=parsed.stage,
        step=parsed.step,
        tokens=parsed.tokens,
        tokens_source="unknown" if parsed.tokens is None else "name",
    )


def ordered(revisions: list[Revision]) -> tuple[Revision, ...]:
    """Sort by stage, then step; names without a step by their tokens or index.

    Raises:
        UsageError: two revisions claim one place.
    """

    def key(r: Revision) -> tuple[Any, ...]:
        parsed = parse_name(r.name)
        index = parsed.index if parsed else None
        place = next((x for x in (r.step, r.tokens, index) if x is not None), 0)
        return stage_key(r.stage), place, r.name

    in_order = sorted(revisions, key=key)
    for a, b in itertools.pairwise(in_order):
        if a.partition == b.partition:
            raise UsageError(
                f"{where(a)} and {where(b)} are both stage {a.stage}, step {a.step}: remove one, "
                f"or list the revisions in a {SERIES_FILE}"
            )
    return tuple(in_order)


def where(r: Revision) -> str:
    """A revision's place, for messages."""
    return f"{r.repo}@{r.name}" if r.remote else str(r.path)


def gaps(revisions: tuple[Revision, ...]) -> list[str]:
    """Warnings about tokens that nobody states, and about steps that are not there."""
    missing = []
    if any(r.tokens is None for r in revisions):
        missing.append(
            "training tokens are unknown for some revisions, so that emergence in tokens cannot be "
            f"measured: state them in a {SERIES_FILE}"
        )
    for stage in dict.fromkeys(r.stage for r in revisions):
        steps = [r.step for r in revisions if r.stage == stage and r.step is not None]
        missing += [f"stage {stage}: {text}" for text in _step_gaps(steps)]
    return missing


def _step_gaps(steps: list[int]) -> list[str]:
    """Holes in the regular part of a sequence of steps.

    The stride is the commonest distance, if it occurs three times; before its first occurrence a
    series may be spaced otherwise (Pythia doubles its first steps).
    """
    distances = [b - a for a, b in itertools.pairwise(steps)]
    counted = Counter(distances).most_common(1)
    if not counted or counted[0][1] < 3:
        return []
    stride = counted[0][0]
    first = distances.index(stride)
    holes = [i for i in range(first, len(distances)) if distances[i] > stride]
    if holes and holes[-1] == len(distances) - 1 and distances[-1] < 2 * stride:
        holes.pop()  # the last step of a run need not lie on the grid
    return [
        f"no revision between step {steps[i]} and step {steps[i + 1]}, though they come every "
        f"{stride} steps"
        for i in holes
    ]


# ---- explicit lists --------------------------------------------------------------------------


@dataclass(frozen=True)
class RevisionEntry:
    """`[[revision]]` of a series TOML file.

    Either `path`, relative to the file, or `repo` (by default the file's own) and `revision`: a
    branch, a tag or a commit. Several repos may follow one another: pretraining, SFT, DPO.
    """

    name: str
    path: str = ""
    repo: str = ""
    revision: str = ""
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
    repo: str = ""
    fact_subsets: dict[str, tuple[str, ...]] = field(default_factory=dict)


# (repo, revision) -> (commit, folder, whether it is still to be fetched)
Pin = Callable[[str, str], tuple[str, Path, bool]]


def read_series_toml(path: Path, pin: Pin | None = None) -> Series:
    """Read an explicit series. Of `[training]`, the trainer's provenance, only the seed is.

    Args:
        pin: turns a revision on the Hub into a commit; without it only paths are taken.

    Raises:
        UsageError: no such file, broken TOML, unknown keys, a newer format, or a missing folder.
    """
    if not path.is_file():
        raise UsageError(f"no such series file: {path}")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    seed = _training_seed(values.pop("training", None))
    spec = from_mapping(SeriesFile, values, str(path))
    if spec.format > SERIES_FORMAT:
        raise UsageError(
            f"{path}: format {spec.format} is newer than {SERIES_FORMAT}: install a newer factlife"
        )
    if not spec.revision:
        raise UsageError(f"{path}: lists no [[revision]]")
    revisions = tuple(_listed(entry, path, spec, pin) for entry in spec.revision)
    _refuse_repeats(revisions, path)
    found = tuple(gaps(revisions))
    return Series(spec.name, str(path), revisions, spec.fact_subsets, found, seed)


def _training_seed(training: Any) -> int | None:
    """The seed in what a trainer wrote about itself; None where it is not there."""
    settings = training.get("settings") if isinstance(training, dict) else None
    seed = settings.get("seed") if isinstance(settings, dict) else None
    return seed if type(seed) is int else None


def _listed(entry: RevisionEntry, file: Path, spec: SeriesFile, pin: Pin | None) -> Revision:
    at = f"{file}: revision {entry.name!r}"
    source = entry.tokens_source if entry.tokens is not None else "unknown"
    place: tuple[str, int | None, int | None, str]
    place = (entry.stage, entry.step, entry.tokens, source)
    if bool(entry.path) == bool(entry.revision):
        raise UsageError(f"{at}: give either a path, or a repo and a revision")
    if entry.path:
        folder = file.parent / entry.path
        if not folder.is_dir():
            raise UsageError(f"{at}: no such folder: {folder}")
        return Revision(entry.name, spec.name, folder, *place)
    repo = entry.repo or spec.repo
    if not repo:
        raise UsageError(f"{at}: says revision {entry.revision!r} but no repo")
    if pin is None:
        raise UsageError(f"{at}: lies on the Hub, and only local folders are read here")
    parsed = parse_name(entry.revision)
    if parsed and entry.step is None and entry.tokens is None:
        place = (entry.stage, parsed.step, *tokens_of(parsed, repo))
    sha, folder, remote = pin(repo, entry.revision)
    return Revision(entry.name, repo, folder, *place, commit_sha=sha, remote=remote)


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
