"""One injection run: model -> rows of `probes`, `injection_recall`, `training_log` and the rest.

The model trains on background with passages in it (`batches`); after chosen updates all probes are
read in one pass (`probe`), and, more rarely, the 160 facts and the loss on held-out background:
what the run forgets while it learns.

    WORK/settings.json                      what the run is made from
    WORK/states/step-00000123/              the newest training state
    WORK/rows/TABLE-00000000-00000123.parquet    rows read up to that state

A killed run goes on from the newest state: rows read after it are thrown away and read again. On
one CPU with one number of threads its tables equal those of an unbroken run but for `seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from factlife import schema
from factlife.config import Injection
from factlife.corpora.fact_probes import FactProbes
from factlife.corpora.prompts import Encoded, Prompt
from factlife.corpora.prompts import encode as encode_prompts
from factlife.errors import UsageError
from factlife.injection.background import Encode, EncodeAll, PackedText, documents
from factlife.injection.batches import TOO_LONG, Heads, InjectionSource, make_heads
from factlife.injection.corpus import Corpus
from factlife.injection.plan import RunPlan
from factlife.injection.probe import (
    NOT_FINITE,
    EncodedProbe,
    Scores,
    encode_probes,
    eval_mode,
)
from factlife.injection.shared import SharedPass
from factlife.scoring.targets import Target
from factlife.series.loading import Loaded
from factlife.store import parquet_bytes, write_bytes
from factlife.training import parallel
from factlife.training.batches import Ahead, BatchSource
from factlife.training.config import TrainingConfig
from factlife.training.folders import sweep
from factlife.training.loop import StepReport, Trainer
from factlife.training.state import OPTIMISER, load_optimiser, restore_latest, save_state

STATES, ROWS = "states", "rows"
READ = ("probes", "injection_recall", "training_log")
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """What the tables say of the start revision."""

    series: str
    start_step: int | None
    start_tokens: int | None


@dataclass(frozen=True)
class Means:
    """How a run is carried out, beside what it is.

    Attributes:
        work: folder of its states and rows; removed by the caller when the tables are written.
        batch_tokens: bound on padded tokens a probing forward.
        bos: see `config.Model`.
        state_seconds: training time between two saved states, more where saving takes longer than
            a twentieth of it; 0 saves after every update.
        on_step: called after each update.
    """

    work: Path
    device: torch.device
    batch_tokens: int = 8192
    bos: str = "auto"
    state_seconds: float = 60.0
    on_step: Callable[[StepReport], Any] | None = None


def measure(
    loaded: Loaded,
    plan: RunPlan,
    corpus: Corpus,
    facts: FactProbes,
    place: Place,
    means: Means,
) -> dict[str, pa.Table]:
    """Carry out one run; its tables by name, `injection_runs` included.

    Args:
        loaded: the start revision in float32; its weights are trained on and not to be used again.

    Raises:
        IntegrityError: the loss is not finite, or a saved state is damaged.
        UsageError: the background is exhausted, memory does not do, no end-of-text token, the
            optimiser state of another model.
        PartialError: the disk refuses a state.
    """
    with memory(plan.settings):
        run = _Run(loaded, plan, corpus, facts, place, means)
        run.train()
    return run.tables()


@contextmanager
def memory(settings: Injection) -> Iterator[None]:
    """Say what to do where memory does not do.

    Raises:
        UsageError: the device or the machine is out of memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError)
            or "out of memory" in text
            or "can't allocate memory" in text
            or "alloc_failed" in text  # cuBLAS and cuDNN, for their work space
        ):
            raise
        raise UsageError(
            f"out of memory at {settings.batch_rows} rows of {settings.context} tokens in "
            f"{settings.accumulation} micro-batches: raise accumulation (to "
            f"{settings.accumulation * 2}), lower batch_rows or --batch-tokens, set checkpointing, "
            "or train on more devices with torchrun"
        ) from error


def plain_encoder(tokenizer: Any) -> Encode:
    """Text to token ids, without special tokens."""

    def encode(text: str) -> Sequence[int]:
        ids: Sequence[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return encode


def encoder_of_many(tokenizer: Any) -> EncodeAll:
    """What `plain_encoder` gives for each of several texts, in a third of the time."""

    def encode_all(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        ids: Sequence[Sequence[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    return encode_all


def tokens_before(tokenizer: Any, bos: str) -> list[int]:
    """What stands before every probe: what the tokenizer puts there, nothing, or BOS.

    Raises:
        UsageError: `always` is asked of a tokenizer without BOS.
    """
    if bos == "never":
        return []
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise UsageError("bos = always, but the tokenizer has no BOS token: use auto or never")
        return [tokenizer.bos_token_id]
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []


def training_config(settings: Injection, steps: int, context: int, device: str) -> TrainingConfig:
    """The training loop's settings of a run."""
    return TrainingConfig(
        steps=steps,
        batch_rows=settings.batch_rows,
        context=context,
        peak_lr=settings.peak_lr,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        accumulation=settings.accumulation,
        precision=precision(settings, device),
    )


def precision(settings: Injection, device: str) -> str:
    """`auto` is bfloat16 autocast on an accelerator, float32 on a CPU."""
    if settings.precision != "auto":
        return settings.precision
    return "float32" if device == "cpu" else "bfloat16"


def _checkpoint_activations(model: Any) -> None:
    """transformers is renaming the method."""
    name = "activation_checkpointing_enable"
    getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()


class _Run:
    """A run in memory: the trainer, what is read, and the rows read so far."""

    def __init__(
        self,
        loaded: Loaded,
        plan: RunPlan,
        corpus: Corpus,
        facts: FactProbes,
        place: Place,
        means: Means,
    ) -> None:
        self._plan, self._place, self._means = plan, place, means
        self._model = loaded.model
        settings, tokenizer = plan.settings, loaded.tokenizer
        self._context = min(settings.context, loaded.max_length or settings.context)
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"{plan.revision}: the tokenizer has no end-of-text token, which follows every "
                "text in training; set eos_token in tokenizer_config.json"
            )
        encode, eos = plain_encoder(tokenizer), int(tokenizer.eos_token_id)
        self._heads = make_heads(plan, encode, eos, self._context)
        source_text = documents(settings.background, plan.seed)
        text = PackedText(source_text, encoder_of_many(tokenizer), self._context, eos)
        self._heldout = text.take(settings.heldout_rows).to(means.device)
        source: BatchSource = InjectionSource(text, settings.batch_rows, self._heads)
        if means.device.type != "cpu":  # there, cores that tokenise do not compute
            source = Ahead(source)
        config = training_config(settings, plan.schedule.steps, self._context, means.device.type)
        self._precision = config.precision
        self._model.requires_grad_(True)
        if settings.checkpointing:
            _checkpoint_activations(self._model)
        if parallel.size() > 1:
            parallel.shard(self._model, means.device, loaded.fill)
        self._trainer = Trainer(self._model, source, config, means.device)
        if settings.optimiser != "fresh":
            load_optimiser(self._trainer, Path(settings.optimiser) / OPTIMISER)
        wanted = corpus.probes_of([a.passage.passage_id for a in plan.assignments])
        self._probes = _Probes(
            encode_probes(
                wanted, encode, tokens_before(tokenizer, means.bos), loaded.max_length
            ),
            plan, means, self._precision,
        )  # fmt: skip
        self._facts = (
            _Facts(facts, tokenizer, loaded.max_length, means, self._precision)
            if settings.fact_recall
            else None
        )
        self._rows = _Rows(means.work / ROWS, plan.name)

    def train(self) -> None:
        """Train to the end, reading on the way, from the newest state if there is one."""
        trainer, states = self._trainer, self._means.work / STATES
        if restore_latest(trainer, states):
            self._rows.restore(trainer.step)
        else:
            self._rows.restore(-1)
            self._read(None, None)
        saved, pause = time.monotonic(), self._means.state_seconds
        while trainer.step < trainer.config.steps:
            began = time.perf_counter()
            report = trainer.advance()
            self._read(report, time.perf_counter() - began)
            if self._means.on_step is not None:
                self._means.on_step(report)
            if parallel.from_first(time.monotonic() - saved >= pause):
                began = time.monotonic()
                self._rows.flush(trainer.step)
                save_state(trainer, states)
                saved = time.monotonic()
                if self._means.state_seconds:  # at most a twentieth of the time is for saving
                    pause = max(self._means.state_seconds, 19 * (saved - began))

    def _read(self, report: StepReport | None, seconds: float | None) -> None:
        """Everything that is due at the present step."""
        step, schedule = self._trainer.step, self._plan.schedule
        if step in schedule.probe_steps:
            self._rows.add("probes", self._probes.table(self._model, self._plan.name, step))
        loss = None
        if step in schedule.corruption_steps:
            loss = self._background_loss()
            if self._facts is not None:
                rows = self._facts.rows(self._model, self._plan.name, step)
                self._rows.add("injection_recall", schema.INJECTION_RECALL.from_rows(rows))
        row = {
            "injection_run": self._plan.name,
            "step": step,
            "loss": report.loss if report else None,
            "background_loss": loss,
            "learning_rate": report.learning_rate if report else None,
            "tokens": self._trainer.tokens,
            "seconds": seconds,
        }
        self._rows.add("training_log", schema.TRAINING_LOG.from_rows([row]))

    @torch.no_grad()
    def _background_loss(self) -> float | None:
        """Mean nats a predicted token over the held-out rows; None without rows."""
        if not len(self._heldout):
            return None
        device, n = self._means.device, len(self._heldout)
        every = [parallel.share(n, parallel.size(), r) for r in range(parallel.size())]
        at_once = max(1, self._means.batch_tokens // self._context)
        mine = self._heldout[list(every[parallel.rank()])]
        total = torch.zeros((), dtype=torch.float64, device=device)
        with eval_mode(self._model):
            for rows in mine.split(at_once) if len(mine) else ():
                total += self._summed_loss(rows)
            forwards = [-(-len(share) // at_once) for share in every]
            parallel.idle(self._model, max(forwards) - forwards[parallel.rank()], device)
        value = float(parallel.summed(total)) / (n * (self._context - 1))
        return value if np.isfinite(value) else None

    def _summed_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Nats over all predicted tokens of some rows."""
        kind, half = rows.device.type, self._precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            logits = self._model(input_ids=rows, use_cache=False).logits
        return functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
        ).double()

    def tables(self) -> dict[str, pa.Table]:
        """All tables of the finished run."""
        flags = self._flags()
        return {
            **self._rows.tables(),
            **plan_tables(self._plan, self._heads),
            "injection_runs": schema.INJECTION_RUNS.from_rows(
                [run_row(self._plan, self._place, self._context, self._precision, flags)]
            ),
        }

    def _flags(self) -> list[str]:
        flags = [*self._plan.flags, *([] if self._plan.balanced else ["unbalanced"])]
        cut = {h.line.passage for heads in self._heads.by_step.values() for h in heads if h.reason}
        left_out = {line.passage for line, _ in self._heads.left_out}
        counts = {
            "truncated": len(cut),
            "left_out": len(left_out),
            "excluded_probes": self._probes.n_excluded,
        }
        flags += [f"{name}:{n}" for name, n in counts.items() if n]
        if self._context != self._plan.settings.context:
            flags.append(f"context:{self._context}")
        return flags


# ---- what is read ----------------------------------------------------------------------------


class _Probes:
    """The run's probes, ready to be scored, with the columns that never change."""

    def __init__(
        self, encoded: Sequence[EncodedProbe], plan: RunPlan, means: Means, precision: str
    ) -> None:
        self._by_passage = {a.passage.passage_id: a for a in plan.assignments}
        usable = [e for e in encoded if e.target is not None]
        self._excluded = [e for e in encoded if e.target is None]
        targets = [e.target for e in usable if e.target is not None]
        passages = [e.probe.passage_id for e in usable]
        self._pass = SharedPass(targets, passages, means.batch_tokens, means.device, precision)
        keys = [self._keys(e) for e in usable]
        names = ("probe_id", "passage_id", "depth", "arm", "half")
        self._fixed = {n: pa.array([k[n] for k in keys], pa.string()) for n in names}
        self._fixed["n_tokens"] = pa.array([e.n_tokens for e in usable], pa.int32())

    @property
    def n_excluded(self) -> int:
        """Probes that cannot be scored."""
        return len(self._excluded)

    def _keys(self, e: EncodedProbe) -> Row:
        a = self._by_passage[e.probe.passage_id]
        return {
            "probe_id": e.probe.probe_id,
            "passage_id": e.probe.passage_id,
            "depth": e.probe.depth,
            "arm": a.arm,
            "half": a.half,
        }

    def table(self, model: Any, run: str, step: int) -> pa.Table:
        """Rows of `probes`; at step 0 also those of the excluded ones."""
        scores = self._pass(model)
        n = len(scores.logprob_sum)
        bad = ~np.isfinite(scores.logprob_sum)
        columns = {
            **self._fixed,
            "injection_run": pa.array([run] * n, pa.string()),
            "step": pa.array(np.full(n, step), pa.int64()),
            "logprob_sum_nats": pa.array(scores.logprob_sum, pa.float64(), mask=bad),
            "rank": pa.array(scores.first_rank, pa.int32(), mask=bad),
            "exact_match": pa.array(scores.exact, pa.bool_(), mask=bad),
            "reason": pa.array([NOT_FINITE if b else None for b in bad], pa.string()),
        }
        made = schema.PROBES.check(
            pa.table([columns[f.name] for f in schema.PROBES.arrow], schema=schema.PROBES.arrow)
        )
        if step:
            return made
        rows = [
            {**self._keys(e), "injection_run": run, "step": 0, "n_tokens": e.n_tokens,
             "reason": e.reason}
            for e in self._excluded
        ]  # fmt: skip
        return pa.concat_tables([made, schema.PROBES.from_rows(rows)])


class _Facts:
    """The facts' source prompts, ready to be scored."""

    def __init__(
        self,
        facts: FactProbes,
        tokenizer: Any,
        max_length: int | None,
        means: Means,
        precision: str,
    ) -> None:
        self._facts = facts.facts
        prompts = [
            Prompt(facts.relation(f.relation).source_template.text, f.subject, f.answer)
            for f in self._facts
        ]
        self._encoded: list[Encoded] = encode_prompts(tokenizer, prompts, means.bos, max_length)
        targets = [Target(e.ids, *e.answer) for e in self._encoded if not e.reason]
        alone = range(len(targets))
        self._pass = SharedPass(targets, alone, means.batch_tokens, means.device, precision)

    def rows(self, model: Any, run: str, step: int) -> list[Row]:
        """Rows of `injection_recall`."""
        scores, at, rows = self._pass(model), 0, []
        for fact, encoded in zip(self._facts, self._encoded, strict=True):
            row: Row = {
                "injection_run": run, "step": step, "fact_id": fact.fact_id,
                "relation": fact.relation, "group": fact.group, "n_tokens": encoded.n_answer,
                "reason": encoded.reason,
            }  # fmt: skip
            if not encoded.reason:
                row |= _numbers(scores, at)
                at += 1
            rows.append(row)
        return rows


def _numbers(scores: Scores, i: int) -> Row:
    total = float(scores.logprob_sum[i])
    if not np.isfinite(total):
        return {"reason": NOT_FINITE}
    return {
        "logprob_sum_nats": total,
        "rank": int(scores.first_rank[i]),
        "whole_answer": bool(scores.exact[i]),
    }


# ---- rows on the disk ------------------------------------------------------------------------


class _Rows:
    """Rows read so far; those up to a saved state lie on the disk beside it."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._run = folder, run
        self._new: dict[str, list[pa.Table]] = {name: [] for name in READ}
        self._from = 0

    def add(self, table: str, rows: pa.Table) -> None:
        """Keep rows until the next flush, in the process that writes them."""
        if not parallel.rank():
            self._new[table].append(rows)

    def flush(self, step: int) -> None:
        """Write what was read up to `step`; to be followed by the state of that step."""
        for name, tables in self._new.items():
            if tables:
                path = self._folder / f"{name}-{self._from:08d}-{step:08d}.parquet"
                write_bytes(path, parquet_bytes(pa.concat_tables(tables)))
                tables.clear()
        self._from = step

    def restore(self, step: int) -> None:
        """Throw away what was read after `step`, the step of the restored state (-1: none)."""
        self._from = max(step, 0)
        if parallel.rank():
            return
        sweep(self._folder)
        for path in self._paths():
            if int(path.stem.rsplit("-", 1)[1]) > step:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def tables(self) -> dict[str, pa.Table]:
        """Everything, in order of step."""
        found = {}
        for name in READ:
            spec = schema.TABLES[name]
            old = [pq.read_table(p, partitioning=None) for p in self._paths()
                   if p.name.startswith(f"{name}-")]  # fmt: skip
            pieces = [t.cast(spec.arrow) for t in (*old, *self._new[name])]
            found[name] = (
                pa.concat_tables(pieces).combine_chunks() if pieces else spec.arrow.empty_table()
            )
        return found


# ---- what the plan says ----------------------------------------------------------------------


def plan_tables(plan: RunPlan, heads: Heads) -> dict[str, pa.Table]:
    """`injections` and `injection_passages`."""
    of = {a.passage.passage_id: a for a in plan.assignments}
    left_out = dict(heads.left_out)
    injections = [
        {
            "injection_run": plan.name, "step": h.line.step, "row": h.row,
            "passage_id": h.line.passage, "variant": h.line.variant,
            "arm": of[h.line.passage].arm, "half": of[h.line.passage].half,
            "n_tokens": h.total, "n_seen": len(h.ids), "reason": h.reason,
        }
        for step in sorted(heads.by_step)
        for h in heads.by_step[step]
    ]  # fmt: skip
    injections += [
        {
            "injection_run": plan.name, "step": line.step, "row": plan.settings.batch_rows + k,
            "passage_id": line.passage, "variant": line.variant, "arm": of[line.passage].arm,
            "half": of[line.passage].half, "n_tokens": n, "n_seen": 0, "reason": TOO_LONG,
        }
        for k, (line, n) in enumerate(left_out.items())
    ]  # fmt: skip
    return {
        "injections": schema.INJECTIONS.from_rows(injections),
        "injection_passages": schema.INJECTION_PASSAGES.from_rows(_passages(plan, heads)),
    }


def _passages(plan: RunPlan, heads: Heads) -> list[Row]:
    steps = {
        a.passage.passage_id: sorted({h.line.step for hs in heads.by_step.values() for h in hs
                                      if h.line.passage == a.passage.passage_id})
        for a in plan.assignments
    }  # fmt: skip
    lost = {line.passage for line, _ in heads.left_out}
    rows = []
    for a in plan.assignments:
        name = a.passage.passage_id
        gaps = sorted({b - c for c, b in zip(steps[name], steps[name][1:], strict=False)})
        rows.append(
            {
                "injection_run": plan.name, "passage_id": name, "kind": a.passage.kind,
                "block": a.block, "arm": a.arm, "half": a.half, "exposures": len(steps[name]),
                "injection_steps": steps[name],
                "spacing_steps": gaps[0] if len(gaps) == 1 else None,
                "reason": TOO_LONG if name in lost else None,
            }
        )  # fmt: skip
    return rows


def run_row(
    plan: RunPlan,
    place: Place,
    context: int,
    precision: str,
    flags: Sequence[str],
    reason: str | None = None,
) -> Mapping[str, Any]:
    """The row of `injection_runs`."""
    s, schedule = plan.settings, plan.schedule
    return {
        "injection_run": plan.name, "study": plan.study, "varied": plan.varied,
        "varied_value": plan.value, "series": place.series, "revision": plan.revision,
        "position": plan.position, "start_step": place.start_step,
        "start_tokens": place.start_tokens, "seed": plan.seed, "balanced": plan.balanced,
        "steps": schedule.steps, "injection_steps": list(schedule.injection_steps),
        "placebo_steps": list(schedule.placebo_steps), "window": schedule.window,
        "batch_rows": s.batch_rows, "context": context, "peak_lr": s.peak_lr,
        "warmup_steps": s.warmup_steps, "schedule": s.schedule,
        "optimiser": "fresh" if s.optimiser == "fresh" else "restored", "precision": precision,
        "corpus": s.corpus, "background": s.background, "plan_sha256": plan.sha256,
        "flags": list(flags), "reason": reason,
    }  # fmt: skip
