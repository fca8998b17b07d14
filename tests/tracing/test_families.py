"""Every family: the trace changes nothing, its parts sum to the state, and it is the definition."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.tracing import definition
from tests.tracing.models import CONFIGS, LENGTHS, PARALLEL, WINDOW, WINDOWED, batch, random_model

from factlife.scoring.targets import forward
from factlife.tracing import Contributions, adapter_for, contributions

ALL = sorted(CONFIGS)


@cache
def traced(arch: str) -> tuple[Any, Contributions]:
    model = random_model(arch)
    return model, contributions(model, adapter_for(model), batch())


def rows() -> list[tuple[int, int]]:
    return [(b, q) for b, n in enumerate(LENGTHS) for q in range(n)]


@pytest.mark.parametrize("arch", ALL)
def test_it_equals_the_definition(arch: str) -> None:
    model, fast = traced(arch)
    for layer, block in enumerate(definition.blocks(model, arch, batch())):
        for b, q in rows():
            slow: dict[Any, float] = {}
            for group in definition.groups(block, arch in PARALLEL, b, q):
                assert sum(group.values()) == pytest.approx(1, abs=1e-9)
                slow = {**group, **slow}  # `mid` is that of the FFN group, not of the experts'
            for key, value in slow.items():
                assert _at(fast, key, layer, b, q) == pytest.approx(value, abs=1e-5), key


def _at(fast: Contributions, key: Any, layer: int, b: int, q: int) -> float:
    match key:
        case ("head", s, h):
            return float(fast.heads[layer, b, q, s, h])
        case ("expert", e):
            assert fast.experts is not None
            return float(fast.experts[layer, b, q, e])
        case name:
            return float(getattr(fast, name)[layer, b, q])


@pytest.mark.parametrize("arch", ALL)
def test_the_parts_sum_to_the_state(arch: str) -> None:
    _sums(random_model(arch), arch, 1e-5)


@pytest.mark.parametrize("arch", ["llama", "olmo2", "gpt_neox", "gemma2", "olmoe"])
def test_the_parts_sum_to_the_state_in_bf16(arch: str) -> None:
    _sums(random_model(arch).to(torch.bfloat16), arch, 1e-2)


def _sums(model: Any, arch: str, tolerance: float) -> None:
    for block in definition.blocks(model, arch, batch()):
        for b, q in rows():
            parts = {
                **definition.attention_parts(block, b, q), **definition.ffn_parts(block, b, q)
            }  # fmt: skip
            y = block.after[b, q]
            assert np.abs(sum(parts.values()) - y).max() / np.abs(y).max() < tolerance
            experts = [p for (i, t, _), p in block.experts.items() if (i, t) == (b, q)]
            if experts:
                gap = np.abs(sum(experts) - block.ffn[b, q]).max()
                assert gap / np.abs(y).max() < tolerance


@pytest.mark.parametrize("arch", ["llama", "olmo2", "gpt_neox", "gemma2"])
def test_bf16_weights_are_traced_in_fp32(arch: str) -> None:
    model = random_model(arch).to(torch.bfloat16)
    fast = contributions(model, adapter_for(model), batch())
    assert fast.heads.dtype == torch.float32
    for layer, block in enumerate(definition.blocks(model, arch, batch())):
        for b, q in rows():
            for group in definition.groups(block, arch in PARALLEL, b, q):
                for key, value in group.items():
                    # The model rounds each write to 8 bits: y differs by up to 0.4 % of itself.
                    assert _at(fast, key, layer, b, q) == pytest.approx(value, abs=1e-2), key


@pytest.mark.parametrize("arch", ALL)
def test_the_model_computes_what_it_does_untraced(arch: str) -> None:
    model, padded = random_model(arch), batch()
    with torch.no_grad():
        plain = forward(model, padded, use_cache=False).logits
    name = model.config._attn_implementation
    states = []
    handle = model.base_model.register_forward_hook(lambda _, __, out: states.append(out[0]))
    contributions(model, adapter_for(model), padded)
    handle.remove()
    with torch.no_grad():
        inside = model.get_output_embeddings()(states[0])
        cap = getattr(model.config, "final_logit_softcapping", None)
        inside = torch.tanh(inside / cap) * cap if cap else inside
        assert (inside - plain)[padded.mask.bool()].abs().max() < 1e-4
        assert torch.equal(forward(model, padded, use_cache=False).logits, plain)
    assert model.config._attn_implementation == name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("arch", ALL)
def test_future_keys_and_padding_get_exactly_nothing(arch: str) -> None:
    _, fast = traced(arch)
    future = torch.ones(8, 8, dtype=torch.bool).triu(1)
    assert (fast.heads[:, :, future] == 0).all()
    for b, n in enumerate(LENGTHS):
        assert (fast.heads[:, b, n:] == 0).all()
        assert (fast.heads[:, b, :, n:] == 0).all()
        for name in ("residual", "attention_bias", "ffn", "mid", "ffn_bias", "experts"):
            found = getattr(fast, name)
            assert found is None or (found[:, b, n:] == 0).all()
    assert not fast.zero.any()


@pytest.mark.parametrize("arch", sorted(WINDOWED))
def test_a_sliding_window_bounds_the_keys(arch: str) -> None:
    _, fast = traced(arch)
    far = torch.ones(8, 8, dtype=torch.bool).tril(-WINDOW)
    for layer in range(2):
        found = fast.heads[layer, 0][far]
        assert (found == 0).all() if layer in WINDOWED[arch] else (found > 0).any()


def test_biases_have_shares_of_their_own_where_there_are_any() -> None:
    both = {"llama", "gpt_neox", "gpt_neox_serial", "gpt2", "phi"}
    attention = both | {"qwen3", "olmo", "olmo2", "gemma2"}
    ffn = both | {"smollm3"}
    for arch in ALL:
        _, fast = traced(arch)
        assert bool((fast.attention_bias > 0).any()) == (arch in attention), arch
        assert bool((fast.ffn_bias > 0).any()) == (arch in ffn), arch


def test_clipping_is_active_and_seen() -> None:
    # With values clipped at 0.2 the heads do less than in the same model without a clip.
    model = random_model("olmo")
    with torch.no_grad():
        values = model.model.layers[0].self_attn.v_proj(torch.randn(4, 32))
    assert (values.abs() > 0.2).any()
    _, clipped = traced("olmo")
    model.config.clip_qkv = None
    free = contributions(model, adapter_for(model), batch())
    assert not torch.allclose(free.heads, clipped.heads, atol=1e-3)


def test_experts_that_were_not_selected_get_exactly_nothing() -> None:
    model, fast = traced("olmoe")
    assert fast.experts is not None and fast.experts.shape[-1] == 6
    for layer, block in enumerate(definition.blocks(model, "olmoe", batch())):
        for b, q in rows():
            selected = {e for i, t, e in block.experts if (i, t) == (b, q)}
            assert len(selected) == 3
            for e in set(range(6)) - selected:
                assert fast.experts[layer, b, q, e] == 0


def test_layouts() -> None:
    for arch in ALL:
        model = random_model(arch)
        layout = adapter_for(model).layout
        assert (layout.n_layers, layout.n_heads) == (2, 4)
        assert layout.head_dim == (6 if arch in ("qwen3", "gemma2", "gemma3") else 8)
        assert layout.parallel == (arch in PARALLEL)
        assert layout.n_experts == (6 if arch == "olmoe" else 0)
        assert (traced(arch)[1].mid is None) == layout.parallel
