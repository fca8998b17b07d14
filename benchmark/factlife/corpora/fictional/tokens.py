"""The tokenizer boundary: a prefix and its target must not melt into one another.

A probe is scored on the tokens of its target after the tokens of its prefix. That is right
only if enc(prefix) + enc(" " + target) = enc(prefix + " " + target).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from factlife.errors import UsageError

Encode = Callable[[str], Sequence[int]]
FAMILIES = ("gpt2", "neox", "llama")


def boundary_holds(encode: Encode, prefix: str, target: str) -> bool:
    """Whether the tokens of prefix and target, put together, are the tokens of the whole."""
    whole = list(encode(f"{prefix} {target}"))
    return [*encode(prefix), *encode(f" {target}")] == whole


def boundary_breaks(encode: Encode, probes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The probes whose boundary does not hold under a tokenizer.

    Args:
        encode: text to token ids, without special tokens.
    """
    return [p for p in probes if not boundary_holds(encode, p["prefix"], p["target"])]


def train(family: str, texts: Iterable[str], vocabulary: int = 8_000) -> Encode:
    """A tokenizer of the make of a model family, trained here on `texts`, offline.

    `gpt2`: byte-level BPE over GPT-2's pattern. `neox`: the same after Unicode normalisation
    (NFC), as GPT-NeoX and OLMo have it. `llama`: BPE over words marked by U+2581, as
    SentencePiece makes them. The real vocabularies are larger and were trained on other text;
    what decides the boundary is the make, not the vocabulary.

    Raises:
        UsageError: an unknown family, or the tokenizers library is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise UsageError(
            "the boundary check needs tokenizers; install it with pip install 'factlife[models]'"
        ) from error
    if family not in FAMILIES:
        raise UsageError(f"unknown tokenizer family {family!r}; use one of {', '.join(FAMILIES)}")
    alphabet: list[str] = []
    if family == "llama":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        special = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ["<|endoftext|>"]
    if family == "neox":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    def encode(text: str) -> Sequence[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


def figures(
    family: str, texts: Iterable[str], probes: Sequence[Mapping[str, Any]]
) -> dict[str, float | int]:
    """Breaks of the boundary and lengths of the targets under a tokenizer trained on `texts`.

    Returns:
        `breaks` (probes), `mean_target_tokens` and `max_target_tokens` (tokens).
    """
    encode = train(family, texts)
    lengths = [len(encode(f" {p['target']}")) for p in probes]
    return {
        "breaks": len(boundary_breaks(encode, probes)),
        "mean_target_tokens": round(sum(lengths) / len(lengths), 2),
        "max_target_tokens": max(lengths),
    }
