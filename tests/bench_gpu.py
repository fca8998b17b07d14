"""The cost model against a GPU, and speed there: `python -m tests.bench_gpu`, under 100 s.

Random weights in the shapes of Pythia 160M and 1B: speed and memory do not depend on the weights.
Each part stands alone: one that fails prints its traceback and the next one goes on.

`--device cpu --tiny` runs the same code with models of a few thousand parameters.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.bench_injection import targets as probe_targets
from tests.tiny import byte_level_tokenizer
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from factlife.config import Injection, load_profile
from factlife.corpora.fictional.background import SEED, articles
from factlife.injection.background import PackedText
from factlife.injection.batches import Heads, InjectionSource
from factlife.injection.cost import Memory, Shape, memory, training_flops
from factlife.injection.measure import encoder_of_many, training_config
from factlife.injection.probe import ProbePass
from factlife.runner.cost import CPU_TRAINING, GPU_TRAINING
from factlife.runner.plan import _matmul_speed, _training_speed, plan
from factlife.runner.progress import Silent
from factlife.runner.run import Options, run
from factlife.scoring.targets import Padded, Target, pad
from factlife.series.local import open_series
from factlife.tracing import adapter_for, contributions
from factlife.training import Trainer
from factlife.training.batches import Ahead

PROBES, UNPADDED = 1800, 256
GB = 1e9
ENOUGH = 20  # seconds: a first run that took longer is not repeated


@dataclass(frozen=True)
class Size:
    """A model's shape, and how long it is benchmarked."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    steps: int

    def config(self) -> GPTNeoXConfig:
        """GPT-NeoX, as Pythia has it."""
        return GPTNeoXConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=4 * self.width, rotary_pct=0.25,
            max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
            tie_word_embeddings=False,
        )  # fmt: skip

    def shape(self, model: Any) -> Shape:
        """What the cost model needs to know."""
        n = sum(p.numel() for p in model.parameters())
        return Shape.of_config(self.config().to_dict(), n)


@dataclass(frozen=True)
class Bench:
    """Where and on what: the two sizes, and the settings of injection."""

    device: torch.device
    small: Size
    large: Size
    injection: Injection


def full(device: torch.device) -> Bench:
    """The shapes of Pythia 160M and 1B with the settings of `standard`."""
    return Bench(
        device,
        Size("160M", 12, 768, 12, 50304, 20),
        Size("1B", 16, 2048, 8, 50304, 8),
        load_profile("standard").injection,
    )


def tiny(device: torch.device) -> Bench:
    """The same code in seconds on a CPU."""
    settings = replace(load_profile("standard").injection, batch_rows=8, context=32)
    size = Size("tiny", 2, 32, 4, 2048, 2)
    return Bench(device, size, replace(size, name="tiny 2", width=64), settings)


def say(line: str = "") -> None:
    print(line, flush=True)


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """Bytes that torch held at most since `free`; NaN on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else float("nan")


def timed(device: torch.device, f: Callable[[], Any], times: int = 1) -> float:
    """Median seconds of a call, after one that is not counted."""
    found = []
    for _ in range(times + 1):
        sync(device)
        start = time.perf_counter()
        f()
        sync(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """The tests' small tokenizer, its vocabulary filled up with entries that no text needs."""
    made = byte_level_tokenizer(2000)
    raw = json.loads(made.backend_tokenizer.to_str())
    entries = raw["model"]["vocab"]
    entries |= {f"<filler {i}>": i for i in range(len(entries), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)),
        eos_token=made.eos_token, bos_token=made.bos_token,
    )  # fmt: skip


def random_model(size: Size, device: torch.device) -> Any:
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(size.config(), dtype=torch.float32)


# ---- a: recall and circuits ------------------------------------------------------------------


def recall_and_circuits(b: Bench) -> None:
    """The profile `standard` on two checkpoints: seconds against those that `plan` prints."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, words = Path(scratch) / "series", tokenizer(b.small.vocabulary)
        for step in (1, 2):
            torch.manual_seed(step)
            model = random_model(b.small, b.device).cpu()
            model.save_pretrained(folder / f"step{step}")
            words.save_pretrained(folder / f"step{step}")
        del model
        profile = load_profile("standard")
        profile = replace(
            profile,
            tracks=("recall", "circuits"),
            execution=replace(profile.execution, device=str(b.device)),
        )
        if b.device.type == "cpu":
            profile = replace(profile, circuits=replace(profile.circuits, ablation_draws=1))
        series = open_series(str(folder))
        for name in ("first", "second"):  # the first one compiles the kernel
            out, options = Path(scratch) / name, Options()
            planned = plan(series, profile, out, options)
            free(b.device)
            start = time.perf_counter()
            done = run(series, profile, out, options, Silent())
            took = time.perf_counter() - start
            tracks = ", ".join(f"{t} {s:.1f} s" for t, s in done.seconds.items())
            say(
                f"a {b.small.name} {name} run, 2 checkpoints: predicted {planned.seconds:.1f} s "
                f"and {planned.memory / GB:.2f} GB, measured {took:.1f} s ({tracks}) and "
                f"{peak(b.device) / GB:.2f} GB; predicted / measured "
                f"{planned.seconds / took:.2f}, {planned.memory / peak(b.device):.2f}; "
                f"{planned.flops:.2e} FLOPs, {planned.flops / took / 1e12:.2f} TFLOP/s; tokens "
                f"{planned.prompt_tokens} a checkpoint, ablation {planned.ablation_tokens}"
            )
            if took > ENOUGH:
                break


# ---- b: injection ----------------------------------------------------------------------------


def packed(b: Bench, size: Size, texts: list[str]) -> PackedText:
    """The articles again and again, tokenised as a run does."""
    encode = encoder_of_many(tokenizer(size.vocabulary))
    return PackedText(lambda: (t for _ in range(10**6) for t in texts), encode,
                      b.injection.context, 0)  # fmt: skip


def engine(b: Bench, size: Size, model: Any, texts: list[str]) -> Trainer:
    """The loop of an injection run, with nothing injected."""
    s = b.injection
    config = training_config(s, 10**6, s.context, b.device.type)
    text = packed(b, size, texts)
    source = Ahead(InjectionSource(text, s.batch_rows, Heads({}, ())))
    return Trainer(model, source, config, b.device)


def bare(b: Bench, model: Any) -> Callable[[], None]:
    """The same step as everybody writes it, on rows that lie on the device."""
    s = b.injection
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, 2000, (s.batch_rows, s.context), generator=generator).to(b.device)
    half = training_config(s, 1, s.context, b.device.type).precision == "bfloat16"

    def step() -> None:
        model.train()
        for ids in rows.chunk(s.accumulation):
            with torch.autocast(b.device.type, torch.bfloat16, enabled=half):
                logits = model(input_ids=ids, use_cache=False).logits
            loss = functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
            )
            (loss / s.accumulation).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def injection(b: Bench, size: Size) -> None:
    """Seconds and memory of an update, the share of the device's speed, and a bare loop."""
    texts = [row["text"] for row in articles(400, f"{SEED}/0")]
    model = random_model(size, b.device)
    shape, s = size.shape(model), b.injection
    half = b.device.type != "cpu"
    speed, share = _training_speed(b.device, half=half), GPU_TRAINING if half else CPU_TRAINING
    tokens = s.batch_rows * s.context
    flops = tokens * training_flops(shape, s)
    expected: Memory = memory(shape, s, half=half)
    say(f"b {size.name}: {shape.parameters:,} parameters, {tokens:,} tokens an update, "
        f"{s.accumulation} micro-batches; predicted GB: {parts(expected)}")  # fmt: skip
    free(b.device)
    trainer = engine(b, size, model, texts)
    took = timed(b.device, trainer.advance, size.steps)
    held = peak(b.device)
    say(
        f"b {size.name} update: predicted {flops / speed:.3f} s, measured {took:.3f} s, ratio "
        f"{flops / speed / took:.2f}; {flops / took / 1e12:.1f} TFLOP/s "
        f"({flops / took / (speed / share):.0%} of a large product); memory "
        f"predicted {expected.total / GB:.2f}, measured {held / GB:.2f} GB, ratio "
        f"{expected.total / held:.2f}"
    )
    source = InjectionSource(packed(b, size, texts), s.batch_rows, Heads({}, ()))
    say(f"b {size.name} text of an update: {timed(b.device, source.next_batch, 5):.3f} s")
    trainer = None
    free(b.device)
    plain = timed(b.device, bare(b, model), max(2, size.steps // 2))
    say(f"b {size.name} bare loop: {plain:.3f} s an update; bare / engine {plain / took:.2f}")
    probing(b, size, model, half=half)


def parts(m: Memory) -> str:
    """The parts of a memory estimate, GB."""
    return ", ".join(f"{k} {v / GB:.2f}" for k, v in vars(m).items()) + f", all {m.total / GB:.2f}"


def probing(b: Bench, size: Size, model: Any, *, half: bool) -> None:
    """One pass over 1,800 probes against the forward over their tokens without padding."""
    wanted = [Target(t.ids, t.start, t.end) for t in probe_targets()][:PROBES]
    precision = "bfloat16" if half else "float32"
    batch_tokens = load_profile("standard").execution.batch_tokens
    whole = ProbePass(wanted, batch_tokens, b.device, precision)
    ids = [i for t in wanted for i in t.ids]
    rows = torch.tensor(ids[: len(ids) // UNPADDED * UNPADDED]).reshape(-1, UNPADDED).to(b.device)

    @torch.no_grad()
    def unpadded() -> None:
        model.eval()
        for batch in rows.split(batch_tokens // UNPADDED):
            with torch.autocast(b.device.type, torch.bfloat16, enabled=half):
                model(input_ids=batch, use_cache=False)

    one, plain = timed(b.device, lambda: whole(model), 3), timed(b.device, unpadded, 3)
    say(
        f"b {size.name} probing: {len(wanted):,} probes of {len(ids) / len(wanted):.1f} tokens in "
        f"{one:.3f} s; the forward over their tokens {plain:.3f} s; ratio {one / plain:.2f} "
        f"(at most 1.3)"
    )


# ---- c: circuits -----------------------------------------------------------------------------


def kernels(b: Bench) -> None:
    """Each kernel of the contributions against a forward without unembedding."""
    model = random_model(b.small, b.device).eval()
    for prompts, length in ((160, 16), (32, 64)):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 2000, (prompts, length), generator=generator).tolist()
        padded = pad(ids, "right", b.device)
        plain = timed(b.device, lambda p=padded: forward(model, p), 5)  # type: ignore[misc]
        for kernel in ("compile", "eager"):
            try:
                took = timed(b.device, traced(model, padded, kernel), 5)
            except Exception:
                say(f"c {kernel} kernel fails:\n{traceback.format_exc(limit=3)}")
                continue
            say(f"c {b.small.name}, {prompts} prompts of {length}: {kernel} {took:.4f} s, forward "
                f"{plain:.4f} s, ratio {took / plain:.2f}")  # fmt: skip


@torch.inference_mode()
def forward(model: Any, padded: Padded) -> None:
    """The plain forward, without unembedding."""
    model.base_model(
        input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions,
        use_cache=False,
    )  # fmt: skip


def traced(model: Any, padded: Padded, kernel: str) -> Callable[[], None]:
    """Contributions with one kernel."""
    adapter = adapter_for(model)

    def call() -> None:
        with torch.inference_mode():
            contributions(model, adapter, padded, kernel)

    return call


def main(words: list[str] | None = None) -> int:
    """Every part, each by itself; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args(words)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        say("no CUDA device: nothing is measured (--device cpu --tiny tries the code)")
        return 0
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    b = (tiny if chosen.tiny else full)(device)
    began, failed = time.perf_counter(), 0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    for dtype in (torch.float32, torch.bfloat16):
        say(f"product in {dtype}: {_matmul_speed(device, dtype) / 1e12:.2f} TFLOP/s")
    every = (
        lambda: injection(b, b.small), lambda: kernels(b), lambda: recall_and_circuits(b),
        lambda: injection(b, b.large),
    )  # fmt: skip
    for part in every:
        start = time.perf_counter()
        try:
            part()
        except Exception:
            failed += 1
            say(traceback.format_exc())
        free(device)
        say(f"({time.perf_counter() - start:.1f} s)")
    say(f"{time.perf_counter() - began:.1f} s in all, {failed} parts failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
