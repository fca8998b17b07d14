"""The audit of a corpus before it is injected: what a model knows shows, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.injection.small import TOKENIZER, corpus, loaded

from factlife.errors import UsageError
from factlife.injection.audit import Audited, _audited, audit
from factlife.injection.measure import plain_encoder

SOURCE = corpus(16)


def audited(model: object, **changes: object) -> dict[str, Audited]:
    settings = {"foils": 4, **changes}
    found = audit(model, TOKENIZER, SOURCE, max_length=128, **settings)  # type: ignore[arg-type]
    return {a.passage_id: a for a in found}


def test_a_random_model_knows_hardly_anything() -> None:
    found = audited(loaded().model)
    assert len(found) == 16 and all(a.probes == 3 for a in found.values())
    assert not any(a.known for a in found.values())
    # three probes with one target are one draw of 1 in 5
    assert found["p00"].targets == 1 and found["p00"].expected == pytest.approx(1 / 5)


def test_a_model_trained_on_a_passage_knows_it() -> None:
    """The intervention: teach one passage's probes, and it alone is found."""
    model, encode = loaded().model.requires_grad_(True), plain_encoder(TOKENIZER)
    mine = [p for p in SOURCE.probes if p.passage_id == "p05"]
    rows = [encode(f"{p.prefix} {p.target}") for p in mine]
    width = min(map(len, rows))
    ids = torch.tensor([r[-width:] for r in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(40):
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    found = audited(model.eval())
    assert found["p05"].known and found["p05"].exact == 3 and found["p05"].first == 1
    assert [a.passage_id for a in found.values() if a.known] == ["p05"]


def test_p_is_the_binomial_tail_by_hand() -> None:
    logprob = np.array([0.0, -1, -2, 0, 5, 1, 0, -1, -2])  # first, beaten, first of three
    exact = np.zeros(9, np.bool_)
    made = _audited("p", logprob, exact, [(0, "x"), (3, "y"), (6, "z")], 3, 0.3)
    # P(at least 2 of 3 | 1/3) = 3 x 1/9 x 2/3 + 1/27 = 7/27
    assert (made.first, made.expected, made.p) == (2, 1.0, pytest.approx(7 / 27)) and made.known
    twice = _audited("p", logprob, exact, [(0, "x"), (3, "x"), (6, "z")], 3, 0.3)
    # x is beaten once: 1 of 2 targets, 1 - (2/3)^2 = 5/9
    assert (twice.targets, twice.first, twice.p) == (2, 1, pytest.approx(5 / 9))
    assert not twice.known


def test_a_draw_follows_from_its_seed() -> None:
    model = loaded().model
    assert audited(model, seed=1) == audited(model, seed=1)


def test_too_few_foils_are_refused() -> None:
    few = replace(SOURCE, passages=SOURCE.passages[:3], probes=SOURCE.probes[:9])
    with pytest.raises(UsageError, match="2 other targets of depth memorization, an audit wants 4"):
        audit(loaded().model, TOKENIZER, few, max_length=None, foils=4)
