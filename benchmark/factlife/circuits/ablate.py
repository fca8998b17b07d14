"""Do the heads of a role matter? Recall with sets of components mean-ablated -> `ablations`.

Mean-ablating a head replaces its slice of the output projection's input by the mean of that slice
over all tokens of all prompts; an FFN's output is replaced by its mean likewise. Means are taken
once a checkpoint, with nothing ablated.

Conditions, each scored on every fact, teacher-forced:

- `intact`; `none_kept`: every head and FFN ablated.
- `role`, `control`: heads of a role (general, entity, relation or fact; overall), and as many
  active heads of other roles, matched by layer: in layer l, k_l = min(role heads, active heads of
  other roles). The control is drawn `ablation_draws` times; so is the role where k_l leaves some
  of its heads out. No k_l above 0: rows with the reason.
- `circuit_only`: only the heads and FFNs in the fact's own circuit (union over the positions that
  predict its answer) are kept. `circuit_control`: as many heads a layer, drawn at random, and the
  same FFNs (a layer has one, so its number fixes it); at most 5 draws.

Shapes: F facts, L layers, H heads, W = H x head_dim, D width, R rows of a batch, S padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from factlife.circuits import bits
from factlife.circuits.prompts import Item, Prepared
from factlife.config import Profile
from factlife.schema import ABLATIONS
from factlife.scoring.targets import (
    Padded,
    Target,
    batches,
    forward,
    pad,
    target_logits,
    token_scores,
)
from factlife.tracing import Adapter, Layout, adapter_for

ROLES = ("general", "entity", "relation", "fact")
INACTIVE = "inactive"
CONTROL_CIRCUITS = 5
NOT_FINITE = "the model's log-probability is not finite"
NO_HEADS = "no head holds this role"
NO_CONTROLS = "no active head of another role in the layers of this role's heads"
NO_CIRCUIT = "the fact has no circuit"

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Roles = Mapping[tuple[int, int], str]


@dataclass(frozen=True)
class Means:
    """Mean of each head's output (before the output projection) and of each FFN's output."""

    heads: Float[Tensor, "L W"]
    ffns: Float[Tensor, "L D"]


@dataclass(frozen=True)
class Trial:
    """One condition and draw: what is ablated in every fact.

    Attributes:
        heads, ffns: [F or 1, L, H] and [F or 1, L], True where ablated.
        n_role: [F or 1] heads of the role or circuit.
        reasons: [F] or [1] why a fact is not scored, else None.
    """

    role: str
    condition: str
    draw: int
    heads: Bools
    ffns: Bools
    n_role: Ints
    reasons: tuple[str | None, ...] = (None,)


@dataclass(frozen=True)
class Masks:
    """Distinct sets of ablated components, and the set of every (trial, fact).

    Attributes:
        heads, ffns: [M, L, H] and [M, L], True where ablated.
        which: [trials, F] index of the set.
    """

    heads: Bools
    ffns: Bools
    which: Ints


@torch.inference_mode()
def ablate(
    model: Any,
    prepared: Prepared,
    circuits: pa.Table,
    roles: Roles,
    profile: Profile,
    keys: Mapping[str, Any],
) -> pa.Table:
    """Rows of `ablations` for one checkpoint.

    Args:
        model: a Hugging Face causal LM in eval mode.
        circuits: this checkpoint's rows of `circuits`.
        roles: role of each (layer, head); absent or `inactive`: in no circuit.
        keys: revision, stage and step, repeated in every row.

    Returns:
        A checked table; draws come from `profile.intervals.seed`. A fact that cannot be traced has
        one row, `intact`, with the reason.
    """
    adapter = adapter_for(model)
    items = [prepared.items[i] for i in prepared.usable]
    dropped = [item for item in prepared.items if item.encoded.reason is not None]
    batch_tokens = profile.execution.batch_tokens
    trials = list(_trials(adapter.layout, items, circuits, roles, profile))
    masks = _masks(trials, len(items))
    if not items:
        return ABLATIONS.from_rows([{**keys, **r} for r in _dropped_rows(dropped)])
    means = component_means(model, adapter, [i.encoded.ids for i in items], batch_tokens)
    logprob, whole = _scores(model, adapter, means, items, masks, batch_tokens)
    measured = _table(items, trials, logprob, whole, keys)
    unmeasured = ABLATIONS.from_rows([{**keys, **r} for r in _dropped_rows(dropped)])
    return ABLATIONS.check(pa.concat_tables([measured, unmeasured]))


# ---- what is ablated -------------------------------------------------------------------------


def max_trials(profile: Profile) -> int:
    """Passes over the probe set that `ablate` may take, before equal sets are scored once."""
    draws = profile.circuits.ablation_draws
    means, fixed = 2, 3  # component_means; intact, circuit_only, none_kept
    return means + fixed + (1 + 2 * draws) * len(ROLES) + min(CONTROL_CIRCUITS, draws)


def _trials(
    layout: Layout, items: Sequence[Item], circuits: pa.Table, roles: Roles, profile: Profile
) -> Iterator[Trial]:
    layers, heads = layout.n_layers, layout.n_heads
    every, none = np.ones((1, layers, heads), np.bool_), np.zeros((1, layers, heads), np.bool_)
    yield Trial("none", "intact", 0, none, none[..., 0], np.zeros(1, np.int64))
    held = np.full((layers, heads), INACTIVE, dtype=object)
    for (layer, head), role in roles.items():
        held[layer, head] = role
    for k, role in enumerate(ROLES):
        rng = np.random.default_rng([profile.intervals.seed, k])
        yield from _role_trials(held, role, profile.circuits.ablation_draws, rng)
    kept_heads, kept_ffns, reasons = _own_circuits(layout, items, circuits)
    size = kept_heads.sum(axis=(1, 2))
    yield Trial("circuit", "circuit_only", 0, ~kept_heads, ~kept_ffns, size, reasons)
    rng = np.random.default_rng([profile.intervals.seed, len(ROLES)])
    for draw in range(min(CONTROL_CIRCUITS, profile.circuits.ablation_draws)):
        other = _shuffled_heads(kept_heads, rng)
        yield Trial("circuit", "circuit_control", draw, ~other, ~kept_ffns, size, reasons)
    yield Trial("circuit", "none_kept", 0, every, every[..., 0], np.zeros(1, np.int64))


def _role_trials(
    held: npt.NDArray[np.object_], role: str, draws: int, rng: np.random.Generator
) -> Iterator[Trial]:
    """All of the role's heads; then as many of them as there are controls, and the controls."""
    own = held == role
    others = (held != INACTIVE) & ~own
    matched = np.minimum(own.sum(axis=1), others.sum(axis=1))  # k of each layer
    size = np.array([own.sum()])
    no_ffns = np.zeros((1, len(own)), np.bool_)
    why = None if own.any() else NO_HEADS
    yield Trial(role, "whole_role", 0, own[None], no_ffns, size, (why,))
    if not matched.any():
        reason = NO_CONTROLS if own.any() else NO_HEADS
        for condition in ("role", "control"):
            yield Trial(role, condition, 0, own[None] & False, no_ffns, size, (reason,))
        return
    whole = bool((matched == own.sum(axis=1)).all())
    for draw in range(1 if whole else draws):
        yield Trial(role, "role", draw, _subset(own, matched, rng)[None], no_ffns, size)
    for draw in range(draws):
        yield Trial(role, "control", draw, _subset(others, matched, rng)[None], no_ffns, size)


def _subset(heads: Bools, sizes: Ints, rng: np.random.Generator) -> Bools:
    """`sizes[l]` of the heads [L, H] of each layer, drawn without replacement."""
    keys = np.where(heads, rng.random(heads.shape), 2.0)
    rank = keys.argsort(axis=-1).argsort(axis=-1)
    chosen: Bools = rank < sizes[..., None]
    return chosen


def _shuffled_heads(kept: Bools, rng: np.random.Generator) -> Bools:
    """As many heads in each fact and layer [F, L, H], at random."""
    return _subset(np.ones_like(kept), kept.sum(axis=-1), rng)


def _own_circuits(
    layout: Layout, items: Sequence[Item], circuits: pa.Table
) -> tuple[Bools, Bools, tuple[str | None, ...]]:
    """Each fact's heads [F, L, H] and FFNs [F, L]: union over positions that predict its answer."""
    rows = circuits.filter(pc.field("predicts_answer"))
    place = {item.fact_id: i for i, item in enumerate(items)}
    fact = np.array([place.get(f, len(items)) for f in rows["fact_id"].to_pylist()], np.int64)
    shape = (layout.n_layers, layout.n_heads)
    heads = np.zeros((len(items) + 1, *shape), np.bool_)
    ffns = np.zeros((len(items) + 1, layout.n_layers), np.bool_)
    found = bits.unpack(rows["heads"], layout.n_layers * layout.n_heads)
    np.logical_or.at(heads, fact, found.reshape(-1, *shape))
    np.logical_or.at(ffns, fact, bits.unpack(rows["ffns"], layout.n_layers))
    traced = set(fact.tolist())
    reasons = tuple(None if i in traced else NO_CIRCUIT for i in range(len(items)))
    return heads[:-1], ffns[:-1], reasons


def _masks(trials: Sequence[Trial], n_facts: int) -> Masks:
    """Distinct sets: draws often coincide in a small model, and each is scored once."""
    index: dict[bytes, int] = {}
    heads: list[Bools] = []
    ffns: list[Bools] = []
    which = np.zeros((len(trials), n_facts), np.int64)
    for t, trial in enumerate(trials):
        for f in range(len(trial.heads)):
            key = trial.heads[f].tobytes() + trial.ffns[f].tobytes()
            if key not in index:
                index[key] = len(heads)
                heads.append(trial.heads[f])
                ffns.append(trial.ffns[f])
            which[t, f if len(trial.heads) > 1 else slice(None)] = index[key]
    return Masks(np.stack(heads), np.stack(ffns), which)


# ---- models ----------------------------------------------------------------------------------


def component_means(
    model: Any, adapter: Adapter, rows: Sequence[Sequence[int]], batch_tokens: int
) -> Means:
    """Mean output of every head and FFN over all tokens of all rows, in fp32.

    Raises:
        RuntimeError: the model did not call a module that the adapter names.
    """
    layers = adapter.layout.n_layers
    device = next(model.parameters()).device
    heads: list[Tensor | None] = [None] * layers
    ffns: list[Tensor | None] = [None] * layers
    mask = torch.empty(0)

    def add(sums: list[Tensor | None], layer: int, x: Tensor) -> None:
        there = x.reshape(*mask.shape, -1)[mask].double().sum(dim=0)
        before = sums[layer]
        sums[layer] = there if before is None else before + there

    with ExitStack() as stack:
        for layer in range(layers):
            stack.enter_context(_on_heads(adapter, layer, lambda x, at=layer: add(heads, at, x)))
            stack.enter_context(_on_ffn(adapter, layer, lambda x, at=layer: add(ffns, at, x)))
        for batch in batches([len(r) for r in rows], batch_tokens):
            padded = pad([rows[i] for i in batch], "right", device)
            mask = padded.mask.bool()
            _states(model, padded)
    n = sum(len(r) for r in rows)
    return Means(_mean(heads, n), _mean(ffns, n))


def _mean(sums: Sequence[Tensor | None], n: int) -> Tensor:
    there = [s for s in sums if s is not None]
    if len(there) != len(sums):
        raise RuntimeError(f"only {len(there)} of {len(sums)} layers called the traced module")
    return (torch.stack(there) / n).float()


def _states(model: Any, padded: Padded) -> None:
    """Run the blocks, without the output embedding."""
    forward(model.base_model, padded, use_cache=False)


@contextmanager
def ablated(
    adapter: Adapter, means: Means, heads: Bool[Tensor, "R L H"], ffns: Bool[Tensor, "R L"]
) -> Iterator[None]:
    """While open, row r of a batch runs with its own heads and FFNs mean-ablated."""
    with ExitStack() as stack:
        for layer in range(adapter.layout.n_layers):
            if heads[:, layer].any():
                wide = heads[:, layer].repeat_interleave(adapter.layout.head_dim, dim=-1)
                change = _replacing(wide[:, None], means.heads[layer])
                stack.enter_context(_on_heads(adapter, layer, change))
            if ffns[:, layer].any():
                change = _replacing(ffns[:, layer, None, None], means.ffns[layer])
                stack.enter_context(_on_ffn(adapter, layer, change))
        yield


def _replacing(where: Tensor, mean: Tensor) -> Any:
    """x [R, S, width] -> x with the mean where [R, 1, width or 1] is True."""

    def change(x: Tensor) -> Tensor:
        rows = x.reshape(len(where), -1, x.shape[-1])
        return torch.where(where, mean.to(x.dtype), rows).reshape(x.shape)

    return change


@contextmanager
def _on_heads(adapter: Adapter, layer: int, change: Any) -> Iterator[None]:
    """Hand a layer's concatenated head outputs to `change`, and use what it gives back, if any."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        new = change(args[0])
        return None if new is None else (new, *args[1:])

    handle = adapter.output_projection(layer).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _on_ffn(adapter: Adapter, layer: int, change: Any) -> Iterator[None]:
    """Hand a layer's FFN output to `change`, and use what it gives back, if any."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        new = change(first)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = adapter.ffn(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _scores(
    model: Any,
    adapter: Adapter,
    means: Means,
    items: Sequence[Item],
    masks: Masks,
    batch_tokens: int,
) -> tuple[npt.NDArray[np.float64], Bools]:
    """Summed log-probability (nats) and whole answer of every trial and fact: [trials, F]."""
    every = masks.which * len(items) + np.arange(len(items))
    pairs, back = np.unique(every, return_inverse=True)
    mask, fact = np.divmod(pairs, len(items))
    targets = [Target(i.encoded.ids, *i.encoded.answer) for i in items]
    logprob, whole = np.empty(len(pairs)), np.empty(len(pairs), np.bool_)
    heads, ffns = torch.from_numpy(masks.heads), torch.from_numpy(masks.ffns)
    device = next(model.parameters()).device
    for batch in batches([len(targets[f].ids) for f in fact], batch_tokens):
        here = mask[batch]
        chosen = [targets[f] for f in fact[batch]]
        with ablated(adapter, means, heads[here].to(device), ffns[here].to(device)):
            lp, rank = token_scores(*target_logits(model, chosen))
        starts = np.cumsum([0, *(t.end - t.start for t in chosen)])[:-1]
        logprob[batch] = np.add.reduceat(lp.double().cpu().numpy(), starts)
        whole[batch] = np.maximum.reduceat(rank.cpu().numpy(), starts) == 0
    return logprob[back].reshape(every.shape), whole[back].reshape(every.shape)


# ---- rows ------------------------------------------------------------------------------------


def _table(
    items: Sequence[Item],
    trials: Sequence[Trial],
    logprob: npt.NDArray[np.float64],
    whole: Bools,
    keys: Mapping[str, Any],
) -> pa.Table:
    """One row a trial and fact, built column by column."""
    n, facts = len(trials), len(items)
    reasons = np.stack([np.broadcast_to(np.array(t.reasons, object), facts) for t in trials])
    scored = pa.array(reasons.ravel().tolist(), pa.string()).is_null().to_numpy(False)
    reasons[scored.reshape(n, facts) & ~np.isfinite(logprob)] = NOT_FINITE
    reason = pa.array(reasons.ravel().tolist(), pa.string())
    blank = reason.is_valid().to_numpy(False)
    n_ablated = np.stack([np.broadcast_to(t.heads.sum(axis=(1, 2)), facts) for t in trials])

    def by_trial(values: Sequence[Any]) -> pa.Array:
        return pa.array(np.repeat(np.array(values, object), facts).tolist())

    def by_fact(values: Sequence[Any]) -> pa.Array:
        return pa.array(list(values) * n)

    columns = {
        **{name: [value] * (n * facts) for name, value in keys.items()},
        "role": by_trial([t.role for t in trials]),
        "condition": by_trial([t.condition for t in trials]),
        "draw": by_trial([t.draw for t in trials]),
        "fact_id": by_fact([i.fact_id for i in items]),
        "relation": by_fact([i.relation for i in items]),
        "n_ablated": n_ablated.ravel(),
        "n_role": np.stack([np.broadcast_to(t.n_role, facts) for t in trials]).ravel(),
        "logprob_sum_nats": pa.array(logprob.ravel(), mask=blank),
        "n_tokens": by_fact([i.encoded.n_answer for i in items]),
        "whole_answer": pa.array(whole.ravel(), mask=blank),
        "reason": reason,
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in ABLATIONS.arrow]
    return pa.table(arrays, schema=ABLATIONS.arrow)


def _dropped_rows(dropped: Sequence[Item]) -> list[dict[str, Any]]:
    """Facts that cannot be traced keep one row, with the reason."""
    return [
        {
            "role": "none",
            "condition": "intact",
            "draw": 0,
            "fact_id": item.fact_id,
            "relation": item.relation,
            "n_ablated": 0,
            "n_role": 0,
            "reason": item.encoded.reason,
        }
        for item in dropped
    ]
