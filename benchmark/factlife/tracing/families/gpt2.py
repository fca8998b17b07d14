"""GPT-2: pre-norm, serial; its matrices are stored [in, out]."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from factlife.errors import UsageError
from factlife.tracing.base import Adapter


class GPT2(Adapter):
    """A = x + attention(norm(x)); x' = A + FFN(norm(A))."""

    model_types = ("gpt2",)
    blocks = "h"
    attention = "attn"
    output = "attn.c_proj"
    down = "mlp.c_proj"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if self.config.add_cross_attention:
            raise UsageError("gpt2 with cross-attention cannot be traced: set it off in its config")

    def head_weight(self, layer: int) -> Tensor:
        weight = cast(Tensor, self.output_projection(layer).weight)  # [H * head_dim, D]
        return weight.reshape(self.layout.n_heads, self.layout.head_dim, -1)
