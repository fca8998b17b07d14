"""Tiny random models, tokenizers and series, made here: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    OlmoeConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from factlife.corpora.fact_probes import load_fact_probes

VOCAB = 600


def probe_text() -> list[str]:
    """Every subject, answer and template of the probe set: what a tokenizer is trained on."""
    probes = load_fact_probes()
    lines = [f"{prompt} {fact.answer}" for fact, _, prompt in probes.prompts()]
    return lines + [u.subject for u in probes.unseen]


def byte_level_tokenizer(vocab: int = VOCAB, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE (GPT-2, GPT-NeoX, OLMo kind), with a BOS in front if asked."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>", "<|bos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(probe_text(), trainer)
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|endoftext|>", bos_token="<|bos|>"
    )


def metaspace_tokenizer(vocab: int = VOCAB) -> PreTrainedTokenizerFast:
    """Metaspace BPE (Llama kind): a word carries its blank as a leading mark."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, show_progress=False)
    raw.train_from_iterator(probe_text(), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 128, "bos_token_id": 1,
        "eos_token_id": 0, "pad_token_id": 0, **more,
    }  # fmt: skip


CONFIGS: dict[str, Callable[[], Any]] = {
    "olmo2": lambda: Olmo2Config(**_sizes()),
    "olmo": lambda: OlmoConfig(**_sizes(clip_qkv=0.5)),
    "olmoe": lambda: OlmoeConfig(**_sizes(num_experts=4, num_experts_per_tok=2)),
    "llama": lambda: LlamaConfig(**_sizes(num_key_value_heads=2)),
    "mistral": lambda: MistralConfig(**_sizes(num_key_value_heads=2, sliding_window=6)),
    "qwen3": lambda: Qwen3Config(**_sizes(num_key_value_heads=1, head_dim=8)),
    "gemma2": lambda: Gemma2Config(
        **_sizes(num_key_value_heads=2, head_dim=8, sliding_window=8)
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_sizes(num_key_value_heads=2, head_dim=8, sliding_window=8)
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_sizes(use_parallel_residual=True)),
    "gpt_neox_serial": lambda: GPTNeoXConfig(**_sizes(use_parallel_residual=False)),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128,
        bos_token_id=1, eos_token_id=0, pad_token_id=0,
    ),
}  # fmt: skip


def random_model(arch: str, seed: int = 0, scale: float = 0.3) -> Any:
    """A tiny causal LM whose every parameter, biases and norm gains too, is random.

    `scale` is well above the usual 0.02, so that wrong positions or masks show in the numbers.
    """
    model = AutoModelForCausalLM.from_config(CONFIGS[arch]())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator) * scale
            p.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    return model.eval()


def save_checkpoint(
    folder: Path, arch: str = "llama", seed: int = 0, tokenizer: Any = None
) -> Path:
    """Write a random checkpoint with its tokenizer as an ordinary Hugging Face folder."""
    random_model(arch, seed).save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save_pretrained(folder)
    return folder


def save_series(
    folder: Path, steps: Sequence[int] = (0, 10, 100), arch: str = "llama", tokens: int = 1000
) -> Path:
    """Write a random series, one folder a step, with tokens stated in a series.toml."""
    tokenizer = byte_level_tokenizer()
    lines = ["format = 1", f'name = "tiny-{arch}"']
    for i, step in enumerate(steps):
        save_checkpoint(folder / f"step{step}", arch, i, tokenizer)
        lines += ["[[revision]]", f'name = "step{step}"', f'path = "step{step}"']
        lines += [f"step = {step}", f"tokens = {step * tokens}"]
    (folder / "series.toml").write_text("\n".join(lines) + "\n")
    return folder
