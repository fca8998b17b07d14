"""A synthetic run folder: a small model that learns what its text states, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from factlife.config import Intervals, load_profile
from factlife.result import metric_key, problems
from factlife.scores import BY_NAME, score_rows
from factlife.store import RunStore, write_json

Row = dict[str, Any]
THIRTEEN = (0, *(round(2_000 * 2.1**i) for i in range(12)))  # tokens: 0, 2000 … 7 M


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Design:
    """What the synthetic run looks like."""

    tokens: Sequence[int | None] = THIRTEEN
    steps: Sequence[int | None] | None = None
    series: str = "reference-1m"
    names: Sequence[str] | None = None
    profile: str = "demo"
    candidates: bool = True
    known_subjects: int = 4  # of each relation, in the candidates table
    subsets: bool = True
    subset_names: Sequence[str] = ("stated", "unstated")
    generation: bool = True
    templates: int = 3
    facts_per_relation: int | None = None
    manifest: Row = dataclasses.field(default_factory=dict)
    flags: Sequence[str] = ()
    warnings: Sequence[str] = ()
    draws: int = 40


def source_facts(limit: int | None) -> list[Row]:
    folder = resources.files("factlife").joinpath("corpora", "fact_probes", "source")
    facts = [json.loads(line) for line in folder.joinpath("facts.jsonl").read_text().splitlines()]
    if limit is None:
        return facts
    seen: dict[str, int] = {}
    kept = []
    for f in facts:
        seen[f["relation"]] = seen.get(f["relation"], 0) + 1
        if seen[f["relation"]] <= limit:
            kept.append(f)
    return kept


class Simulation:
    """Draws every table of one run from one seed."""

    def __init__(self, design: Design) -> None:
        self.design, self.rng = design, np.random.default_rng(7)
        self.facts = source_facts(design.facts_per_relation)
        n = len(self.facts)
        self.unstated = self.rng.random(n) < 0.25 if design.subsets else np.zeros(n, dtype=bool)
        relations = list(dict.fromkeys(f["relation"] for f in self.facts))
        late = {r: self.rng.normal(0, 0.5) for r in relations}
        self.when = np.array([
            (4.6 if f["group"] == "LOC" else 5.6) + late[f["relation"]] + self.rng.normal(0, 0.55)
            for f in self.facts
        ])  # fmt: skip
        self.answers = {
            r: sorted({f["answer"] for f in self.facts if f["relation"] == r}) for r in relations
        }
        self.checkpoints = [self._checkpoint(i) for i in range(len(design.tokens))]

    def _checkpoint(self, i: int) -> Row:
        d = self.design
        step = d.steps[i] if d.steps else None if d.tokens[i] is None else d.tokens[i] // 2_000
        name = d.names[i] if d.names else f"step{step if step is not None else i}"
        return {
            "series": d.series, "revision": name, "position": i, "repo": d.series, "stage": "main",
            "step": step, "tokens": d.tokens[i],
            "tokens_source": "unknown" if d.tokens[i] is None else "user",
            "commit_sha": None, "weights_sha256": [sha(name)], "tensor_hash": sha("t" + name),
            "architecture": "LlamaForCausalLM", "n_parameters": 1_234_432, "dtype": "float32",
            "attention": "sdpa", "flags": list(d.flags) if i == 1 else [], "duplicate_of": None,
            "reason": None,
        }  # fmt: skip

    def strength(self, i: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Logit of knowing each fact at checkpoint i."""
        c = self.checkpoints[i]
        amount = c["tokens"] if c["tokens"] is not None else 2_000 * 2.1**i
        gain = 4 * (np.log10(amount + 1) - self.when)
        return np.where(self.unstated, np.minimum(gain, -2.2), np.minimum(gain, 3.5))

    def recall(self, i: int) -> list[Row]:
        rows, c = [], self.checkpoints[i]
        for f, s in zip(self.facts, self.strength(i), strict=True):
            for t in range(self.design.templates):
                p = 1 / (1 + np.exp(-(s - 0.8 * t)))
                right = bool(self.rng.random() < p)
                n_tokens = 1 + len(f["answer"]) // 6
                logprob = float(np.log(max(p, 1e-6)) * n_tokens - self.rng.exponential(0.4) - 0.01)
                rank = 0 if right else int(self.rng.exponential(200 * (1 - p) + 1))
                said = self.design.generation and t == 0
                hit = right and self.rng.random() < 0.93
                rows.append({
                    "revision": c["revision"], "stage": "main", "step": c["step"],
                    "fact_id": f["fact_id"],
                    "template_id": f"{f['relation']}.{('source', 'question', 'statement')[t]}",
                    "template_role": "extra" if t else "source", "relation": f["relation"],
                    "group": f["group"], "rank": rank, "logprob_sum_nats": logprob,
                    "n_tokens": n_tokens, "whole_answer": right,
                    "generation": (f["answer"] if hit else "the <b>place</b> of") if said else None,
                    "exact_match": bool(hit) if said else None, "reason": None,
                })  # fmt: skip
        return rows

    def candidates(self, i: int) -> list[Row]:
        rows = []
        strength = self.strength(i)
        for relation, answers in self.answers.items():
            mine = [
                (f, s)
                for f, s in zip(self.facts, strength, strict=True)
                if f["relation"] == relation
            ]
            mine = mine[: self.design.known_subjects]
            subjects = [("known", f["subject"], f["fact_id"], f["answer"], s) for f, s in mine]
            subjects += [("unseen", f"Vorlen {k}", None, None, 0.0) for k in range(4)]
            subjects.append(("context_free", "N/A", None, None, 0.0))
            taste = self.rng.normal(0, 0.4, len(answers))
            for kind, subject, fact_id, answer, s in subjects:
                spread = 0.2 + 0.12 * i if kind == "unseen" else 0.2
                for k, candidate in enumerate(answers):
                    logit = -6 + taste[k] + self.rng.normal(0, spread)
                    logit += max(s + 2, 0) if candidate == answer else 0
                    rows.append({
                        "revision": self.checkpoints[i]["revision"], "stage": "main",
                        "step": self.checkpoints[i]["step"], "relation": relation,
                        "subject": subject, "subject_kind": kind, "fact_id": fact_id,
                        "candidate": candidate,
                        "is_answer": candidate == answer if kind == "known" else None,
                        "logprob_sum_nats": float(logit), "n_tokens": 2, "reason": None,
                    })  # fmt: skip
        return rows

    def subsets(self) -> dict[str, list[str]]:
        if not self.design.subsets:
            return {}
        ids = [f["fact_id"] for f in self.facts]
        pairs = list(zip(ids, self.unstated, strict=True))
        first, second = self.design.subset_names
        return {first: [i for i, u in pairs if not u], second: [i for i, u in pairs if u]}


def build_run(root: Path, design: Design) -> RunStore:
    """Write the whole run folder, scored by `score_rows`, with its result.json."""
    sim = Simulation(design)
    intervals = Intervals(draws=design.draws)
    chance = {r: 1 / len(a) for r, a in sim.answers.items()}
    manifest: Row = {
        "identity": {"series": design.series},
        "command": f"factlife run {design.series}",
        "subsets": sim.subsets(),
        "chance": chance,
    }
    with RunStore.writer(root, {**manifest, **design.manifest}) as run:
        for i, c in enumerate(sim.checkpoints):
            at = {"stage": "main", "step": c["step"] if c["step"] is not None else f"none-{i}"}
            run.write_part("checkpoints", [c], at)
            run.write_part("recall", sim.recall(i), at)
            if design.candidates:
                run.write_part("candidates", sim.candidates(i), at)
        tables = {t: run.read(t) for t in ("checkpoints", "recall", "candidates")}
        scores = score_rows(tables, intervals=intervals, chance=chance, subsets=sim.subsets())
        run.write_part("scores", scores)
        write_json(root / "result.json", make_result(run, design, sim.checkpoints, scores))
    return run


def make_result(
    run: RunStore, design: Design, checkpoints: Sequence[Row], scores: Sequence[Row]
) -> Row:
    profile = load_profile(design.profile)
    last = checkpoints[-1]["revision"]
    metrics = {
        metric_key(s["metric"], s["scope"]): s
        for s in scores
        if s["revision"] == (last if BY_NAME[s["metric"]].per_revision else "")
    }
    series_keys = ("revision", "commit_sha", "weights_sha256", "tensor_hash", "stage", "step",
                   "tokens", "tokens_source", "flags", "reason")  # fmt: skip
    result = {
        "schema_version": 1,
        "benchmark_version": "0.1.0",
        "series_name": design.series,
        "protocol": {
            "name": profile.name, "version": profile.version,
            "hash": profile.protocol_hash({"fact-probes": sha("facts")}),
            "ranked": profile.ranked, "badge": profile.badge, "params": profile.params(),
        },
        "model": {"repo": design.series, "architecture": "LlamaForCausalLM",
                  "parameters": 1_234_432, "dtype": "float32", "attention": "sdpa"},
        "series": [{k: c[k] for k in series_keys} for c in checkpoints],
        "data": [{"name": "fact-probes", "revision": "1.0.0", "fingerprint": sha("facts")}],
        "env": {"image_digest": None, "git_sha": "0123456789abcdef0123456789abcdef01234567",
                "dirty": True, "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
                "device": "cpu", "seeds": {"intervals": 0}, "deterministic": True},
        "metrics": metrics,
        "tables": {t: run.digest(t) for t in ("checkpoints", "recall", "scores")},
        "integrity": {"duplicates": [], "warnings": list(design.warnings), "exclusions": {}},
        "submitter": None,
    }  # fmt: skip
    assert not problems(result, "synthetic result")
    return result
