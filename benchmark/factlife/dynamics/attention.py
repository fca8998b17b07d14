"""Attention patterns: what they show of the circuit that recalls facts, and how to replace them.

Shapes: b rows, h heads, c tokens of a row, a sentences of a row, L layers.

The signatures are read from the model's own eager attention. Patching goes through an attention
function registered with transformers, so that everything else is the model's own too.

Source: dynamics-2025, section 4 (attention signatures; patching of attention patterns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

PATCHED = "factlife_patched"  # name of our attention function

Pattern = Float[Tensor, "b h c c"]


@dataclass(frozen=True)
class Sentences:
    """Where names and values stand in rows of tokens.

    Attributes:
        name: tokens of the person's name, in every sentence.
        name_start, name_end: first token of each sentence's name, and one after the last.
        value_start, value_end: the same of its value; the token before predicts the value.
    """

    name: Bool[Tensor, "b c"]
    name_start: Int64[Tensor, "b a"]
    name_end: Int64[Tensor, "b a"]
    value_start: Int64[Tensor, "b a"]
    value_end: Int64[Tensor, "b a"]


@dataclass(frozen=True)
class Signature:
    """What one layer's patterns show, each a mean over heads, sentences and rows; 0 to 1.

    Attributes:
        grouping: attention from a name's last token to its other tokens; 0 for names of one token.
        extraction: attention from the position that predicts a value to the person's name, every
            mention so far.
        sharpness: entropy of that position's attention over ln of the tokens that it can see: 0
            looks at one token, 1 evenly at all.
    """

    grouping: float
    extraction: float
    sharpness: float


def signature(pattern: Pattern, sentences: Sentences) -> Signature:
    """Read the signatures of one layer (dynamics-2025, section 4)."""
    last = _rows_of(pattern, sentences.name_end - 1)
    keys = torch.arange(pattern.shape[-1], device=pattern.device)
    start, end = sentences.name_start[..., None], sentences.name_end[..., None] - 1
    others = ((keys >= start) & (keys < end))[:, None]
    looking = _rows_of(pattern, sentences.value_start - 1)
    on_name = looking * sentences.name[:, None, None]
    return Signature(
        float((last * others).sum(-1).mean()),
        float(on_name.sum(-1).mean()),
        float(_sharpness(looking, sentences.value_start).mean()),
    )


def _rows_of(pattern: Pattern, query: Int64[Tensor, "b a"]) -> Float[Tensor, "b h a c"]:
    """The patterns of some queries, in float32."""
    index = query[:, None, :, None].expand(-1, pattern.shape[1], -1, pattern.shape[-1])
    return pattern.gather(2, index).float()


def _sharpness(
    looking: Float[Tensor, "b h a c"], visible: Int64[Tensor, "b a"]
) -> Float[Tensor, "b h a"]:
    """Entropy over ln(visible tokens), which is 1 where only one token can be seen."""
    entropy = -torch.xlogy(looking, looking).sum(-1)
    return entropy / visible.clamp(min=2).float().log()[:, None]


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """While open, the model computes attention as weights, which can be handed out."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# ---- patching --------------------------------------------------------------------------------

Replace = Callable[[int, Pattern], Pattern]
_replace: ContextVar[Replace | None] = ContextVar("replace", default=None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention that passes its pattern through whatever `patterns` has put there."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = query @ key.transpose(2, 3) * scale
    if attention_mask is not None:
        weights = weights + attention_mask
    pattern = functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    if (replace := _replace.get()) is not None:
        pattern = replace(int(module.layer_idx), pattern)  # type: ignore[arg-type]
    used = functional.dropout(pattern, dropout, module.training)
    return (used @ value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(PATCHED, _attention)
AttentionMaskInterface.register(PATCHED, eager_mask)


@contextmanager
def patterns(replace: Replace) -> Iterator[None]:
    """While open, `replace(layer, pattern)` says which pattern a `PATCHED` layer uses."""
    token = _replace.set(replace)
    try:
        yield
    finally:
        _replace.reset(token)


class PatchedModel(nn.Module):
    """A model whose attention patterns are those of a reference model on the same tokens.

    Each forward is a twin pass: the reference first, without gradients, then the model with the
    reference's pattern in the place of its own at every layer. Its queries and keys then have no
    part in the loss and get no gradient: weights that are not decayed without one stay as they
    are.

    Attributes:
        model: the model in training, a Hugging Face causal model.
        active: off: the model attends by itself.
    """

    def __init__(self, model: Any, reference: Any) -> None:
        """`reference` has the layers and heads of `model`; its weights are frozen."""
        super().__init__()
        self.model = model
        self.active = True
        for m in (model, reference):
            m.set_attn_implementation(PATCHED)
        # In a list it is no submodule: neither saved with the model nor trained.
        self._reference = [reference.eval().requires_grad_(False)]

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.model.config

    def forward(self, input_ids: Int64[Tensor, "b c"], **settings: Any) -> Any:
        """The model's output under the reference's patterns; `attentions` are those used."""
        if not self.active:
            return self.model(input_ids=input_ids, **settings)
        taken = self.reference_patterns(input_ids)
        with patterns(lambda layer, _: taken[layer]):
            return self.model(input_ids=input_ids, **settings)

    @torch.no_grad()
    def reference_patterns(self, input_ids: Int64[Tensor, "b c"]) -> dict[int, Pattern]:
        """Layer -> the reference's pattern on these tokens."""
        taken: dict[int, Pattern] = {}

        def take(layer: int, pattern: Pattern) -> Pattern:
            taken[layer] = pattern
            return pattern

        reference = self._reference[0].to(input_ids.device)
        with patterns(take):
            reference(input_ids=input_ids, use_cache=False)
        return taken


@torch.no_grad()
def attended(
    model: nn.Module, input_ids: Int64[Tensor, "b c"]
) -> tuple[Float[Tensor, "_ _ v"], Sequence[Pattern]]:
    """Logits (at every position, unless a hook picks some) and the pattern of each layer.

    A `PatchedModel` hands out the patterns that it uses.
    """
    out: Any = SimpleNamespace()
    if isinstance(model, PatchedModel):
        out = model(input_ids=input_ids, use_cache=False, output_attentions=True)
    else:
        with eager(model):
            out = model(input_ids=input_ids, use_cache=False, output_attentions=True)
    return out.logits, out.attentions
