"""OLMo-2 and OLMo-3: an RMS norm after each sublayer, none before."""

from __future__ import annotations

from factlife.tracing.base import Adapter


class Olmo2(Adapter):
    """A = x + norm(attention(x)); x' = A + norm(FFN(A))."""

    model_types = ("olmo2", "olmo3")
    attention_norm = "post_attention_layernorm"
    ffn_norm = "post_feedforward_layernorm"
