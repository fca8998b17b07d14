"""Train models on biographies and watch them: the runs of a study, one after another.

WORK/<run>/states/             newest state of the run in training
WORK/<run>/points/             what was measured so far, one JSON file a step
WORK/weights/<run>/<step>      weights that other runs begin from or take patterns from

A killed study goes on by the same call and ends with the same tables: a run's evaluations and
batches follow from its seed and step alone. For the same reason several processes may share the
runs of one study: the tables do not say who trained what.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from factlife import store as storage
from factlife.config import Dynamics
from factlife.corpora.biographies import (
    Celebrities,
    Distribution,
    Encoder,
    Population,
    PowerLaw,
    Sampler,
    Sequential,
    Uniform,
    WarmUp,
    WordTokenizer,
    all_attributes,
)
from factlife.dynamics.attention import PatchedModel
from factlife.dynamics.evaluate import Panel, eval_rows, make_panel, measure, signature_rows
from factlife.dynamics.finetune import RESTORABLE, Mixture, copy_weights, restored
from factlife.dynamics.phases import baseline, evaluation_steps
from factlife.dynamics.plan import RunSpec, longest_first, needed_weights, plan_runs
from factlife.store import RunStore, sha256_json
from factlife.training.batches import NO_LOSS, Batch
from factlife.training.config import TrainingConfig
from factlife.training.folders import atomic_folder
from factlife.training.loop import StepReport, Trainer
from factlife.training.models import ModelShape, build_model, model_config
from factlife.training.state import restore_latest, save_state

Row = dict[str, Any]
OnStep = Callable[[str, StepReport], Any]
OnRun = Callable[[int, int], Any]

POPULATION_SEED, PANEL_SEED = 0, 1
STATE_SECONDS = 15.0  # between two saved states, at least
STATE_SHARE = 0.02  # of the time that saving large ones may take
WAIT_SECONDS = 0.5  # between two looks at what other processes have finished
EVALUATION_SHARE = 0.08  # of a run's time, at most
FORWARD_SHARE = {"float32": 1 / 3, "bfloat16": 1.0}
"""What a row's forward costs beside its training step, which may be in a faster precision."""
SHARED = (
    "attributes", "values", "names", "held_out", "arch", "layers", "width", "heads", "ffn",
    "precision", "batch_rows", "peak_lr", "evaluations", "eval_people",
)  # fmt: skip
"""Settings that every run follows from; what is varied stands in its `RunSpec`."""
TABLES = ("biography_eval", "attention_signatures", "dynamics_runs")  # written in this order


# ---- people and text -------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The people of one size, and their text as tokens."""

    population: Population
    encoder: Encoder
    vocabulary: int
    pad: int
    longest: int


def make_world(settings: Dynamics, size: int) -> World:
    """`size` known people, the held-out ones and the ones kept for fine-tuning.

    Raises:
        UsageError: more people than the names allow, or an attribute without templates.
    """
    population = Population.make(
        size,
        POPULATION_SEED,
        unseen=settings.held_out,
        new=settings.new_people,
        attributes=list(all_attributes())[: settings.attributes],
        values=settings.values or None,
        names=settings.names or None,
    )
    tokenizer = WordTokenizer(population)
    encoder = Encoder(population, tokenizer.encode, pad=tokenizer.pad, bos=tokenizer.bos)
    return World(population, encoder, len(tokenizer), tokenizer.pad, _longest(population))


def _longest(population: Population) -> int:
    """Tokens that a biography has at most: BOS, then a sentence for each attribute."""
    words = [max(len(t.split()) for t in a.templates) for a in population.attributes]
    # `{name}` is one word of a template and three tokens; a full stop ends the sentence.
    return 1 + sum(
        w + 2 + len(a.parts) + 1 for w, a in zip(words, population.attributes, strict=True)
    )


class BiographySource:
    """Fresh biographies for every batch; batch i of a seed is the same, resumed or not."""

    def __init__(
        self, encoder: Encoder, distribution: Distribution, batch_rows: int, seed: int
    ) -> None:
        self._encoder, self._sampler = encoder, Sampler(distribution)
        self._batch_rows, self._seed, self._batch = batch_rows, seed, 0

    def next_batch(self) -> Batch:
        """The next batch. Raises UsageError when it is larger than the people to draw from."""
        rng = np.random.default_rng([self._seed, self._batch])
        people = self._sampler.people(self._batch, self._batch_rows, rng)
        ids = torch.from_numpy(self._encoder.biographies(people, rng).ids)
        self._batch += 1
        return Batch(ids, ids.masked_fill(ids == self._encoder.pad, NO_LOSS))

    def position(self) -> dict[str, int]:
        """Batches handed out so far."""
        return {"batch": self._batch}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        self._batch = position["batch"]


def distribution(spec: RunSpec, world: World) -> Distribution:
    """Whom a run's text is about.

    Raises:
        UsageError: alpha outside 0 to 1, or groups and weights that do not fit the population.
    """
    n = spec.n_people
    if spec.kind == "fine_tuned":
        old, taught = people_of(spec, world)
        return Mixture(world.population.n, old, taught, spec.replay_weight or 0.0)
    if spec.distribution == "power_law":
        return PowerLaw(n, spec.alpha or 0.0)
    if spec.distribution == "celebrities":
        return Celebrities(n, spec.celebrities or 0, spec.celebrity_weight or 1.0)
    if spec.distribution == "warm_up":
        return WarmUp(n, spec.warm_up_people or 0, spec.warm_up_steps or 0)
    if spec.distribution == "groups":
        groups = spec.groups or 1
        return Sequential(n, groups, max(1, spec.steps // groups))
    return Uniform(n)


def people_of(spec: RunSpec, world: World) -> tuple[Any, Any]:
    """Ids of the old and of the taught people of a fine-tuning."""
    old = np.arange(spec.n_old)
    count = spec.n_taught or 0
    if spec.material == "rare":
        return old, np.arange(spec.n_people - count, spec.n_people)
    return old, world.population.new[:count]


# ---- one run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Everything that a run needs.

    Attributes:
        steps: at which it is measured.
        keep: steps whose weights are kept for other runs.
    """

    spec: RunSpec
    settings: Dynamics
    world: World
    panels: tuple[Panel, ...]
    steps: tuple[int, ...]
    keep: frozenset[int]
    device: torch.device


def training_config(spec: RunSpec, settings: Dynamics, longest: int) -> TrainingConfig:
    """AdamW (0.9, 0.95), decay 0.1; cosine without warm-up, or constant for a fine-tuning."""
    tuned = spec.kind == "fine_tuned"
    return TrainingConfig(
        steps=spec.steps,
        batch_rows=settings.batch_rows,
        context=longest,
        peak_lr=settings.fine_tune_lr if tuned else settings.peak_lr,
        schedule="constant" if tuned else "cosine",
        precision=settings.precision,
        seed=spec.seed,
    )


def new_model(settings: Dynamics, world: World, seed: int) -> Any:
    """An untrained model of the settings' architecture, as Hugging Face initialises it.

    Larger embeddings, which help the reference series, would begin at a loss of 33 nats here: tied
    to the output, they first predict each token by itself.
    """
    shape = ModelShape(settings.layers, settings.width, settings.heads, settings.ffn, world.longest)
    config = model_config(settings.arch, shape, world.vocabulary, 0, world.pad)
    return build_model(config, seed)


def make_panels(spec: RunSpec, settings: Dynamics, world: World) -> tuple[Panel, ...]:
    """The people that a run is measured on."""
    people = world.population
    groups = {"known": people.known, "held_out": people.unseen}
    count = settings.eval_people
    if spec.kind == "fine_tuned":
        old, taught = people_of(spec, world)
        # A fine-tuning is short: fewer people keep its evaluations to their share of its time.
        groups, count = {"old": old, "taught": taught}, max(1, count * 3 // 8)
    return tuple(
        make_panel(world.encoder, name, ids, count, PANEL_SEED) for name, ids in groups.items()
    )


def affordable(spec: RunSpec, settings: Dynamics, panels: Sequence[Panel]) -> int:
    """How many evaluations fit into their share of the run's time; at least 8."""
    rows = sum(len(p.ids) for p in panels)
    cost = FORWARD_SHARE[settings.precision] * rows
    allowed = EVALUATION_SHARE * spec.steps * settings.batch_rows / cost
    return max(8, min(settings.evaluations, int(allowed)))


class _Run:
    """One run in training."""

    def __init__(self, job: Job, folder: Path, weights: Path, on_step: OnStep | None) -> None:
        self.job, self._folder, self._weights, self._on_step = job, folder, weights, on_step
        spec, world = job.spec, job.world
        model = new_model(job.settings, world, spec.seed)
        self._old: dict[str, torch.Tensor] = {}
        if spec.kind == "fine_tuned":
            self._load(model, spec.parent, None)
            self._old = {n: p.to(job.device) for n, p in copy_weights(model).items()}
        elif spec.kind == "patched":
            reference = new_model(job.settings, world, spec.seed)
            self._load(reference, spec.parent, spec.reference_step)
            model = PatchedModel(model, reference)
        source = BiographySource(
            world.encoder, distribution(spec, world), job.settings.batch_rows, 1 + spec.seed
        )
        config = training_config(spec, job.settings, world.longest)
        self.trainer = Trainer(model, source, config, job.device)

    def _load(self, model: nn.Module, run: str | None, step: int | None) -> None:
        folder = self._weights / str(run)
        last = max(int(p.name) for p in folder.iterdir()) if step is None else step
        load_model(model, folder / f"{last:08d}" / "model.safetensors")

    def train(self) -> dict[str, list[Row]]:
        """Train to the end; rows of each table."""
        trainer, spec = self.trainer, self.job.spec
        restore_latest(trainer, self._folder / "states")
        saved, pause = time.monotonic(), STATE_SECONDS
        self._point()
        while trainer.step < spec.steps:
            self._patch_from()
            report = trainer.advance()
            if self._on_step is not None:
                self._on_step(spec.name, report)
            self._point()
            if (now := time.monotonic()) - saved > pause:
                save_state(trainer, self._folder / "states")
                saved = time.monotonic()
                pause = max(STATE_SECONDS, (saved - now) / STATE_SHARE)
        return self._rows()

    def _patch_from(self) -> None:
        if isinstance(self.trainer.model, PatchedModel):
            self.trainer.model.active = self.trainer.step >= (self.job.spec.patch_from or 0)

    def _point(self) -> None:
        """Measure, and keep the weights, where the present step asks for it."""
        step = self.trainer.step
        if step in self.job.steps:
            self._patch_from()
            storage.write_json(self._folder / "points" / f"{step:08d}.json", self._measured(step))
        if step in self.job.keep:
            folder = self._weights / self.job.spec.name / f"{step:08d}"
            if not folder.exists():
                with atomic_folder(folder) as temporary:
                    save_model(self.trainer.model, str(temporary / "model.safetensors"))

    def _measured(self, step: int) -> dict[str, list[Row]]:
        keys = {"dynamics_run": self.job.spec.name, "step": step}
        outcomes = self._outcomes()
        rows = eval_rows(outcomes, keys)
        if self.job.spec.kind == "fine_tuned" and step == self.job.spec.steps:
            for kind in RESTORABLE:
                with restored(self.trainer.model, self._old, kind):
                    rows += eval_rows(self._outcomes(), keys, kind)
        return {"biography_eval": rows, "attention_signatures": signature_rows(outcomes, keys)}

    def _outcomes(self) -> dict[str, Any]:
        rows, device = self.job.settings.batch_rows, self.job.device
        return {p.population: measure(self.trainer.model, p, rows, device) for p in self.job.panels}

    def _rows(self) -> dict[str, list[Row]]:
        points = [
            json.loads((self._folder / "points" / f"{s:08d}.json").read_text("utf-8"))
            for s in self.job.steps
        ]
        rows = {t: [r for p in points for r in p[t]] for t in TABLES[:2]}
        return {**rows, "dynamics_runs": [self._row()]}

    def _row(self) -> Row:
        spec, settings, world = self.job.spec, self.job.settings, self.job.world
        people = world.population
        return {
            **spec.columns(),
            "arch": settings.arch,
            "layers": settings.layers,
            "width": settings.width,
            "heads": settings.heads,
            "precision": settings.precision,
            "n_parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "n_held_out": people.n_unseen,
            "n_attributes": len(people.attributes),
            "baseline_nats": baseline(people.value[: people.n_known]),
            "uniform_nats": people.baseline_nats(),
            "batch_rows": settings.batch_rows,
            "context": world.longest,
            "peak_lr": self.trainer.config.peak_lr,
            "tokens": self.trainer.tokens,
        }


# ---- a study ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a study did.

    Attributes:
        trained, reused: names of runs.
    """

    trained: tuple[str, ...]
    reused: tuple[str, ...]


class Study:
    """All runs of a study, in a run folder."""

    def __init__(
        self,
        settings: Dynamics,
        store: RunStore,
        work: Path,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
        on_run: OnRun | None = None,
    ) -> None:
        """`on_run(before, total)` hears the training steps that are done, and all there are.

        `on_step` hears every step of this process.
        """
        self.settings, self.runs = settings, plan_runs(settings)
        self._store, self._work, self._device = store, work, torch.device(device)
        self._on_step, self._on_run = on_step, on_run
        self._needed = needed_weights(self.runs)
        self._worlds: dict[int, World] = {}
        self._ended: set[str] = set()

    def check(self) -> None:
        """Refuse settings that would fail only after hours. Raises UsageError."""
        for spec in self.runs:
            world = self.world(spec.n_people)
            sampler = Sampler(distribution(spec, world))
            rng = np.random.default_rng(0)
            for step in (0, spec.steps - 1):
                sampler.people(step, self.settings.batch_rows, rng)

    def run(self) -> Done:
        """Train what is not there yet and write its tables; weights go when all is done.

        Raises:
            UsageError: settings that cannot be run.
            IntegrityError: a run diverged, or a saved state is damaged.
            PartialError: the disk refuses a write; the same call goes on from there.
        """
        self.check()
        todo = self._open()
        total = sum(r.steps for r in todo)
        for i, spec in enumerate(todo):
            self._tell(sum(r.steps for r in todo[:i]), total)
            self._one(spec)
        shutil.rmtree(self._work, ignore_errors=True)
        return self._done([r.name for r in todo])

    def share(self) -> Done:
        """As `run`, beside other processes that make the same call; the store is a sharer.

        Each process takes the run that holds up the others most, of those that nobody trains and
        whose parent is far enough, and waits where all of these are taken. A run that a dead
        process leaves is taken up by another. Weights stay, for the call of `run` that comes last.

        Raises: as `run`.
        """
        self.check()
        trained: list[str] = []
        total = sum(r.steps for r in self._open())
        while todo := self._open():
            self._tell(total - sum(r.steps for r in todo), total)
            name = next(filter(None, map(self._claimed, self._ready(todo))), None)
            if name is not None:
                trained.append(name)
            else:
                time.sleep(WAIT_SECONDS)
        return self._done(trained)

    def _tell(self, before: int, total: int) -> None:
        if self._on_run is not None:
            self._on_run(before, total)

    def _done(self, trained: list[str]) -> Done:
        return Done(tuple(trained), tuple(r.name for r in self.runs if r.name not in trained))

    def _open(self) -> list[RunSpec]:
        """Runs that are to be trained, in the order of the plan."""
        self._ended |= {r.name for r in self.runs if r.name not in self._ended and self.finished(r)}
        ended = self._ended
        return [r for r in self.runs if r.name not in ended or self._wanted(r, ended)]

    def _ready(self, todo: Sequence[RunSpec]) -> list[RunSpec]:
        """Those whose parent has left the weights that they need, the most pressing first."""
        steps = {r.name: r.steps for r in self.runs}

        def there(spec: RunSpec) -> bool:
            if spec.parent is None:
                return True
            step = steps[spec.parent] if spec.reference_step is None else spec.reference_step
            return self._kept(spec.parent, step).is_dir()

        return [r for r in longest_first(self.runs) if r in todo and there(r)]

    def _claimed(self, spec: RunSpec) -> str | None:
        """Train a run unless another process does, or has meanwhile; its name if this one did."""
        with self._store.alone("dynamics", spec.name) as mine:
            if not mine or spec not in self._open():
                return None
            self._one(spec)
        return spec.name

    def identity(self, spec: RunSpec) -> str:
        """What a run's rows follow from."""
        names = (*SHARED, "fine_tune_lr") if spec.kind == "fine_tuned" else SHARED
        kept = {name: getattr(self.settings, name) for name in names}
        return sha256_json([asdict(spec), kept])

    def finished(self, spec: RunSpec) -> bool:
        """Whether the run folder holds a run."""
        partition, identity = {"dynamics_run": spec.name}, self.identity(spec)
        return all(self._store.find_part(t, partition, identity) for t in TABLES)

    def _wanted(self, spec: RunSpec, finished: set[str]) -> bool:
        """Whether a finished run's weights are gone though an unfinished one needs them."""
        waiting = [r for r in self.runs if r.parent == spec.name and r.name not in finished]
        steps = self._needed.get(spec.name, set())
        return bool(waiting) and not all(self._kept(spec.name, s).is_dir() for s in steps)

    def _kept(self, run: str, step: int) -> Path:
        """Where weights of a run lie that other runs need."""
        return self._work / "weights" / run / f"{step:08d}"

    def world(self, size: int) -> World:
        """The people of a size, made once."""
        if size not in self._worlds:
            self._worlds[size] = make_world(self.settings, size)
        return self._worlds[size]

    def job(self, spec: RunSpec) -> Job:
        """What a run needs."""
        world = self.world(spec.n_people)
        panels = make_panels(spec, self.settings, world)
        steps = evaluation_steps(spec.steps, affordable(spec, self.settings, panels))
        keep = frozenset(self._needed.get(spec.name, ()))
        return Job(spec, self.settings, world, panels, tuple(steps), keep, self._device)

    def _one(self, spec: RunSpec) -> None:
        folder = self._work / spec.name
        rows = _Run(self.job(spec), folder, self._work / "weights", self._on_step).train()
        for table in TABLES:
            partition = {"dynamics_run": spec.name}
            self._store.write_part(table, rows[table], partition, self.identity(spec))
        shutil.rmtree(folder, ignore_errors=True)
