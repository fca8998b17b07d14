"""The registry of standard metrics and the `scores` table that is made with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife import scores
from factlife.config import Intervals
from factlife.schema import CANDIDATES, CHECKPOINTS, RECALL, SCORES
from factlife.scores import BY_NAME, METRICS, measured_checkpoints, score_rows

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=40)
QUICK = Intervals(draws=100)
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A made-up run: its tables, chance and subsets."""

    tables: Mapping[str, pa.Table]
    chance: Mapping[str, float]
    subsets: Mapping[str, Sequence[str]]

    def rows(self, intervals: Intervals = QUICK) -> list[Row]:
        return score_rows(
            self.tables, intervals=intervals, chance=self.chance, subsets=self.subsets
        )


def checkpoint(i: int, tokens: int | None, reason: str | None = None) -> Row:
    return {
        "series": "s", "revision": f"step{i}", "position": i, "repo": "s", "stage": "main",
        "step": i, "tokens": tokens, "tokens_source": "user", "weights_sha256": [], "flags": [],
        "reason": reason,
    }  # fmt: skip


LOGPROBS = (-1e4, -900.0, -8.0, -1.5, -0.25, 0.0)


def made_up(
    seed: int,
    relations: Sequence[int] = (5, 4, 6),
    *,
    checkpoints: int = 4,
    templates: int = 3,
    candidates: int = 4,
    unseen: int = 5,
    dropped: float = 0.0,
    tokens: Sequence[int | None] | None = None,
    learns: bool = True,
) -> Run:
    """A run of `relations` sizes whose facts are known more and more often."""
    rng = np.random.default_rng(seed)
    facts = [(f"r{k}f{i}", f"r{k}") for k, size in enumerate(relations) for i in range(size)]
    recall: list[Row] = []
    ranked: list[Row] = []
    for c in range(checkpoints):
        keys = {"revision": f"step{c}", "stage": "main", "step": c}
        skill = c / max(checkpoints - 1, 1) if learns else 0.0
        for fact, relation in facts:
            recall += _fact_rows(rng, keys, fact, relation, templates, skill, dropped)
        for k in range(len(relations)):
            known = [(f, "known") for f, r in facts if r == f"r{k}"]
            others = [(f"u{i}", "unseen") for i in range(unseen)] + [("N/A", "context_free")]
            ranked += _candidate_rows(
                rng, keys, f"r{k}", known + others, max(1, candidates - k), dropped
            )
    places = list(tokens or [10**c if c else 0 for c in range(checkpoints)])
    return Run(
        {
            "checkpoints": CHECKPOINTS.from_rows([checkpoint(i, t) for i, t in enumerate(places)]),
            "recall": RECALL.from_rows(recall),
            "candidates": CANDIDATES.from_rows(ranked),
        },
        {f"r{k}": 1 / max(1, candidates - k) for k in range(len(relations))},
        {"stated": [f for f, _ in facts[::2]], "nobody": []},
    )


def _fact_rows(
    rng: np.random.Generator, keys: Row, fact: str, relation: str, templates: int, skill: float,
    dropped: float,
) -> list[Row]:  # fmt: skip
    rows = []
    for t in range(templates):
        row = {
            **keys, "fact_id": fact, "template_id": f"{relation}.{t}", "relation": relation,
            "template_role": "extra" if t else "source",
            "group": "NAME" if relation == "r0" else "LOC",
        }  # fmt: skip
        if rng.random() < dropped:
            rows.append({**row, "reason": "too long"})
            continue
        right = bool(rng.random() < skill)
        row |= {"rank": 0 if right else int(rng.integers(1, 50)), "whole_answer": right}
        row |= {
            "logprob_sum_nats": float(rng.choice(LOGPROBS)),
            "n_tokens": int(rng.integers(1, 5)),
        }
        rows.append(row if t else row | {"exact_match": right, "generation": "…"})
    return rows


def _candidate_rows(
    rng: np.random.Generator, keys: Row, relation: str, subjects: Sequence[tuple[str, str]], k: int,
    dropped: float,
) -> list[Row]:  # fmt: skip
    rows = []
    for i, (subject, kind) in enumerate(subjects):
        for c in range(k):
            lost = rng.random() < dropped / k
            rows.append({
                **keys, "relation": relation, "subject": subject, "subject_kind": kind,
                "fact_id": subject if kind == "known" else None, "candidate": f"c{c}",
                "is_answer": c == i % k if kind == "known" else None,
                "logprob_sum_nats": None if lost else float(rng.choice(LOGPROBS)),
                "reason": "too long" if lost else None,
            })  # fmt: skip
    return rows


FULL = made_up(0)


# ---- the registry ----------------------------------------------------------------------------


def test_names_and_titles_are_unique_and_every_metric_is_explained() -> None:
    assert len(BY_NAME) == len(METRICS) == len({m.title for m in METRICS})
    for m in METRICS:
        assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", m.name)
        assert m.direction in ("higher", "lower", "neither")
        assert m.unit and m.title and m.meaning.endswith(".")


def test_headlines_do_not_depend_on_the_tokenizer() -> None:
    headlines = [m for m in METRICS if m.headline]
    assert headlines and all(m.tokenizer_free for m in headlines)
    dependent = {m.name for m in METRICS if not m.tokenizer_free}
    assert {m for m in dependent if not m.startswith("injection.")} == {
        "recall.top1_accuracy", "recall.top10_accuracy", "recall.logprob_per_token"
    }  # fmt: skip


# Other tracks' metrics come from tables of their own; their tests lie beside those of the track.
OF_RECALL = {m.name: m for m in METRICS if m.name.startswith(("recall.", "hallucination."))}


def test_a_full_run_has_every_metric_of_the_registry_and_no_other() -> None:
    rows = FULL.rows()
    assert {r["metric"] for r in rows} == set(OF_RECALL)
    valued = {r["metric"] for r in rows if r["scope"] == "overall" and r["value"] is not None}
    assert valued == set(OF_RECALL)


def test_every_row_has_unit_and_direction_of_its_metric_and_belongs_where_it_should() -> None:
    for r in FULL.rows():
        m = BY_NAME[r["metric"]]
        assert (r["unit"], r["direction"]) == (m.unit, m.direction)
        assert bool(r["revision"]) == m.per_revision


def test_a_metric_exists_at_every_checkpoint_or_once() -> None:
    overall = [r for r in FULL.rows() if r["scope"] == "overall"]
    for m in OF_RECALL.values():
        revisions = [r["revision"] for r in overall if r["metric"] == m.name]
        assert revisions == ([f"step{i}" for i in range(4)] if m.per_revision else [""])


# ---- rows ------------------------------------------------------------------------------------

RANGES = {
    "share of facts": (0, 1), "mean share of facts": (0, 1), "share of fact-template pairs": (0, 1),
    "share of maximum": (0, 1), "share of made-up names": (0, 1), "probability": (0, 1),
    "AUROC": (0, 1), "difference of shares": (-1, 1), "share of facts above chance": (-1, 1),
    "changes per fact": (0, math.inf), "tokens": (0, math.inf), "nats": (-math.inf, math.inf),
    "nats per token": (-math.inf, 0),
}  # fmt: skip


def faults(row: Row) -> list[str]:
    """What is wrong with a row of `scores`."""
    value, low, high = row["value"], row["ci_low"], row["ci_high"]
    where = f"{row['metric']}@{row['scope']} {row['revision']}: {value} [{low}, {high}]"
    if value is None:
        tidy = (low, high, row["interval_method"]) == (None, None, None) and row["reason"]
        return [] if tidy else [f"{where}: null without reason, or with an interval"]
    found = []
    if row["reason"] or not row["interval_method"] or row["n"] < 1:
        found.append(f"{where}: a value needs a method and units, and no reason")
    if not low <= value <= high:
        found.append(f"{where}: outside its interval")
    lowest, highest = RANGES[row["unit"]]
    if row["metric"].startswith("hallucination") and row["unit"] == "nats":
        lowest = 0
    if low < lowest - 1e-9 or high > highest + 1e-9:
        found.append(f"{where}: beyond {lowest}…{highest}")
    return found


def check(rows: Sequence[Row]) -> None:
    """Every row keeps the contract of the table and the rules above."""
    table = SCORES.from_rows(rows)  # finite, typed, keyed
    assert table.num_rows == len(rows)
    assert [f for r in rows for f in faults(r)] == []


def test_the_rows_of_a_full_run_are_sound() -> None:
    rows = FULL.rows(Intervals(draws=500))
    check(rows)
    scopes = {r["scope"] for r in rows}
    assert {"overall", "LOC", "NAME", "r0", "stated", "stated.LOC", "nobody"} <= scopes


@EXACT
@given(
    seed=st.integers(0, 10**6),
    relations=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    checkpoints=st.integers(1, 3),
    templates=st.integers(1, 2),
    candidates=st.integers(1, 3),
    unseen=st.integers(0, 3),
    dropped=st.sampled_from([0.0, 0.2]),
    tokens=st.lists(st.none() | st.integers(0, 1000), min_size=3, max_size=3),
    learns=st.booleans(),
    level=st.sampled_from([0.5, 0.95]),
)
def test_the_rows_of_any_run_are_sound(level: float, tokens: Any, **shape: Any) -> None:
    run = made_up(tokens=tokens[: shape["checkpoints"]], **shape)
    check(run.rows(Intervals(draws=100, level=level)))


def test_scores_are_the_same_every_time_and_move_with_the_seed_only_in_their_intervals() -> None:
    first, again, other = FULL.rows(), FULL.rows(), FULL.rows(Intervals(draws=100, seed=1))
    assert first == again
    assert [r["value"] for r in first] == [r["value"] for r in other]
    assert [r["ci_low"] for r in first] != [r["ci_low"] for r in other]


def test_a_lower_level_gives_narrower_intervals() -> None:
    def width(level: float) -> float:
        rows = FULL.rows(Intervals(draws=200, level=level))
        return sum(r["ci_high"] - r["ci_low"] for r in rows if r["unit"] == "share of facts"
                   and r["value"] is not None)  # fmt: skip

    assert width(0.5) < width(0.9) < width(0.99)


def test_an_untrained_model_has_no_emergence_and_a_perfect_one_no_false_certainty() -> None:
    never = {r["metric"]: r for r in made_up(1, learns=False).rows() if r["scope"] == "overall"}
    assert never["recall.emergence50"]["value"] is None
    assert "not above chance" in never["recall.emergence50"]["reason"]
    assert never["recall.area"]["value"] == 0 < never["recall.area"]["ci_high"]
    last = [r for r in FULL.rows() if r["revision"] == "step3" and r["scope"] == "overall"]
    accuracy = next(r for r in last if r["metric"] == "recall.whole_answer_accuracy")
    # 15 of 15: Wilson's low end 15 / 18.841459
    assert (accuracy["value"], accuracy["n"]) == (1.0, 15)
    assert accuracy["ci_low"] == pytest.approx(0.796117, abs=1e-6)


# ---- checkpoints -----------------------------------------------------------------------------


def test_measured_checkpoints_are_in_the_order_of_training() -> None:
    rows = [checkpoint(i, i) for i in (10, 2, 0)] + [checkpoint(1, None, "duplicate_of step0")]
    found = measured_checkpoints(CHECKPOINTS.from_rows(rows))
    assert [(c.revision, c.tokens) for c in found] == [("step0", 0), ("step2", 2), ("step10", 10)]


def test_a_checkpoint_with_a_reason_is_not_scored() -> None:
    rows = [checkpoint(i, 10**i if i else 0, "excluded" if i == 1 else None) for i in range(4)]
    tables = {**FULL.tables, "checkpoints": CHECKPOINTS.from_rows(rows)}
    found = score_rows(tables, intervals=QUICK, chance=FULL.chance, subsets={})
    assert {r["revision"] for r in found} == {"", "step0", "step2", "step3"}


def test_a_metric_that_the_registry_does_not_know_is_a_fault() -> None:
    measured = scores.recall_metrics.Measured(
        "recall.magic", "overall", "", scores.recall_metrics.stats.missing(0, "x")
    )
    with pytest.raises(KeyError, match=r"recall\.magic"):
        scores._row(measured)
