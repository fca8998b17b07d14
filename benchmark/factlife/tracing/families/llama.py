"""Llama and the models wired like it: pre-norm, serial, no norm after a sublayer."""

from __future__ import annotations

from factlife.tracing.base import Adapter


class Llama(Adapter):
    """A = x + attention(norm(x)); x' = A + FFN(norm(A)).

    Grouped queries, QK-norm, sliding windows and layers without rotary positions act through the
    attention weights only.
    """

    model_types = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
