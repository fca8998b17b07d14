"""Injection tables with a known truth: gains, laws of decay, and noise, shared or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factlife.schema import INJECTION_TABLES, TABLES

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
DEPTHS = ("memorization", "semantic", "compositional")
MAIN = ("paraphrase", "duplication", "once")


def log_decay(a: float) -> Any:
    """Kept at t steps after the peak: 1 - a log10 t from t = 1."""
    return lambda t: 1 - a * np.log10(np.maximum(t, 1))


@dataclass(frozen=True)
class Truth:
    """What one position's runs do.

    Attributes:
        gain: (arm, depth) -> nats per target and injection at the peak.
        kept: arm -> share of the gain that is kept t steps after the peak.
        rise: steps from an injection to its peak.
        own, shared: SD of noise of each probe and reading, and of noise common to all probes.
        lost: nats that each real fact loses during injection.
    """

    gain: Mapping[tuple[str, str], float] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    rise: int = 6
    own: float = 0.1
    shared: float = 0.1
    lost: float = 0.3


@dataclass(frozen=True)
class Design:
    """Shape of the runs."""

    truths: Mapping[str, Truth]  # position -> truth
    seeds: Sequence[int] = (0, 1, 2)
    per_arm: int = 8
    probes: int = 2  # of each depth
    injections: int = 5
    every: int = 40
    window: int = 20
    tail: int = 600
    placebo: tuple[int, ...] = (0,)
    lead: int = 40
    study: str = "main"
    arms: Mapping[str, Sequence[int]] | None = None  # study arms: name -> injection steps
    varied: str | None = None
    value: float | None = None
    rank_seed: int = 0
    tokens: Mapping[str, int] = field(
        default_factory=lambda: {"first": 0, "early": 10**9, "mid": 3 * 10**9, "late": 10**10}
    )

    def schedule(self) -> dict[str, tuple[int, ...]]:
        """Arm -> steps of injection, after the lead-in."""
        if self.arms is not None:
            return {**{a: tuple(t) for a, t in self.arms.items()}, "control": ()}
        times = tuple(self.lead + self.every * i for i in range(self.injections))
        return {"paraphrase": times, "duplication": times, "once": times[:1], "control": ()}


def kept_after(truth: Truth, arm: str, u: Floats) -> Floats:
    """Share of an injection's gain that is there u steps after it."""
    law = truth.kept.get(arm, truth.kept.get("", log_decay(0.2)))
    after = u - truth.rise
    rising = np.clip(u / truth.rise, 0, 1)
    found: Floats = np.where(after > 0, law(np.maximum(after, 1e-9)), rising)
    return np.where(u > 0, found, 0.0)


def probed_steps(design: Design) -> npt.NDArray[np.int64]:
    """Every step of the windows, log-spaced ones after the last, and the end."""
    times = sorted({t for ts in design.schedule().values() for t in ts})
    last = times[-1] + design.tail
    dense = [t + u for t in (*design.placebo, *times) for u in range(design.window + 1)]
    later = times[-1] + np.rint(np.geomspace(1, design.tail, 60)).astype(int)
    every = [0, *dense, *later.tolist(), last]
    return np.array(sorted({s for s in every if s <= last}), dtype=np.int64)


def make_tables(*designs: Design, seed: int = 0) -> dict[str, pa.Table]:
    """Every injection table of some designs together."""
    parts: dict[str, list[pa.Table]] = {t.name: [] for t in INJECTION_TABLES}
    for i, design in enumerate(designs):
        for position, truth in design.truths.items():
            for s in design.seeds:
                rng = np.random.default_rng([seed, i, sum(map(ord, position)), s])
                for name, table in _run(design, position, truth, s, rng).items():
                    parts[name].append(table)
    return {
        name: TABLES[name].check(pa.concat_tables(found)) if found else TABLES[name].from_rows([])
        for name, found in parts.items()
    }


def run_name(design: Design, position: str, seed: int) -> str:
    middle = {"main": "", "spacing": "spacing-", "frequency": "frequency-"}
    front = middle.get(design.study, f"{design.study}-{design.value}-")
    return f"{front}{position}-seed{seed}"


def _run(
    d: Design, position: str, truth: Truth, seed: int, rng: np.random.Generator
) -> dict[str, pa.Table]:
    name, schedule = run_name(d, position, seed), d.schedule()
    passages = _passages(d, name, seed, schedule)
    steps = probed_steps(d)
    times = sorted({t for ts in schedule.values() for t in ts})
    run = {
        "injection_run": name, "study": d.study, "varied": d.varied, "varied_value": d.value,
        "series": "made-up", "revision": f"step-{position}", "position": position,
        "start_step": d.tokens[position] // 2**21, "start_tokens": d.tokens[position], "seed": seed,
        "balanced": len(d.seeds) >= 3, "steps": int(steps[-1]), "injection_steps": times,
        "placebo_steps": list(d.placebo), "window": d.window, "batch_rows": 32, "context": 256,
        "peak_lr": 1e-4, "warmup_steps": 10, "schedule": "constant", "optimiser": "fresh",
        "precision": "float32", "corpus": "fictional-knowledge", "background": "built-in",
        "plan_sha256": "0" * 64, "flags": [] if len(d.seeds) >= 3 else ["unbalanced"],
    }  # fmt: skip
    probes, exact_shift = _probes(d, name, passages, steps, truth, rng)
    assert exact_shift is not None
    return {
        "injection_runs": TABLES["injection_runs"].from_rows([run]),
        "injection_passages": TABLES["injection_passages"].from_rows(passages),
        "injections": TABLES["injections"].from_rows(_injections(name, passages)),
        "probes": probes,
        "injection_recall": _recall(name, truth, times[-1] + d.window, steps, rng),
        "training_log": _log(d, name, steps, times[-1] + d.window, truth),
    }


def _passages(
    d: Design, name: str, seed: int, schedule: Mapping[str, tuple[int, ...]]
) -> list[Row]:
    """Blocks A, B, C rotate over the arms with the seed; halves alternate."""
    arms = [a for a in schedule if a != "control"]
    turned = [arms[(i + seed) % len(arms)] for i in range(len(arms))]
    rows = []
    for b, arm in enumerate([*turned, "control"]):
        times = schedule[arm]
        gap = times[1] - times[0] if len(times) > 1 else None
        for k in range(d.per_arm):
            rows.append({
                "injection_run": name, "passage_id": f"fk-made-{b * d.per_arm + k:05d}",
                "kind": "person", "block": "control" if arm == "control" else "ABCDEFGH"[b],
                "arm": arm, "half": "AB"[k % 2], "exposures": len(times),
                "injection_steps": list(times),
                "spacing_steps": gap if d.study == "spacing" else None, "reason": None,
            })  # fmt: skip
    return rows


def _injections(name: str, passages: Sequence[Row]) -> list[Row]:
    rows = []
    taken: dict[int, int] = {}
    for p in passages:
        for i, t in enumerate(p["injection_steps"]):
            row = taken[t] = taken.get(t, -1) + 1
            rows.append({
                "injection_run": name, "step": t, "row": row, "passage_id": p["passage_id"],
                "variant": i if p["arm"] == "paraphrase" else 0, "arm": p["arm"],
                "half": p["half"], "n_tokens": 200, "n_seen": 200, "reason": None,
            })  # fmt: skip
    return rows


def _probes(
    d: Design, name: str, passages: Sequence[Row], steps: npt.NDArray[np.int64], truth: Truth,
    rng: np.random.Generator,
) -> tuple[pa.Table, bool]:  # fmt: skip
    common = rng.normal(0, truth.shared, len(steps)) if truth.shared else np.zeros(len(steps))
    columns: dict[str, list[Any]] = {c.name: [] for c in TABLES["probes"].columns}
    for p in passages:
        shape: dict[str, Floats] = {}
        for depth in DEPTHS:
            rise = np.zeros(len(steps))
            for t in p["injection_steps"]:
                rise += kept_after(truth, p["arm"], steps - float(t))
            shape[depth] = truth.gain.get((p["arm"], depth), 0.0) * rise
        keen = rng.normal(1, 0.15)  # some passages are easier
        for depth in DEPTHS:
            for k in range(d.probes):
                level = -9 + rng.normal(0, 1)
                total = level + keen * shape[depth] + common
                total = np.minimum(total + rng.normal(0, truth.own, len(steps)), -1e-3)
                exact = rng.random(len(steps)) < 1 / (1 + np.exp(-(total + 4)))
                rank = np.where(exact, 0, np.rint(np.exp(-total / 2)))
                n = len(steps)
                columns["injection_run"] += [name] * n
                columns["step"] += steps.tolist()
                columns["probe_id"] += [f"{p['passage_id']}.{depth[:3]}{k}"] * n
                columns["passage_id"] += [p["passage_id"]] * n
                columns["depth"] += [depth] * n
                columns["arm"] += [p["arm"]] * n
                columns["half"] += [p["half"]] * n
                columns["logprob_sum_nats"] += total.tolist()
                columns["n_tokens"] += [2 + k % 2] * n
                columns["rank"] += rank.astype(int).tolist()
                columns["exact_match"] += exact.tolist()
                columns["reason"] += [None] * n
    return pa.table(columns, schema=TABLES["probes"].arrow), True


def _recall(
    name: str, truth: Truth, end: int, steps: npt.NDArray[np.int64], rng: np.random.Generator
) -> pa.Table:
    rows = []
    measured = [0, int(steps[steps <= end].max()), int(steps[-1])]
    for f in range(40):
        strength = rng.normal(0.5, 1)
        for phase, step in enumerate(dict.fromkeys(measured)):
            drop = (0.0, truth.lost, truth.lost / 2)[phase]
            value = min(-1.5 + strength - drop + rng.normal(0, 0.05), -0.01)
            rows.append({
                "injection_run": name, "step": step, "fact_id": f"r{f % 4}.f{f}",
                "relation": f"r{f % 4}", "group": "LOC" if f % 2 else "NAME",
                "logprob_sum_nats": value, "n_tokens": 2, "rank": 0 if value > -1.2 else 7,
                "whole_answer": value > -1.2, "reason": None,
            })  # fmt: skip
    return TABLES["injection_recall"].from_rows(rows)


def _log(d: Design, name: str, steps: npt.NDArray[np.int64], end: int, truth: Truth) -> pa.Table:
    marks = {0: 3.0, int(steps[steps <= end].max()): 3.0 + truth.lost / 5, int(steps[-1]): 3.01}
    rows = [
        {
            "injection_run": name, "step": s, "loss": None if s == 0 else 3.1,
            "background_loss": marks.get(s), "learning_rate": 1e-4, "tokens": s * 32 * 256,
            "seconds": 0.1,
        }
        for s in range(int(steps[-1]) + 1)
    ]  # fmt: skip
    assert d.window > 0
    return TABLES["training_log"].from_rows(rows)


def full_gain(
    paraphrase: float = 1.0, duplication: float = 1.4, depths: Sequence[float] = (1.0, 0.6, 0.3)
) -> dict[tuple[str, str], float]:
    """Gains by arm and depth: duplication above paraphrase, memorization above the others."""
    by_arm = {"paraphrase": paraphrase, "duplication": duplication, "once": duplication}
    return {(a, d): g * s for a, g in by_arm.items() for d, s in zip(DEPTHS, depths, strict=True)}
