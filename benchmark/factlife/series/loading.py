"""Checkpoint folder -> model and tokenizer, or one clear line why not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from factlife.config import Model as ModelConfig
from factlife.errors import IntegrityError, UsageError
from factlife.series.integrity import TOKENIZER_FILES, read_config


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        model: in eval mode, on its device.
        n_parameters: tied parameters counted once.
        max_length: tokens the model can take; None where its config sets no bound.
        fill: reads the weights of a part of the model, which has none yet (`blockwise`); None
            where all of them are there.
    """

    model: Any
    tokenizer: Any
    architecture: str
    n_parameters: int
    dtype: str
    attention: str
    max_length: int | None
    fill: Callable[[Any], None] | None = None


def pick_device(name: str) -> torch.device:
    """Resolve `auto` to the first accelerator, else the CPU. Raises UsageError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def free_memory(device: torch.device) -> None:
    """Give back what nobody refers to any more: modules and their hooks refer to one another."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_config(folder: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Refuse what cannot be measured before anything is loaded, from config.json alone.

    Raises:
        UsageError: remote code without leave, an encoder-decoder, or no causal language model.
        IntegrityError: config.json is damaged.
    """
    config = read_config(folder)
    if config.get("auto_map") and not trust_remote_code:
        raise UsageError(
            f"{folder}: this model runs code from its own repo ({config['auto_map']}): read that "
            "code, then pass --trust-remote-code if you trust it"
        )
    if config.get("is_encoder_decoder"):
        raise UsageError(
            f"{folder}: {config.get('model_type')} is an encoder-decoder; factlife measures causal "
            "(decoder-only) language models"
        )
    names = config.get("architectures") or []
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if names and not trust_remote_code and not causal & set(names):
        raise UsageError(
            f"{folder}: {names[0]} is not a causal language model; factlife measures architectures "
            "such as Olmo2ForCausalLM, LlamaForCausalLM, GPTNeoXForCausalLM, GPT2LMHeadModel"
        )
    return config


def load(
    folder: Path,
    config: ModelConfig,
    device: torch.device,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
) -> Loaded:
    """Load one checkpoint for measuring.

    Args:
        tokenizer: one that is loaded already; else the one beside the weights is.

    Raises:
        UsageError: not measurable (see `check_config`), no tokenizer, or one of another vocabulary.
        IntegrityError: weights that do not fit the config, or missing tensors.
    """
    raw = check_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = tokenizer or load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_vocabulary(tokenizer, raw, folder)
    try:
        hf_config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model, info = _from_pretrained(
            folder,
            config.attention,
            config=hf_config,
            dtype=getattr(torch, config.dtype),
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=trust_remote_code,
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise IntegrityError(f"{folder}: the weights do not fit config.json: {reason}") from error
    _refuse_incomplete(info, folder)
    model.eval().requires_grad_(False).to(device)
    return describe(model, tokenizer, config.dtype)


def describe(model: Any, tokenizer: Any, dtype: str) -> Loaded:
    """What is known of a model beside its weights."""
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        architecture=type(model).__name__,
        n_parameters=sum(p.numel() for p in model.parameters()),
        dtype=dtype,
        attention=str(model.config._attn_implementation),
        max_length=_max_length(model),
    )


def _from_pretrained(folder: Path, attention: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """Load with the wanted attention, or with the eager one where the model has no other."""
    settings |= {"local_files_only": True, "output_loading_info": True}
    load_model: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, info = load_model(folder, attn_implementation=attention, **settings)
    except ValueError as error:
        if "does not support an attention implementation" not in str(error):
            raise
        model, info = load_model(folder, attn_implementation="eager", **settings)
    return model, info


def _refuse_incomplete(info: dict[str, Any], folder: Path) -> None:
    """Tensors that the file lacks would be random numbers, silently."""
    absent = sorted(info.get("missing_keys") or [])
    shapes = sorted(str(m) for m in info.get("mismatched_keys") or [])
    if absent:
        raise IntegrityError(
            f"{folder}: the weights lack {len(absent)} tensors, first {absent[0]}: copy them again"
        )
    if shapes:
        raise IntegrityError(f"{folder}: tensor shapes differ from config.json: {shapes[0]}")


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside the weights, or one folder above.

    Raises:
        UsageError: there is none.
    """
    for place in (folder, folder.parent):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            try:
                return AutoTokenizer.from_pretrained(
                    place, trust_remote_code=trust_remote_code, local_files_only=True
                )
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise UsageError(f"{place}: the tokenizer cannot be loaded: {reason}") from error
    raise UsageError(
        f"{folder} has no tokenizer: copy tokenizer.json and tokenizer_config.json into it"
    )


def check_vocabulary(tokenizer: Any, config: dict[str, Any], folder: Path) -> None:
    """Refuse a tokenizer that was not made for this embedding.

    An embedding may have more rows than the tokenizer has entries, because it is padded to a
    multiple of up to 128 rows (in some published models by up to 2 %), never fewer.

    Raises:
        UsageError: an ordinary entry lies outside the embedding, or at least 128 rows and more
            than 5 % of it are unused.
    """
    rows = config.get("vocab_size")
    if not isinstance(rows, int):
        return
    added = set(tokenizer.all_special_tokens)
    highest = max((i for t, i in tokenizer.get_vocab().items() if t not in added), default=-1)
    unused = rows - 1 - max(highest, *tokenizer.all_special_ids, -1)
    if highest >= rows or unused > max(127, rows // 20):
        raise UsageError(
            f"{folder}: the tokenizer has {len(tokenizer)} entries, the model's vocabulary "
            f"{rows}: this is the tokenizer of another model; copy the right one"
        )


def _max_length(model: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions"):
        value = getattr(model.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
