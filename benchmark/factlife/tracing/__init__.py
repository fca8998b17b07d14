"""One forward pass as additive writes to the residual stream (floor 2).

Shapes: B = prompts, T = padded tokens, L = layers, H = query heads, D = width, E = experts.
"""

from factlife.tracing.base import Adapter, Layout
from factlife.tracing.families import FAMILIES, adapter_for, supported
from factlife.tracing.kernels import KERNELS
from factlife.tracing.trace import Contributions, contributions

__all__ = [
    "FAMILIES", "KERNELS", "Adapter", "Contributions", "Layout", "adapter_for", "contributions",
    "supported",
]  # fmt: skip
