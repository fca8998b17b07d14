"""What every architecture family shares: where a block writes to the residual stream.

Shapes: B = prompts, T = padded tokens, L = layers, H = query heads, D = width of the residual
stream, E = experts of a layer, K = selected experts a token.

A family is declared by the names of its modules. Nothing of the model is computed again: the
writes are read from hooks on its own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from factlife.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """Components of a model.

    Attributes:
        n_heads: query heads a layer.
        n_experts: experts a layer; 0: dense.
        parallel: attention and FFN read the same residual stream and write together.
    """

    n_layers: int
    n_heads: int
    head_dim: int
    n_experts: int
    parallel: bool


@dataclass(frozen=True)
class PostNorm:
    """An RMS norm between a sublayer and the residual stream: write = a / rms(a) * gain."""

    gain: Float[Tensor, " D"]
    eps: float


def find(module: nn.Module, dotted: str) -> Any:
    """The submodule of a dotted name. Raises UsageError naming what the model lacks."""
    try:
        return module.get_submodule(dotted)
    except AttributeError as error:
        raise UsageError(
            f"{type(module).__name__} has no module {dotted!r}, which the tracing of "
            f"{getattr(getattr(module, 'config', None), 'model_type', 'this family')} needs: use "
            "the model class of the transformers library, not one from a repo's own code"
        ) from error


class Adapter:
    """Wiring of one architecture family; a subclass sets the names and overrides what differs.

    Attributes:
        model_types: `config.model_type` of the models that it traces.
        blocks: list of transformer blocks, from the base model.
        attention: from a block; calls the attention function.
        output: from a block; maps concatenated head outputs to the residual stream.
        mlp: from a block; its output is the FFN's.
        down: from a block; the last matrix of the FFN, which holds its output bias.
        attention_norm, ffn_norm: from a block; norms between sublayer and residual stream.
        unit_gain: what is added to the weight of those norms (Gemma stores gain - 1).
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    blocks: ClassVar[str] = "layers"
    attention: ClassVar[str] = "self_attn"
    output: ClassVar[str] = "self_attn.o_proj"
    mlp: ClassVar[str] = "mlp"
    down: ClassVar[str | None] = "mlp.down_proj"
    attention_norm: ClassVar[str | None] = None
    ffn_norm: ClassVar[str | None] = None
    unit_gain: ClassVar[float] = 0.0

    def __init__(self, model: Any) -> None:
        """Read the layout of a Hugging Face causal language model (or of its base model)."""
        self.base: nn.Module = getattr(model, "base_model", model)
        self.config: Any = model.config
        heads = int(self.config.num_attention_heads)
        width = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        self.layout = Layout(
            n_layers=len(find(self.base, self.blocks)), n_heads=heads, head_dim=int(width),
            n_experts=self.n_experts(), parallel=self.is_parallel(),
        )  # fmt: skip

    def n_experts(self) -> int:
        """Experts of a layer; 0 for a dense FFN."""
        return 0

    def is_parallel(self) -> bool:
        """Whether attention and FFN write to the residual stream together."""
        return False

    def block(self, layer: int) -> nn.Module:
        """The transformer block: its first input and its output are the residual stream."""
        return cast(nn.Module, find(self.base, self.blocks)[layer])

    def attention_module(self, layer: int) -> nn.Module:
        """The module that calls the attention function."""
        return cast(nn.Module, find(self.block(layer), self.attention))

    def output_projection(self, layer: int) -> nn.Module:
        """Its input is the concatenated head outputs [B, T, H * head_dim]."""
        return cast(nn.Module, find(self.block(layer), self.output))

    def ffn(self, layer: int) -> nn.Module:
        """Its output (first item if a tuple) is what the FFN adds, before a post-norm."""
        return cast(nn.Module, find(self.block(layer), self.mlp))

    def experts(self, layer: int) -> nn.Module | None:
        """The module called with (tokens, selected experts [N, K], their weights [N, K])."""
        del layer
        return None

    def head_weight(self, layer: int) -> Float[Tensor, "H head_dim D"]:
        """The output projection, one matrix a head."""
        weight = cast(Tensor, self.output_projection(layer).weight)  # [D, H * head_dim]
        return weight.T.reshape(self.layout.n_heads, self.layout.head_dim, -1)

    def attention_bias(self, layer: int) -> Float[Tensor, " D"] | None:
        """Bias of the output projection."""
        return cast("Tensor | None", self.output_projection(layer).bias)

    def ffn_bias(self, layer: int) -> Float[Tensor, " D"] | None:
        """Output bias of the FFN."""
        if self.down is None:
            return None
        return cast("Tensor | None", find(self.block(layer), self.down).bias)

    def attention_post_norm(self, layer: int) -> PostNorm | None:
        """The norm between attention and residual stream."""
        return self._post_norm(layer, self.attention_norm)

    def ffn_post_norm(self, layer: int) -> PostNorm | None:
        """The norm between FFN and residual stream."""
        return self._post_norm(layer, self.ffn_norm)

    def _post_norm(self, layer: int, name: str | None) -> PostNorm | None:
        if name is None:
            return None
        norm = find(self.block(layer), name)
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        return PostNorm(norm.weight.detach().float() + self.unit_gain, float(eps))
