"""A profile of all four tracks that takes seconds: for tests of shards and clusters."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.dynamics.small import SMALL as DYNAMICS
from tests.injection.small import SETTINGS as INJECTION
from tests.injection.small import corpus

from factlife.config import Circuits, Intervals, Profile, Recall

TRACKS = ("recall", "circuits", "injection", "dynamics")
# Tables of a run in several processes that hold how long something took.
TIMED = ("training_log",)


def save_corpus(folder: Path) -> Path:
    """The tiny corpus as files."""
    folder.mkdir(parents=True)
    made = corpus()
    passages = [
        {"passage_id": p.passage_id, "kind": p.kind, "block": p.block, "text": p.texts[0],
         "paraphrases": list(p.texts[1:])}
        for p in made.passages
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(passages), folder / "passages.parquet")
    probes = pa.Table.from_pylist([asdict(p) for p in made.probes])
    pq.write_table(probes, folder / "probes.parquet")
    return folder


def four_tracks(folder: Path) -> Profile:
    """All tracks; injection starts from two revisions, with a corpus that is saved in a folder."""
    return Profile(
        name="quick",
        tracks=TRACKS,
        recall=Recall(templates="source", generation="none", candidates=False),
        circuits=Circuits(ablation_draws=2, null_draws=20, tau_sweep=(), theta_sweep=()),
        injection=replace(
            INJECTION,
            seeds=1,
            starts=("mid", "late"),
            background="built-in",
            corpus=str(save_corpus(folder)),
        ),
        dynamics=replace(DYNAMICS, people=(), steps=(), names=(64, 64, 64), seeds=1),
        intervals=Intervals(draws=100),
    )


def parts(out: Path) -> dict[str, object]:
    """Bytes of every part by its path; of those with seconds, the rows without them."""
    found: dict[str, object] = {}
    for path in out.glob("tables/**/part.parquet"):
        name = str(path.relative_to(out))
        timed = name.split("/")[1] in TIMED
        found[name] = pq.read_table(path).drop(["seconds"]) if timed else path.read_bytes()
    return found
