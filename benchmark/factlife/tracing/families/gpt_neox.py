"""GPT-NeoX and Pythia: attention and FFN write together, or one after the other."""

from __future__ import annotations

from factlife.tracing.base import Adapter


class GPTNeoX(Adapter):
    """x' = x + attention(norm(x)) + FFN(norm(x)) if `use_parallel_residual`, else serial."""

    model_types = ("gpt_neox",)
    attention = "attention"
    output = "attention.dense"
    down = "mlp.dense_4h_to_h"

    def is_parallel(self) -> bool:
        return bool(self.config.use_parallel_residual)
