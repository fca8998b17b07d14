"""Gemma-2 and Gemma-3 (text): RMS norms before and after each sublayer, with gain 1 + w."""

from __future__ import annotations

from factlife.tracing.base import Adapter


class Gemma(Adapter):
    """A = x + norm(attention(norm(x))); x' = A + norm(FFN(norm(A)))."""

    model_types = ("gemma2", "gemma3_text")
    attention_norm = "post_attention_layernorm"
    ffn_norm = "post_feedforward_layernorm"
    unit_gain = 1.0
