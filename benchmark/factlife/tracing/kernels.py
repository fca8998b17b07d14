"""The reduction that costs: proximity of every (query, key, head) part, never storing the parts.

Shapes: B = prompts, T = padded tokens (queries t, keys s), H = query heads, D = width.

    out[b, t, s, h] = |y_bt|_1 - |y_bt - w_bhts u_hbs|_1        for s <= t, else 0

Three kernels give the same numbers: `c` (compiled at first use by the system's compiler),
`compile` (torch.compile) and `eager`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlife.errors import UsageError
from factlife.tracing import native

KERNELS = ("auto", "c", "compile", "eager")
# Elements of a chunk: on a CPU it stays in the cache; a GPU wants few large ones.
CPU_CHUNK, GPU_CHUNK = 1 << 17, 1 << 26

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def choose(name: str, device: torch.device) -> Kernel:
    """The kernel of a name; `auto` takes the fastest that can be had on the device.

    Raises:
        UsageError: no such kernel, or it cannot be had here.
    """
    if name not in KERNELS:
        raise UsageError(f"kernel {name!r} is not one of {', '.join(KERNELS)}")
    if name == "c" or (name == "auto" and device.type == "cpu"):
        kernel, why = native.load() if device.type == "cpu" else (None, f"device is {device}")
        if kernel is not None:
            return kernel
        if name == "c":
            raise UsageError(f"kernel 'c' cannot be had here ({why}): use 'auto' or 'eager'")
    if name == "compile" or (name == "auto" and device.type == "cuda"):
        missing = _no_compile(device)
        if missing is None:
            return compiled
        if name == "compile":
            raise UsageError(f"kernel 'compile' cannot be had here ({missing}): use 'auto'")
    return eager


def _no_compile(device: torch.device) -> str | None:
    """Why torch.compile cannot make a kernel for the device; None if it can."""
    if native.compiler() is None:  # on a GPU too: it builds the launcher of the kernel
        return "no C compiler on the PATH"
    if device.type != "cpu" and not importlib.util.find_spec("triton"):
        return "triton is not installed"
    return _compile_fails(device)


@functools.cache
def _compile_fails(device: torch.device) -> str | None:
    """What goes wrong with a first small kernel: a cache folder that is noexec, an old GPU, …"""
    y, w = torch.ones(1, 2, 8, device=device), torch.ones(1, 1, 2, 2, device=device)
    out = torch.zeros(1, 2, 2, 1, device=device)
    try:
        compiled(y, w, torch.ones(1, 1, 2, 8, device=device), out)
    except Exception as error:  # whatever the compiler's many layers raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def proximity(
    y: Float[Tensor, "B T D"],
    w: Float[Tensor, "B H T T"],
    u: Float[Tensor, "H B T D"],
    out: Float[Tensor, "B T T H"],
    kernel: Kernel,
) -> None:
    """Write the proximity of every part, not yet clamped at 0, into `out`.

    Args:
        y: state after the write.
        w: attention weights of (query, key), over a frozen norm if there is one.
        u: values of keys through the output projection of a head.
        out: must be 0; future keys stay so. A part of weight 0 gets exactly 0.
    """
    kernel(y, w, u, out)


def eager(y: Tensor, w: Tensor, u: Tensor, out: Tensor) -> None:
    """Chunked torch: memory is that of one chunk, at most [H, 1, T, D]."""
    heads, prompts, tokens, width = u.shape
    budget = CPU_CHUNK if y.device.type == "cpu" else GPU_CHUNK
    buffer = torch.empty(max(budget, tokens * width), device=y.device)
    norm = y.abs().sum(-1)
    for t in range(tokens):
        row = (t + 1) * width
        h_step = min(heads, max(1, budget // row))
        b_step = min(prompts, max(1, budget // (row * h_step)))
        for h in range(0, heads, h_step):
            for b in range(0, prompts, b_step):
                hs, bs = slice(h, h + h_step), slice(b, b + b_step)
                part = u[hs, bs, : t + 1]
                rest = buffer[: part.numel()].view(part.shape)
                weight = w[bs, hs, t, : t + 1].transpose(0, 1).unsqueeze(-1)
                torch.addcmul(y[bs, t].unsqueeze(1), weight, part, value=-1, out=rest)
                left = rest.abs_().sum(-1)  # [h, b, s]
                out[bs, t, : t + 1, hs] = norm[bs, t, None, None] - left.permute(1, 2, 0)
    # Two sums of the same numbers may differ in their last bit: no weight is no part.
    out.masked_fill_(w.permute(0, 2, 3, 1) == 0, 0.0)


def compiled(y: Tensor, w: Tensor, u: Tensor, out: Tensor) -> None:
    """torch.compile fuses the difference, the absolute value and the sum over D."""
    t, s = torch.tril_indices(y.shape[1], y.shape[1], device=y.device)
    out[:, t, s] = _fused()(y, w, u, t, s).permute(0, 2, 1)


def _pairs(y: Tensor, w: Tensor, u: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Proximity of the pairs (t, s), not clamped, [B, H, P]."""
    state = y[:, t].unsqueeze(1)
    part = w[:, :, t, s].unsqueeze(-1) * u[:, :, s].transpose(0, 1)
    return (state.abs() - (state - part).abs()).sum(-1)


@functools.cache
def _fused() -> Any:
    return torch.compile(_pairs, dynamic=True)
