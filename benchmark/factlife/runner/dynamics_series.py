"""The dynamics track inside a run over given checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from factlife.config import Profile
from factlife.corpora.fact_probes import FactProbes
from factlife.dynamics.plan import RunSpec
from factlife.dynamics.series import (
    corruption,
    given_runs,
    make_material,
    source_prompts,
    subject_attention,
)
from factlife.errors import UsageError
from factlife.series.loading import Loaded
from factlife.series.local import Revision
from factlife.store import RunStore

RUN_TABLES = ("biography_eval", "dynamics_runs")  # written in this order


def dynamics_finished(
    store: RunStore, profile: Profile, revision: Revision, identity: str, *, last: bool
) -> bool:
    """Whether the track has nothing left to do at a checkpoint; always so without the track."""
    if "dynamics" not in profile.tracks:
        return True
    attention = store.find_part("subject_attention", revision.partition, identity)
    return attention and (not last or not _open_runs(store, profile, revision, identity))


def _open_runs(
    store: RunStore, profile: Profile, revision: Revision, identity: str
) -> list[RunSpec]:
    return [
        spec
        for spec in given_runs(profile.dynamics, 1, revision.name)
        if not all(store.find_part(t, {"dynamics_run": spec.name}, identity) for t in RUN_TABLES)
    ]


def measure_dynamics(
    store: RunStore,
    loaded: Loaded,
    probes: FactProbes,
    profile: Profile,
    revision: Revision,
    identity: str,
    *,
    last: bool,
    warn: Callable[[str], Any],
) -> float:
    """Attention to the subject; at the last checkpoint also corruption by new facts.

    Returns:
        Seconds that it took; 0 without the track.

    Raises:
        IntegrityError: a fine-tuning diverged.
        PartialError: the disk refused a write.
    """
    if "dynamics" not in profile.tracks:
        return 0.0
    started = time.monotonic()
    prompts = source_prompts(loaded.tokenizer, probes, profile, loaded.max_length)
    keys = {"revision": revision.name, "stage": revision.stage, "step": revision.step}
    rows = subject_attention(loaded.model, prompts, profile.execution.batch_tokens, keys)
    store.write_part("subject_attention", rows, revision.partition, identity)
    if last and _open_runs(store, profile, revision, identity):
        _corrupt(store, loaded, probes, profile, revision, identity, warn)
    return time.monotonic() - started


def _corrupt(
    store: RunStore,
    loaded: Loaded,
    probes: FactProbes,
    profile: Profile,
    revision: Revision,
    identity: str,
    warn: Callable[[str], Any],
) -> None:
    """Fine-tune; a checkpoint with which that cannot be done gets parts without rows."""
    try:
        material = make_material(loaded.model, loaded.tokenizer, probes, profile, loaded.max_length)
    except UsageError as error:
        warn(f"{revision.name}: corruption is not measured: {error}")
        for spec in given_runs(profile.dynamics, 1, revision.name):
            _write(store, spec, {t: [] for t in RUN_TABLES}, identity)
        return
    for spec, rows in corruption(loaded.model, material, profile, revision.name):
        _write(store, spec, rows, identity)


def _write(
    store: RunStore, spec: RunSpec, rows: dict[str, list[dict[str, Any]]], identity: str
) -> None:
    for table in RUN_TABLES:
        store.write_part(table, rows[table], {"dynamics_run": spec.name}, identity)
