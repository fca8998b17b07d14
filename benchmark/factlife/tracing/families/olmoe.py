"""OLMoE: as Llama, with an FFN of experts of which each token uses a few."""

from __future__ import annotations

from typing import cast

from torch import nn

from factlife.tracing.base import Adapter, find


class Olmoe(Adapter):
    """A = x + attention(norm(x)); x' = A + sum over selected experts e of w_e E_e(norm(A))."""

    model_types = ("olmoe",)
    down = None  # the experts have no bias

    def n_experts(self) -> int:
        return int(self.config.num_experts)

    def experts(self, layer: int) -> nn.Module:
        return cast(nn.Module, find(self.ffn(layer), "experts"))
