"""Rows of a checkpoint: complete, with reasons, and true to the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.tiny import byte_level_tokenizer, random_model

from factlife.config import Profile, Recall
from factlife.corpora.fact_probes import load_fact_probes
from factlife.recall.measure import measure, prepare
from factlife.schema import CANDIDATES, RECALL

KEYS = {"revision": "step7", "stage": "main", "step": 7}
PROBES = load_fact_probes()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level_tokenizer()


def rows(tokenizer: Any, profile: Profile, max_length: int | None = None, model: Any = None) -> Any:
    prepared = prepare(tokenizer, PROBES, profile, max_length)
    return measure(model or random_model("llama"), tokenizer, prepared, profile, KEYS)


def test_every_fact_template_and_candidate_has_its_row(tokenizer: Any) -> None:
    recall, candidates = rows(tokenizer, Profile("x"))
    RECALL.from_rows(recall)
    CANDIDATES.from_rows(candidates)
    assert len(recall) == sum(len(PROBES.relation(f.relation).templates) for f in PROBES.facts)
    for relation in PROBES.relations:
        known = sum(f.relation == relation.relation for f in PROBES.facts)
        unseen = sum(u.relation == relation.relation for u in PROBES.unseen)
        here = [c for c in candidates if c["relation"] == relation.relation]
        assert len(here) == (known + unseen + 1) * len(relation.candidates)
        assert sum(bool(c["is_answer"]) for c in here) == known
    assert sum(r.get("generation") is not None for r in recall) == 160


def test_the_right_candidate_has_the_log_probability_of_the_recall_row(tokenizer: Any) -> None:
    """Two ways of computing one number: a whole sentence, and a shared prompt with its tail."""
    recall, candidates = rows(tokenizer, Profile("x"))
    direct = {r["fact_id"]: r for r in recall if r["template_role"] == "source"}
    right = [c for c in candidates if c["is_answer"]]
    assert len(right) == 160
    for c in right:
        r = direct[c["fact_id"]]
        assert c["logprob_sum_nats"] == pytest.approx(r["logprob_sum_nats"], abs=1e-4)
        assert c["n_tokens"] == r["n_tokens"]


def test_a_model_that_was_taught_one_fact_recalls_it(tokenizer: Any) -> None:
    """Intervention: raise the log-probability of one fact's answer and nothing else measured."""
    model = random_model("llama", scale=0.1)
    model.requires_grad_(True)
    fact = PROBES.facts[3]
    text = PROBES.relation(fact.relation).source_template.prompt(fact.subject) + " " + fact.answer
    ids = torch.tensor([tokenizer(text + ".")["input_ids"]])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    recall, _ = rows(tokenizer, Profile("x"), model=model.eval())
    (row,) = [r for r in recall if r["fact_id"] == fact.fact_id and r["template_role"] == "source"]
    assert row["whole_answer"]
    assert row["rank"] == 0
    assert row["exact_match"]
    assert row["generation"].strip().startswith(fact.answer)
    assert row["logprob_sum_nats"] > -1


def test_prompts_that_do_not_fit_keep_their_rows_with_the_reason(tokenizer: Any) -> None:
    profile = Profile("x")
    recall, candidates = rows(tokenizer, profile, max_length=14)
    dropped = [r for r in recall if r.get("reason")]
    assert 0 < len(dropped) < len(recall)
    assert all("longer than the model's context" in r["reason"] for r in dropped)
    assert all(r.get("rank") is None and r.get("generation") is None for r in dropped)
    assert all((r.get("logprob_sum_nats") is None) == bool(r.get("reason")) for r in candidates)
    RECALL.from_rows(recall)


def test_batch_size_changes_no_row(tokenizer: Any) -> None:
    base = Profile("x", recall=Recall(templates="source"))
    small = replace(base, execution=replace(base.execution, batch_tokens=64))
    (a, ca), (b, cb) = rows(tokenizer, base), rows(tokenizer, small)
    for x, y in zip(a + ca, b + cb, strict=True):
        assert x["logprob_sum_nats"] == pytest.approx(y["logprob_sum_nats"], abs=1e-4)
        assert {k: v for k, v in x.items() if k != "logprob_sum_nats"} == {
            k: v for k, v in y.items() if k != "logprob_sum_nats"
        }


def test_the_profile_decides_what_is_measured(tokenizer: Any) -> None:
    lean = Profile("x", recall=Recall(templates="source", generation="none", candidates=False))
    recall, candidates = rows(tokenizer, lean)
    assert len(recall) == 160
    assert candidates == []
    assert all("generation" not in r for r in recall)
    everything = Profile("x", recall=Recall(generation="all", candidates=False))
    recall, _ = rows(tokenizer, everything)
    assert all(r["exact_match"] is not None for r in recall)
