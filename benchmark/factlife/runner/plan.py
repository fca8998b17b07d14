"""What a run would do and cost, before it does anything.

Of local checkpoints configs and headers are read. Of a Hub repo the listings are, and the config
and tokenizer of one revision are downloaded, to count the prompts' tokens; never weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from factlife.circuits import measure as circuits
from factlife.circuits.ablate import max_trials
from factlife.config import Profile
from factlife.corpora.fact_probes import FactProbes, load_fact_probes
from factlife.dynamics.series import corruption_tokens, given_runs, readings, source_prompts
from factlife.errors import UsageError
from factlife.injection.corpus import load_corpus
from factlife.injection.cost import Cost as InjectionCost
from factlife.injection.cost import Shape
from factlife.injection.cost import cost as injection_cost
from factlife.injection.measure import plain_encoder, precision
from factlife.injection.probe import shared_rows
from factlife.recall.measure import prepare
from factlife.runner.cost import (
    CPU_EFFICIENCY,
    CPU_TRAINING,
    CPU_TUNING,
    GPU_EFFICIENCY,
    GPU_TRAINING,
    GPU_TUNING,
    Checkpoint,
    Machine,
    Tuning,
    Work,
    memory,
    run_cost,
    tuning_flops,
    tuning_memory,
    tuning_seconds,
)
from factlife.runner.injection import plans_of
from factlife.runner.progress import Silent
from factlife.runner.run import Checked, Options, check_revisions, protocol_hash
from factlife.runner.tracks import refuse_untraceable
from factlife.series.fetch import disk_needed, fetch_small, has_tokenizer
from factlife.series.integrity import tensor_entries, weight_files
from factlife.series.loading import check_config, load_tokenizer, pick_device
from factlife.series.local import Revision, Series
from factlife.series.select import select
from factlife.store import RunStore


@dataclass(frozen=True)
class PlannedRevision:
    """One revision of the plan.

    Attributes:
        bytes: size of its weight files.
        parameters: of a remote revision, from its size and the dtype in the config.
        download: bytes to fetch; 0 for what is here already.
        reason: why it would not be measured, else None.
        finished: whether the run folder already holds its parts (weights not compared).
    """

    revision: str
    stage: str
    step: int | None
    tokens: int | None
    bytes: int
    parameters: int
    finished: bool
    download: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Share:
    """What one part of a run takes, of what is not finished.

    Attributes:
        part: a track, or `weights` for reading them and for tables.
        seconds: of one process on one device.
        memory: bytes on one device, about; 0 where the sizes of the model are unknown.
    """

    part: str
    flops: float
    seconds: float
    memory: float


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        prompts: sentences scored a checkpoint; `prompt_tokens` are the tokens that run through
            the model for them and for tracing circuits.
        ablation_tokens: tokens more at each checkpoint whose roles are ablated.
        seconds: rough estimate for what is not finished, in one process: FLOPs at a share of the
            speed of a matrix product measured just now, reading the weights, a fixed second a
            checkpoint (`runner.cost`). Downloads, which run beside it, are not in it.
        download: bytes to fetch in all.
        disk: bytes that lie in the cache at once, at most.
        warnings: what a reader should know about the series.
        injection: of the injection track, in `seconds` too; None where it does not run.
        flops: for what is not finished.
        memory: bytes that measuring one checkpoint holds at most, about.
        budget: `seconds` and FLOPs part by part.
    """

    series: str
    profile: str
    protocol_hash: str
    out: str
    device: str
    available: int
    revisions: tuple[PlannedRevision, ...]
    prompts: int
    prompt_tokens: int
    ablation_tokens: int
    seconds: float
    download: int = 0
    disk: int = 0
    warnings: tuple[str, ...] = ()
    injection: InjectionCost | None = None
    flops: float = 0.0
    memory: int = 0
    budget: tuple[Share, ...] = ()


def plan(series: Series, profile: Profile, out: Path, options: Options) -> Plan:
    """Say what `run` would measure, what is there already, and about how long it takes.

    Raises:
        UsageError: a series that cannot be measured.
        IntegrityError: weights whose header is damaged.
    """
    device = pick_device(profile.execution.device)
    probes = load_fact_probes()
    chosen = select(series.revisions, profile.selection)
    for r in chosen:
        if not r.remote:
            config = check_config(r.path, trust_remote_code=options.trust_remote_code)
            refuse_untraceable(config, r.path, profile)
    revisions, tokenizer = _revisions(chosen, series, out, options)
    prompts, tokens = _prompts(tokenizer, probes, profile)
    traced, ablated = _circuit_tokens(tokenizer, probes, profile)
    todo = [r.download for r in revisions if r.download]
    held = _memory(chosen, revisions, profile, options)
    budget = _budget(revisions, Work(tokens, traced, ablated), tokenizer, probes, profile, device)
    budget = [replace(s, memory=s.memory or held) for s in budget]
    injection = None
    if "injection" in profile.tracks:
        planned = {r.revision for r in revisions if not r.reason}
        starts = [r for r in chosen if r.name in planned]
        injection = _injection(profile, starts, revisions, tokenizer, probes, device)
        budget.append(Share("injection", injection.flops, injection.seconds, injection.memory))
    return Plan(
        series=series.name,
        profile=profile.name,
        protocol_hash=protocol_hash(profile, probes),
        out=str(out),
        device=str(device),
        available=len(series.revisions),
        revisions=revisions,
        prompts=prompts,
        prompt_tokens=tokens + traced,
        ablation_tokens=ablated,
        seconds=sum(s.seconds for s in budget),
        download=sum(todo),
        disk=disk_needed(todo),
        warnings=series.warnings,
        flops=sum(s.flops for s in budget),
        memory=held,
        injection=injection,
        budget=tuple(budget),
    )


def _injection(
    profile: Profile,
    starts: list[Revision],
    revisions: tuple[PlannedRevision, ...],
    tokenizer: Any,
    probes: FactProbes,
    device: torch.device,
) -> InjectionCost:
    """What the injection track would take, finished runs included; never reads weights."""
    corpus = load_corpus(profile.injection.corpus)
    plans = plans_of(profile, corpus, starts)
    encode = plain_encoder(tokenizer)
    used = corpus.probes_of([a.passage.passage_id for a in plans[0].assignments])
    rows, _ = shared_rows([tuple(encode(f"{p.prefix} {p.target}"))[:-1] for p in used])
    facts = [
        encode(f"{prompt} {fact.answer}")
        for fact, template, prompt in probes.prompts()
        if template.role == "source"
    ]
    config = check_config(starts[-1].path, trust_remote_code=True)
    shape = Shape.of_config(config, max(r.parameters for r in revisions))
    half = precision(profile.injection, device.type) == "bfloat16"
    return injection_cost(
        plans, shape, sum(map(len, rows)), sum(map(len, facts)),
        _training_speed(device, half=half),
        half=half,
    )  # fmt: skip


def _training_speed(device: torch.device, *, half: bool) -> float:
    """FLOP/s that injection reaches: a share of those of a large product."""
    share = CPU_TRAINING if device.type == "cpu" else GPU_TRAINING
    return share * _matmul_speed(device, torch.bfloat16 if half else torch.float32)


def _revisions(
    chosen: list[Revision], series: Series, out: Path, options: Options
) -> tuple[tuple[PlannedRevision, ...], Any]:
    """The rows of the plan, and a tokenizer."""
    trust = options.trust_remote_code
    wanted = [r for r in chosen if r.name not in options.exclude]
    if not any(r.remote for r in wanted):
        rows = tuple(_planned(r, out, options) for r in wanted)
        return rows, load_tokenizer(chosen[-1].path, trust_remote_code=trust)
    checked = check_revisions(wanted, series, options, Silent(), local_weights=False)
    named = [c.listed for c in checked if c.listed and has_tokenizer(c.listed)]
    if not named:
        raise UsageError(f"{series.name}: no chosen revision has a tokenizer; see `series check`")
    fetch_small(named[-1], with_code=trust)
    config = check_config(named[-1].revision.path, trust_remote_code=trust)
    item = 2 if "16" in str(config.get("dtype") or config.get("torch_dtype") or "float32") else 4
    rows = tuple(_planned_remote(c, out, item, options) for c in checked)
    return rows, load_tokenizer(named[-1].revision.path, trust_remote_code=trust)


def _planned_remote(c: Checked, out: Path, item: int, options: Options) -> PlannedRevision:
    """A row for a remote revision; a local one beside it in a chain is planned as ever."""
    r = c.revision
    if c.listed is None:
        return _planned(r, out, options)
    finished = RunStore(out).find_part("checkpoints", r.partition, c.identity)
    open_ = not c.reason and not finished
    absent = [f.size for f in c.listed.weights if not (r.path / f.path).is_file()]
    return PlannedRevision(
        r.name,
        r.stage,
        r.step,
        r.tokens,
        c.listed.bytes,
        c.listed.bytes // item,
        finished,
        sum(absent) if open_ else 0,
        c.reason,
    )


def _planned(r: Revision, out: Path, options: Options) -> PlannedRevision:
    files = weight_files(r.path, allow_pickle=options.allow_pickle)
    parameters = sum(_parameters(f) for f in files)
    part = RunStore(out).part_path("checkpoints", r.partition)
    size = sum(f.stat().st_size for f in files)
    return PlannedRevision(r.name, r.stage, r.step, r.tokens, size, parameters, part.is_file())


def _parameters(file: Path) -> int:
    if file.suffix != ".safetensors":
        return file.stat().st_size // 4
    return sum(math.prod(info["shape"]) for _, info, _ in tensor_entries(file))


def _prompts(tokenizer: Any, probes: FactProbes, profile: Profile) -> tuple[int, int]:
    """Sentences, and the tokens that run through the model: shared prompts once, tails each."""
    if "recall" not in profile.tracks:
        return 0, 0
    prepared = prepare(tokenizer, probes, profile, None)
    tokens = sum(len(i.encoded.ids) for i in prepared.recall)
    tokens += sum(
        i.encoded.n_answer + profile.recall.extra_new_tokens for i in prepared.recall if i.generate
    )
    for group in prepared.candidates:
        tokens += group[0].encoded.answer[0] + sum(i.encoded.n_answer for i in group)
    return len(prepared.recall) + sum(len(g) for g in prepared.candidates), tokens


def _circuit_tokens(tokenizer: Any, probes: FactProbes, profile: Profile) -> tuple[int, int]:
    """Tokens for tracing at every checkpoint, and for ablation where that is done."""
    if "circuits" not in profile.tracks:
        return 0, 0
    items = circuits.prepare(tokenizer, probes, profile, None).items
    tokens = sum(len(i.encoded.ids) for i in items)
    return tokens, tokens * max_trials(profile)


def _budget(
    revisions: tuple[PlannedRevision, ...],
    work: Work,
    tokenizer: Any,
    probes: FactProbes,
    profile: Profile,
    device: torch.device,
) -> list[Share]:
    """Every part but injection, of what is not finished, downloads apart."""
    open_ = [r for r in revisions if not r.finished and not r.reason]
    ablated = {"all": open_, "last": open_[-1:], "none": []}[profile.circuits.ablations]
    todo = [Checkpoint(r.parameters, r.bytes, r in ablated) for r in open_]
    shares = (CPU_EFFICIENCY, CPU_TUNING) if device.type == "cpu" else (GPU_EFFICIENCY, GPU_TUNING)
    machine = Machine(_matmul_speed(device), None, *shares)
    nothing = run_cost(todo, Work(0), machine)
    budget = [Share("weights", 0.0, nothing.seconds, 0.0)]
    parts = {
        "recall": Work(work.scored),
        "circuits": Work(0, work.traced, work.ablated),
        "dynamics": Work(0, attended=_source_tokens(tokenizer, probes, profile)),
    }
    for track in (t for t in parts if t in profile.tracks):
        cost, memory_ = run_cost(todo, parts[track], machine), 0.0
        flops, seconds = cost.flops, cost.seconds - nothing.seconds
        if track == "dynamics" and open_:
            largest = max(r.parameters for r in open_[-1:])
            tuning = _tuning(tokenizer, probes, profile)
            flops += tuning_flops(largest, tuning)
            seconds += tuning_seconds(largest, tuning, machine)
            memory_ = tuning_memory(largest)
        budget.append(Share(track, flops, seconds, memory_))
    return budget


def _source_tokens(tokenizer: Any, probes: FactProbes, profile: Profile) -> int:
    """Tokens of all facts in their source template; 0 without the dynamics track."""
    if "dynamics" not in profile.tracks:
        return 0
    return sum(len(p.ids) for p in source_prompts(tokenizer, probes, profile, None))


def _tuning(tokenizer: Any, probes: FactProbes, profile: Profile) -> Tuning:
    """Tokens of the fine-tunings of the last checkpoint; facts are read as often as people."""
    trained, read = corruption_tokens(tokenizer, profile)
    times = len(given_runs(profile.dynamics, 1, "")) * readings(profile.dynamics)
    return Tuning(trained, read + times * _source_tokens(tokenizer, probes, profile))


def _memory(
    chosen: list[Revision],
    revisions: tuple[PlannedRevision, ...],
    profile: Profile,
    options: Options,
) -> int:
    """Memory of the largest checkpoint; 0 where no config is here to read its sizes from."""
    folder = next((r.path for r in reversed(chosen) if (r.path / "config.json").is_file()), None)
    if folder is None or not revisions:
        return 0
    config = check_config(folder, trust_remote_code=options.trust_remote_code)
    width = config.get("hidden_size") or config.get("n_embd") or 0
    largest = max(r.parameters for r in revisions)
    return memory(largest, width, config.get("vocab_size", 0), profile.execution.batch_tokens)


def _matmul_speed(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large square matrix product on this device, best of five."""
    size = 512 if device.type == "cpu" else 4096  # a GPU is done with 512 before it is asked
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
