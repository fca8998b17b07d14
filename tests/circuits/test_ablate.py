"""Mean ablation equals its definition; controls are matched; every case has its row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import CONFIGS, byte_level_tokenizer, random_model

from factlife.circuits.ablate import (
    NO_CONTROLS,
    NO_HEADS,
    Trial,
    _masks,
    _role_trials,
    _trials,
    ablate,
    ablated,
    component_means,
)
from factlife.circuits.measure import measure, prepare
from factlife.circuits.prompts import Prepared
from factlife.config import Circuits, Execution, Intervals, Profile
from factlife.corpora.fact_probes import load_fact_probes
from factlife.scoring.targets import Target, score
from factlife.tracing import Adapter, adapter_for

KEYS = {"revision": "step7", "stage": "main", "step": 7}
PROFILE = Profile("x", circuits=Circuits(tau=0.05, tau_sweep=(), ablation_draws=3))
PROBES = replace(load_fact_probes(), facts=load_fact_probes().facts[::32])
# Heads (0, 3) and (1, 3) are of no role; layer 1 has one control for two entity heads.
ROLES = {
    (0, 0): "general", (0, 1): "general", (0, 2): "entity",
    (1, 0): "entity", (1, 1): "entity", (1, 2): "fact", (1, 3): "inactive",
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(byte_level_tokenizer(), PROBES, PROFILE, None)


def run(
    prepared: Prepared,
    model: Any = None,
    profile: Profile = PROFILE,
    roles: Mapping[tuple[int, int], str] = ROLES,
) -> list[dict[str, Any]]:
    model = model or random_model("llama")
    circuits = measure(model, byte_level_tokenizer(), prepared, profile, KEYS).circuits
    rows: list[dict[str, Any]] = ablate(model, prepared, circuits, roles, profile, KEYS).to_pylist()
    return rows


# ---- the definition, row by row --------------------------------------------------------------


def plain_means(model: Any, adapter: Adapter, prepared: Prepared) -> tuple[Any, Any]:
    """Each prompt by itself, without padding, every token kept, then one mean."""
    heads, ffns = defaultdict(list), defaultdict(list)
    handles = []
    for layer in range(adapter.layout.n_layers):
        handles.append(
            adapter.output_projection(layer).register_forward_pre_hook(
                lambda _, args, at=layer: heads[at].append(args[0].reshape(-1, args[0].shape[-1]))
            )
        )
        handles.append(
            adapter.ffn(layer).register_forward_hook(
                lambda _, __, out, at=layer: ffns[at].append(first(out).reshape(-1, 32))
            )
        )
    with torch.inference_mode():
        for item in prepared.items:
            model(torch.tensor([item.encoded.ids]))
    for handle in handles:
        handle.remove()
    layers = range(adapter.layout.n_layers)
    return [torch.cat(heads[k]).mean(0) for k in layers], [
        torch.cat(ffns[k]).mean(0) for k in layers
    ]


def first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def plain_logprob(
    model: Any, adapter: Adapter, means: tuple[Any, Any], trial: Trial, f: int, target: Target
) -> tuple[float, bool]:
    """One sentence, head by head, one full log-softmax."""
    size, handles = adapter.layout.head_dim, []
    row = f if len(trial.heads) > 1 else 0

    def cut(layer: int, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        for h in np.flatnonzero(trial.heads[row, layer]).tolist():
            x[..., h * size : (h + 1) * size] = means[0][layer][h * size : (h + 1) * size]
        return x

    def flat(layer: int, out: Any) -> Any:
        new = means[1][layer].expand_as(first(out))
        return (new, *out[1:]) if isinstance(out, tuple) else new

    for layer in range(adapter.layout.n_layers):
        handles.append(
            adapter.output_projection(layer).register_forward_pre_hook(
                lambda _, args, at=layer: (cut(at, args[0]), *args[1:])
            )
        )
        if trial.ffns[row, layer]:
            handles.append(
                adapter.ffn(layer).register_forward_hook(lambda _, __, out, at=layer: flat(at, out))
            )
    with torch.inference_mode():
        logprob = model(torch.tensor([target.ids])).logits[0].float().log_softmax(-1)
    for handle in handles:
        handle.remove()
    places = range(target.start, target.end)
    total = sum(logprob[j - 1, target.ids[j]].item() for j in places)
    return total, all(logprob[j - 1].argmax().item() == target.ids[j] for j in places)


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_every_row_equals_the_definition(arch: str, prepared: Prepared) -> None:
    model = random_model(arch)
    adapter = adapter_for(model)
    circuits = measure(model, byte_level_tokenizer(), prepared, PROFILE, KEYS).circuits
    rows = {
        (r["role"], r["condition"], r["draw"], r["fact_id"]): r
        for r in ablate(model, prepared, circuits, ROLES, PROFILE, KEYS).to_pylist()
    }
    means = plain_means(model, adapter, prepared)
    trials = list(_trials(adapter.layout, prepared.items, circuits, ROLES, PROFILE))
    assert len(rows) == len(trials) * len(prepared.items)
    seen = set()
    for trial in trials:
        for f, item in enumerate(prepared.items):
            row = rows[trial.role, trial.condition, trial.draw, item.fact_id]
            if row["reason"]:
                continue
            target = Target(item.encoded.ids, *item.encoded.answer)
            total, whole = plain_logprob(model, adapter, means, trial, f, target)
            assert row["logprob_sum_nats"] == pytest.approx(total, abs=1e-4)
            assert row["whole_answer"] == whole
            assert row["n_tokens"] == item.encoded.n_answer
            seen.add(trial.condition)
    assert seen == {
        "intact", "whole_role", "role", "control", "circuit_only", "circuit_control", "none_kept",
    }  # fmt: skip


@pytest.mark.parametrize("arch", ["olmoe", "gpt_neox"])
def test_means_are_over_all_tokens_and_no_padding(arch: str, prepared: Prepared) -> None:
    model = random_model(arch)
    adapter = adapter_for(model)
    heads, ffns = plain_means(model, adapter, prepared)
    means = component_means(model, adapter, [i.encoded.ids for i in prepared.items], 100)
    assert torch.allclose(means.heads, torch.stack(heads), atol=1e-5)
    assert torch.allclose(means.ffns, torch.stack(ffns), atol=1e-5)


def test_intact_rows_are_the_model_as_it_is(prepared: Prepared) -> None:
    model = random_model("gpt2")
    rows = [r for r in run(prepared, model) if r["condition"] == "intact"]
    targets = [Target(i.encoded.ids, *i.encoded.answer) for i in prepared.items]
    plain = score(model, targets, 8192)  # after the ablations: no hook is left behind
    for row, scored in zip(rows, plain, strict=True):
        assert scored is not None
        assert row["logprob_sum_nats"] == pytest.approx(scored.logprob_sum, abs=1e-4)
        assert row["whole_answer"] == scored.whole
        assert (row["n_ablated"], row["n_role"], row["draw"], row["role"]) == (0, 0, 0, "none")


@pytest.mark.parametrize("arch", ["llama", "gpt_neox", "olmoe"])
def test_with_nothing_kept_only_the_token_itself_tells(arch: str, prepared: Prepared) -> None:
    """Every head and FFN gives a constant, so that no token sees another."""
    model = random_model(arch)
    adapter = adapter_for(model)
    means = component_means(model, adapter, [i.encoded.ids for i in prepared.items], 8192)
    ids = torch.tensor([[9, 8, 7, 6], [5, 8, 9, 6]])
    everything = torch.ones(2, 2, 4, dtype=torch.bool)
    with torch.inference_mode():
        plain = model(ids).logits
        with ablated(adapter, means, everything, everything[..., 0]):
            cut = model(ids).logits
    assert torch.allclose(cut[0, [1, 3]], cut[1, [1, 3]], atol=1e-5)
    assert torch.allclose(cut[0, 0], cut[1, 2], atol=1e-5)  # the same token elsewhere
    assert not torch.allclose(plain[0, [1, 3]], plain[1, [1, 3]], atol=1e-2)


def test_a_module_that_is_never_called_is_an_error() -> None:
    model = random_model("llama")
    adapter = adapter_for(model)
    ffns = {0: adapter.ffn(0), 1: torch.nn.Identity()}
    adapter.ffn = ffns.__getitem__  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="only 1 of 2 layers called the traced module"):
        component_means(model, adapter, [(5, 6, 7)], 8192)


def test_rows_of_a_batch_have_their_own_sets(prepared: Prepared) -> None:
    model = random_model("gpt2")
    adapter = adapter_for(model)
    means = component_means(model, adapter, [i.encoded.ids for i in prepared.items], 8192)
    ids = torch.tensor([[9, 8, 7, 6]] * 3)
    heads, ffns = torch.zeros(3, 2, 4, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool)
    heads[1, 0, 2] = ffns[2, 1] = True
    with torch.inference_mode():
        with ablated(adapter, means, heads, ffns):
            together = model(ids).logits
        for row in range(3):
            with ablated(adapter, means, heads[[row]], ffns[[row]]):
                assert torch.allclose(model(ids[:1]).logits[0], together[row], atol=1e-5)
        assert torch.allclose(model(ids[:1]).logits[0], together[0], atol=1e-5)
    assert not torch.allclose(together[1], together[0], atol=1e-2)
    assert not torch.allclose(together[2], together[0], atol=1e-2)


# ---- which heads -----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from(["general", "fact"]),
)
def test_controls_are_active_heads_of_other_roles_matched_by_layer(
    seed: int, layers: int, heads: int, role: str
) -> None:
    rng = np.random.default_rng(seed)
    held = rng.choice(np.array(["general", "fact", "inactive"], object), size=(layers, heads))
    own, active = held == role, held != "inactive"
    whole, *trials = _role_trials(held, role, 5, rng)
    assert whole.condition == "whole_role" and (whole.heads[0] == own).all()
    assert whole.reasons == ((None if own.any() else NO_HEADS),)
    k = np.minimum(own.sum(1), (active & ~own).sum(1))
    if not k.any():
        assert {t.reasons[0] for t in trials} == {NO_CONTROLS if own.any() else NO_HEADS}
        assert [t.condition for t in trials] == ["role", "control"]
        return
    assert sum(t.condition == "control" for t in trials) == 5
    assert sum(t.condition == "role" for t in trials) == (1 if (k == own.sum(1)).all() else 5)
    for t in trials:
        assert (t.heads[0].sum(1) == k).all()
        assert not t.ffns.any()
        assert t.n_role[0] == own.sum()
        assert not (t.heads[0] & ~(own if t.condition == "role" else active & ~own)).any()


def test_every_possible_control_is_drawn() -> None:
    """One of three: each is drawn about a third of the time (binomial, 4.6 sigma)."""
    held = np.array([["fact", "general", "general", "entity", "inactive"]], object)
    trials = list(_role_trials(held, "fact", 600, np.random.default_rng(0)))
    drawn = np.sum([t.heads[0, 0] for t in trials if t.condition == "control"], axis=0)
    assert drawn[[0, 4]].tolist() == [0, 0]
    assert (np.abs(drawn[1:4] - 200) < 4.6 * np.sqrt(600 * 2 / 9)).all()


def test_a_circuit_control_has_the_size_of_the_circuit_in_every_layer(prepared: Prepared) -> None:
    model = random_model("llama")
    circuits = measure(model, byte_level_tokenizer(), prepared, PROFILE, KEYS).circuits
    layout = adapter_for(model).layout
    trials = list(_trials(layout, prepared.items, circuits, {}, PROFILE))
    (own,) = [t for t in trials if t.condition == "circuit_only"]
    others = [t for t in trials if t.condition == "circuit_control"]
    assert len(others) == 3
    assert 0 < own.heads.sum() < own.heads.size
    for other in others:
        assert (other.heads.sum(-1) == own.heads.sum(-1)).all()
        assert (other.ffns == own.ffns).all()
    assert any((other.heads != own.heads).any() for other in others)


def test_sets_that_coincide_are_scored_once() -> None:
    one = np.zeros((1, 2, 3), np.bool_)
    two = one.copy()
    two[0, 1, 1] = True
    ffns, n = np.zeros((1, 2), np.bool_), np.zeros(1, np.int64)
    several = np.concatenate([two, one])
    trials = [Trial("r", "control", d, h, ffns, n) for d, h in enumerate([one, two, one])]
    trials.append(Trial("circuit", "circuit_only", 0, several, np.repeat(ffns, 2, 0), n))
    masks = _masks(trials, 2)
    assert len(masks.heads) == 2
    assert masks.which.tolist() == [[0, 0], [1, 1], [0, 0], [1, 0]]


# ---- rows ------------------------------------------------------------------------------------


def test_rows_are_complete_and_the_seed_decides(prepared: Prepared) -> None:
    rows = run(prepared)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for r in rows:
        counts[r["role"], r["condition"]] += 1
    n = len(prepared.items)
    # general: layer 0 has two heads and one control (entity), so its heads are drawn too.
    # entity: layer 1 has two heads and one control (fact). fact: one head, two controls.
    assert counts == {
        ("none", "intact"): n, ("general", "whole_role"): n, ("entity", "whole_role"): n,
        ("relation", "whole_role"): n, ("fact", "whole_role"): n,
        ("general", "role"): 3 * n, ("general", "control"): 3 * n,
        ("entity", "role"): 3 * n, ("entity", "control"): 3 * n,
        ("relation", "role"): n, ("relation", "control"): n,
        ("fact", "role"): n, ("fact", "control"): 3 * n,
        ("circuit", "circuit_only"): n, ("circuit", "circuit_control"): 3 * n,
        ("circuit", "none_kept"): n,
    }  # fmt: skip
    assert {r["reason"] for r in rows if r["role"] == "relation"} == {NO_HEADS}
    assert all(r["logprob_sum_nats"] is None for r in rows if r["reason"])
    sizes = {(r["role"], r["n_ablated"], r["n_role"]) for r in rows if r["condition"] == "control"}
    assert sizes == {("general", 1, 2), ("entity", 2, 3), ("fact", 1, 1), ("relation", 0, 0)}
    assert run(prepared) == rows
    other = replace(PROFILE, intervals=Intervals(seed=1))
    assert run(prepared, profile=other) != rows


def test_batches_change_no_row(prepared: Prepared) -> None:
    small = replace(PROFILE, execution=Execution(batch_tokens=40))
    for a, b in zip(run(prepared), run(prepared, profile=small), strict=True):
        assert (a["logprob_sum_nats"] is None) == (b["logprob_sum_nats"] is None)
        if a["logprob_sum_nats"] is not None:
            assert a["logprob_sum_nats"] == pytest.approx(b["logprob_sum_nats"], abs=1e-4)
        assert a["whole_answer"] == b["whole_answer"]


def test_facts_that_cannot_be_traced_keep_one_row_with_the_reason() -> None:
    short = prepare(byte_level_tokenizer(), PROBES, PROFILE, 16)
    gone = {i.fact_id for i in short.items if i.encoded.reason}
    assert 0 < len(gone) < len(short.items)
    rows = [r for r in run(short) if r["fact_id"] in gone]
    assert sorted(r["fact_id"] for r in rows) == sorted(gone)
    assert all("longer than the model's context" in r["reason"] for r in rows)
    nothing = prepare(byte_level_tokenizer(), PROBES, PROFILE, 2)
    assert [r["condition"] for r in run(nothing)] == ["intact"] * len(PROBES.facts)


def test_a_model_that_gives_no_finite_numbers_has_reasons(prepared: Prepared) -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    rows = run(prepared, model, roles={})
    by_condition = {r["condition"]: r["reason"] for r in rows if r["role"] in ("none", "circuit")}
    assert by_condition["intact"] == "the model's log-probability is not finite"
    assert by_condition["circuit_only"] == "the fact has no circuit"
    assert all(r["whole_answer"] is None for r in rows)


def test_an_empty_table_of_circuits_leaves_facts_without_one(prepared: Prepared) -> None:
    model = random_model("llama")
    circuits = measure(model, byte_level_tokenizer(), prepared, PROFILE, KEYS).circuits
    table: pa.Table = ablate(model, prepared, circuits.slice(0, 0), ROLES, PROFILE, KEYS)
    own = [r for r in table.to_pylist() if r["condition"] == "circuit_only"]
    assert {r["reason"] for r in own} == {"the fact has no circuit"}
