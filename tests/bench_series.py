"""Speed of a sweep: swapping checkpoints in place, and downloading beside measuring.

Run by `tests.bench`. The sweep talks to a loopback Hub of limited bandwidth, in a process of its
own, because HF_ENDPOINT is read at import.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tests.hubserver import ROOT, LoopbackHub, files_of
from tests.tiny import byte_level_tokenizer
from transformers import AutoModelForCausalLM, Olmo2Config

from factlife.config import Model
from factlife.series.loading import load, load_tokenizer
from factlife.series.swap import Module

CPU = torch.device("cpu")
REVISIONS = 20


def save_revisions(folder: Path, n: int, layers: int, width: int) -> list[Path]:
    """Random checkpoints of one model with one tokenizer."""
    tokenizer = byte_level_tokenizer(2000)
    config = Olmo2Config(
        vocab_size=2000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
        intermediate_size=4 * width, max_position_embeddings=256,
    )  # fmt: skip
    folders = []
    for step in range(n):
        torch.manual_seed(step)
        folders.append(folder / f"step{step}")
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    return folders


class Swaps:
    """Both ways of going from checkpoint to checkpoint; files are in the page cache for both."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._module = Module(Model(), CPU)
        self._module.load(folders[0])
        self._tokenizer = load_tokenizer(folders[0])

    def in_place(self) -> None:
        """Copy each checkpoint into the module that is there."""
        for folder in self._folders:
            self._module.load(folder)
        assert self._module.swapped

    def anew(self) -> None:
        """`from_pretrained` for each checkpoint, the tokenizer loaded once here as well."""
        for folder in self._folders:
            load(folder, Model(), CPU, tokenizer=self._tokenizer)


SWEEP = """
import json, sys, time
from pathlib import Path
from factlife.config import parse_profile
from factlife.runner.progress import Silent
from factlife.runner.run import Options, run
from factlife.series.discover import find_series
from factlife.series.local import open_series
source, out, keep = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "keep"
text = 'name = "bench"\\n[recall]\\ntemplates = "source"\\ngeneration = "none"\\ncandidates = false'
profile = parse_profile(text, "bench")
series = find_series(source) if "/" in source and not Path(source).exists() else open_series(source)
start = time.perf_counter()
done = run(series, profile, out, Options(keep_cache=keep), Silent())
print(json.dumps([time.perf_counter() - start, len(done.measured)]))
"""

DOWNLOAD = """
import json, sys, time
from factlife.series import hub
from factlife.series.discover import find_series
from factlife.series.survey import survey
start = time.perf_counter()
for one in survey(find_series(sys.argv[1]).revisions):
    for file in (*one.small, *one.weights):
        hub.download(one.revision.repo, one.revision.commit_sha, file)
print(json.dumps([time.perf_counter() - start, 0]))
"""


def _seconds(code: str, words: list[str], environment: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment, capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout.splitlines()[-1])[0])


def sweep(folder: Path, bandwidth: float | None = None) -> tuple[float, float, float]:
    """Seconds of (the sweep, the downloads alone, the computing alone) over `REVISIONS`.

    Without a bandwidth it is chosen so that downloading takes about as long as computing: where
    doing one after the other would take twice as long.
    """
    folders = save_revisions(folder / "series", REVISIONS, 4, 256)
    with LoopbackHub() as hub:
        repo = hub.repo("org/bench")
        for path in folders:
            repo.commit(path.name, files_of(path))
        environment = hub.environment(folder / "home")
        series, out = str(folder / "series"), str(folder / "local")
        compute = _seconds(SWEEP, [series, out, ""], environment)
        size = sum(f.stat().st_size for p in folders for f in p.iterdir())
        hub.bandwidth = bandwidth or size / compute
        download = _seconds(DOWNLOAD, ["org/bench"], hub.environment(folder / "home2"))
        total = _seconds(SWEEP, ["org/bench", str(folder / "remote"), ""], environment)
    return total, download, compute


def run(compare: Any, ratio: Any) -> list[Any]:
    """All benchmarks, in the form of `tests.bench`."""
    with tempfile.TemporaryDirectory() as scratch:
        swaps = Swaps(save_revisions(Path(scratch) / "swap", 4, 8, 256))
        swapped = compare(
            "from_pretrained against a swap in place",
            ("4 checkpoints anew", swaps.anew), ("4 checkpoints in place", swaps.in_place),
            at_least=3.0,
        )  # fmt: skip
        started = time.perf_counter()
        total, download, compute = sweep(Path(scratch) / "sweep")
    print(
        f"sweep of {REVISIONS} revisions: {total:.1f} s; downloads alone {download:.1f} s, "
        f"computing alone {compute:.1f} s; measured in {time.perf_counter() - started:.0f} s"
    )
    longer = max(download, compute)
    bound = "the longer of both alone"
    name = f"sweep over a slow Hub, {REVISIONS} revisions"
    return [
        swapped,
        ratio(name, "download and compute", bound, total, longer, (total / longer,), "<= 1.15",
              total <= 1.15 * longer),
    ]  # fmt: skip
