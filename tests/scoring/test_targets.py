"""Scores equal their definition on every architecture, whatever the batch or the padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import CONFIGS, VOCAB, random_model

from factlife.scoring import targets
from factlife.scoring.candidates import Group, score_groups
from factlife.scoring.generate import greedy
from factlife.scoring.targets import Target, batches, logits_at, score, token_scores


def random_groups(seed: int = 0) -> list[Group]:
    """Prompts of 3 to 12 tokens, each with answers of 1 to 4 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, VOCAB, (n,), generator=generator).tolist())

    groups = []
    for length in (3, 5, 9, 12, 4):
        prompt = ids(length)
        tails = [ids(n) for n in (1, 2, 1, 3, 4)]
        groups.append(Group(tuple(Target(prompt + t, length, length + len(t)) for t in tails)))
    return groups


GROUPS = random_groups()
TARGETS = [t for g in GROUPS for t in g.targets]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param)


@torch.inference_mode()
def by_definition(model: Any, target: Target) -> tuple[float, int, bool]:
    """One sentence, one plain forward, one full log-softmax."""
    logits = model(torch.tensor([target.ids])).logits[0].float()
    logprob = logits.log_softmax(-1)
    places = range(target.start, target.end)
    total = sum(logprob[j - 1, target.ids[j]].item() for j in places)
    order = logits[target.start - 1].argsort(descending=True, stable=True).tolist()
    whole = all(logits[j - 1].argmax().item() == target.ids[j] for j in places)
    return total, order.index(target.ids[target.start]), whole


def test_scores_equal_their_definition(model: Any) -> None:
    for target, got in zip(TARGETS, score(model, TARGETS, 4096), strict=True):
        total, rank, whole = by_definition(model, target)
        assert got is not None
        assert got.logprob_sum == pytest.approx(total, abs=1e-4)
        assert (got.first_rank, got.whole) == (rank, whole)
        assert got.n_tokens == target.end - target.start


def test_batch_and_padding_side_make_no_difference(model: Any) -> None:
    alone = score(model, TARGETS, 1)
    for batch_tokens, side in ((10**6, "right"), (10**6, "left"), (60, "left")):
        for a, b in zip(alone, score(model, TARGETS, batch_tokens, side), strict=True):
            assert a is not None
            assert b is not None
            assert b.logprob_sum == pytest.approx(a.logprob_sum, abs=1e-4)
            assert (a.first_rank, a.whole) == (b.first_rank, b.whole)


def test_a_shared_prompt_gives_what_whole_sentences_give(model: Any) -> None:
    whole = [by_definition(model, t)[0] for t in TARGETS]
    for batch_tokens in (10**6, 60):
        shared = [s for g in score_groups(model, GROUPS, batch_tokens) for s in g]
        assert shared == pytest.approx(whole, abs=1e-4)


def test_candidates_whose_prompts_differ_in_a_token_are_still_exact(model: Any) -> None:
    """A tokenizer may split the template's end differently before another answer."""
    a = Target((5, 6, 7, 8, 9), 3, 5)
    b = Target((5, 6, 17, 18, 19, 20), 4, 6)
    group = Group((a, b))
    assert group.shared() == 2
    (scores,) = score_groups(model, [group], 4096)
    assert scores == pytest.approx([by_definition(model, t)[0] for t in (a, b)], abs=1e-4)


def test_greedy_equals_repeated_argmax_in_any_batch(model: Any) -> None:
    prompts = [t.ids[: t.start] for t in TARGETS[::5]]
    bounds = [3, 6, 2, 5, 4]
    together = greedy(model, prompts, bounds, 10**6)
    assert together == greedy(model, prompts, bounds, 1)
    for prompt, bound, got in zip(prompts, bounds, together, strict=True):
        ids = list(prompt)
        for _ in range(bound):
            with torch.inference_mode():
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == model.config.eos_token_id:
                break
            ids.append(token)
        assert got == ids[len(prompt) :]


def test_settings_that_a_model_ships_with_do_not_change_the_generation() -> None:
    model = random_model("llama")
    plain = greedy(model, [(5, 6, 7)], [6], 4096)
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 5.0
    shipped = model.generation_config
    assert greedy(model, [(5, 6, 7)], [6], 4096) == plain
    assert model.generation_config is shipped


def test_hand_worked_log_probability_and_rank() -> None:
    # softmax(0, ln 2, ln 5) = 1/8, 2/8, 5/8
    logits = torch.tensor([[0.0, 0.6931472, 1.6094379]] * 3)
    logprob, rank = token_scores(logits, torch.tensor([0, 1, 2]))
    assert logprob.exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert rank.tolist() == [2, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cached", [1, 37 * 5, 1 << 19])
def test_scores_are_those_of_the_definition(
    dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that predict several tokens, ties (bfloat16 has many), any number of rows at once."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(11, 37, generator=draw).to(dtype)
    rows = torch.tensor([0, 0, 3, 10, 3, 7, 7, 7, 1, 2, 5, 6, 8, 9, 4])
    wanted = torch.randint(37, (len(rows),), generator=draw)
    before = logits.clone()
    monkeypatch.setattr(targets, "_CACHED", cached)
    logprob, rank = token_scores(logits, wanted, rows)
    for p, (row, token) in enumerate(zip(rows.tolist(), wanted.tolist(), strict=True)):
        own = logits[row].double()
        assert float(logprob[p]) == pytest.approx(float(own.log_softmax(0)[token]), abs=1e-5)
        above = int((own > own[token]).sum()) + int((own[:token] == own[token]).sum())
        assert int(rank[p]) == above
    assert torch.equal(logits, before)  # they are the caller's
    alone, its_rank = token_scores(logits, wanted[:11])
    again, same_rank = token_scores(logits, wanted[:11], torch.arange(11))
    assert torch.equal(alone, again) and torch.equal(its_rank, same_rank)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_log_probability(bad: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    logprob, _ = token_scores(logits, torch.tensor([2, 2]))
    assert torch.isfinite(logprob).tolist() == [True, False]


def test_a_model_that_says_nothing_knows_nothing() -> None:
    """All logits equal: only the first vocabulary entry is what argmax would give."""
    _, rank = token_scores(torch.zeros(3, 10), torch.tensor([0, 1, 9]))
    assert rank.tolist() == [0, 1, 9]


def test_the_output_embedding_runs_on_target_positions_only() -> None:
    model = random_model("llama")
    shapes = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _m, args, _o: shapes.append(tuple(args[0].shape))
    )
    score(model, TARGETS, 10**6)
    handle.remove()
    assert shapes == [(1, sum(t.end - t.start for t in TARGETS), 32)]


def test_a_model_that_bypasses_its_output_embedding_is_noticed() -> None:
    model = random_model("llama")
    with (
        pytest.raises(RuntimeError, match="ran 0 times"),
        logits_at(model, torch.tensor([0]), torch.tensor([0])),
    ):
        pass


def test_numbers_that_are_not_finite_become_none() -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("inf")
    assert score(model, TARGETS[:2], 4096) == [None, None]
    assert all(v is None for g in score_groups(model, GROUPS[:1], 4096) for v in g)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_bound(lengths: list[int], bound: int) -> None:
    cut = list(batches(lengths, bound))
    assert sorted(i for b in cut for i in b) == list(range(len(lengths)))
    for batch in cut:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= bound or len(batch) == 1


def test_batches_of_several_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole sentences and shared prompts; each thread has hooks on the same modules open."""
    model = random_model("olmo2")
    monkeypatch.setattr("factlife.scoring.targets.CPU_TOKENS", 16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            groups = score_groups(model, GROUPS * 6, 24)
            found.append((score(model, TARGETS * 9, 4096), groups))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
