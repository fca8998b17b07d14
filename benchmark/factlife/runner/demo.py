"""The demo: train the reference series, run every track on it, write report and board."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factlife.config import Profile, load_profile
from factlife.hub import build_board
from factlife.injection.background import REFERENCE
from factlife.runner.dynamics import Shape, shaped, train_beside
from factlife.runner.injection import Injected
from factlife.runner.progress import Progress
from factlife.runner.run import Options, Outcome, run
from factlife.runner.score import RESULT, score_and_report
from factlife.series.local import open_series
from factlife.training.reference import train_reference_series

# Seconds on 2 CPU cores after installation (design, section 6).
BUDGET = {
    "training": 90, "recall": 20, "circuits": 25, "injection": 70, "dynamics": 60,
    "report and board": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage of the demo and what it took."""

    name: str
    budget: float
    seconds: float
    detail: str


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    stages: tuple[Stage, ...]
    outcome: Outcome
    result: dict[str, Any]
    report: Path
    board: Path


def demo(out: Path, *, arch: str, seed: int, command: str, progress: Progress) -> Demo:
    """Train, measure, score, report; a killed demo goes on by the same call.

    Raises:
        UsageError: unknown `arch`, or `out` holds a demo with other settings.
        PartialError: the disk refused a write.
    """
    clock = _Clock()
    folder = train_reference_series(
        out / "series", arch=arch, seed=seed, progress=training_progress(progress)
    )
    progress.finish()
    series = open_series(str(folder))
    clock.lap("training", f"{len(series.revisions)} checkpoints of {series.name}")
    options, profile = Options(command=command), demo_profile(seed)
    outcome = run(series, profile, out, options, progress)
    _lap_tracks(clock, outcome)
    if "dynamics" in profile.tracks:
        trained = train_beside(shaped(profile.dynamics, Shape(arch)), out, progress)
        runs = f"{len(trained.trained)} models trained, {len(trained.reused)} kept from before"
        clock.lap("dynamics", runs, outcome.seconds.get("dynamics", 0.0))
    result = score_and_report(out)
    board = build_board([out / RESULT], out / "leaderboard")
    clock.lap("report and board", f"{len(result['metrics'])} metrics")
    return Demo(tuple(clock.stages), outcome, result, out / "report.html", board)


def _lap_tracks(clock: _Clock, outcome: Outcome) -> None:
    """Book what the sweep took by track."""
    done, kept = len(outcome.measured), len(outcome.reused)
    spent = outcome.seconds
    others = sum(spent.get(track, 0.0) for track in ("circuits", "dynamics"))
    injection = outcome.injected.seconds if outcome.injected else 0.0
    found = f"{done} checkpoints measured, {kept} kept from before"
    clock.lap("recall", found, -others - injection)
    if "circuits" in spent:
        what = f"{done} checkpoints traced, the last one's roles ablated"
        clock.add("circuits", spent["circuits"], what)
    if outcome.injected:
        clock.add("injection", injection, _injected(outcome.injected))


def demo_profile(seed: int) -> Profile:
    """The profile `demo`, with the text of this seed's series as background."""
    profile = load_profile("demo")
    background = f"{REFERENCE}:{seed}"
    return replace(profile, injection=replace(profile.injection, background=background))


def _injected(done: Injected) -> str:
    n, kept = len(done.measured), len(done.reused)
    return f"{n} runs: 2 checkpoints x 2 seeds, one without passages; {kept} kept"


class _Clock:
    """Wall-clock time of each stage."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._last = time.monotonic()

    def lap(self, name: str, detail: str, moved: float = 0.0) -> None:
        """End a stage; `moved` seconds of another stage belong to it, or of it to another."""
        now = time.monotonic()
        self.add(name, now - self._last + moved, detail)
        self._last = now

    def add(self, name: str, seconds: float, detail: str) -> None:
        """A stage that took place inside others."""
        self.stages.append(Stage(name, BUDGET[name], seconds, detail))


def training_progress(progress: Progress) -> Any:
    """What draws the steps of a training."""
    started = False

    def on_step(state: Any) -> None:
        nonlocal started
        if not started:
            progress.start("training", state.total_steps, "steps")
            started = True
        progress.advance(state.step, f"loss {state.loss:.2f}")

    return on_step
