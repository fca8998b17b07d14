"""Small models of four architectures, from Hugging Face's own configuration classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from factlife.config import at_least, nearest
from factlife.errors import UsageError


@dataclass(frozen=True)
class ModelShape:
    """Size of a small model.

    Attributes:
        layers: transformer blocks.
        width: of the residual stream; `heads` divides it.
        heads: attention heads per layer.
        ffn: hidden width of the gated FFN; the ungated ones (gpt2, gpt_neox) get 3/2 of it, which
            makes their parameters as many.
        positions: longest input in tokens.
        init_std: standard deviation of all matrices but the embeddings at the start.
        embedding_std: of the embeddings. Larger: sublayers write to a residual stream of
            about unit size, in which embeddings of 0.02 would drown for hundreds of steps.
    """

    layers: int = at_least(1, 4)
    width: int = at_least(1, 128)
    heads: int = at_least(1, 4)
    ffn: int = at_least(1, 384)
    positions: int = at_least(1, 512)
    init_std: float = at_least(0, 0.02)
    embedding_std: float = at_least(0, 0.2)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"{self.heads} heads do not divide a width of {self.width}")


def _olmo2(shape: ModelShape, common: dict[str, Any]) -> PreTrainedConfig:
    return Olmo2Config(**_gated(shape), **common)


def _llama(shape: ModelShape, common: dict[str, Any]) -> PreTrainedConfig:
    return LlamaConfig(**_gated(shape), **common)


def _gated(shape: ModelShape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
    }


def _gpt_neox(shape: ModelShape, common: dict[str, Any]) -> PreTrainedConfig:
    sizes = {**_gated(shape), "intermediate_size": shape.ffn * 3 // 2}
    return GPTNeoXConfig(**sizes, **common)


def _gpt2(shape: ModelShape, common: dict[str, Any]) -> PreTrainedConfig:
    return GPT2Config(
        n_embd=shape.width,
        n_inner=shape.ffn * 3 // 2,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=shape.positions,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **common,
    )


_CONFIGS: dict[str, Callable[[ModelShape, dict[str, Any]], PreTrainedConfig]] = {
    "olmo2": _olmo2,
    "llama": _llama,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
}
ARCHITECTURES = tuple(_CONFIGS)


def model_config(
    arch: str, shape: ModelShape, vocab_size: int, eos: int, pad: int
) -> PreTrainedConfig:
    """The configuration of a small model with tied embeddings and no dropout.

    Raises:
        UsageError: unknown architecture; the message names the valid ones. Or a shape that the
            architecture has not, such as heads of odd width where positions are rotated.
    """
    if arch not in _CONFIGS:
        raise UsageError(
            f"unknown architecture {arch!r}{nearest(arch, ARCHITECTURES)}; "
            f"valid: {', '.join(ARCHITECTURES)}"
        )
    common = {
        "vocab_size": vocab_size,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "tie_word_embeddings": True,
        "initializer_range": shape.init_std,
    }
    try:
        return _CONFIGS[arch](shape, common)
    except StrictDataclassError as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"{arch} of width {shape.width} with {shape.heads} heads: {why}; choose other sizes"
        ) from error


def build_model(
    config: PreTrainedConfig, seed: int, embedding_std: float | None = None
) -> PreTrainedModel:
    """A model with weights drawn from `seed`, in float32; the global generator is left alone.

    `embedding_std` scales the token embeddings from the configuration's `initializer_range` to
    this standard deviation; None leaves them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if embedding_std is not None:
        embeddings = cast(torch.nn.Embedding, model.get_input_embeddings())
        with torch.no_grad():
            embeddings.weight.mul_(embedding_std / config.initializer_range)
    return model
