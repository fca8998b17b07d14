"""Which runs a study is made of. Pure: no torch.

A run is named by its condition and its seed. Runs of one condition differ in the seed of weights
and text; the people are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from factlife.config import Dynamics


@dataclass(frozen=True)
class RunSpec:
    """One training run; the columns of `dynamics_runs` say what each field is."""

    condition: str
    kind: str
    seed: int
    n_people: int
    steps: int
    distribution: str = "uniform"
    alpha: float | None = None
    celebrities: int | None = None
    celebrity_weight: float | None = None
    warm_up_people: int | None = None
    warm_up_steps: int | None = None
    groups: int | None = None
    parent: str | None = None
    reference_step: int | None = None
    patch_from: int | None = None
    material: str | None = None
    n_taught: int | None = None
    replay_weight: float | None = None

    @property
    def name(self) -> str:
        """Name of the run: unique in a study, and usable as a folder's."""
        return f"{self.condition}.s{self.seed}"

    @property
    def n_old(self) -> int:
        """People that count as old in a fine-tuning: the celebrities, or everybody."""
        return self.celebrities or self.n_people

    @property
    def replay_share(self) -> float | None:
        """Expected share of old people in the text of a fine-tuning."""
        if self.replay_weight is None or self.n_taught is None:
            return None
        return replay_share(self.replay_weight, self.n_old, self.n_taught)

    def columns(self) -> dict[str, Any]:
        """What `dynamics_runs` says of the plan."""
        values = {k: v for k, v in asdict(self).items() if k != "n_people"}
        people = self.n_old if self.kind == "fine_tuned" else self.n_people
        return {
            "dynamics_run": self.name,
            **values,
            "n_people": people,
            "replay_share": self.replay_share,
        }


def replay_share(weight: float, n_old: int, n_taught: int) -> float:
    """Expected share of old people in fine-tuning text: w N / (w N + n_new), 0 to 1.

    Each of the N old people is drawn with weight w, each new one with weight 1 (dynamics-2025,
    section 5).
    """
    old = weight * n_old
    return old / (old + n_taught)


def plan_runs(settings: Dynamics) -> list[RunSpec]:
    """Every run of a study; a run comes after the ones that it needs."""
    runs: list[RunSpec] = []
    for size, steps in zip(settings.people, settings.steps, strict=True):
        runs += _seeds(RunSpec(f"n{size}.uniform", "scratch", 0, size, steps), settings)
    for spec in (*_distributions(settings), *_patched(settings)):
        runs += _seeds(spec, settings)
    for spec in _fine_tuned(settings):
        runs += _seeds(spec, settings)
    return runs


def _seeds(spec: RunSpec, settings: Dynamics) -> list[RunSpec]:
    runs = []
    for seed in range(settings.seeds):
        # Patterns come from another seed's model where there is one: it shares people, not weights.
        other = (seed + 1) % settings.seeds if spec.kind == "patched" else seed
        parent = f"{spec.parent}.s{other}" if spec.parent else None
        runs.append(replace(spec, seed=seed, parent=parent))
    return runs


def _steps(settings: Dynamics, size: int) -> int:
    return settings.steps[settings.people.index(size)]


def _distributions(settings: Dynamics) -> Iterator[RunSpec]:
    size = settings.distribution_size
    if not size:
        return
    base = RunSpec("", "scratch", 0, size, _steps(settings, size))
    for alpha in settings.alphas:
        if alpha > 0:
            name = f"n{size}.power_law.a{alpha:g}"
            yield replace(base, condition=name, distribution="power_law", alpha=alpha)
    if settings.warm_up_people:
        yield replace(
            base,
            condition=f"n{size}.warm_up",
            distribution="warm_up",
            warm_up_people=settings.warm_up_people,
            warm_up_steps=settings.warm_up_steps,
        )
    if settings.celebrities:
        yield replace(_celebrities(base, settings), condition=f"n{size}.celebrities")
    if settings.groups:
        name = f"n{size}.groups"
        yield replace(base, condition=name, distribution="groups", groups=settings.groups)


def _celebrities(base: RunSpec, settings: Dynamics) -> RunSpec:
    return replace(
        base,
        distribution="celebrities",
        celebrities=settings.celebrities,
        celebrity_weight=settings.celebrity_weight,
    )


def _patched(settings: Dynamics) -> Iterator[RunSpec]:
    size = settings.patch_size
    for r in settings.patch_references if size else ():
        yield RunSpec(
            f"n{size}.patched.r{r}",
            "patched",
            0,
            size,
            _steps(settings, size),
            parent=f"n{size}.uniform",
            reference_step=r,
            patch_from=settings.patch_from,
        )


def _fine_tuned(settings: Dynamics) -> Iterator[RunSpec]:
    """Fine-tuning on new people; where there are celebrities, on rare people and new ones too."""
    size = settings.fine_tune_size
    base = RunSpec(
        "",
        "fine_tuned",
        0,
        size,
        settings.fine_tune_steps,
        material="new",
        n_taught=settings.new_people,
    )
    for weight in settings.replay_weights if size else ():
        name = f"n{size}.new.w{weight:g}"
        yield replace(base, condition=name, parent=f"n{size}.uniform", replay_weight=weight)
    size = settings.distribution_size
    if not (size and settings.celebrities and settings.fine_tune_size):
        return
    base = replace(_celebrities(base, settings), n_people=size, parent=f"n{size}.celebrities")
    for label, material in (("rare", "rare"), ("rare_control", "new")):
        name = f"n{size}.{label}.w0"
        yield replace(base, condition=name, material=material, replay_weight=0.0)


def needed_weights(runs: list[RunSpec]) -> dict[str, set[int]]:
    """Run -> steps whose weights other runs begin from or take patterns from."""
    steps = {r.name: r.steps for r in runs}
    needed: dict[str, set[int]] = {}
    for r in runs:
        if r.parent in steps:
            step = steps[r.parent] if r.reference_step is None else r.reference_step
            needed.setdefault(r.parent, set()).add(step)
    return needed


def training_flops(spec: RunSpec, parameters: int, tokens_a_step: float) -> float:
    """FLOPs of a run: 6 a parameter and token, 8 with the reference's forward of a patched run."""
    factor = 8 if spec.kind == "patched" else 6
    return factor * parameters * tokens_a_step * spec.steps


def longest_first(runs: Sequence[RunSpec]) -> list[RunSpec]:
    """Runs in the order in which several processes take them.

    The first one has the most work behind it, its own and that of the longest line of runs that
    wait for it; so no long run is left for the end. Equals stay in the order of the plan.
    """
    behind: dict[str, float] = {}
    for r in reversed(runs):  # children come after their parents in the plan
        waiting = max((behind[c.name] for c in runs if c.parent == r.name), default=0.0)
        behind[r.name] = _work(r) + waiting
    return sorted(runs, key=lambda r: -behind[r.name])


def _work(spec: RunSpec) -> float:
    """Training steps, a patched one counted as the 4/3 that it costs."""
    return training_flops(spec, 1, 1) / 6
