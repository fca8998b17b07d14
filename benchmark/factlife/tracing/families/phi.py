"""Phi-1 to Phi-2: attention and FFN read one norm and write together."""

from __future__ import annotations

from factlife.tracing.base import Adapter


class Phi(Adapter):
    """x' = x + attention(norm(x)) + FFN(norm(x))."""

    model_types = ("phi",)
    output = "self_attn.dense"
    down = "mlp.fc2"

    def is_parallel(self) -> bool:
        return True
