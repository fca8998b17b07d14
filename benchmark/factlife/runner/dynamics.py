"""Dynamics studies: models trained from scratch on biographies, in a run folder of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import factlife
from factlife.config import Dynamics, Profile, load_profile
from factlife.corpora.biographies import all_attributes
from factlife.dynamics.evaluate import make_panel
from factlife.dynamics.plan import RunSpec, training_flops
from factlife.dynamics.study import PANEL_SEED, Done, Study, make_world, new_model
from factlife.errors import UsageError
from factlife.runner.progress import Progress
from factlife.runner.provenance import environment
from factlife.series.loading import pick_device
from factlife.store import RunStore, sha256_json
from factlife.training.models import ARCHITECTURES

SIZES = {
    "demo": "demo", "cpu": "dynamics-cpu", "gpu": "dynamics-gpu", "published": "dynamics-2025",
}  # fmt: skip
WORK = ".dynamics"


@dataclass(frozen=True)
class Shape:
    """What the command line changes of a size's model; None leaves it.

    Attributes:
        arch: an architecture, or the folder of a model whose configuration is scaled.
        width, depth: of the residual stream, and number of layers.
    """

    arch: str | None = None
    width: int | None = None
    depth: int | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study, planned.

    Attributes:
        tokens: trained on, padding not counted.
        flops: 6 a parameter and token; 8 where a reference runs beside the model.
        finished: whether the folder holds it already.
    """

    name: str
    steps: int
    tokens: int
    flops: float
    finished: bool


@dataclass(frozen=True)
class StudyPlan:
    """What a study would train."""

    profile: str
    out: str
    parameters: int
    runs: tuple[PlannedRun, ...]
    flops: float


def study_profile(size: str, shape: Shape) -> Profile:
    """The profile of a size with the model that the command line asks for.

    Raises:
        UsageError: unknown size or architecture, or a width that the heads do not divide.
    """
    name = SIZES.get(size, size)
    if size not in SIZES and not size.endswith(".toml"):
        raise UsageError(f"--size {size}: choose {', '.join(SIZES)}, or a path ending in .toml")
    profile = load_profile(name)
    settings = shaped(profile.dynamics, shape)
    if not settings.people:
        raise UsageError(f"profile {profile.name}: dynamics has no people: nothing to train")
    return replace(profile, tracks=("dynamics",), dynamics=settings)


def shaped(settings: Dynamics, shape: Shape) -> Dynamics:
    """Settings with another architecture, width, depth or number of seeds.

    A given model's own ratios are kept: heads of its size where they divide the width, and its FFN
    times as wide as its residual stream.
    """
    if shape.arch is not None and shape.arch not in ARCHITECTURES:
        settings = _like(settings, Path(shape.arch))
    elif shape.arch is not None:
        settings = replace(settings, arch=shape.arch)
    if shape.width is not None:
        ffn = max(1, round(settings.ffn * shape.width / settings.width))
        fitting = [h for h in range(settings.heads, 0, -1) if shape.width % h == 0]
        # Positions are rotated in pairs of numbers: heads of even width, where there are any.
        heads = next((h for h in fitting if shape.width // h % 2 == 0), fitting[0])
        settings = replace(settings, width=shape.width, ffn=ffn, heads=heads)
    if shape.depth is not None:
        settings = replace(settings, layers=shape.depth)
    return settings if shape.seeds is None else replace(settings, seeds=shape.seeds)


def _like(settings: Dynamics, folder: Path) -> Dynamics:
    """The shape of a model folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(
            f"--arch {folder}: neither one of {', '.join(ARCHITECTURES)} nor a model folder with "
            "a config.json"
        )
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = str(config["model_type"])
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path}: no usable configuration ({error})") from error
    if kind not in ARCHITECTURES:
        raise UsageError(
            f"{path}: model type {kind!r} cannot be trained from scratch here; "
            f"possible: {', '.join(ARCHITECTURES)}"
        )
    width = int(config.get("hidden_size") or config.get("n_embd") or settings.width)
    gated = int(config.get("intermediate_size") or config.get("n_inner") or 4 * width)
    return replace(
        settings,
        arch=kind,
        width=width,
        layers=int(config.get("num_hidden_layers") or config.get("n_layer") or settings.layers),
        heads=int(config.get("num_attention_heads") or config.get("n_head") or settings.heads),
        ffn=round(gated * 2 / 3) if kind.startswith("gpt") else gated,
    )


def default_study_out(profile: Profile) -> Path:
    """`runs/studies/dynamics-<profile>-<arch>-<hash>`."""
    short = sha256_json(profile.params())[:8]
    return Path("runs") / "studies" / f"{profile.name}-{profile.dynamics.arch}-{short}"


def corpus_fingerprint() -> str:
    """Hex sha256 over everything that biographies are made of."""
    content = {
        name: [a.label, [list(p) for p in a.parts], list(a.templates)]
        for name, a in all_attributes().items()
    }
    return sha256_json(content)


def study(
    profile: Profile, out: Path, command: str, progress: Progress, *, share: bool = False
) -> Done:
    """Train what is missing; the same call goes on after a stop.

    Args:
        share: beside other processes that make the same call in the same folder, in which none
            trains what another does; afterwards a call without `share` ends the study.

    Raises:
        UsageError: settings that cannot be run, or a folder of another study.
        IntegrityError: a run diverged.
        PartialError: the disk refused a write.
    """
    device = pick_device(profile.execution.device)
    manifest = _manifest(profile, device, command)
    opened = RunStore.sharer if share else RunStore.writer
    with opened(out, manifest) as store:
        done = train_runs(profile.dynamics, store, device, progress, share=share)
        if not share:
            store.forget_shards()
        return done


def train_runs(
    settings: Dynamics,
    store: RunStore,
    device: torch.device,
    progress: Progress,
    *,
    share: bool = False,
) -> Done:
    """The runs of a study inside an open run folder."""
    before = started = 0

    def on_run(done: int, total: int) -> None:
        nonlocal before, started
        if not started:
            progress.start("dynamics", total, "steps")
        before, started = done, 1
        progress.advance(before)

    def on_step(name: str, report: Any) -> None:
        progress.advance(before + report.step, f"{name} loss {report.loss:.2f}")

    study = Study(settings, store, store.root / WORK, device, on_step, on_run)
    done = study.share() if share else study.run()
    if started:
        progress.finish()
    return done


def train_beside(settings: Dynamics, root: Path, progress: Progress) -> Done:
    """Train a study's runs into the folder of a run over a given series."""
    store = RunStore.existing(root)
    with RunStore.writer(root, store.manifest()) as writer:
        return train_runs(settings, writer, torch.device("cpu"), progress)


def _manifest(profile: Profile, device: torch.device, command: str) -> dict[str, Any]:
    fingerprint = corpus_fingerprint()
    digest = profile.protocol_hash({"synthetic-biographies": fingerprint})
    name = f"{profile.name} study, {profile.dynamics.arch}"
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "identity": {"study": name, "protocol_hash": digest},
        "study": "dynamics",
        "protocol": {
            "name": profile.name,
            "version": profile.version,
            "hash": digest,
            "ranked": False,
            "badge": profile.badge,
            "params": profile.params(),
        },
        "series": {"name": name, "warnings": []},
        "subsets": {},
        "chance": {},
        "data": [
            {
                "name": "synthetic-biographies",
                "revision": factlife.__version__,
                "fingerprint": fingerprint,
            }
        ],
        "env": environment(
            f"{device.type} {device_name}".strip(),
            {"bootstrap": profile.intervals.seed},
            torch.are_deterministic_algorithms_enabled(),
        ),
        "command": command,
    }


# ---- planning --------------------------------------------------------------------------------


def plan_study(profile: Profile, out: Path) -> StudyPlan:
    """What `study` would train, in FLOPs; trains nothing.

    Raises:
        UsageError: settings that cannot be run.
    """
    settings = profile.dynamics
    store = RunStore(out)
    planned = Study(settings, store, out / WORK)
    planned.check()
    sizes = {size: _size(settings, size) for size in settings.people}
    runs = tuple(_planned(spec, planned, sizes[spec.n_people]) for spec in planned.runs)
    parameters = max(p for p, _ in sizes.values())
    flops = sum(r.flops for r in runs if not r.finished)
    return StudyPlan(profile.name, str(out), parameters, runs, flops)


def _size(settings: Dynamics, size: int) -> tuple[int, float]:
    """Parameters of the model for a size, and mean tokens of a biography."""
    world = make_world(settings, size)
    with torch.device("meta"):
        model = new_model(settings, world, 0)
    panel = make_panel(world.encoder, "known", world.population.known, 64, PANEL_SEED)
    tokens = float((panel.ids != world.pad).sum(1).double().mean())
    return sum(p.numel() for p in model.parameters()), tokens


def _planned(spec: RunSpec, planned: Study, size: tuple[int, float]) -> PlannedRun:
    parameters, tokens = size
    a_step = tokens * planned.settings.batch_rows
    finished = planned.finished(spec)
    flops = training_flops(spec, parameters, a_step)
    return PlannedRun(spec.name, spec.steps, round(a_step * spec.steps), flops, finished)
