"""Run a profile over a series: measure what is missing, then score and report.

Parts of a checkpoint are written in the order candidates, recall, checkpoints; the row in
`checkpoints` therefore stands for a checkpoint whose other parts are there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import factlife
from factlife.config import Profile, nearest
from factlife.corpora.fact_probes import FactProbes, load_fact_probes
from factlife.errors import UsageError
from factlife.recall.measure import Prepared, measure, prepare
from factlife.runner.progress import Progress
from factlife.runner.provenance import environment
from factlife.series.integrity import Weights, check_weights
from factlife.series.loading import Loaded, check_config, load, pick_device
from factlife.series.local import Revision, Series
from factlife.series.select import select
from factlife.store import RunStore, sha256_json

log = logging.getLogger(__name__)

MEASURED_TABLES = ("candidates", "recall", "checkpoints")


@dataclass(frozen=True)
class Options:
    """What a run may do, beside its profile.

    Attributes:
        exclude: revision names that stay as rows but are not measured.
        command: the words that started the run, for the report.
    """

    trust_remote_code: bool = False
    allow_pickle: bool = False
    exclude: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Checked:
    """A selected revision after its files were checked.

    Attributes:
        reason: why it is not measured, else None.
    """

    revision: Revision
    position: int
    weights: Weights | None
    duplicate_of: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        measured, reused: revision names.
        warnings: what a reader should know.
    """

    root: Path
    measured: tuple[str, ...]
    reused: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())


def default_out(series: Series, profile: Profile) -> Path:
    """`runs/<series>/<profile>-<hash>`: another protocol gets another folder."""
    short = protocol_hash(profile, load_fact_probes())[:8]
    name = series.name.replace("/", "__")
    return Path("runs") / name / f"{profile.name}-{short}"


def protocol_hash(profile: Profile, probes: FactProbes) -> str:
    """Hash of everything that a number depends on beside the weights."""
    return profile.protocol_hash({"fact-probes": probes.fingerprint()})


def run(
    series: Series, profile: Profile, out: Path, options: Options, progress: Progress
) -> Outcome:
    """Measure every selected revision that has not been measured yet.

    A killed run goes on by the same call: finished parts are kept, damaged ones are
    measured again.

    Raises:
        UsageError: a series that cannot be measured, or a folder of another run.
        IntegrityError: broken weights, before anything is measured.
        PartialError: the disk refused a write; what was finished is kept.
    """
    device = pick_device(profile.execution.device)
    probes = load_fact_probes()
    _refuse_unknown(options.exclude, series)
    _check_subsets(series, probes)
    for revision in series.revisions:
        if revision.name not in options.exclude:
            check_config(revision.path, trust_remote_code=options.trust_remote_code)
    chosen = select(series.revisions, profile.selection)
    manifest = _manifest(series, profile, probes, device, options)
    with RunStore.writer(out, manifest) as store:
        store.update_manifest({k: manifest[k] for k in ("series", "subsets")})
        checked = check_revisions(chosen, series, options, progress)
        warnings = [*series.warnings, *_selection_warning(series, chosen)]
        warnings += _kept_warning(store, chosen)
        warnings += [f"{c.revision.name}: {c.reason}" for c in checked if c.reason]
        for message in warnings:
            progress.warn(message)
        done = _measure_missing(store, checked, series, profile, probes, device, options, progress)
    return Outcome(out, *done, tuple(warnings))


def _refuse_unknown(exclude: Sequence[str], series: Series) -> None:
    names = [r.name for r in series.revisions]
    for name in exclude:
        if name not in names:
            raise UsageError(
                f"--exclude {name}: no such revision in {series.name}; it has {', '.join(names)}"
            )


def _check_subsets(series: Series, probes: FactProbes) -> None:
    """Refuse subsets that would only fail, or mislead, after everything was measured."""
    ids = {f.fact_id for f in probes.facts}
    taken = {"overall", *(f.group for f in probes.facts), *(r.relation for r in probes.relations)}
    for name, members in series.subsets.items():
        if name in taken or not name:
            raise UsageError(
                f"{series.source}: fact subset {name!r}: the name is taken by another set of "
                "facts; choose another"
            )
        if unknown := sorted(set(members) - ids):
            raise UsageError(
                f"{series.source}: fact subset {name!r}: no fact has the id {unknown[0]!r}"
                f"{nearest(unknown[0], ids)}"
            )


def _selection_warning(series: Series, chosen: Sequence[Revision]) -> list[str]:
    if len(chosen) == len(series.revisions):
        return []
    return [f"{len(chosen)} of {len(series.revisions)} revisions were chosen by the profile"]


def _manifest(
    series: Series, profile: Profile, probes: FactProbes, device: torch.device, options: Options
) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    env = environment(
        f"{device.type} {name}".strip(),
        {"bootstrap": profile.intervals.seed},
        torch.are_deterministic_algorithms_enabled(),
    )
    digest = protocol_hash(profile, probes)
    return {
        "identity": {"series": series.name, "protocol_hash": digest},
        "protocol": {
            "name": profile.name,
            "version": profile.version,
            "hash": digest,
            "ranked": profile.ranked,
            "badge": profile.badge,
            "params": profile.params(),
        },
        "series": {"name": series.name, "warnings": list(series.warnings)},
        "subsets": {name: list(ids) for name, ids in series.subsets.items()},
        "chance": {r.relation: 1 / len(r.candidates) for r in probes.relations},
        "data": [
            {
                "name": "fact-probes",
                "revision": factlife.__version__,
                "fingerprint": probes.fingerprint(),
            }
        ],
        "env": env,
        "command": options.command,
    }


# ---- integrity -------------------------------------------------------------------------------


def check_revisions(
    chosen: Sequence[Revision], series: Series, options: Options, progress: Progress
) -> list[Checked]:
    """Hash and check the weights of every chosen revision; mark duplicates and exclusions.

    Raises:
        IntegrityError: truncated or corrupt weights, or NaN in them.
    """
    place = {r.name: i for i, r in enumerate(series.revisions)}
    seen: dict[str, str] = {}
    checked = []
    progress.start("checking weights", len(chosen), "checkpoints")
    for i, revision in enumerate(chosen):
        checked.append(_check(revision, place[revision.name], seen, options))
        progress.advance(i + 1, revision.name)
    progress.finish()
    return checked


def _check(revision: Revision, position: int, seen: dict[str, str], options: Options) -> Checked:
    if revision.name in options.exclude:
        return Checked(revision, position, None, reason="excluded by the user")
    weights = check_weights(revision.path, allow_pickle=options.allow_pickle)
    identity = weights.tensor_hash or weights.identity
    earlier = seen.setdefault(identity, revision.name)
    if earlier != revision.name:
        reason = f"duplicate_of {earlier}: the weights are equal"
        return Checked(revision, position, weights, earlier, reason)
    return Checked(revision, position, weights)


# ---- measuring -------------------------------------------------------------------------------


def _measure_missing(
    store: RunStore,
    checked: Sequence[Checked],
    series: Series,
    profile: Profile,
    probes: FactProbes,
    device: torch.device,
    options: Options,
    progress: Progress,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    measured: list[str] = []
    reused: list[str] = []
    prompts = _PromptCache(probes, profile)
    progress.start("recall", len(checked), "checkpoints")
    for i, c in enumerate(checked):
        name = c.revision.name
        if c.reason:
            _write_unmeasured(store, c, series)
        elif _finished(store, c):
            _update_row(store, c, series)
            reused.append(name)
        else:
            loaded = load(
                c.revision.path,
                profile.model,
                device,
                trust_remote_code=options.trust_remote_code,
                allow_pickle=options.allow_pickle,
            )
            _measure_one(store, c, series, profile, prompts, loaded)
            measured.append(name)
        progress.advance(i + 1, name)
    progress.finish()
    return tuple(measured), tuple(reused)


def _finished(store: RunStore, c: Checked) -> bool:
    assert c.weights is not None
    identity, partition = c.weights.identity, c.revision.partition
    found = [store.find_part(t, partition, identity) for t in MEASURED_TABLES]
    return all(found)


def _kept_warning(store: RunStore, chosen: Sequence[Revision]) -> list[str]:
    """Measurements of revisions that are gone or no longer chosen are kept, and said to be."""
    wanted = {store.part_path("checkpoints", r.partition) for r in chosen}
    others = [p for p in store.parts("checkpoints") if p not in wanted]
    if not others:
        return []
    return [f"{len(others)} revisions measured earlier are kept, though not chosen now"]


def _update_row(store: RunStore, c: Checked, series: Series) -> None:
    """Bring up to date what the series says of a finished checkpoint: its tokens, its place."""
    assert c.weights is not None
    partition = c.revision.partition
    (old,) = store.read_part("checkpoints", partition).to_pylist()
    kept = ("architecture", "n_parameters", "dtype", "attention")
    row = _row(c, series) | {k: old[k] for k in kept}
    if row != old:
        store.write_part("checkpoints", [row], partition, c.weights.identity)


class _PromptCache:
    """Prompts as tokens, made once for each tokenizer that the series uses."""

    def __init__(self, probes: FactProbes, profile: Profile) -> None:
        self._probes, self._profile = probes, profile
        self._made: dict[str, Prepared] = {}

    def get(self, loaded: Loaded) -> Prepared:
        """Prompts for this checkpoint's tokenizer and context."""
        key = _tokenizer_key(loaded.tokenizer, loaded.max_length)
        if key not in self._made:
            self._made[key] = prepare(
                loaded.tokenizer, self._probes, self._profile, loaded.max_length
            )
        return self._made[key]


def _tokenizer_key(tokenizer: Any, max_length: int | None) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else str(id(tokenizer))
    return sha256_json([content, max_length, tokenizer.bos_token_id])


def _measure_one(
    store: RunStore,
    c: Checked,
    series: Series,
    profile: Profile,
    prompts: _PromptCache,
    loaded: Loaded,
) -> None:
    assert c.weights is not None
    r, identity = c.revision, c.weights.identity
    keys = {"revision": r.name, "stage": r.stage, "step": r.step}
    recall, candidates = measure(loaded.model, loaded.tokenizer, prompts.get(loaded), profile, keys)
    store.write_part("candidates", candidates, r.partition, identity)
    store.write_part("recall", recall, r.partition, identity)
    row = _row(c, series) | {
        "architecture": loaded.architecture,
        "n_parameters": loaded.n_parameters,
        "dtype": loaded.dtype,
        "attention": loaded.attention,
    }
    store.write_part("checkpoints", [row], r.partition, identity)


def _write_unmeasured(store: RunStore, c: Checked, series: Series) -> None:
    for table in ("recall", "candidates"):
        store.remove_part(table, c.revision.partition)
    store.write_part("checkpoints", [_row(c, series)], c.revision.partition)


def _row(c: Checked, series: Series) -> dict[str, Any]:
    r, w = c.revision, c.weights
    return {
        "series": series.name,
        "revision": r.name,
        "position": c.position,
        "repo": r.repo,
        "stage": r.stage,
        "step": r.step,
        "tokens": r.tokens,
        "tokens_source": r.tokens_source,
        "commit_sha": r.commit_sha,
        "weights_sha256": list(w.sha256) if w else [],
        "tensor_hash": w.tensor_hash if w else None,
        "flags": list(w.flags) if w else [],
        "duplicate_of": c.duplicate_of,
        "reason": c.reason,
    }
