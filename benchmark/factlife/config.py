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

TRACKS = ("recall", "circuits", "injection", "dynamics")


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
class Circuits:
    """The circuits track: information flow routes, roles, their evolution and ablation.

    Attributes:
        tau: threshold on contributions; `tau_sweep` are others, for the sensitivity of roles.
        threshold: each (key, head) by itself, or the sum over heads of an edge.
        self_edges: whether the residual and attention of a token to itself are two edges or one.
        theta, theta_ffn: share of activity above which a component holds a role.
        scores: mean over facts of each fact's mean over tokens, or pooled over all tokens.
        empty_union: IoU of two empty sets.
        subject_offset: tokens by which the subject's positions are shifted in T_e.
        answer_in_general: whether T_g includes the answer's positions.
        ablations: checkpoints whose roles are ablated; `ablation_draws` controls a role.
        null_draws: permutations behind a null.
        shown_facts: facts a relation whose edges are kept for the report.
    """

    tau: float = at_least(0, 0.01, below=1.0)
    tau_sweep: tuple[float, ...] = (0.005, 0.02, 0.04)
    threshold: str = one_of("per_head_key", "per_edge", default="per_head_key")
    self_edges: str = one_of("separate", "merged", default="separate")
    theta: float = at_least(0, 0.1, below=1.0)
    theta_ffn: float = at_least(0, 0.1, below=1.0)
    theta_sweep: tuple[float, ...] = (0.05, 0.2, 0.4)
    scores: str = one_of("averaged", "pooled", default="averaged")
    empty_union: str = one_of("null", "zero", default="null")
    subject_offset: int = 0
    answer_in_general: bool = True
    ablations: str = one_of("last", "all", "none", default="last")
    ablation_draws: int = at_least(1, 20)
    null_draws: int = at_least(20, 200)
    shown_facts: int = at_least(0, 1)


@dataclass(frozen=True)
class Injection:
    """The injection track: what is put into the training text, when, and how it is probed.

    Attributes:
        study: `main` compares the arms; `spacing`, `frequency`, `batch` and `lr` vary one thing.
        arms: `rotated` (three blocks of passages over three arms, by seed) or `published` (by
            place in the corpus, as injection-2024 has it).
        corpus: fictional-knowledge, a folder with passages.parquet and probes.parquet, or a file
            in the schema of `kaist-ai/fictional-knowledge`.
        background: built-in, a .parquet, .jsonl or .txt file, or a Hub data set
            `repo:config:text_field`, streamed.
        starts: early, mid, late (by tokens), first (step 0), or names of revisions.
        seeds: seeds 0 to `seeds` - 1; three make the Latin square.
        background_runs: whether the training of seed 0 is done once more without any passage, from
            no start, the `last` one or `each`: what injection takes from old knowledge is
            measured against it.
        known: what becomes of a corpus of which a start knows passages, by the audit of every
            corpus but the built-in one: `refuse` it, `exclude` these passages, or `keep` them.
        per_arm, controls: passages of each arm, and passages that are never injected.
        lead_in: steps before the first injection; as many as `window` give a placebo.
        injections, interval: how often, and steps from one to the next.
        after: steps that follow the last interval.
        probing: `windows` (dense after injections, log-spaced elsewhere) or `every` step.
        window: steps probed densely, every `dense_every`-th, after an injection.
        log_points: probed steps a decade elsewhere.
        long: what becomes of a text longer than a row: `truncate`, `split` over rows, `exclude`.
        optimiser: fresh, or a folder that holds optimiser.safetensors of the start revision.
        precision: auto is bfloat16 autocast over float32 weights on an accelerator, else float32.
        heldout_rows: background rows that are never trained on; their loss is corruption's.
        spacings, frequencies, batches, rates: the values that the studies vary.
        exposures: injections of every passage in a spacing study.
    """

    study: str = one_of("main", "spacing", "frequency", "batch", "lr", default="main")
    arms: str = one_of("rotated", "published", default="rotated")
    corpus: str = "fictional-knowledge"
    background: str = "built-in"
    starts: tuple[str, ...] = ("early", "mid", "late")
    seeds: int = at_least(1, 3)
    background_runs: str = one_of("none", "last", "each", default="none")
    known: str = one_of("refuse", "exclude", "keep", default="refuse")
    per_arm: int = at_least(2, 40)
    controls: int = at_least(2, 40)
    lead_in: int = at_least(0, 50)
    injections: int = at_least(1, 10)
    interval: int = at_least(1, 50)
    after: int = at_least(0, 250)
    probing: str = one_of("windows", "every", default="windows")
    window: int = at_least(1, 50)
    dense_every: int = at_least(1, 2)
    log_points: int = at_least(1, 12)
    long: str = one_of("truncate", "split", "exclude", default="truncate")
    optimiser: str = "fresh"
    precision: str = one_of("auto", "float32", "bfloat16", default="auto")
    batch_rows: int = at_least(1, 128)
    context: int = at_least(2, 512)
    accumulation: int = at_least(1, 1)
    checkpointing: bool = False
    peak_lr: float = at_least(0, 1e-4)
    schedule: str = one_of("constant", "cosine", default="constant")
    warmup_steps: int = at_least(0, 20)
    weight_decay: float = at_least(0, 0.1)
    clip_norm: float = at_least(0, 1.0)
    heldout_rows: int = at_least(0, 64)
    fact_recall: bool = True
    spacings: tuple[int, ...] = (1, 3, 10, 30, 100)
    exposures: int = at_least(2, 8)
    frequencies: tuple[int, ...] = (1, 3, 10, 30, 100)
    batches: tuple[int, ...] = (32, 64, 128)
    rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4)


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
        precision: of training: float32, or bfloat16 autocast over float32 weights; what is
            measured is measured in float32.
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
    precision: str = one_of("float32", "bfloat16", default="float32")
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
        for name in ("people", "alphas", "patch_references", "replay_weights"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UsageError(
                    f"dynamics: {name} holds a value twice: its run would be trained twice"
                )
        self._check_steps()

    def _check_steps(self) -> None:
        """Refuse steps that the run they belong to has not."""
        steps = dict(zip(self.people, self.steps, strict=True))
        for r in self.patch_references if self.patch_size else ():
            if not 0 <= r <= steps[self.patch_size]:
                raise UsageError(
                    f"dynamics: patch_references: step {r} is outside 0 to "
                    f"{steps[self.patch_size]}, the steps of the run of {self.patch_size} people"
                )
        size, warm = self.distribution_size, self.warm_up_steps
        if size and self.warm_up_people and warm >= steps[size]:
            raise UsageError(
                f"dynamics: a warm-up of {warm} steps does not end within the {steps[size]} of its "
                "run; shorten warm_up_steps"
            )


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
    kernel: str = one_of("auto", "c", "compile", "eager", default="auto")
    state_seconds: float = at_least(0, 60.0)


@dataclass(frozen=True)
class Profile:
    """A resolved profile.

    `ranked` profiles appear on the board's ranking; `badge` marks the others.
    """

    name: str
    version: int = at_least(0, 1)
    ranked: bool = False
    badge: str = ""
    tracks: tuple[str, ...] = ("recall", "circuits")
    selection: Selection = Selection()
    model: Model = Model()
    recall: Recall = Recall()
    circuits: Circuits = Circuits()
    injection: Injection = Injection()
    dynamics: Dynamics = Dynamics()
    intervals: Intervals = Intervals()
    execution: Execution = Execution()

    def params(self) -> dict[str, Any]:
        """What goes into the protocol hash: all but `[execution]` and tracks that do not run."""
        values = dataclasses.asdict(self)
        del values["execution"]
        for track in ("circuits", "injection", "dynamics"):
            if track not in self.tracks:
                del values[track]
        for key, before in _LATER.items():  # profiles that do not use it keep their hash
            if values.get("injection", {}).get(key) == before:
                del values["injection"][key]
        return {k: _as_json(v) for k, v in values.items()}

    def protocol_hash(self, data_fingerprints: dict[str, str]) -> str:
        """Hex sha256 over the parameters and the fingerprints of the data sets used."""
        return sha256_json({"params": self.params(), "data": data_fingerprints})


# Injection settings that came after version 1 of a profile, with the value that changes nothing.
_LATER = {"background_runs": "none", "known": "refuse"}


def _as_json(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {k: _as_json(v) for k, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value


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
