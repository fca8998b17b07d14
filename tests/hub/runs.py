"""Run folders that may be handed in: made-up tables, everything else by the code itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.synthetic import Design, Simulation, sha

import factlife
from factlife.config import load_profile
from factlife.runner.score import score_run
from factlife.store import RunStore

Row = dict[str, Any]
ENV: Row = {
    "image_digest": None, "git_sha": "0123456789abcdef0123456789abcdef01234567", "dirty": False,
    "packages": {"torch": "2.13.0"}, "device": "cpu", "seeds": {"bootstrap": 0, "training": 3},
    "deterministic": True,
}  # fmt: skip
SMALL = Design(tokens=(0, 20_000, 400_000), facts_per_relation=2, templates=1, known_subjects=2)


def make_run(root: Path, repo: str = "org/tiny", *, weights: str = "", profile: str = "reference",
             design: Design = SMALL) -> Path:  # fmt: skip
    """A scored run of the recall track. Other `weights`, another series."""
    sim, resolved = Simulation(design), load_profile(profile)
    params = {**resolved.params(), "tracks": ["recall"]}
    data = {"fact-probes": sha("facts")}
    digest = factlife.store.sha256_json({"params": params, "data": data})
    manifest = {
        "identity": {"series": repo, "protocol_hash": digest},
        "protocol": {
            "name": resolved.name, "version": resolved.version, "hash": digest,
            "ranked": resolved.ranked, "badge": resolved.badge, "params": params,
        },
        "series": {"name": repo, "warnings": []},
        "subsets": sim.subsets(),
        "chance": {r: 1 / len(a) for r, a in sim.answers.items()},
        "data": [{"name": k, "revision": "1.0.0", "fingerprint": v} for k, v in data.items()],
        "env": ENV,
        "command": f"factlife run {repo} --profile {profile} --tracks recall",
    }  # fmt: skip
    with RunStore.writer(root, manifest) as run:
        for i, c in enumerate(sim.checkpoints):
            at = {"stage": "main", "step": c["step"]}
            named = {"series": repo, "repo": repo, "weights_sha256": [sha(weights + str(i))]}
            run.write_part("checkpoints", [c | named], at)
            run.write_part("recall", sim.recall(i), at)
            run.write_part("candidates", sim.candidates(i), at)
    score_run(root)
    return root
