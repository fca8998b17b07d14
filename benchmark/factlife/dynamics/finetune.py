"""Fine-tuning on new facts: whom the text is about, and which weights to put back afterwards.

Source: dynamics-2025, section 5 (new knowledge corrupts old knowledge; replay). The swap-back
test is ours: it puts old attention or old FFN weights back and looks which of the two brings the
old facts back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from factlife.errors import UsageError

RESTORABLE: Mapping[str, re.Pattern[str]] = {
    "attention": re.compile(r"\.(self_attn|self_attention|attention|attn)\."),
    "mlp": re.compile(r"\.(mlp|feed_forward|ffn|block_sparse_moe)\."),
}

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Whom fine-tuning text is about: taught people at weight 1, old ones at `weight`.

    A distribution for `corpora.biographies.Sampler`; ids run from 0 to `n` - 1.
    """

    n: int
    old: npt.NDArray[np.int64]
    taught: npt.NDArray[np.int64]
    weight: float

    def phase(self, step: int) -> int:  # noqa: ARG002
        """Always 0: the mixture does not change."""
        return 0

    def weights(self, phase: int) -> Weights:  # noqa: ARG002
        """[n] weights; 0 for everybody else."""
        weights = np.zeros(self.n)
        weights[self.old] = self.weight
        weights[self.taught] = 1.0
        return weights


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter by name, on the CPU: an accelerator has training to hold."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}


def restorable(model: nn.Module, kind: str) -> list[str]:
    """Parameters of the `attention` or of the `mlp` blocks; norms before them are neither's.

    Raises:
        UsageError: the architecture's names are not known.
    """
    names = [n for n, _ in model.named_parameters() if RESTORABLE[kind].search(n)]
    if not names:
        raise UsageError(
            f"{type(model).__name__}: no parameter belongs to its {kind} by name; the swap-back "
            "test cannot be made on this architecture"
        )
    return names


@contextmanager
def restored(model: nn.Module, old: Mapping[str, Tensor], kind: str) -> Iterator[None]:
    """While open, the model has its old `attention` or `mlp` weights; the rest stays new."""
    parameters = dict(model.named_parameters())
    names = restorable(model, kind)
    new = {n: parameters[n].detach().to("cpu", copy=True) for n in names}
    try:
        _put(parameters, old, names)
        yield
    finally:
        _put(parameters, new, names)


@torch.no_grad()
def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], names: list[str]) -> None:
    for name in names:
        parameters[name].copy_(values[name])
