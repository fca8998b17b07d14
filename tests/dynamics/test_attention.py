"""Attention signatures by hand, and patching on every architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from factlife.dynamics.attention import (
    PATCHED,
    PatchedModel,
    Sentences,
    attended,
    patterns,
    signature,
)
from factlife.training import ARCHITECTURES, ModelShape, build_model, model_config

SHAPE = ModelShape(layers=3, width=16, heads=2, ffn=24, positions=32)
IDS = torch.randint(2, 40, (3, 10), generator=torch.Generator().manual_seed(0))


def tiny(arch: str, seed: int = 0, layers: int = 3) -> Any:
    shape = ModelShape(layers=layers, width=16, heads=2, ffn=24, positions=32, init_std=0.5)
    return build_model(model_config(arch, shape, 40, 0, 1), seed)


# ---- signatures ------------------------------------------------------------------------------


def one_sentence() -> Sentences:
    """Tokens: x first middle last is VALUE; the name is 1..4, the value 5."""
    name = torch.tensor([[False, True, True, True, False, False]])
    at = [torch.tensor([[k]]) for k in (1, 4, 5, 6)]
    return Sentences(name, *at)


def test_signatures_by_hand() -> None:
    pattern = torch.zeros(1, 2, 6, 6)
    pattern[0, :, 3] = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0, 0], [0.0, 0.5, 0.5, 0.0, 0, 0]])
    pattern[0, :, 4] = torch.tensor([[0.5, 0.0, 0.0, 0.5, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2, 0]])
    found = signature(pattern, one_sentence())
    # Last name token 3 to tokens 1 and 2: (0.5 + 1.0) / 2 heads.
    assert found.grouping == pytest.approx(0.75)
    # Position 4 predicts the value: 0.5 and 0.6 on the name.
    assert found.extraction == pytest.approx(0.55)
    # Entropies ln 2 and ln 5 over ln 5: position 4 sees five tokens.
    assert found.sharpness == pytest.approx((math.log(2) / math.log(5) + 1) / 2)


def test_even_attention_has_known_signatures() -> None:
    even = torch.tril(torch.ones(6, 6)) / torch.arange(1, 7)[:, None]
    found = signature(even.expand(1, 2, 6, 6), one_sentence())
    assert found.grouping == pytest.approx(2 / 4)
    assert found.extraction == pytest.approx(3 / 5)
    assert found.sharpness == pytest.approx(1.0)


def test_extraction_counts_earlier_mentions_and_grouping_does_not() -> None:
    # Two sentences: name 0..2, value 2; name 3..5, value 5.
    name = torch.tensor([[True, True, False, True, True, False]])
    at = [torch.tensor([k]) for k in ([0, 3], [2, 5], [2, 5], [3, 6])]
    pattern = torch.zeros(1, 1, 6, 6)
    pattern[0, 0, 1] = torch.tensor([1.0, 0, 0, 0, 0, 0])
    pattern[0, 0, 4] = torch.tensor([0.5, 0.25, 0.25, 0, 0, 0])
    found = signature(pattern, Sentences(name, *at))
    assert found.extraction == pytest.approx((1.0 + 0.75) / 2)
    assert found.grouping == pytest.approx((1.0 + 0.0) / 2)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_patterns_and_logits_are_those_of_the_model(arch: str) -> None:
    model = tiny(arch).eval()
    before = model.config._attn_implementation
    logits, found = attended(model, IDS)
    assert model.config._attn_implementation == before
    assert len(found) == 3 and found[0].shape == (3, 2, 10, 10)
    assert torch.allclose(found[1].sum(-1), torch.ones(3, 2, 10))
    assert torch.allclose(logits, model(input_ids=IDS).logits, atol=1e-4)


# ---- patching --------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_our_attention_is_the_eager_one(arch: str) -> None:
    model = tiny(arch).eval()
    logits, found = attended(model, IDS)
    model.set_attn_implementation(PATCHED)
    out = model(input_ids=IDS, output_attentions=True)
    assert torch.allclose(out.logits, logits, atol=1e-4)
    for ours, theirs in zip(out.attentions, found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def loss_and_gradients(model: Any, named: Any = None) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    logits = model(input_ids=IDS, use_cache=False).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in (named or model).named_parameters()}


def query_or_key(name: str) -> bool:
    """Parameters that act through the pattern alone."""
    return any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_patching_with_its_own_pattern_changes_no_loss_and_stops_only_the_patterns_gradient(
    arch: str,
) -> None:
    """The definition: gradients of a forward whose patterns are constants, bit for bit."""
    patched = PatchedModel(tiny(arch), tiny(arch))
    loss, gradients = loss_and_gradients(patched, patched.model)
    constant, plain = tiny(arch), tiny(arch)
    for m in (constant, plain):
        m.set_attn_implementation(PATCHED)
    with patterns(lambda _, pattern: pattern.detach()):
        expected_loss, expected = loss_and_gradients(constant)
    assert torch.equal(loss, expected_loss)
    assert torch.equal(loss, loss_and_gradients(plain)[0])
    for name, gradient in expected.items():
        same = gradients[name]
        assert (gradient is None) == (same is None), name
        assert gradient is None or same is None or torch.equal(gradient, same), name


@pytest.mark.parametrize("arch", ["llama", "olmo2"])
def test_queries_and_keys_learn_nothing_and_the_last_layers_others_learn_as_ever(arch: str) -> None:
    patched, plain = PatchedModel(tiny(arch), tiny(arch)), tiny(arch)
    plain.set_attn_implementation(PATCHED)
    _, gradients = loss_and_gradients(patched, patched.model)
    _, ordinary = loss_and_gradients(plain)
    for name, gradient in gradients.items():
        other = ordinary[name]
        assert other is not None
        if query_or_key(name):
            assert gradient is None or not gradient.any(), name
        elif "layers.2" in name and "input_layernorm" not in name:
            # Downstream of every pattern: nothing is lost there.
            assert gradient is not None and torch.equal(gradient, other), name
        elif "layers.0" in name and "v_proj" in name:
            assert gradient is not None and not torch.allclose(gradient, other), name


def test_a_reference_with_other_weights_changes_the_output_and_hands_out_its_patterns() -> None:
    patched = PatchedModel(tiny("llama", 0), tiny("llama", 1)).eval()
    logits, used = attended(patched, IDS)
    own, theirs = attended(tiny("llama", 0).eval(), IDS), attended(tiny("llama", 1).eval(), IDS)
    assert not torch.allclose(logits, own[0], atol=1e-3)
    for ours, wanted in zip(used, theirs[1], strict=True):
        assert torch.allclose(ours, wanted, atol=1e-5)


def test_switched_off_the_model_attends_by_itself() -> None:
    patched = PatchedModel(tiny("llama", 0), tiny("llama", 1)).eval()
    patched.active = False
    alone = attended(tiny("llama").eval(), IDS)[0]
    assert torch.allclose(attended(patched, IDS)[0], alone, atol=1e-4)


def test_the_reference_is_neither_trained_nor_saved() -> None:
    reference = tiny("llama", 1)
    before = deepcopy(reference.state_dict())
    patched = PatchedModel(tiny("llama", 0), reference)
    assert {n.split(".")[0] for n, _ in patched.named_parameters()} == {"model"}
    assert set(patched.state_dict()) == {f"model.{n}" for n in tiny("llama").state_dict()}
    optimiser = torch.optim.SGD(patched.parameters(), lr=0.1)
    loss_and_gradients(patched, patched.model)
    optimiser.step()
    after = patched._reference[0].state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_nothing_is_left_behind_when_a_forward_fails() -> None:
    model = tiny("llama")
    model.set_attn_implementation(PATCHED)

    def fail(_: int, __: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), patterns(fail):
        model(input_ids=IDS)
    assert model(input_ids=IDS).logits.shape == (3, 10, 40)
