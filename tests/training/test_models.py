"""Every architecture builds, is as large as the others, and loads again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from factlife.errors import UsageError
from factlife.training import ARCHITECTURES, ModelShape, build_model, model_config

TINY = ModelShape(layers=2, width=32, heads=2, ffn=48, positions=64)
CLASSES = {
    "olmo2": "Olmo2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def test_the_architectures_are_the_four_named() -> None:
    assert set(ARCHITECTURES) == set(CLASSES)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_builds_saves_and_loads_with_equal_logits(arch: str, tmp_path: Path) -> None:
    model = build_model(model_config(arch, TINY, 100, 0, 1), seed=0).eval()
    assert type(model).__name__ == CLASSES[arch]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_embeddings_are_tied_and_nothing_is_dropped(arch: str) -> None:
    model = build_model(model_config(arch, TINY, 100, 0, 1), seed=0).train()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_architectures_are_of_one_size() -> None:
    # Gated FFN: 3 x width x ffn; ungated: 2 x width x (3/2 ffn), the same. What is left apart are
    # biases, norms and GPT-2's learned positions (64 x 32 = 2048).
    sizes = {}
    for arch in ARCHITECTURES:
        model = build_model(model_config(arch, TINY, 100, 0, 1), seed=0)
        sizes[arch] = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    sizes["gpt2"] -= 64 * 32
    assert len(set(sizes.values())) == 1


def test_the_seed_decides_the_weights_and_nothing_outside() -> None:
    config = model_config("olmo2", TINY, 100, 0, 1)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (build_model(config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [m.get_input_embeddings().weight for m in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_embeddings_get_the_spread_asked_for(arch: str) -> None:
    config = model_config(arch, TINY, 1000, 0, 1)
    weight = build_model(config, 0, embedding_std=0.5).get_input_embeddings().weight
    # 32,000 normal draws: the standard error of their deviation is 0.5/√64000 = 0.002
    assert float(weight.detach()[2:].std()) == pytest.approx(0.5, abs=0.01)


def test_an_unknown_architecture_names_the_valid_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'olmo2'.*olmo2, llama, gpt_neox, gpt2"):
        model_config("olmo", TINY, 100, 0, 1)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UsageError, match="3 heads do not divide a width of 32"):
        ModelShape(width=32, heads=3)
