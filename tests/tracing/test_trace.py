"""Batches, padding, degenerate states, and models that go another way."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.bench_circuits import peak_bytes, result_bytes
from tests.tracing.models import CONFIGS, LENGTHS, batch, random_model, sizes
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MambaConfig,
    Qwen3NextConfig,
    Starcoder2Config,
    T5Config,
)

from factlife.errors import UsageError
from factlife.scoring.targets import Padded
from factlife.tracing import (
    FAMILIES,
    Contributions,
    adapter_for,
    contributions,
    families,
    kernels,
    supported,
)
from factlife.tracing import trace as trace_module
from factlife.tracing.families import REFUSED

ALL = sorted(CONFIGS)
ROOT = Path(__file__).parents[2]


def run(model: Any, padded: Padded, kernel: str = "auto") -> Contributions:
    return contributions(model, adapter_for(model), padded, kernel)


def tensors(c: Contributions) -> dict[str, Tensor]:
    found = {f.name: getattr(c, f.name) for f in fields(c) if f.name != "layout"}
    return {k: v for k, v in found.items() if v is not None}


def prompt(c: Contributions, b: int, start: int, n: int) -> dict[str, Tensor]:
    """What belongs to n tokens of one prompt, from column `start` on."""
    cut = {k: v[:, b, start : start + n] for k, v in tensors(c).items()}
    return cut | {"heads": cut["heads"][:, :, start : start + n]}


@pytest.mark.parametrize("arch", ALL)
def test_padding_side_and_batch_size_make_no_difference(arch: str) -> None:
    model = random_model(arch)
    right, left = run(model, batch()), run(model, batch(side="left"))
    for b, n in enumerate(LENGTHS):
        padded = batch()
        alone = Padded(
            padded.ids[b : b + 1, :n], padded.mask[b : b + 1, :n],
            padded.positions[b : b + 1, :n], (0,),
        )  # fmt: skip
        single = prompt(run(model, alone), 0, 0, n)
        for name, value in prompt(right, b, 0, n).items():
            other = prompt(left, b, 8 - n, n)[name]
            assert torch.allclose(value.float(), other.float(), atol=1e-5), name
            assert torch.allclose(value.float(), single[name].float(), atol=1e-5), name
        assert (left.heads[:, b, : 8 - n] == 0).all()
        assert (left.heads[:, b, :, : 8 - n] == 0).all()
        assert not left.zero[:, b, : 8 - n].any()


def test_prompts_and_heads_in_turns_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    whole = run(model, batch())
    monkeypatch.setattr(trace_module, "CPU_CHUNK", 1)  # one head of one prompt
    for name, value in tensors(run(model, batch())).items():
        assert torch.allclose(value.float(), tensors(whole)[name].float(), atol=1e-6), name


@pytest.mark.parametrize("arch", ["llama", "olmo2", "gpt_neox", "gemma2", "olmoe"])
def test_a_model_of_zeros_is_flagged_and_finite(arch: str) -> None:
    model = random_model(arch)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = run(model, batch())
    assert torch.equal(found.zero, batch().mask.bool().expand(2, -1, -1))
    assert all((v == 0).all() for k, v in tensors(found).items() if k != "zero")


def test_one_empty_group_is_flagged_and_the_other_one_kept() -> None:
    # Attention that takes the residual stream away: A = x - x = 0, so no part brings A nearer.
    # After that x' = FFN(A): the FFN group is whole.
    model = random_model("llama")
    block = model.model.layers[0]
    block.self_attn.o_proj.register_forward_hook(lambda _, __, out: -states.pop())
    states: list[Tensor] = []
    block.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    padded = batch(lengths=(4,))
    with pytest.raises(UsageError, match="layer 0: its parts miss the state"):
        run(model, padded)
    states.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_module, "TOLERANCE", {torch.float32: 1e9})
        found = run(model, padded)
    assert found.zero[0].all() and not found.zero[1].any()
    assert (found.heads[0] == 0).all() and (found.residual[0] == 0).all()
    assert found.mid is not None
    assert torch.allclose(found.ffn[0] + found.ffn_bias[0] + found.mid[0], torch.ones(1, 4))


def test_a_state_that_is_not_finite_is_flagged_not_spread() -> None:
    model = random_model("olmo2")
    padded = batch(lengths=(4, 6))
    token = int(padded.ids[1, 0])
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.inf
    assert token not in padded.ids[0]
    found = run(model, padded)
    assert found.zero[:, 1].all() and not found.zero[:, 0].any()
    assert all(v.isfinite().all() for v in tensors(found).values())


def test_a_head_that_copies_gets_what_it_brings() -> None:
    # With the output projection of head 1 of block 0 set to zero, its parts are exactly nothing,
    # and the other heads still have some.
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 8:16] = 0
    found = run(model, batch())
    assert (found.heads[0, ..., 1] == 0).all()
    assert all((found.heads[0, ..., h] > 0).any() for h in (0, 2, 3))


# ---- refusals --------------------------------------------------------------------------------


def _tiny(config: Any) -> Any:
    return AutoModelForCausalLM.from_config(config)


def test_a_state_space_model_is_refused_by_name_with_the_list() -> None:
    model = _tiny(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(UsageError, match=r"MambaForCausalLM \(mamba\) .*state space") as refused:
        adapter_for(model)
    assert all(name in str(refused.value) for name in supported())
    assert "\n" not in str(refused.value)


def test_gated_heads_are_refused() -> None:
    model = _tiny(
        Qwen3NextConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=8, num_experts=2, num_experts_per_tok=1,
            moe_intermediate_size=8, shared_expert_intermediate_size=8, head_dim=8,
        )
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"\(qwen3_next\) cannot be traced: a gate"):
        adapter_for(model)


def test_encoder_decoders_and_unknown_families_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(t5\) cannot be traced: it is an encoder-decoder"):
        adapter_for(SimpleNamespace(config=T5Config()))
    unknown = SimpleNamespace(config=SimpleNamespace(model_type="novel"))
    with pytest.raises(UsageError, match=r"\(novel\) cannot be traced: .* are not described"):
        adapter_for(unknown)


def test_no_family_is_both_supported_and_refused_or_claimed_twice() -> None:
    names = [t for family in FAMILIES for t in family.model_types]
    assert len(names) == len(set(names))
    assert not set(names) & set(REFUSED)


def test_cross_attention_is_refused() -> None:
    config = CONFIGS["gpt2"]()
    config.add_cross_attention = True
    with pytest.raises(UsageError, match="cross-attention"):
        adapter_for(_tiny(config))


def test_a_training_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"call model\.eval\(\)"):
        run(random_model("llama").train(), batch())


def test_attention_that_bypasses_the_interface_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("llama")
    attention = model.model.layers[1].self_attn

    def bypass(hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return attention.o_proj(attention.q_proj(hidden_states)), None

    monkeypatch.setattr(attention, "forward", bypass)
    with pytest.raises(UsageError, match="LlamaModel, layer 1: no value and no weights reached"):
        run(model, batch())
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_experts_that_bypass_their_module_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("olmoe")
    monkeypatch.setattr(model.model.layers[0].mlp, "forward", lambda x: x)
    with pytest.raises(UsageError, match="layer 0: no experts reached the hooks"):
        run(model, batch())
    assert "forward" not in vars(model.model.layers[1].mlp.experts)


def test_a_block_that_does_not_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    adapter = adapter_for(model)
    monkeypatch.setattr(model.config, "num_hidden_layers", 1)
    with pytest.raises(UsageError, match=r"blocks ran in the order \[0\], expected each once"):
        contributions(model, adapter, batch())


def test_a_write_that_no_part_explains_is_an_error() -> None:
    # A block that scales its attention output, as some families do, is not wired as Llama.
    model = random_model("llama")
    model.model.layers[1].self_attn.register_forward_hook(lambda _, __, out: (out[0] * 2, *out[1:]))
    with pytest.raises(UsageError, match="layer 1: its parts miss the state by"):
        run(model, batch())


def test_the_config_is_restored_when_the_forward_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt2")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(model.transformer.h[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(model, batch())
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("arch", ALL)
def test_modules_of_an_adapter_are_what_they_are_said_to_be(arch: str) -> None:
    model = random_model(arch)
    adapter = adapter_for(model)
    heads: list[tuple[int, ...]] = []
    ffn: list[tuple[int, ...]] = []
    for layer in range(2):
        adapter.output_projection(layer).register_forward_pre_hook(
            lambda _, args: heads.append(tuple(args[0].shape))
        )
        adapter.ffn(layer).register_forward_hook(lambda _, __, out: ffn.append(tuple(out.shape)))
    run(model, batch())
    assert heads == [(3, 8, adapter.layout.n_heads * adapter.layout.head_dim)] * 2
    assert ffn == [(3, 8, 32)] * 2


# ---- the how-to page -------------------------------------------------------------------------


def test_the_example_of_the_how_to_page_traces_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "adding-an-architecture.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 60
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "example", "exec"), space)
    model = _tiny(Starcoder2Config(**sizes(num_key_value_heads=2, residual_dropout=0.0))).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    with pytest.raises(UsageError, match=r"\(starcoder2\) cannot be traced"):
        adapter_for(model)
    monkeypatch.setattr(families, "FAMILIES", (space["Starcoder2"],))
    found = run(model, batch())
    assert (found.attention_bias > 0).any() and (found.ffn_bias > 0).any()
    assert found.mid is not None
    total = found.ffn + found.ffn_bias + found.mid
    assert torch.allclose(total, batch().mask.float().expand(2, -1, -1), atol=1e-5)


def test_every_family_is_one_small_file_that_the_page_allows() -> None:
    for path in Path(str(families.__file__)).parent.glob("[!_]*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 60, path.name


def test_a_module_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    monkeypatch.setattr(families.Llama, "down", "mlp.c_proj")
    with pytest.raises(UsageError, match=r"LlamaDecoderLayer has no module 'mlp\.c_proj'"):
        run(model, batch())


@pytest.mark.parametrize("whole", [False, True])
def test_memory_grows_with_the_tokens_not_with_their_square(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Numbers held beyond the result, in units of T H D (u of one block). Parts of a block stored
    # whole would take T units: that the measure sees this is tested as well.
    tokens, heads, width = 40, 4, 32
    monkeypatch.setattr(kernels, "CPU_CHUNK", heads * tokens * width)
    monkeypatch.setattr(trace_module, "CPU_CHUNK", heads * tokens * width)
    if whole:
        monkeypatch.setattr(kernels, "eager", whole_parts)
    model, padded = random_model("llama"), batch(lengths=(tokens,))
    adapter = adapter_for(model)
    peak, found = peak_bytes(lambda: contributions(model, adapter, padded, "eager"))
    extra = (peak - result_bytes(found)) / (4 * tokens * heads * width)
    assert extra > tokens if whole else extra < tokens / 4, extra


def whole_parts(y: Tensor, w: Tensor, u: Tensor, out: Tensor) -> None:
    """What the kernels are there to avoid: [H, B, T, T, D] at once."""
    part = w.transpose(0, 1).tril().unsqueeze(-1) * u.unsqueeze(2)
    rest = (y.unsqueeze(1) - part).abs().sum(-1)
    out.copy_((y.abs().sum(-1, keepdim=True) - rest).permute(1, 2, 3, 0))
