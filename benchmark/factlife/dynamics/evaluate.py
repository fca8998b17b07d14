"""What a model knows of people, from one forward over their biographies.

Shapes: b people measured, a attributes (one sentence each), c tokens, p value tokens.

Every sentence is in a template that its person is never trained with; the same text is measured
at every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from factlife import stats
from factlife.corpora.biographies import Encoder
from factlife.dynamics.attention import (
    PatchedModel,
    Sentences,
    Signature,
    attended,
    signature,
)
from factlife.scoring.targets import logits_at, token_scores

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """People who are measured, with their text as tokens.

    Attributes:
        population: known, held_out, old or taught.
    """

    population: str
    ids: Int64[Tensor, "b c"]
    sentences: Sentences


@dataclass(frozen=True)
class Outcome:
    """What a model did on a panel.

    Attributes:
        loss: summed over a value's tokens, nats.
        right: every token of the value is the argmax.
        top: probability of the most probable token where the value begins.
        entropy: of the next token there, nats.
        signatures: of each layer.
    """

    loss: Float[Tensor, "b a"]
    right: Bool[Tensor, "b a"]
    top: Float[Tensor, "b a"]
    entropy: Float[Tensor, "b a"]
    signatures: tuple[Signature, ...]


def make_panel(
    encoder: Encoder, population: str, people: npt.ArrayLike, count: int, seed: int
) -> Panel:
    """At most `count` of `people`, evenly spread, each with one biography in eval templates."""
    everybody = np.asarray(people)
    chosen = everybody[np.linspace(0, len(everybody) - 1, min(count, len(everybody))).astype(int)]
    made = encoder.biographies(chosen, np.random.default_rng(seed), pool="eval")
    positions = np.arange(made.ids.shape[1])
    inside = (positions >= made.name_start[..., None]) & (positions < made.name_end[..., None])
    spans = (made.name_start, made.name_end, made.value_start, made.value_end)
    tensors = [torch.from_numpy(s.astype(np.int64)) for s in spans]
    sentences = Sentences(torch.from_numpy(inside.any(1)), *tensors)
    return Panel(population, torch.from_numpy(made.ids), sentences)


def split(panel: Panel, rows: int) -> Iterator[Panel]:
    """The panel in pieces of at most `rows` people."""
    s = panel.sentences
    for at in range(0, len(panel.ids), rows):
        piece = slice(at, at + rows)
        spans = (s.name, s.name_start, s.name_end, s.value_start, s.value_end)
        yield Panel(panel.population, panel.ids[piece], Sentences(*(x[piece] for x in spans)))


@torch.no_grad()
def measure(model: nn.Module, panel: Panel, rows: int, device: torch.device | str) -> Outcome:
    """Measure a panel, `rows` people a forward. Dropout is off meanwhile."""
    training = model.training
    model.eval()
    pieces = [_measure(model, piece, device) for piece in split(panel, rows)]
    model.train(training)
    shares = [len(o.loss) / len(panel.ids) for o in pieces]
    layers = zip(*(o.signatures for o in pieces), strict=True)
    return Outcome(
        torch.cat([o.loss for o in pieces]),
        torch.cat([o.right for o in pieces]),
        torch.cat([o.top for o in pieces]),
        torch.cat([o.entropy for o in pieces]),
        tuple(_mean(layer, shares) for layer in layers),
    )


def _mean(signatures: Sequence[Signature], shares: Sequence[float]) -> Signature:
    def mean(name: str) -> float:
        return float(sum(w * getattr(s, name) for s, w in zip(signatures, shares, strict=True)))

    return Signature(mean("grouping"), mean("extraction"), mean("sharpness"))


def _measure(model: nn.Module, panel: Panel, device: torch.device | str) -> Outcome:
    ids, s = panel.ids.to(device), _moved(panel.sentences, device)
    length = s.value_end - s.value_start
    value = torch.arange(length.numel(), device=ids.device).repeat_interleave(length.flatten())
    first = length.flatten().cumsum(0) - length.flatten()
    within = torch.arange(len(value), device=ids.device) - first[value]
    row = value // length.shape[1]
    column = s.value_start.flatten()[value] + within
    inner: Any = model.model if isinstance(model, PatchedModel) else model
    with logits_at(inner, row, column - 1):
        logits, patterns = attended(model, ids)
    logits = logits.squeeze(0).float()
    logprob, rank = token_scores(logits, ids[row, column])
    q = torch.log_softmax(logits[first], dim=-1)
    loss = torch.zeros(length.numel(), device=ids.device).index_add(0, value, -logprob)
    wrong = torch.zeros(length.numel(), device=ids.device).index_add(0, value, (rank > 0).float())
    shape = length.shape
    return Outcome(
        loss.view(shape).cpu(),
        (wrong == 0).view(shape).cpu(),
        q.max(-1).values.exp().view(shape).cpu(),
        torch.special.entr(q.exp()).sum(-1).view(shape).cpu(),
        tuple(signature(p, s) for p in patterns),
    )


def _moved(s: Sentences, device: torch.device | str) -> Sentences:
    spans = (s.name, s.name_start, s.name_end, s.value_start, s.value_end)
    return Sentences(*(x.to(device) for x in spans))


def eval_rows(outcomes: Mapping[str, Outcome], keys: Row, restored: str = "none") -> list[Row]:
    """Rows of `biography_eval`: a mean over people and attributes for each population."""
    rows = []
    for population, o in outcomes.items():
        row = {
            **keys,
            "population": population,
            "restored": restored,
            "n_people": len(o.loss),
            "loss_nats": float(o.loss.double().mean()),
            "accuracy": float(o.right.double().mean()),
            "top_probability": float(o.top.double().mean()),
            "entropy_nats": float(o.entropy.double().mean()),
        }
        if population == "held_out" and "known" in outcomes:
            row["auroc"] = stats.auroc(
                outcomes["known"].top.flatten().numpy(), o.top.flatten().numpy()
            )
        rows.append(row)
    return rows


def signature_rows(outcomes: Mapping[str, Outcome], keys: Row) -> list[Row]:
    """Rows of `attention_signatures`: one a layer, on people trained on."""
    return [
        {
            **keys,
            "population": population,
            "layer": layer,
            "grouping": s.grouping,
            "extraction": s.extraction,
            "sharpness": s.sharpness,
        }
        for population, o in outcomes.items()
        if population in ("known", "old")
        for layer, s in enumerate(o.signatures)
    ]
