"""Tables of the circuits track for a synthetic run: seeded, plausible, checked by the store.

Few components are active at first; over training more are, fact-specific ones last, and most
keep their role from one checkpoint to the next.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests.report.circuit_scores import score_rows
from tests.report.synthetic import Design, Row, Simulation, build_run

from factlife.schema import ROLES
from factlife.store import RunStore

NAMES = ("general", "entity", "relation", "fact", "inactive")
ACTIVE = NAMES[:4]
FOURTEEN = (0, *(2_000 * round(2 * 1.9**i) for i in range(13)))  # tokens: 0, 4000 … 9 M
TWENTY = (0, *(2_000_000 * round(1_000 * 1.3**i) for i in range(19)))  # 2 B … 225 B


@dataclasses.dataclass(frozen=True)
class CircuitDesign:
    """What the traced model looks like.

    Attributes:
        recall: the rest of the run.
        parallel: attention and FFN write together, so that no edge goes past the FFN alone.
        experts: of a layer; 0 in a dense model.
        shown: facts a relation with edges.
        tokens: token texts that stand in for the first ones of every prompt.
        ablated: whether the causal check was run.
    """

    recall: Design = Design(tokens=FOURTEEN)
    layers: int = 4
    heads: int = 4
    experts: int = 0
    parallel: bool = False
    shown: int = 1
    tokens: Sequence[str] = ()
    ablated: bool = True
    seed: int = 3


LARGE = CircuitDesign(Design(tokens=TWENTY, facts_per_relation=3), layers=32, heads=32)


def templates() -> dict[str, str]:
    """Relation -> source template."""
    folder = resources.files("factlife").joinpath("corpora", "fact_probes", "source")
    found = tomllib.loads(folder.joinpath("relations.toml").read_text("utf-8"))["relation"]
    return {r["relation"]: r["templates"][0]["text"] for r in found}


def pieces(text: str) -> list[str]:
    """Tokens as a tokenizer might cut them: words, long ones in two."""
    words = [f" {w}" for w in text.split()]
    return [p for w in words for p in ((w[:6], w[6:]) if len(w) > 9 else (w,))]


class Tracing:
    """Draws every table of the track from one seed."""

    def __init__(self, design: CircuitDesign) -> None:
        self.design, self.rng = design, np.random.default_rng(design.seed)
        self.sim = Simulation(design.recall)
        self.checkpoints = self.sim.checkpoints
        self.relations = list(dict.fromkeys(f["relation"] for f in self.sim.facts))
        self.kinds = {"head": (design.layers, design.heads), "ffn": (design.layers, 1)}
        if design.experts:
            self.kinds["expert"] = (design.layers, design.experts)
        scopes = ["overall", *self.relations]
        self.roles = {(s, k): self._history(k) for s in scopes for k in self.kinds}
        form = templates()
        self.prompts = {f["fact_id"]: self._prompt(form[f["relation"]], f) for f in self.sim.facts}

    def _history(self, kind: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[C, layers, index] role of each component, a chain that moves to later roles."""
        n_c, shape = len(self.checkpoints), self.kinds[kind]
        history = np.full((n_c, *shape), 4)
        for c in range(n_c):
            progress = c / max(n_c - 1, 1)
            early = [0.86, 0.06, 0.05, 0.03] if kind == "ffn" else [0.7, 0.15, 0.1, 0.05]
            late = [0.8, 0.06, 0.08, 0.06] if kind == "ffn" else [0.34, 0.2, 0.2, 0.26]
            mix = np.array(early) * (1 - progress) + np.array(late) * progress
            active = 0.95 if kind == "ffn" else 0.15 + 0.45 * progress
            drawn = self.rng.choice(5, size=shape, p=[*(active * mix), 1 - active])
            keep = self.rng.random(shape) < (0.7 if c else 0.0)
            history[c] = np.where(keep, history[c - 1], drawn)
        return history

    def _prompt(self, template: str, fact: Row) -> Row:
        before, _, after = template.partition("{}")
        parts = [pieces(before), pieces(fact["subject"]), pieces(after), pieces(fact["answer"])]
        tokens = [p for part in parts for p in part]
        for i, t in enumerate(self.design.tokens[: len(tokens)]):
            tokens[i] = t
        subject = range(len(parts[0]), len(parts[0]) + len(parts[1]))
        answer = range(len(tokens) - len(parts[3]), len(tokens))
        return {"tokens": tokens, "subject": subject, "answer": answer}

    def role_table(self) -> pa.Table:
        """ROLES, column by column: a model of 32 x 32 heads has 10^5 rows."""
        columns: dict[str, list[Any]] = {n: [] for n in ROLES.arrow.names}
        for (scope, kind), history in self.roles.items():
            for c, row in enumerate(self.checkpoints):
                layer, index = np.indices(history[c].shape).reshape(2, -1)
                codes = history[c].ravel()
                n = len(codes)
                columns["revision"] += [row["revision"]] * n
                columns["scope"] += [scope] * n
                columns["kind"] += [kind] * n
                columns["layer"] += layer.tolist()
                columns["index"] += index.tolist()
                columns["role"] += [NAMES[i] for i in codes]
                scores = self.rng.random((4, n)).round(3)
                for i, name in enumerate(ACTIVE):
                    columns[f"score_{name}"] += scores[i].tolist()
                columns["n_facts"] += (codes == 3).astype(int).tolist()
        return pa.table(columns, schema=ROLES.arrow)

    def circuits(self, c: int) -> Iterator[Row]:
        """One row a position; bits drawn at random, as no figure reads them."""
        at, d = self.checkpoints[c], self.design
        bits = (d.layers * d.heads + 7) // 8
        for f in self.sim.facts:
            p = self.prompts[f["fact_id"]]
            for i, token in enumerate(p["tokens"]):
                yield {
                    "revision": at["revision"], "stage": "main", "step": at["step"],
                    "fact_id": f["fact_id"], "relation": f["relation"], "position": i,
                    "token": token, "in_subject": i in p["subject"], "in_answer": i in p["answer"],
                    "predicts_answer": i + 1 in p["answer"], "n_layers": d.layers,
                    "n_heads": d.heads, "n_experts": d.experts,
                    "heads": self.rng.bytes(bits), "ffns": self.rng.bytes((d.layers + 7) // 8),
                    "experts": None, "flags": [], "reason": None,
                }  # fmt: skip

    def shown_facts(self) -> list[str]:
        """Facts with edges: the first of each relation."""
        count: Counter[str] = Counter()
        kept = []
        for f in self.sim.facts:
            count[f["relation"]] += 1
            if count[f["relation"]] <= self.design.shown:
                kept.append(f["fact_id"])
        return kept

    def edges(self, c: int) -> Iterator[Row]:
        """Edges reached backward from the positions that predict the answer."""
        for fact in self.shown_facts():
            answer = self.prompts[fact]["answer"]
            reached = {t - 1 for t in answer}
            for layer in reversed(range(self.design.layers)):
                drawn = [self._block(t, c) for t in sorted(reached)]
                for edge in (e for block in drawn for e in block):
                    reached.add(edge["source_position"])
                    at = self.checkpoints[c]
                    yield {"revision": at["revision"], "stage": "main", "step": at["step"],
                           "fact_id": fact, "layer": layer, **edge}  # fmt: skip

    def _block(self, t: int, c: int) -> Iterator[Row]:
        """Edges into one position of one block; the parts of a sum add up to 1."""
        heads = self.design.heads
        n = min(t + 1, 1 + int(self.rng.poisson(1.5 + c / 8)))
        sources = sorted(self.rng.choice(t + 1, size=n, replace=False).tolist())
        share = self.rng.dirichlet([6.0, 1.5, *([0.7] * n)])
        residual, ffn, *attention = (round(float(x), 5) for x in share)
        if not self.design.parallel:  # attention and FFN write one after the other
            ffn = round(float(self.rng.beta(2, 5)), 5)
            yield _edge("mid", t, t, 1 - ffn)
        yield _edge("residual", t, t, residual)
        if ffn > 0.03:
            yield _edge("ffn", t, t, ffn)
        for s, share_of in zip(sources, attention, strict=True):
            if share_of > 0.01:
                k = 1 + int(self.rng.integers(min(heads, 5)))
                carriers = self.rng.choice(heads, size=k, replace=False)
                yield _edge("attention", s, t, share_of, sorted(carriers.tolist()))

    def transitions(self) -> Iterator[Row]:
        """Counted from the roles; null and rates are drawn near them."""
        for (scope, kind), history in self.roles.items():
            pairs: Counter[tuple[int, int]] = Counter()
            for a, b in pairwise(history):
                pairs.update(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
            for i, before in enumerate(NAMES):
                total = sum(pairs[i, j] for j in range(5))
                for j, after in enumerate(NAMES):
                    n = pairs[i, j]
                    p = n / total if total else None
                    null = min(0.95, 0.1 + 0.4 * (j == 4) + float(self.rng.random()) / 10)
                    yield {
                        "kind": kind, "scope": scope, "role_before": before, "role_after": after,
                        "count": n, "probability": p,
                        "ci_low": None if p is None else max(0.0, p - 0.08),
                        "ci_high": None if p is None else min(1.0, p + 0.08),
                        "null_mean": null, "null_low": null * 0.8, "null_high": min(1, null * 1.2),
                        "per_log_token": None if i == j or p is None else p / 0.7,
                        "rate": None if kind == "ffn" or p is None else (p - (i == j)) / 0.7,
                        "reason": (f"no component was ever {before}" if not total else
                                   "the fit has no one solution" if kind == "ffn" else None),
                    }  # fmt: skip

    def ablations(self, c: int) -> Iterator[Row]:
        """Every condition of the causal check at one checkpoint; the relation role is empty."""
        at, d = self.checkpoints[c], self.design
        known = 1 / (1 + np.exp(-self.sim.strength(c)))
        harm = {"general": 0.7, "entity": 0.5, "relation": 0.0, "fact": 0.35}
        plan = [
            ("none", "intact", 1, 0.0),
            ("circuit", "circuit_only", 1, 0.15),
            ("circuit", "circuit_control", 3, 0.85),
            ("circuit", "none_kept", 1, 1.0),
        ]
        for role, h in harm.items():
            plan += [(role, "role", 1, h)] + ([(role, "control", 5, 0.12)] if h else [])
        for role, condition, draws, h in plan:
            empty = role == "relation"
            for draw in range(draws):
                for f, p in zip(self.sim.facts, known, strict=True):
                    right = bool(self.rng.random() < p * (1 - h))
                    yield {
                        "revision": at["revision"], "stage": "main", "step": at["step"],
                        "role": role, "condition": condition, "draw": draw,
                        "fact_id": f["fact_id"], "relation": f["relation"],
                        "n_ablated": 0 if empty else d.heads, "n_role": 0 if empty else d.heads,
                        "logprob_sum_nats": None if empty else -6 * h - 4 * (1 - p),
                        "n_tokens": None if empty else 2,
                        "whole_answer": None if empty else right,
                        "reason": "no head has this role" if empty else None,
                    }  # fmt: skip


def _edge(edge: str, source: int, target: int, c: float, heads: Sequence[int] = ()) -> Row:
    return {"edge": edge, "source_position": source, "target_position": target,
            "contribution": min(max(c, 0.0), 1.0), "heads": list(heads)}  # fmt: skip


def build_circuit_run(root: Path, design: CircuitDesign) -> RunStore:
    """A scored run folder with both tracks."""
    run = build_run(root, design.recall)
    tracing = Tracing(design)
    for c, row in enumerate(tracing.checkpoints):
        at = {"stage": "main", "step": row["step"] if row["step"] is not None else f"none-{c}"}
        run.write_part("circuits", list(tracing.circuits(c)), at)
        run.write_part("circuit_edges", list(tracing.edges(c)), at)
        if design.ablated and c == len(tracing.checkpoints) - 1:
            run.write_part("ablations", list(tracing.ablations(c)), at)
    run.write_part("roles", tracing.role_table())
    if len(tracing.checkpoints) > 1:
        run.write_part("transitions", list(tracing.transitions()))
    scores = run.read("scores").to_pylist()
    run.write_part("scores", [*scores, *score_rows(tracing)])
    return run
