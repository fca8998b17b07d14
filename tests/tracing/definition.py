"""The contributions by their definition: every part written out, one at a time, in float64.

It shares nothing with the package. Attention weights are those that the model returns with
`output_attentions`; values, residual streams and norms are read from modules by family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factlife.scoring.targets import Padded

Array = Any


@dataclass(frozen=True)
class Wiring:
    """Where a family keeps what the definition needs, as paths from a block.

    Attributes:
        value: the module that makes values, and how to cut [B, T, kv heads, head_dim] from it.
        conv: matrices are stored [in, out].
        norms: after attention and after the FFN; `unit` is added to their weights.
    """

    blocks: str = "model.layers"
    value: str = "self_attn.v_proj"
    cut: Callable[[Tensor, int], Tensor] = lambda v, hd: v.unflatten(-1, (-1, hd))
    out: str = "self_attn.o_proj"
    mlp: str = "mlp"
    down: str | None = "mlp.down_proj"
    conv: bool = False
    norms: tuple[str, str] | None = None
    unit: float = 0.0
    parallel: bool = False


def _neox(v: Tensor, hd: int) -> Tensor:
    return v.unflatten(-1, (-1, 3 * hd))[..., 2 * hd :]


def _gpt2(v: Tensor, hd: int) -> Tensor:
    return v.chunk(3, dim=-1)[2].unflatten(-1, (-1, hd))


POST = ("post_attention_layernorm", "post_feedforward_layernorm")
NEOX: dict[str, Any] = {
    "blocks": "gpt_neox.layers", "value": "attention.query_key_value", "cut": _neox,
    "out": "attention.dense", "down": "mlp.dense_4h_to_h",
}  # fmt: skip
WIRING: dict[str, Wiring] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo"), Wiring()),
    **dict.fromkeys(("olmo2", "olmo3"), Wiring(norms=POST)),
    **dict.fromkeys(("gemma2", "gemma3"), Wiring(norms=POST, unit=1.0)),
    "olmoe": Wiring(down=None),
    "gpt_neox": Wiring(**NEOX, parallel=True),
    "gpt_neox_serial": Wiring(**NEOX),
    "gpt2": Wiring(
        blocks="transformer.h", value="attn.c_attn", cut=_gpt2, out="attn.c_proj",
        down="mlp.c_proj", conv=True,
    ),
    "phi": Wiring(out="self_attn.dense", down="mlp.fc2", parallel=True),
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Every part of one block, float64 [..., D]; `attention` is indexed (b, query, key, head)."""

    state: Array
    attention: dict[tuple[int, int, int, int], Array]
    attention_bias: Array
    ffn: Array
    ffn_bias: Array
    experts: dict[tuple[int, int, int], Array]
    after: Array


@contextmanager
def _outputs(paths: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """First inputs and outputs of modules in one forward: `name` and `name:in`."""
    seen: dict[str, Any] = {}
    handles = []
    for name, module in paths.items():

        def hook(_: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            seen[name] = output  # not a copy: OLMo clips values in place after this
            seen[name + ":in"] = args[0] if args else kwargs.get("hidden_states")

        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    yield seen
    for handle in handles:
        handle.remove()


def _np(x: Any) -> Array:
    first = x[0] if isinstance(x, tuple) else x
    return first.detach().double().numpy()


@torch.no_grad()
def blocks(model: Any, arch: str, padded: Padded) -> list[Block]:
    """All parts of all blocks."""
    wiring = WIRING[arch]
    layers = model.get_submodule(wiring.blocks)
    names = ["value", "out", "mlp"]
    paths: dict[str, nn.Module] = {}
    for i, layer in enumerate(layers):
        paths[f"{i}.block"] = layer
        paths |= {f"{i}.{n}": layer.get_submodule(getattr(wiring, n)) for n in names}
        if arch == "olmoe":
            paths[f"{i}.gate"] = layer.mlp.gate
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with _outputs(paths) as seen:
        found = model(
            input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions,
            output_attentions=True, use_cache=False,
        )  # fmt: skip
    model.set_attn_implementation(before)
    return [_block(wiring, layer, i, seen, found.attentions[i]) for i, layer in enumerate(layers)]


def _block(wiring: Wiring, layer: Any, i: int, seen: dict[str, Any], weights: Tensor) -> Block:
    alpha = _np(weights)
    matrix = _np(layer.get_submodule(wiring.out).weight)
    matrix = matrix if wiring.conv else matrix.T  # [H * head_dim, D]
    n_prompts, n_heads, n_tokens, _ = alpha.shape
    hd = matrix.shape[0] // n_heads
    value = _np(wiring.cut(seen[f"{i}.value"], hd))
    share = n_heads // value.shape[2]
    frozen = [
        _frozen_norm(wiring, layer, n, _np(seen[f"{i}.{name}"]))
        for n, name in enumerate(("out", "mlp"))
    ]
    attention = {
        (b, q, s, h): alpha[b, h, q, s]
        * (value[b, s, h // share] @ matrix[h * hd : (h + 1) * hd])
        * frozen[0][b, q]
        for b in range(n_prompts)
        for q in range(n_tokens)
        for s in range(q + 1)
        for h in range(n_heads)
    }
    bias = _bias(layer, wiring.down)
    return Block(
        state=_np(seen[f"{i}.block:in"]), attention=attention,
        attention_bias=_bias(layer, wiring.out) * frozen[0],
        ffn=(_np(seen[f"{i}.mlp"]) - bias) * frozen[1], ffn_bias=bias * frozen[1],
        experts=_experts(layer, seen, i) if f"{i}.gate" in seen else {},
        after=_np(seen[f"{i}.block"]),
    )  # fmt: skip


def _bias(layer: Any, path: str | None) -> Array:
    bias = None if path is None else layer.get_submodule(path).bias
    return np.zeros(1) if bias is None else _np(bias)


def _frozen_norm(wiring: Wiring, layer: Any, which: int, output: Array) -> Array:
    """What a norm after the sublayer multiplies each part with: gain / rms [B, T, D]."""
    if wiring.norms is None:
        return np.ones_like(output)
    norm = layer.get_submodule(wiring.norms[which])
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    rms = np.sqrt((output**2).mean(-1, keepdims=True) + eps)
    return (_np(norm.weight) + wiring.unit) / rms


def _experts(layer: Any, seen: dict[str, Any], i: int) -> dict[tuple[int, int, int], Array]:
    """w_e E_e(x) of every selected expert, from the weights."""
    _, weights, index = seen[f"{i}.gate"]
    x = seen[f"{i}.mlp:in"]
    found = {}
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            row = b * x.shape[1] + t
            for w, e in zip(weights[row], index[row].tolist(), strict=True):
                gate, up = (layer.mlp.experts.gate_up_proj[e] @ x[b, t]).chunk(2)
                hidden = torch.nn.functional.silu(gate) * up
                found[b, t, e] = _np(w * (layer.mlp.experts.down_proj[e] @ hidden))
    return found


def shares(y: Array, parts: dict[Any, Array]) -> dict[Any, float]:
    """c_k = max(|y|_1 - |y - p_k|_1, 0) / sum."""
    prox = {k: max(np.abs(y).sum() - np.abs(y - p).sum(), 0.0) for k, p in parts.items()}
    total = sum(prox.values())
    return {k: (v / total if total else 0.0) for k, v in prox.items()}


def attention_parts(block: Block, b: int, q: int) -> dict[Any, Array]:
    """Parts of the attention group at query q: ("head", key, head), the bias, the residual."""
    heads = {("head", s, h): p for (i, t, s, h), p in block.attention.items() if (i, t) == (b, q)}
    bias = np.broadcast_to(block.attention_bias, block.state.shape)[b, q]
    return {**heads, "attention_bias": bias, "residual": block.state[b, q]}


def ffn_parts(block: Block, b: int, q: int) -> dict[Any, Array]:
    """The FFN and its output bias at query q."""
    return {
        "ffn": block.ffn[b, q],
        "ffn_bias": np.broadcast_to(block.ffn_bias, block.state.shape)[b, q],
    }


def groups(block: Block, parallel: bool, b: int, q: int) -> list[dict[Any, float]]:
    """Shares of each group of one query: one group if parallel, else two, and one of experts."""
    attention, ffn = attention_parts(block, b, q), ffn_parts(block, b, q)
    if parallel:
        everything = {**attention, **ffn}
        return [shares(sum(everything.values()), everything)]
    mid = sum(attention.values())
    after = mid + sum(ffn.values())
    found = [shares(mid, attention), shares(after, {"mid": mid, **ffn})]
    experts = {e: p for (i, t, e), p in block.experts.items() if (i, t) == (b, q)}
    if experts:
        found.append(shares(after, {"mid": mid, **{("expert", e): p for e, p in experts.items()}}))
    return found
