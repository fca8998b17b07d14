"""Every architecture family that can be traced, and why others are refused."""

from __future__ import annotations

from typing import Any

from factlife.errors import UsageError
from factlife.tracing.base import Adapter
from factlife.tracing.families.gemma import Gemma
from factlife.tracing.families.gpt2 import GPT2
from factlife.tracing.families.gpt_neox import GPTNeoX
from factlife.tracing.families.llama import Llama
from factlife.tracing.families.olmo import Olmo
from factlife.tracing.families.olmo2 import Olmo2
from factlife.tracing.families.olmoe import Olmoe
from factlife.tracing.families.phi import Phi

FAMILIES: tuple[type[Adapter], ...] = (Gemma, GPT2, GPTNeoX, Llama, Olmo, Olmo2, Olmoe, Phi)

_STATE_SPACE = "a state space or linear recurrence has no attention weights to trace"
_GATED = "a gate that depends on the query acts on the outputs of its heads"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe",
            "mamba", "mamba2", "nemotron_h", "olmo_hybrid", "recurrent_gemma", "rwkv", "xlstm",
            "zamba", "zamba2",
        ), _STATE_SPACE,
    ),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "kimi_linear"), _GATED),
}  # fmt: skip


def supported() -> tuple[str, ...]:
    """Every `model_type` that can be traced, sorted."""
    return tuple(sorted(t for family in FAMILIES for t in family.model_types))


def adapter_for(model: Any) -> Adapter:
    """The wiring of a Hugging Face causal language model.

    Raises:
        UsageError: the family is not supported; the message names it, why, and the list.
    """
    kind = str(getattr(model.config, "model_type", type(model).__name__))
    for family in FAMILIES:
        if kind in family.model_types:
            return family(model)
    reason = "its writes to the residual stream are not described"
    if getattr(model.config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder"
    reason = REFUSED.get(kind, reason)
    raise UsageError(
        f"{type(model).__name__} ({kind}) cannot be traced: {reason}; supported: "
        f"{', '.join(supported())} (docs/adding-an-architecture.md)"
    )
