"""The reference series: a small model trained from scratch on the reference text.

OUT/step0/ step25/ … step<last>/    ordinary Hugging Face folders, tokenizer included
OUT/series.toml                     written last: revisions, stated and unstated facts, settings
OUT/.training/                      while it is trained: settings and the newest state
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import factlife
from factlife import store
from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.reference_text import Document, TextConfig, TextPlan, passes, plan_text
from factlife.errors import IntegrityError, UsageError
from factlife.training.batches import RowSource
from factlife.training.config import TrainingConfig
from factlife.training.folders import atomic_folder, only_writer, sweep
from factlife.training.loop import StepReport, Trainer, train
from factlife.training.models import ModelShape, build_model, model_config
from factlife.training.packing import pack_whole
from factlife.training.tokenizer import train_tokenizer

SERIES, WORK, SETTINGS = "series.toml", ".training", "settings.json"
SERIES_FORMAT = 1
STATE_EVERY = 100
DEPTH, WIDTH, HEAD_WIDTH = 4, 128, 32  # of the series that the demo trains


@dataclass(frozen=True)
class ReferenceSettings:
    """Everything a reference series follows from.

    Attributes:
        arch: one of `models.ARCHITECTURES`.
        seed: of the text (which facts are stated, companions, sentences), weights and steps.
        vocab_size: of the BPE tokenizer.
        tokenizer_passes: passes of the text, from its start, that the tokenizer is trained on.
        checkpoints: how many are kept; fewer where steps are too few to tell them apart.
        name: of the series; empty: by its architecture alone, as the demo has it.
    """

    arch: str = "olmo2"
    seed: int = 0
    vocab_size: int = 2000
    tokenizer_passes: int = 30
    checkpoints: int = 14
    text: TextConfig = TextConfig()
    shape: ModelShape = ModelShape()
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=1600, batch_rows=8, context=64, peak_lr=2e-3, warmup_steps=20
        )
    )
    name: str = ""


def train_reference_series(
    out: Path,
    *,
    arch: str = "olmo2",
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
    progress: Callable[[StepReport], Any] | None = None,
) -> Path:
    """Train the reference series into `out` (see the module) and return `out`.

    Args:
        arch: olmo2, llama, gpt_neox or gpt2.
        steps: optimiser steps; None: the default, for which the recall claims hold.
        progress: called after each step.

    Raises:
        UsageError: unknown architecture, or `out` holds something else or is in use.
        IntegrityError: training diverged, or a saved state is damaged.
        PartialError: the disk refused a write; the same call goes on from there.
    """
    settings = ReferenceSettings(arch=arch, seed=seed, shape=reference_shape(arch))
    return train_series(out, _for_steps(settings, steps), device=device, progress=progress)


def train_sized_series(
    out: Path,
    *,
    arch: str = "olmo2",
    depth: int = DEPTH,
    width: int = WIDTH,
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
    progress: Callable[[StepReport], Any] | None = None,
) -> Path:
    """Train a reference series of any size, named by it: `factlife-reference-olmo2-4x128`.

    Args:
        depth, width: transformer blocks; width of the residual stream, a multiple of 32.
        Others: as `train_reference_series`, and what is raised.
    """
    settings = sized_settings(arch, depth, width, seed)
    return train_series(out, _for_steps(settings, steps), device=device, progress=progress)


def sized_settings(arch: str, depth: int, width: int, seed: int = 0) -> ReferenceSettings:
    """Settings of a reference series of a size. Raises UsageError for a width of no whole heads."""
    if width % HEAD_WIDTH:
        raise UsageError(f"--width {width}: heads are {HEAD_WIDTH} wide; give a multiple of that")
    name = f"factlife-reference-{arch}-{depth}x{width}"
    shape = reference_shape(arch, depth, width)
    return ReferenceSettings(arch=arch, seed=seed, shape=shape, name=name)


def _for_steps(settings: ReferenceSettings, steps: int | None) -> ReferenceSettings:
    if steps is None:
        return settings
    return replace(settings, training=replace(settings.training, steps=steps))


def reference_shape(arch: str, depth: int = DEPTH, width: int = WIDTH) -> ModelShape:
    """The shape a reference series has; GPT-style blocks start better from larger matrices.

    Measured in `docs/log.md`: 0.04 takes gpt_neox from 87 to 98 % and costs olmo2 13 points.
    """
    sizes = {"layers": depth, "width": width, "heads": width // HEAD_WIDTH, "ffn": 3 * width}
    return ModelShape(**sizes, init_std=0.04 if arch.startswith("gpt") else 0.02)


def train_series(
    out: Path,
    settings: ReferenceSettings,
    *,
    device: torch.device | str,
    progress: Callable[[StepReport], Any] | None = None,
) -> Path:
    """`train_reference_series` for any settings. A killed call is continued by the same call."""
    identity = _identity(settings)
    config = model_config(settings.arch, settings.shape, settings.vocab_size, 0, 1)
    if _finished(out, identity):
        return out
    _refuse_foreign(out)
    with only_writer(out / WORK):
        if not _finished(out, identity):
            _claim(out, identity)
            model = build_model(config, settings.seed, settings.shape.embedding_std)
            _train(out, settings, identity, model, device, progress)
        shutil.rmtree(out / WORK, ignore_errors=True)
    return out


def _train(
    out: Path,
    settings: ReferenceSettings,
    identity: dict[str, Any],
    model: PreTrainedModel,
    device: torch.device | str,
    progress: Callable[[StepReport], Any] | None,
) -> None:
    text = reference_rows(settings)
    pad = int(text.tokenizer.pad_token_id)
    source = RowSource(text.rows, settings.training.batch_rows, pad=pad)
    steps = checkpoint_steps(settings.training.steps, settings.checkpoints)
    train(
        Trainer(model, source, settings.training, device),
        checkpoint_steps=steps,
        on_checkpoint=lambda t: _write_checkpoint(model, text.tokenizer, out / f"step{t.step}"),
        on_step=progress,
        states=out / WORK,
        save_every=STATE_EVERY,
    )
    store.write_text(out / SERIES, _series_toml(settings, identity, text, steps))


def checkpoint_steps(last: int, count: int) -> list[int]:
    """Step 0 and `count` - 1 steps up to `last`, each about √2 times the one before.

    Steps that round to one number are one; step 0 itself is not repeated.
    """
    spaced = {round(last * 2 ** (-k / 2)) for k in range(count - 1)}
    return sorted({0} | spaced)


# ---- text ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReferenceRows:
    """The text as the model reads it.

    Attributes:
        rows: token ids, one row per context.
        passes: passes of the text that the rows are made of; the last is not read to its end.
        fingerprint: hex sha256 over those passes' documents, each followed by a newline.
    """

    plan: TextPlan
    tokenizer: PreTrainedTokenizerFast
    rows: Int64[Tensor, "n c"]
    passes: int
    fingerprint: str


def reference_rows(settings: ReferenceSettings) -> ReferenceRows:
    """Write the text, train the tokenizer on its start, and cut it into as many rows as needed.

    The number of passes is the smallest whose tokens, padding not counted, feed every step: no row
    is read twice, and the rows left over at the end are the padding's share.
    """
    probes = load_fact_probes()
    rng = np.random.default_rng(settings.seed)
    plan = plan_text(probes, settings.text, rng)
    stream = passes(plan, probes, settings.text, rng)
    start = [next(stream) for _ in range(settings.tokenizer_passes)]
    tokenizer = train_tokenizer((d.text for p in start for d in p), settings.vocab_size)
    reader = _Reader(tokenizer)
    needed = settings.training.steps * settings.training.tokens_per_step
    for one_pass in _chained(start, stream):
        reader.read(one_pass)
        if reader.tokens >= max(needed, settings.training.tokens_per_step):
            break
    eos, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    rows = pack_whole(reader.documents, settings.training.context, eos, pad)
    return ReferenceRows(plan, tokenizer, rows, reader.passes, reader.digest.hexdigest())


def _chained(
    start: list[list[Document]], rest: Iterator[list[Document]]
) -> Iterator[list[Document]]:
    yield from start
    yield from rest


class _Reader:
    """Turns passes into token ids, counting and hashing on the way."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.documents: list[list[int]] = []
        self.tokens = self.passes = 0
        self.digest = hashlib.sha256()

    def read(self, one_pass: list[Document]) -> None:
        texts = [d.text for d in one_pass]
        encoded = [e.ids for e in self._backend.encode_batch_fast(texts)]
        self.documents += encoded
        self.tokens += sum(len(ids) + 1 for ids in encoded)
        self.passes += 1
        self.digest.update("".join(f"{t}\n" for t in texts).encode())


# ---- folders ---------------------------------------------------------------------------------


def _identity(settings: ReferenceSettings) -> dict[str, Any]:
    """What two runs must share to be the same series, as JSON values."""
    values: dict[str, Any] = asdict(settings)
    if not settings.name:
        del values["name"]  # it says nothing that the architecture does not
    values["probes"] = load_fact_probes().fingerprint()
    return values


def _versions() -> dict[str, str]:
    return {
        "factlife": factlife.__version__,
        "numpy": np.__version__,
        "tokenizers": tokenizers.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _finished(out: Path, identity: dict[str, Any]) -> bool:
    if not (out / SERIES).is_file():
        return False
    try:
        there = tomllib.loads((out / SERIES).read_text("utf-8"))["training"]["settings"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{out / SERIES} was not written by the reference training ({error}); choose another "
            "folder"
        ) from error
    _refuse_other(out, there, identity)
    return True


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder with anything in it that this training did not put there."""
    if (out / WORK / SETTINGS).is_file() or not out.exists():
        return
    if not out.is_dir() or any(p.name != WORK for p in out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no reference series; choose another folder")


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Begin, or go on with what the same call left there."""
    path = out / WORK / SETTINGS
    now = {**identity, "versions": _versions()}
    if path.is_file():
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise IntegrityError(f"{path} is damaged ({error}); remove {out}") from error
        _refuse_other(out, there, now)
        sweep(out)
    else:
        store.write_json(path, now)


def _refuse_other(out: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    flat_there, flat_now = dict(_flat(there)), dict(_flat(now))
    names = sorted(k for k in {*flat_there, *flat_now} if flat_there.get(k) != flat_now.get(k))
    if names:
        detail = "; ".join(f"{k}: {flat_there.get(k)} there, {flat_now.get(k)} now" for k in names)
        raise UsageError(
            f"{out} holds a reference series with other settings ({detail}); choose another "
            "folder, use those settings, or remove it"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _write_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write a Hugging Face folder; one that is there is whole and the same, and is left alone."""
    if not folder.exists():
        with atomic_folder(folder) as temporary, _no_bars():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for each file; rendering is the caller's."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


# ---- series.toml -----------------------------------------------------------------------------


def _series_toml(
    settings: ReferenceSettings, identity: dict[str, Any], text: ReferenceRows, steps: list[int]
) -> str:
    name = settings.name or f"factlife-reference-{settings.arch}"
    lines = [f"format = {SERIES_FORMAT}", f"name = {json.dumps(name)}", ""]
    for step in steps:
        tokens = step * settings.training.tokens_per_step
        row = {"name": f"step{step}", "path": f"step{step}", "stage": "main", "step": step}
        lines += ["[[revision]]", *_pairs({**row, "tokens": tokens}), ""]
    subsets = {
        "stated": [f.fact_id for f in text.plan.stated],
        "unstated": [f.fact_id for f in text.plan.unstated],
    }
    training = {
        "text_sha256": text.fingerprint,
        "text_passes": text.passes,
        "settings": identity,
        "versions": _versions(),
    }
    return "\n".join([*lines, *_table("fact_subsets", subsets), *_table("training", training)])


def _table(name: str, values: dict[str, Any]) -> Iterator[str]:
    yield f"[{name}]"
    yield from _pairs({k: v for k, v in values.items() if not isinstance(v, dict)})
    yield ""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _table(f"{name}.{key}", value)


def _pairs(values: dict[str, Any]) -> Iterator[str]:
    """`key = value` lines; JSON spells TOML's strings, numbers, booleans and lists."""
    for key, value in values.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
