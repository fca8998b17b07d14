"""Results as others would hand them in."""

from __future__ import annotations

import hashlib
from typing import Any

from factlife.config import load_profile
from factlife.result import metric_key, problems
from factlife.scores import BY_NAME
from factlife.store import sha256_json

Row = dict[str, Any]
STANDARD = load_profile("standard").params()
HEADLINES: dict[str, tuple[float, float, float]] = {
    "recall.whole_answer_accuracy": (0.44, 0.51, 0.58),
    "recall.candidate_accuracy_corrected": (0.55, 0.62, 0.69),
    "recall.emergence50": (4e8, 8e8, 8e8),
    "hallucination.excess_loss": (0.31, 0.42, 0.53),
    "hallucination.name_information": (0.1, 0.2, 0.3),
}


def metric_row(name: str, span: tuple[float, float, float] | None, scope: str = "overall") -> Row:
    """A metric as result.json holds it; None is one that could not be measured."""
    m = BY_NAME[name]
    low, value, high = span or (None, None, None)
    return {
        "metric": name, "scope": scope, "revision": "step2" if m.per_revision else "",
        "value": value, "ci_low": low, "ci_high": high, "n": 160, "unit": m.unit,
        "direction": m.direction, "interval_method": "bootstrap" if span else None,
        "reason": None if span else "final accuracy is not above chance (0.079)",
    }  # fmt: skip


def make_result(series: str = "pythia-160m", profile: str = "standard", **changes: Any) -> Row:
    """A valid result; `ranked`, `badge`, `metrics`, `version` and top-level keys can be changed.

    One of `standard` has the shipped profile's parameters; those of others are made up.
    """
    ranked = changes.pop("ranked", profile == "standard")
    badge = changes.pop("badge", "" if ranked else profile)
    spans = {**HEADLINES, **changes.pop("metrics", {})}
    params = {"name": profile, "version": changes.pop("version", 1), "ranked": ranked}
    if params.items() <= STANDARD.items():
        params = STANDARD
    fingerprint = hashlib.sha256(b"facts").hexdigest()
    tokens = (0, 2_097_152_000, 300_000_000_000)
    rows = [metric_row(name, span) for name, span in spans.items()]
    rows.append(metric_row("recall.whole_answer_accuracy", (0.5, 0.6, 0.7), "LOC"))
    result = {
        "schema_version": 1,
        "benchmark_version": "0.1.0",
        "series_name": series,
        "protocol": {
            "name": profile, "version": params["version"], "ranked": ranked, "badge": badge,
            "hash": sha256_json({"params": params, "data": {"fact-probes": fingerprint}}),
            "params": params,
        },
        "model": {"repo": f"EleutherAI/{series}", "architecture": "GPTNeoXForCausalLM",
                  "parameters": 162_322_944, "dtype": "float32", "attention": "sdpa"},
        "series": [
            {"revision": f"step{i}", "commit_sha": None, "weights_sha256": [fingerprint],
             "tensor_hash": None, "stage": "main", "step": i, "tokens": t,
             "tokens_source": "registry", "flags": [], "reason": None}
            for i, t in enumerate(tokens)
        ],
        "data": [{"name": "fact-probes", "revision": "1.0.0", "fingerprint": fingerprint}],
        "env": {"image_digest": None, "git_sha": "0" * 40, "dirty": False,
                "packages": {"torch": "2.13.0"}, "device": "cuda NVIDIA H200",
                "seeds": {"bootstrap": 0}, "deterministic": True},
        "metrics": {metric_key(r["metric"], r["scope"]): r for r in rows},
        "tables": {},
        "integrity": {"duplicates": [], "warnings": [], "exclusions": {}},
        "submitter": None,
        **changes,
    }  # fmt: skip
    assert not problems(result, series)
    return result
