"""A synthetic run folder with an injection track."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.injection import made_up
from tests.injection.made_up import Truth, full_gain, log_decay
from tests.report.synthetic import Design, build_run

from factlife.config import Circuits, Intervals
from factlife.result import metric_key
from factlife.runner.score import INPUTS
from factlife.schema import INJECTION_TABLES
from factlife.scores import Protocol, score_tables
from factlife.store import RunStore, write_json

LAWS = {"paraphrase": log_decay(0.12), "duplication": log_decay(0.22), "once": log_decay(0.25)}


def main_design(**changes: Any) -> made_up.Design:
    """Three arms and controls at two starts, three seeds; the early start is the noisier one."""
    truths = {
        "early": Truth(full_gain(0.8, 1.2), LAWS, own=0.25, shared=0.2, lost=0.5),
        "late": Truth(full_gain(0.8, 1.3), LAWS, own=0.1, shared=0.1, lost=0.2),
    }
    return made_up.Design(**{"truths": truths, "per_arm": 6, "probes": 1, **changes})


def spacing_design(spacings: Sequence[int] = (10, 30, 100), injections: int = 5) -> made_up.Design:
    """The longer the spacing, the less is left: an exponential decay of 40 steps."""

    def gone(t: Any) -> Any:
        return 1.0 / (1.0 + (t / 8.0) ** 2)

    arms = {f"every-{s}": [40 + s * i for i in range(injections)] for s in spacings}
    gain = {(a, d): 1.0 for a in arms for d in made_up.DEPTHS}
    truth = Truth(gain, {"": gone}, rise=2, own=0.05, shared=0.1)
    return made_up.Design({"late": truth}, study="spacing", arms=arms, per_arm=6, probes=1,
                          seeds=(0, 1), window=9, tail=120)  # fmt: skip


def add_injection(run: RunStore, *designs: made_up.Design, draws: int = 200) -> RunStore:
    """Write the injection tables of some designs into a run, and score it again."""
    tables = made_up.make_tables(*designs)
    manifest = run.manifest()
    with RunStore.writer(run.root, manifest) as store:
        for spec in INJECTION_TABLES:
            names = dict.fromkeys(tables[spec.name]["injection_run"].to_pylist())
            for name in names:
                mine = [r for r in tables[spec.name].to_pylist() if r["injection_run"] == name]
                store.write_part(spec.name, mine, {"injection_run": name})
        every = (*INPUTS, *(t.name for t in INJECTION_TABLES))
        scores = score_tables(
            {name: store.read(name) for name in every},
            Protocol(("recall", "injection"), Intervals(draws=draws), Circuits()),
            chance=manifest["chance"],
            subsets=manifest["subsets"],
        ).scores
        store.write_part("scores", scores)
        path = run.root / "result.json"
        result = json.loads(path.read_text("utf-8"))
        last = result["series"][-1]["revision"]
        result["metrics"] = {
            metric_key(s["metric"], s["scope"]): s for s in scores if s["revision"] in ("", last)
        }
        write_json(path, result)
    return run


def build_injection_run(root: Path, *designs: made_up.Design) -> RunStore:
    """A small recall run with an injection track: main runs and a spacing study by default."""
    run = build_run(root, Design(tokens=(0, 2000, 100_000, 5_000_000), facts_per_relation=3))
    return add_injection(run, *(designs or (main_design(), spacing_design())))
