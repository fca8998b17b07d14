"""Information flow routes: how much of each write to the residual stream is whose.

Source: Ferrando and Voita 2024, "Information Flow Routes". With norms, attention weights and the
router frozen, every write y = x + sum_k p_k is an exact identity, and

    prox_k = max(|y|_1 - |y - p_k|_1, 0)        c_k = prox_k / sum_i prox_i

Shapes: B = prompts, T = padded tokens (queries, then keys), L = layers, H = query heads, D = width
of the residual stream, E = experts of a layer.

Parts of the attention group: the residual stream, each (key, head), the output bias. Parts of the
FFN group: the residual stream after attention, the FFN, its output bias. A parallel block has one
group of all of them. Beyond the source: biases are parts of their own, and parallel blocks work.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factlife.errors import UsageError
from factlife.tracing.base import Adapter, Layout, PostNorm
from factlife.tracing.capture import Capture, Tracer
from factlife.tracing.kernels import Kernel, choose, proximity

# Elements of u [h, b, T, D] at a time, at least one head of one prompt: on a CPU u stays in the
# cache between the GEMM that makes it and the kernel that reads it; a GPU wants few large calls.
CPU_CHUNK, GPU_CHUNK = 1 << 18, 1 << 26
# Largest |x + sum p - y| over largest |y| that a wiring may show; a wrong one shows about 1.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
LOOSE = 5e-2


@runtime_checkable
class PaddedBatch(Protocol):
    """Rows padded to one length, as `factlife.scoring.targets.pad` makes them."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...


@dataclass(frozen=True)
class Contributions:
    """Shares c of every part, fp32, 0 to 1; the parts of one group sum to 1.

    Rows of padding are 0 and not flagged.

    Attributes:
        heads: of (query q, key s, head h) at [l, b, q, s, h]; exactly 0 for s > q and for padding.
        residual: of the residual stream in the attention group (parallel: in the only group).
        attention_bias: of the output projection's bias.
        ffn: of the FFN; experts summed.
        mid: of the residual stream past the FFN; None where blocks are parallel.
        ffn_bias: of the FFN's output bias; 0 where it has none.
        experts: of each selected expert, in the FFN group with the experts as parts of their own;
            0 for the others; None where the FFN is dense.
        zero: the attention or the FFN group had no part that brings the state nearer, or a state
            that is not finite: the shares of that group are all 0.
    """

    heads: Float[Tensor, "L B T T H"]
    residual: Float[Tensor, "L B T"]
    attention_bias: Float[Tensor, "L B T"]
    ffn: Float[Tensor, "L B T"]
    mid: Float[Tensor, "L B T"] | None
    ffn_bias: Float[Tensor, "L B T"]
    experts: Float[Tensor, "L B T E"] | None
    zero: Bool[Tensor, "L B T"]
    layout: Layout


@torch.no_grad()
def contributions(
    model: Any, adapter: Adapter, padded: PaddedBatch, kernel: str = "auto"
) -> Contributions:
    """Shares of every part in every block, from one forward without the output embedding.

    Memory beyond the result: O(T H D) for one block of one prompt at a time, no activation cache.

    Args:
        model: a Hugging Face causal language model in eval mode.
        adapter: of this model, from `adapter_for`.
        padded: ids, mask and positions [B, T]; either side may be padded.
        kernel: `c`, `compile`, `eager`, or `auto` for the fastest that can be had.

    Raises:
        UsageError: the model trains, a hook did not fire, parts do not add up to the state, or the
            kernel cannot be had.
    """
    if model.training:
        raise UsageError(f"{type(model).__name__} is in training mode: call model.eval()")
    shares = _Shares(adapter, padded, choose(kernel, padded.ids.device))
    tracer = Tracer(adapter, shares.add)
    more: dict[str, Any] = {"use_cache": False}
    if "position_ids" in inspect.signature(adapter.base.forward).parameters:
        more["position_ids"] = padded.positions
    with tracer.open():
        adapter.base(input_ids=padded.ids, attention_mask=padded.mask, **more)
    return shares.result()


def _l1(x: Tensor) -> Tensor:
    return x.abs().sum(-1)  # five times as fast as vector_norm on a CPU


@dataclass(frozen=True)
class _Write:
    """What a sublayer adds to the residual stream: `total` = scale * (its parts) * gain.

    Attributes:
        total: [B, T, D].
        bias: the part of the output bias [B, T, D] or [D]; None: no bias.
        gain: [D]; None: no norm after the sublayer.
        scale: 1 / rms, frozen [B, T, 1]; None: no norm.
    """

    total: Tensor
    bias: Tensor | None
    gain: Tensor | None
    scale: Tensor | None


def _write(output: Tensor, bias: Tensor | None, norm: PostNorm | None) -> _Write:
    output = output.float()
    part = None if bias is None else bias.detach().float()
    if norm is None:
        return _Write(output, part, None, None)
    scale = torch.rsqrt(output.square().mean(-1, keepdim=True) + norm.eps)
    part = None if part is None else part * norm.gain * scale
    return _Write(output * scale * norm.gain, part, norm.gain, scale)


class _Shares:
    """Collects the shares block by block."""

    def __init__(self, adapter: Adapter, padded: PaddedBatch, kernel: Kernel) -> None:
        self._adapter, self._kernel = adapter, kernel
        self._mask = padded.mask.bool()
        layout, device = adapter.layout, padded.ids.device
        rows = (layout.n_layers, *padded.ids.shape)
        names = ["residual", "attention_bias", "ffn", "ffn_bias"]
        names += [] if layout.parallel else ["mid"]
        self._rows = {name: torch.zeros(rows, device=device) for name in names}
        self._heads = torch.zeros((*rows, rows[-1], layout.n_heads), device=device)
        self._zero = torch.zeros(rows, dtype=torch.bool, device=device)
        self._experts = (
            torch.zeros((*rows, layout.n_experts), device=device) if layout.n_experts else None
        )
        self._errors: list[Tensor] = []
        self._buffer: Tensor | None = None
        self._chunk = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
        self._tolerance = LOOSE

    def add(self, layer: int, capture: Capture) -> None:
        """Shares of one block."""
        assert capture.state is not None and capture.attention is not None
        assert capture.ffn is not None
        adapter = self._adapter
        self._tolerance = TOLERANCE.get(capture.state.dtype, LOOSE)
        x = capture.state.float()
        attention = _write(
            capture.attention, adapter.attention_bias(layer), adapter.attention_post_norm(layer)
        )
        ffn = _write(capture.ffn, adapter.ffn_bias(layer), adapter.ffn_post_norm(layer))
        mid = x + attention.total
        after = mid + ffn.total
        if adapter.layout.parallel:
            summed = self._parallel(layer, capture, x, attention, ffn, after)
        else:
            summed = self._attention_group(layer, capture, attention, mid)
            self._ffn_group(layer, capture, mid, ffn, after)
        self._check(capture, x[0] + summed + ffn.total[0])

    def _attention_group(self, layer: int, capture: Capture, write: _Write, y: Tensor) -> Tensor:
        heads, summed = self._heads_of(layer, capture, write, y)
        size = _l1(y)
        parts = {"residual": size - _l1(write.total)}
        if write.bias is not None:
            parts["attention_bias"] = size - _l1(y - write.bias)
        self._share(layer, parts, heads)
        return summed

    def _ffn_group(
        self, layer: int, capture: Capture, mid: Tensor, write: _Write, y: Tensor
    ) -> None:
        size = _l1(y)
        parts = {"mid": size - _l1(write.total)} | _ffn_parts(mid, write, y, size)
        self._share(layer, parts, None)
        if self._experts is not None:
            self._expert_group(self._experts[layer], capture, parts["mid"], y, size)

    def _parallel(
        self, layer: int, capture: Capture, x: Tensor, attention: _Write, ffn: _Write, y: Tensor
    ) -> Tensor:
        heads, summed = self._heads_of(layer, capture, attention, y)
        size = _l1(y)
        parts = {"residual": size - _l1(y - x)}
        parts |= _ffn_parts(y - ffn.total, ffn, y, size)
        if attention.bias is not None:
            parts["attention_bias"] = size - _l1(y - attention.bias)
        self._share(layer, parts, heads)
        return summed

    def _share(self, layer: int, parts: dict[str, Tensor], heads: Tensor | None) -> None:
        """Normalise one group and store it; `heads` in place."""
        parts = {name: prox.clamp(min=0) for name, prox in parts.items()}
        total = torch.stack(list(parts.values())).sum(0)
        if heads is not None:
            total = total + heads.sum((2, 3))
        factor, fine = _factor(total, self._mask)
        self._zero[layer] |= self._mask & ~fine
        for name, prox in parts.items():
            self._rows[name][layer] = torch.where(fine, prox * factor, 0)
        if heads is not None:
            heads.mul_(factor[:, :, None, None]).masked_fill_(~fine[:, :, None, None], 0)

    def _expert_group(
        self, out: Tensor, capture: Capture, mid: Tensor, y: Tensor, size: Tensor
    ) -> None:
        """Shares of experts as parts of their own, beside the residual stream past the FFN."""
        index = torch.stack([i for i, _ in capture.experts], -1).view(*y.shape[:2], -1)
        proxes = torch.stack(
            [size - _l1(y - e.float().view(y.shape)) for _, e in capture.experts], -1
        ).clamp(min=0)
        factor, fine = _factor(proxes.sum(-1) + mid.clamp(min=0), self._mask)
        shares = torch.where(fine[..., None], proxes * factor[..., None], 0)
        out.scatter_(-1, index, shares)

    def _heads_of(
        self, layer: int, capture: Capture, write: _Write, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Proximity [B, T, T, H] of every (key, head), and the sum of these parts in prompt 0."""
        assert capture.value is not None and capture.weights is not None
        out = self._heads[layer]
        matrix = self._adapter.head_weight(layer).detach().float()
        matrix = matrix if write.gain is None else matrix * write.gain
        weights = capture.weights.float()
        weights = weights if write.scale is None else weights * write.scale.unsqueeze(1)
        value = _per_head(capture.value.float(), len(matrix))
        for bs, hs in self._chunks(len(matrix), *y.shape):
            u = self._through(value[hs, bs], matrix[hs])
            proximity(y[bs], weights[bs, hs], u, out[bs, :, :, hs], self._kernel)
        mixed = torch.bmm(weights[0].tril(), value[:, 0])  # [H, T, head_dim]
        summed = mixed.transpose(0, 1).flatten(1) @ matrix.flatten(0, 1)
        if write.bias is not None:
            summed = summed + (write.bias if write.bias.dim() == 1 else write.bias[0])
        return out.clamp_(min=0), summed

    def _chunks(
        self, heads: int, prompts: int, tokens: int, width: int
    ) -> Iterator[tuple[slice, slice]]:
        """Prompts and heads in turns, so few that their u stays within `_chunk` elements."""
        b_step = min(prompts, max(1, self._chunk // (tokens * width)))
        h_step = min(heads, max(1, self._chunk // (b_step * tokens * width)))
        for b in range(0, prompts, b_step):
            for h in range(0, heads, h_step):
                yield slice(b, b + b_step), slice(h, h + h_step)

    def _through(self, value: Tensor, matrix: Tensor) -> Tensor:
        """Values through the output projection of their query head, [h, b, T, D], one GEMM.

        Its memory is used again by every chunk of every block.
        """
        heads, prompts, tokens = value.shape[:3]
        shape = (heads, prompts * tokens, matrix.shape[-1])
        if self._buffer is None:
            self._buffer = value.new_empty(math.prod(shape))
        u = self._buffer[: math.prod(shape)].view(shape)
        torch.bmm(value.reshape(heads, prompts * tokens, -1), matrix, out=u)
        return u.view(heads, prompts, tokens, -1)

    def _check(self, capture: Capture, summed: Tensor) -> None:
        """Keep how far the parts of prompt 0 are from the state that the model computed."""
        assert capture.after is not None
        keep = self._mask[0].unsqueeze(-1)
        after = capture.after[0].float()
        gap = torch.where(keep, summed - after, 0).abs().amax()
        self._errors.append(gap / torch.where(keep, after, 0).abs().amax().clamp(min=1e-30))

    def result(self) -> Contributions:
        """All blocks. Raises UsageError where parts did not add up to the state."""
        for layer, error in enumerate(torch.stack(self._errors).tolist()):
            if error > self._tolerance:
                raise UsageError(
                    f"{type(self._adapter.base).__name__}, layer {layer}: its parts miss the state "
                    f"by {error:.1e} of its size: it is not wired as its family is, and cannot be "
                    "traced"
                )
        rows = self._rows
        return Contributions(
            heads=self._heads, residual=rows["residual"], attention_bias=rows["attention_bias"],
            ffn=rows["ffn"], mid=rows.get("mid"), ffn_bias=rows["ffn_bias"],
            experts=self._experts, zero=self._zero, layout=self._adapter.layout,
        )  # fmt: skip


def _factor(total: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """1 / total, and where it can be used."""
    factor = 1 / total
    fine = mask & (total > 0) & total.isfinite() & factor.isfinite()
    return torch.where(fine, factor, 0), fine


def _ffn_parts(rest: Tensor, write: _Write, y: Tensor, size: Tensor) -> dict[str, Tensor]:
    """Proximity of the FFN and of its bias; `rest` is the state without either."""
    if write.bias is None:
        return {"ffn": size - _l1(rest)}
    return {"ffn": size - _l1(rest + write.bias), "ffn_bias": size - _l1(y - write.bias)}


def _per_head(value: Tensor, heads: int) -> Tensor:
    """Values [B, key-value heads, T, head_dim] as query heads read them: [H, B, T, head_dim]."""
    value = value.transpose(0, 1)
    if len(value) == heads:
        return value.contiguous()
    return value.repeat_interleave(heads // len(value), 0)
