"""Benchmarks of the dynamics track: data assembly, evaluation, and the training loop itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from factlife.config import Dynamics
from factlife.dynamics import study as studies
from factlife.dynamics.study import (
    BiographySource,
    Study,
    World,
    distribution,
    make_world,
    new_model,
    training_config,
)
from factlife.store import RunStore
from factlife.training.loop import Trainer
from factlife.training.optimiser import learning_rate, make_optimiser

STEPS = 12
DEMO = Dynamics(people=(512,), steps=(STEPS,))
EVALUATED = Dynamics(people=(512,), steps=(200,))  # long enough for its share to be what it is
PLAN = Study(DEMO, RunStore(Path()), Path()).runs[0]


def source(world: World) -> BiographySource:
    """Fresh text of the demo's population."""
    return BiographySource(world.encoder, distribution(PLAN, world), DEMO.batch_rows, 1)


def assemble(world: World, steps: int = STEPS) -> int:
    """Put batches together; returns their tokens."""
    made = source(world)
    return sum(made.next_batch().ids.numel() for _ in range(steps))


def bare_loop(world: World) -> None:
    """What anybody would write: forward, loss, backward, clip, AdamW."""
    config = training_config(PLAN, DEMO, world.longest)
    model = new_model(DEMO, world, 0).train()
    optimiser, made = make_optimiser(model, config), source(world)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = made.next_batch()
        assert batch.labels is not None
        logits = model(input_ids=batch.ids, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()


def our_loop(world: World) -> None:
    """The same steps through the trainer."""
    config = training_config(PLAN, DEMO, world.longest)
    trainer = Trainer(new_model(DEMO, world, 0), source(world), config, "cpu")
    for _ in range(STEPS):
        trainer.advance()


@contextmanager
def timed_evaluation() -> Iterator[list[float]]:
    """Collect the seconds that evaluations take."""
    seconds: list[float] = []
    plain = studies.measure

    def measured(*arguments: Any) -> Any:
        start = time.perf_counter()
        found = plain(*arguments)
        seconds.append(time.perf_counter() - start)
        return found

    studies.measure = measured
    try:
        yield seconds
    finally:
        studies.measure = plain


def evaluation_share() -> tuple[float, float]:
    """Seconds of a whole run, and of its evaluations."""
    with TemporaryDirectory() as folder, timed_evaluation() as seconds:
        start = time.perf_counter()
        with RunStore.writer(Path(folder), {"identity": {"bench": "dynamics"}}) as store:
            Study(EVALUATED, store, Path(folder) / ".work").run()
        return time.perf_counter() - start, float(np.sum(seconds))


def run(compare: Callable[..., Any], ratio: type) -> list[Any]:
    """All benchmarks of this track."""
    world = make_world(DEMO, 512)
    whole, evaluating = evaluation_share()
    share = evaluating / whole
    return [
        compare(
            "training against assembling its text",
            (f"{STEPS} steps", lambda: our_loop(world)),
            ("their text", lambda: assemble(world)), at_least=20.0,
        ),
        compare(
            "a bare loop against the trainer",
            ("bare loop", lambda: bare_loop(world)),
            ("trainer", lambda: our_loop(world)), at_least=0.95,
        ),
        ratio(
            "share of a run spent on evaluation", "evaluation", "a run of 200 steps", evaluating,
            whole, (share,), "<= 0.1", share <= 0.1,
        ),
    ]  # fmt: skip
