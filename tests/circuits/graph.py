"""The slow definition of a circuit: every node and edge by itself, and a search through them.

Nodes: ("x", l, q) the residual stream before block l (l = L: at the end), ("a", l, q) the state
between attention and FFN of a serial block, ("f", l, q) its FFN, ("e", l, q, e) one expert. An edge
leads from what is read to what it is added to; the search goes backward from the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from factlife.config import Circuits
from factlife.tracing import Contributions, Layout

Node = tuple[Any, ...]


@dataclass(frozen=True)
class Edge:
    """One edge into a node; `share` is c after thresholding and renormalising."""

    source: Node
    kind: str
    layer: int
    source_position: int
    target_position: int
    share: float
    head: int | None = None


@dataclass
class Circuit:
    """What a search met."""

    heads: set[tuple[int, int]] = field(default_factory=set)
    ffns: set[int] = field(default_factory=set)
    experts: set[tuple[int, int]] = field(default_factory=set)
    edges: list[Edge] = field(default_factory=list)


def attention_parts(
    c: Contributions, layer: int, b: int, q: int, tau: float, settings: Circuits
) -> dict[Any, float]:
    """Parts of the attention group that survive: (s, h), "residual" and "attention_bias"."""
    n_heads, tokens = c.layout.n_heads, c.residual.shape[2]
    merged = settings.self_edges == "merged"
    rows = c.heads[layer, b, q].tolist()
    by_head = {(s, h): rows[s][h] for s in range(tokens) for h in range(n_heads)}
    residual = c.residual[layer, b, q].item()
    kept = {}
    for s in range(tokens):
        edge = sum(by_head[s, h] for h in range(n_heads))
        if merged and s == q:
            edge += residual
        for h in range(n_heads):
            if settings.threshold == "per_edge":
                alive = edge > tau and by_head[s, h] > tau / n_heads
            else:
                alive = by_head[s, h] > tau
            if alive:
                kept[s, h] = by_head[s, h]
    if merged:
        own = [by_head[q, h] for h in range(n_heads)]
        if residual + sum(own) > tau:
            kept["residual"] = residual + sum(x for h, x in enumerate(own) if (q, h) not in kept)
    elif residual > tau:
        kept["residual"] = residual
    if (bias := c.attention_bias[layer, b, q].item()) > tau:
        kept["attention_bias"] = bias
    return kept


def ffn_parts(c: Contributions, layer: int, b: int, q: int, tau: float) -> dict[Any, float]:
    """Parts of the FFN group that survive: "ffn", "ffn_bias" and, in a serial block, "mid"."""
    parts = {"ffn": c.ffn[layer, b, q].item(), "ffn_bias": c.ffn_bias[layer, b, q].item()}
    if c.mid is not None:
        parts["mid"] = c.mid[layer, b, q].item()
    return {k: v for k, v in parts.items() if v > tau}


def renormalised(parts: dict[Any, float]) -> dict[Any, float]:
    total = sum(parts.values())
    return {k: v / total for k, v in parts.items()} if total else {}


def incoming(c: Contributions, b: int, tau: float, settings: Circuits) -> dict[Node, list[Edge]]:
    """Every edge of one prompt's graph, by the node that it leads into."""
    edges: dict[Node, list[Edge]] = {}
    for layer in range(c.layout.n_layers):
        for q in range(c.residual.shape[2]):
            attention = attention_parts(c, layer, b, q, tau, settings)
            ffn = ffn_parts(c, layer, b, q, tau)
            out: Node = ("x", layer + 1, q)
            if c.layout.parallel:
                shares = renormalised(attention | ffn)
                attention, ffn = shares, shares
                into, between = out, ("x", layer, q)
            else:
                attention, ffn = renormalised(attention), renormalised(ffn)
                into = between = ("a", layer, q)
            for part, share in attention.items():
                if isinstance(part, tuple):
                    s, h = part
                    edge = Edge(("x", layer, s), "attention", layer, s, q, share, h)
                    edges.setdefault(into, []).append(edge)
                elif part == "residual":
                    edge = Edge(("x", layer, q), "residual", layer, q, q, share)
                    edges.setdefault(into, []).append(edge)
            if "mid" in ffn:
                edge = Edge(between, "mid", layer, q, q, ffn["mid"])
                edges.setdefault(out, []).append(edge)
            if "ffn" in ffn:
                node: Node = ("f", layer, q)
                edge = Edge(node, "ffn", layer, q, q, ffn["ffn"])
                edges.setdefault(out, []).append(edge)
                edges.setdefault(node, []).append(Edge(between, "read", layer, q, q, 1.0))
                for e in range(c.layout.n_experts):
                    assert c.experts is not None
                    if c.experts[layer, b, q, e] > tau:
                        read = Edge(("e", layer, q, e), "expert", layer, q, q, 1.0)
                        edges[node].append(read)
    return edges


def search(edges: dict[Node, list[Edge]], ends: Iterable[Node]) -> Circuit:
    """Breadth first, backward from the ends."""
    found = Circuit()
    queue, seen = deque(ends), set(ends)
    while queue:
        node = queue.popleft()
        if node[0] == "f":
            found.ffns.add(node[1])
        elif node[0] == "e":
            found.experts.add((node[1], node[3]))
        for edge in edges.get(node, []):
            found.edges.append(edge)
            if edge.head is not None:
                found.heads.add((edge.layer, edge.head))
            if edge.source not in seen:
                seen.add(edge.source)
                queue.append(edge.source)
    return found


def circuit(c: Contributions, b: int, ends: list[int], tau: float, settings: Circuits) -> Circuit:
    """Union of the circuits of some positions of one prompt."""
    last = c.layout.n_layers
    return search(incoming(c, b, tau, settings), [("x", last, t) for t in ends])


def each_circuit(c: Contributions, b: int, n: int, tau: float, settings: Circuits) -> list[Circuit]:
    """The circuit of each of the first n positions of one prompt."""
    edges, last = incoming(c, b, tau, settings), c.layout.n_layers
    return [search(edges, [("x", last, t)]) for t in range(n)]


def random_contributions(
    seed: int,
    lengths: tuple[int, ...] = (4, 6),
    n_layers: int = 3,
    n_heads: int = 2,
    n_experts: int = 0,
    parallel: bool = False,
    spread: float = 3.0,
    zeros: float = 0.2,
) -> Contributions:
    """Random contributions with the invariants of real ones, rows padded on the right.

    Args:
        spread: standard deviation of ln(prox): the larger, the fewer parts survive.
        zeros: share of parts that are exactly 0, and of groups that are 0 as a whole.
    """
    g = torch.Generator().manual_seed(seed)
    b, t, layers = len(lengths), max(lengths), n_layers

    def prox(*shape: int) -> torch.Tensor:
        x = (torch.randn(shape, generator=g) * spread).exp()
        return x * (torch.rand(shape, generator=g) >= zeros)

    real = torch.arange(t) < torch.tensor(lengths)[:, None]  # [B, T]
    whole = real & (torch.rand((layers, b, t), generator=g) >= zeros / 4)
    heads = prox(layers, b, t, t, n_heads) * torch.ones(t, t).tril()[..., None]
    residual, a_bias, ffn, mid, f_bias = (prox(layers, b, t) for _ in range(5))
    experts = prox(layers, b, t, n_experts) if n_experts else None
    attention = heads.sum((3, 4)) + residual + a_bias
    block = ffn + f_bias if parallel else ffn + f_bias + mid
    if parallel:
        attention = block = attention + block

    def share(part: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        keep = whole.reshape(whole.shape + (1,) * (part.dim() - 3))
        total = total.reshape(total.shape + (1,) * (part.dim() - total.dim()))
        return torch.where(keep & (total > 0), part / total, torch.zeros(()))

    return Contributions(
        heads=share(heads, attention),
        residual=share(residual, attention),
        attention_bias=share(a_bias, attention),
        ffn=share(ffn, block),
        mid=None if parallel else share(mid, block),
        ffn_bias=share(f_bias, block),
        experts=None if experts is None else share(experts, experts.sum(-1) + mid),
        zero=real & ~(whole & (attention > 0) & (block > 0)),
        layout=Layout(layers, n_heads, 8, n_experts, parallel),
    )
