"""Hooks on the Hugging Face forward: what one block wrote, handed over when the block is done.

Shapes: B = prompts, T = padded tokens, H = query heads, D = width, N = B * T, K = experts a token.

Attention weights come from a function registered with transformers, together with its mask: it
calls the modeling module's own eager attention, so that soft caps, sliding windows and QK-norm stay
the model's. Values are the ones that this function gets: after bias, clipping and norms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from factlife.errors import UsageError
from factlife.tracing.base import Adapter

ATTENTION = "factlife_tracing"
Recorder = Callable[[nn.Module, Tensor, Tensor], None]
_RECORDER: ContextVar[Recorder] = ContextVar("recorder")


@dataclass
class Capture:
    """What one block read and wrote.

    Attributes:
        state: residual stream before the block [B, T, D].
        value: [B, key-value heads, T, head_dim], as used.
        weights: attention weights [B, H, T, T].
        attention: output of the output projection [B, T, D].
        ffn: output of the FFN [B, T, D].
        after: residual stream after the block [B, T, D].
        experts: (expert [N], its weighted output [N, D]) for each of the K selected.
    """

    state: Tensor | None = None
    value: Tensor | None = None
    weights: Tensor | None = None
    attention: Tensor | None = None
    ffn: Tensor | None = None
    after: Tensor | None = None
    experts: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any
) -> Any:
    """The modeling module's eager attention; its weights go to the recorder."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UsageError(
            f"{type(module).__name__} has no eager attention in its modeling file: it cannot be "
            "traced (docs/adding-an-architecture.md)"
        )
    output, weights = eager(module, query, key, value, mask, **more)
    _RECORDER.get()(module, value, weights)
    return output, weights


@contextmanager
def recording(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """While open, every attention module of the model reports to the recorder.

    Configs of all submodules get the attention function, and their own one back, come what may.
    """
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    found: list[Any] = [m.config for m in model.modules() if hasattr(m, "config")]
    configs = {id(config): config for config in found}
    before = [(c, c._attn_implementation) for c in configs.values()]
    token = _RECORDER.set(recorder)
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        _RECORDER.reset(token)
        for config, name in before:
            config._attn_implementation = name


def _first(output: Any) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


class Tracer:
    """Captures one block at a time and hands it to `done`, so that no activations pile up."""

    def __init__(self, adapter: Adapter, done: Callable[[int, Capture], None]) -> None:
        self._adapter = adapter
        self._done = done
        self._layer = {
            adapter.attention_module(layer): layer for layer in range(adapter.layout.n_layers)
        }
        self._open: dict[int, Capture] = {}
        self._finished: list[int] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hooks are on while open. Raises UsageError if a block or a hook did not run once."""
        with ExitStack() as stack:
            stack.enter_context(recording(self._adapter.base, self._record))
            for layer in range(self._adapter.layout.n_layers):
                self._hook(stack, layer)
            yield
        expected = list(range(self._adapter.layout.n_layers))
        if self._finished != expected:
            raise UsageError(
                f"{self._name()}: blocks ran in the order {self._finished}, expected each once: "
                "it cannot be traced"
            )

    def _hook(self, stack: ExitStack, layer: int) -> None:
        adapter = self._adapter
        block = adapter.block(layer)

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = args[0] if args else kwargs["hidden_states"]
            self._open[layer] = Capture(state=state)

        def attention(_: nn.Module, __: Any, output: Any) -> None:
            self._open[layer].attention = _first(output)

        def ffn(_: nn.Module, __: Any, output: Any) -> None:
            self._open[layer].ffn = _first(output)

        def end(_: nn.Module, __: Any, output: Any) -> None:
            capture = self._open.pop(layer)
            capture.after = _first(output)
            self._complete(layer, capture)

        handles = (
            block.register_forward_pre_hook(begin, with_kwargs=True),
            adapter.output_projection(layer).register_forward_hook(attention),
            adapter.ffn(layer).register_forward_hook(ffn),
            block.register_forward_hook(end),
        )
        for handle in handles:
            stack.callback(handle.remove)
        experts = adapter.experts(layer)
        if experts is not None:
            stack.enter_context(self._one_by_one(layer, experts))

    @contextmanager
    def _one_by_one(self, layer: int, experts: nn.Module) -> Iterator[None]:
        """Call the experts with one selection a token at a time: the same work, summed here."""
        own = experts.forward

        def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            outputs = [
                (index[:, k], own(hidden, index[:, k : k + 1], weights[:, k : k + 1]))
                for k in range(index.shape[1])
            ]
            self._open[layer].experts = outputs
            total: Tensor = outputs[0][1].clone()
            for _, output in outputs[1:]:
                total += output
            return total

        experts.forward = forward
        try:
            yield
        finally:
            del experts.forward

    def _record(self, module: nn.Module, value: Tensor, weights: Tensor) -> None:
        layer = self._layer.get(module)
        if layer is not None and layer in self._open:
            self._open[layer].value, self._open[layer].weights = value, weights

    def _complete(self, layer: int, capture: Capture) -> None:
        """Hand a whole capture over. Raises UsageError naming the hook that did not fire."""
        wanted = ["state", "value", "weights", "attention", "ffn"]
        missing = [name for name in wanted if getattr(capture, name) is None]
        if self._adapter.layout.n_experts and not capture.experts:
            missing.append("experts")
        if missing:
            raise UsageError(
                f"{self._name()}, layer {layer}: no {' and no '.join(missing)} reached the hooks: "
                "the model goes another way, and cannot be traced"
            )
        self._finished.append(layer)
        self._done(layer, capture)

    def _name(self) -> str:
        return type(self._adapter.base).__name__
