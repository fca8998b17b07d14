"""OLMo-1: as Llama, with norms that have no gain and values clipped to [-clip_qkv, clip_qkv].

Values are taken where the attention function gets them, so clipping has been done by the model.
"""

from __future__ import annotations

from factlife.tracing.base import Adapter


class Olmo(Adapter):
    """A = x + attention(norm(x)); x' = A + FFN(norm(A))."""

    model_types = ("olmo",)
