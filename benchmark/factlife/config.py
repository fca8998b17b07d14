"""Profiles: frozen dataclasses read from TOML, unknown keys refused.

A profile says what is measured and how. Its hash, together with the data fingerprint, is the
protocol hash: two results with one protocol hash may be compared. `[execution]` says only how
fast it is done and is not hashed.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from factlife.errors import UsageError
from factlife.store import sha256_json

T = TypeVar("T")

TRACKS = ("recall", "dynamics")


def one_of(*allowed: str, default: str) -> Any:
    """A string field that takes only these values."""
    return field(default=default, metadata={"allowed": allowed})


def at_least(low: float, default: Any, below: float | None = None) -> Any:
    """A number field with a lower bound, and an upper one that it stays below."""
    return field(default=default, metadata={"low": low, "below": below})


@dataclass(frozen=True)
class Selection:
    """Which revisions of a series are measured."""

    max_checkpoints: int = at_least(1, 20)
    spacing: str = one_of("log", "all", default="log")


@dataclass(frozen=True)
class Model:
    """How a model is loaded for measuring."""

    dtype: str = one_of("float32", "bfloat16", "float16", default="float32")
    attention: str = one_of("eager", "sdpa", default="sdpa")
    bos: str = one_of("auto", "never", "always", default="auto")


@dataclass(frozen=True)
class Recall:
    """The recall track."""

    templates: str = one_of("all", "source", default="all")
    generation: str = one_of("all", "source", "none", default="source")
    extra_new_tokens: int = at_least(0, 8)
    candidates: bool = True
    context_free_subject: str = "N/A"


@dataclass(frozen=True)
class Dynamics:
    """The dynamics track: populations, model, training, and what is varied.

    Attributes:
        people: sizes of the populations that models are trained on from scratch, none to many.
        steps: training steps of each size.
        attributes: attributes of a person, from the data set's list.
        values: values of an attribute; 0: the data set's full lists.
        names: sizes of the lists of first, middle and last names; none: the data set's full lists.
        held_out: people who are measured and never trained on.
        seeds: runs of each condition; the population is the same in all of them.
        arch, layers, width, heads, ffn: of the model (see `training.models.ModelShape`).
        evaluations: evaluations of a run, log-spaced in steps.
        eval_people: people of each population that are measured.
        distribution_size: size at which `alphas`, warm-up, celebrities and groups are run; 0: none.
        alphas: exponents of the power law, 0 to 1; 0 is the uniform run.
        warm_up_people, warm_up_steps: the warm-up shows so many people for so many steps; 0: none.
        celebrities, celebrity_weight: so many people are drawn so many times as often; 0: none.
        groups: the population is shown in so many groups, one after another; 0: not run.
        patch_size: size at which attention patching is run; 0: none.
        patch_references: steps r of the reference run whose patterns are taken.
        patch_from: step s from which they are.
        fine_tune_size: size whose final models are fine-tuned; 0: none.
        new_people: people of a fine-tuning, never seen before.
        fine_tune_steps, fine_tune_lr: at a constant rate.
        replay_weights: weights w of an old person in the fine-tuning text; 0: no replay.
    """

    people: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    attributes: int = at_least(1, 4, below=7)
    values: int = at_least(0, 32)
    names: tuple[int, ...] = (64, 64, 64)
    held_out: int = at_least(1, 256)
    seeds: int = at_least(1, 1)
    arch: str = one_of("olmo2", "llama", "gpt_neox", "gpt2", default="llama")
    layers: int = at_least(1, 2)
    width: int = at_least(1, 128)
    heads: int = at_least(1, 4)
    ffn: int = at_least(1, 384)
    batch_rows: int = at_least(1, 32)
    peak_lr: float = at_least(0, 2e-3)
    evaluations: int = at_least(8, 40)
    eval_people: int = at_least(1, 64)
    distribution_size: int = at_least(0, 0)
    alphas: tuple[float, ...] = ()
    warm_up_people: int = at_least(0, 0)
    warm_up_steps: int = at_least(0, 0)
    celebrities: int = at_least(0, 0)
    celebrity_weight: float = at_least(1, 8.0)
    groups: int = at_least(0, 0)
    patch_size: int = at_least(0, 0)
    patch_references: tuple[int, ...] = ()
    patch_from: int = at_least(0, 0)
    fine_tune_size: int = at_least(0, 0)
    new_people: int = at_least(1, 64)
    fine_tune_steps: int = at_least(1, 60)
    fine_tune_lr: float = at_least(0, 5e-4)
    replay_weights: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if len(self.people) != len(self.steps):
            raise UsageError(
                f"dynamics: {len(self.people)} sizes in people but {len(self.steps)} in steps; "
                "give each size its steps"
            )
        for name in ("distribution_size", "patch_size", "fine_tune_size"):
            if (size := getattr(self, name)) and size not in self.people:
                raise UsageError(
                    f"dynamics: {name} {size} is not one of people {list(self.people)}"
                )
        for size in self.people:
            if size < self.batch_rows:
                raise UsageError(
                    f"dynamics: a batch of {self.batch_rows} is larger than a population of "
                    f"{size}; lower batch_rows or raise people"
                )
        for alpha in self.alphas:
            if not 0 <= alpha <= 1:
                raise UsageError(f"dynamics: alpha {alpha:g} is outside 0 to 1")
        if any(w < 0 for w in self.replay_weights):
            raise UsageError("dynamics: replay_weights holds a weight below 0")


@dataclass(frozen=True)
class Intervals:
    """How intervals are made."""

    level: float = at_least(0.5, 0.95, below=1.0)
    draws: int = at_least(100, 2000)
    seed: int = at_least(0, 0)


@dataclass(frozen=True)
class Execution:
    """How the work is cut up; never changes a number beyond rounding."""

    batch_tokens: int = at_least(1, 8192)
    device: str = "auto"


@dataclass(frozen=True)
class Profile:
    """A resolved profile.

    `ranked` profiles appear on the board's ranking; `badge` marks the others.
    """

    name: str
    version: int = at_least(0, 1)
    ranked: bool = False
    badge: str = ""
    tracks: tuple[str, ...] = ("recall",)
    selection: Selection = Selection()
    model: Model = Model()
    recall: Recall = Recall()
    dynamics: Dynamics = Dynamics()
    intervals: Intervals = Intervals()
    execution: Execution = Execution()

    def params(self) -> dict[str, Any]:
        """What goes into the protocol hash: everything but `[execution]` and tracks not run."""
        values = dataclasses.asdict(self)
        del values["execution"]
        if "dynamics" not in self.tracks:
            del values["dynamics"]
        values["tracks"] = list(self.tracks)
        return values

    def protocol_hash(self, data_fingerprints: dict[str, str]) -> str:
        """Hex sha256 over the parameters and the fingerprints of the data sets used."""
        return sha256_json({"params": self.params(), "data": data_fingerprints})


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    folder = resources.files("factlife").joinpath("profiles")
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith("toml"))


def load_profile(name_or_path: str) -> Profile:
    """Read a shipped profile by name, or a TOML file by path.

    Raises:
        UsageError: no such profile, broken TOML, an unknown key (with the nearest valid one), or
            a value of the wrong type or outside its range.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(f"no such profile file: {path}")
        return parse_profile(_read_text(path), str(path))
    if name_or_path not in profile_names():
        raise UsageError(
            f"unknown profile {name_or_path!r}{nearest(name_or_path, profile_names())}; "
            f"shipped: {', '.join(profile_names())}; or give a path ending in .toml"
        )
    shipped = resources.files("factlife").joinpath("profiles", f"{name_or_path}.toml")
    return parse_profile(shipped.read_text("utf-8"), f"profile {name_or_path}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as UTF-8 text ({error})") from error


def parse_profile(text: str, where: str) -> Profile:
    """Parse a profile's TOML; `where` names it in messages. Raises UsageError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not TOML: {error}") from error
    profile = from_mapping(Profile, values, where)
    if not profile.tracks:
        raise UsageError(f"{where}: tracks is empty; name at least one of {', '.join(TRACKS)}")
    for track in profile.tracks:
        check_choice(track, TRACKS, f"{where}: tracks")
    return profile


def check_choice(value: str, allowed: typing.Sequence[str], where: str) -> None:
    """Refuse a value that is not one of `allowed`, naming the nearest. Raises UsageError."""
    if value not in allowed:
        raise UsageError(
            f"{where}: {value!r} is not one of {', '.join(allowed)}{nearest(value, allowed)}"
        )


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A hint at the valid name most like this one, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """Build a frozen dataclass from a mapping; nested dataclasses come from nested tables.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a missing required key, or a value
            of the wrong type or outside its range.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected a table, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UsageError(
                f"{where}: unknown key {key!r}{nearest(key, fields)}; "
                f"valid keys: {', '.join(fields)}"
            )
    for f in fields.values():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise UsageError(f"{where}: key {f.name!r} is missing")
    converted = {k: _convert(hints[k], v, f"{where}: {k}") for k, v in values.items()}
    for key, value in converted.items():
        _check_range(fields[key], value, f"{where}: {key}")
    return cls(**converted)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return {k: _convert(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is types.UnionType:
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _check_range(f: dataclasses.Field[Any], value: Any, where: str) -> None:
    if allowed := f.metadata.get("allowed"):
        check_choice(value, allowed, where)
    low = f.metadata.get("low")
    if low is not None and not value >= low:
        raise UsageError(f"{where}: {value!r} is below {low}")
    below = f.metadata.get("below")
    if below is not None and not value < below:
        raise UsageError(f"{where}: {value!r} is not below {below}")
