"""Shared by all tests: quiet libraries, no network, shapes checked."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Test processes that each take every core wait for one another at every small operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The environments without torch run what needs no model; these files would not import there.
NEEDS_TORCH = [
    "bench.py", "bench_circuits.py", "bench_series.py", "corpora/test_prompts.py",
    "circuits/graph.py", "circuits/test_ablate.py", "circuits/test_edges.py",
    "circuits/test_measure.py", "circuits/test_planted.py", "circuits/test_reach.py",
    "circuits/test_threshold.py",
    "recall/test_measure.py",
    "runner", "scoring/test_targets.py", "series/test_hub.py", "series/test_loading.py",
    "series/test_swap.py", "test_cli.py", "tiny.py", "tracing", "training",
]  # fmt: skip
collect_ignore = [] if importlib.util.find_spec("torch") else NEEDS_TORCH
