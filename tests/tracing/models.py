"""A tiny random model of every family: biases and norm gains randomised, windows that bite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from factlife.scoring.targets import Padded, pad

WINDOW = 3
LENGTHS = (8, 5, 7)


def sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 40, "max_position_embeddings": 64, "bos_token_id": 1,
        "eos_token_id": 0, "pad_token_id": 0, **more,
    }  # fmt: skip


SLIDING = ["sliding_attention", "full_attention"]
GROUPED = {"num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 6, "sliding_window": WINDOW, "layer_types": SLIDING}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**sizes(**GROUPED, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralConfig(**sizes(**GROUPED, sliding_window=WINDOW)),
    "qwen2": lambda: Qwen2Config(**sizes(**GROUPED)),
    "qwen3": lambda: Qwen3Config(**sizes(num_key_value_heads=1, head_dim=6, attention_bias=True)),
    "smollm3": lambda: SmolLM3Config(**sizes(**GROUPED, no_rope_layers=[1, 0], mlp_bias=True)),
    "olmo": lambda: OlmoConfig(**sizes(clip_qkv=0.2, attention_bias=True)),
    "olmo2": lambda: Olmo2Config(**sizes(**GROUPED, attention_bias=True)),
    "olmo3": lambda: Olmo3Config(**sizes(sliding_window=WINDOW, layer_types=SLIDING)),
    "olmoe": lambda: OlmoeConfig(**sizes(num_experts=6, num_experts_per_tok=3, clip_qkv=0.5)),
    "gemma2": lambda: Gemma2Config(**sizes(**GEMMA, attention_bias=True)),
    "gemma3": lambda: Gemma3TextConfig(**sizes(**GEMMA)),
    "gpt_neox": lambda: GPTNeoXConfig(**sizes(use_parallel_residual=True)),
    "gpt_neox_serial": lambda: GPTNeoXConfig(**sizes(use_parallel_residual=False)),
    "gpt2": lambda: GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
        eos_token_id=0, pad_token_id=0,
    ),
    "phi": lambda: PhiConfig(**sizes(qk_layernorm=True)),
}  # fmt: skip
# Blocks whose attention sees WINDOW tokens; in all others it sees everything before.
WINDOWED = {"mistral": (0, 1), "olmo3": (0,), "gemma2": (0,), "gemma3": (0,)}
PARALLEL = ("gpt_neox", "phi")


def random_model(arch: str, seed: int = 0, scale: float = 0.3) -> Any:
    """Every parameter is drawn; vectors named weight (norm gains) lie around 1."""
    model = AutoModelForCausalLM.from_config(CONFIGS[arch]())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator) * scale
            p.copy_(1 + noise if p.ndim == 1 and name.endswith("weight") else noise)
    return model.eval()


def batch(lengths: tuple[int, ...] = LENGTHS, side: str = "right", seed: int = 0) -> Padded:
    """Rows of random tokens, padded."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(2, 50, (n,), generator=generator).tolist() for n in lengths]
    return pad(rows, side, torch.device("cpu"))
