"""What injection runs cost, counted before anything runs. No torch.

N = parameters, L = layers, D = width, V = vocabulary, c = tokens of a row.

Time: training takes 6 M + 6 L D c FLOPs a token, where M are the parameters that multiply (all but
an input embedding that is looked up only), and the second term is causal attention (Kaplan et al.
2020, section 2.1, with the backward pass at twice the forward); activation checkpointing runs the
forward once more; probing takes a third.

Memory of one device, of n that share a model (FSDP2):

    weights, gradients, moments   4, 4 and 8 bytes a parameter (float32, AdamW), over n
    casts                         2 bytes a parameter where bfloat16 copies are multiplied with
    gathered                      more than one device: what is whole for a while, see `_gathered`
    activations                   A D bytes a token of a micro-batch and layer: `ACTIVATIONS`
    logits                        `LOGITS` V bytes a token of a micro-batch

A and the logits' factor were measured (docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factlife.config import Injection
from factlife.injection.plan import RunPlan

WEIGHTS, GRADIENTS, MOMENTS, CAST = 4, 4, 8, 2  # bytes a parameter
# Bytes that a forward keeps for the backward, a token, layer and channel, in (bfloat16, float32),
# by `model_type`, without dropout; an architecture that is not here counts as the largest.
ACTIVATIONS = {"gpt_neox": (33, 64), "llama": (50, 74), "olmo2": (66, 90), "gpt2": (55, 104)}
LARGEST = (66, 104)
LOGITS = (14, 16)  # bytes a token and vocabulary entry
# Bytes of the devices that `plan` names; a tenth is left to the libraries and to fragmentation.
DEVICES = {"24 GB": 24e9, "40 GB": 40e9, "80 GB": 80e9, "141 GB": 141e9}
USABLE = 0.9


@dataclass(frozen=True)
class Shape:
    """What the cost of a model follows from.

    Attributes:
        kind: `model_type` of its config.
        tied: one matrix embeds and unembeds.
    """

    parameters: int
    layers: int
    width: int
    vocabulary: int
    kind: str = ""
    tied: bool = True

    @classmethod
    def of_config(cls, config: Mapping[str, Any], parameters: int) -> Shape:
        """From a config.json, whatever the architecture calls its sizes; absent ones count 0."""

        def first(*names: str) -> int:
            return next((int(config[n]) for n in names if isinstance(config.get(n), int)), 0)

        return cls(
            parameters,
            first("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
            first("hidden_size", "n_embd", "d_model"),
            first("vocab_size"),
            str(config.get("model_type", "")),
            bool(config.get("tie_word_embeddings", True)),
        )

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.width)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device while a run trains."""

    weights: float
    gradients: float
    moments: float
    casts: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it, at once: when the backward begins."""
        kept = self.weights + self.gradients + self.moments + self.casts + self.gathered
        return kept + self.activations + self.logits

    @property
    def fits(self) -> str | None:
        """The smallest of `DEVICES` that holds it; None where none does."""
        return next((name for name, size in DEVICES.items() if self.total <= USABLE * size), None)


@dataclass(frozen=True)
class Cost:
    """Of all injection runs of a profile.

    Attributes:
        runs, steps: injection runs, and updates over all of them.
        tokens: trained on.
        probe_tokens: read while probing.
        flops: of both.
        memory: bytes on one device, of one.
        seconds: at the speed given, on one device.
        devices: memory of each of so many devices that share the model.
    """

    runs: int
    steps: int
    tokens: int
    probe_tokens: int
    flops: float
    memory: float
    seconds: float
    devices: Mapping[int, Memory]


def cost(
    plans: Sequence[RunPlan],
    shape: Shape,
    probe_tokens: int,
    fact_tokens: int,
    speed: float,
    *,
    half: bool,
) -> Cost:
    """Add up a profile's runs.

    Args:
        probe_tokens: tokens of one pass over a run's probes, prefixes included.
        fact_tokens: tokens of one pass over the facts.
        speed: FLOP/s that training and probing are expected to reach.
        half: activations in bfloat16.
    """
    train = forward = flops = 0.0
    for plan in plans:
        s = plan.settings
        tokens = plan.schedule.steps * s.batch_rows * s.context
        reads = len(plan.schedule.probe_steps) * probe_tokens
        facts = len(plan.schedule.corruption_steps) * (fact_tokens + s.heldout_rows * s.context)
        train, forward = train + tokens, forward + reads + facts
        flops += tokens * training_flops(shape, s)
        flops += (reads + facts) * forward_flops(shape, s.context)
    devices = {n: m for n in (1, 2, 4, 8, 16) if (m := largest(plans, shape, half=half, devices=n))}
    return Cost(
        runs=len(plans),
        steps=sum(p.schedule.steps for p in plans),
        tokens=int(train),
        probe_tokens=int(forward),
        flops=flops,
        memory=devices[1].total if devices else 0.0,
        seconds=flops / speed,
        devices=devices,
    )


def forward_flops(shape: Shape, context: int) -> float:
    """FLOPs of a forward, a token."""
    return 2 * shape.multiplied + 2 * shape.layers * shape.width * context


def training_flops(shape: Shape, settings: Injection) -> float:
    """FLOPs of forward and backward, a token."""
    return (4 if settings.checkpointing else 3) * forward_flops(shape, settings.context)


def largest(
    plans: Sequence[RunPlan], shape: Shape, *, half: bool, devices: int = 1
) -> Memory | None:
    """Memory of the largest run; None where its rows cannot be shared by so many devices."""
    found = [memory(shape, p.settings, half=half, devices=devices) for p in plans]
    shared = [p.settings.batch_rows % (p.settings.accumulation * devices) == 0 for p in plans]
    if not found or (devices > 1 and not all(shared)):
        return None
    return max(found, key=lambda m: m.total)


def memory(shape: Shape, settings: Injection, *, half: bool, devices: int = 1) -> Memory:
    """Bytes of each of so many devices while a run with these settings trains."""
    n, s = shape.parameters, settings
    tokens = -(-s.batch_rows // (s.accumulation * devices)) * s.context
    a_layer = ACTIVATIONS.get(shape.kind, LARGEST)[0 if half else 1]
    activations = tokens * a_layer * shape.width * shape.layers
    logits = LOGITS[0 if half else 1] * tokens * shape.vocabulary
    if s.checkpointing:  # what each layer begins from, and one layer when the logits are gone
        a_layer_alone = tokens * a_layer * shape.width
        activations = tokens * WEIGHTS * shape.width * shape.layers
        activations += max(0, a_layer_alone - logits)
    return Memory(
        weights=WEIGHTS * n / devices,
        gradients=GRADIENTS * n / devices,
        moments=MOMENTS * n / devices,
        casts=CAST * n if half else 0,
        gathered=_gathered(shape) if devices > 1 else 0,
        activations=activations,
        logits=logits,
    )


def _gathered(shape: Shape) -> float:
    """Bytes of what FSDP2 holds whole: two blocks, and the embeddings from forward to backward.

    Weights and gradients of each; the blocks are the one at work and the next.
    """
    matrices = 1 if shape.tied else 2
    outside = min(shape.parameters, matrices * shape.vocabulary * shape.width)
    block = (shape.parameters - outside) / max(1, shape.layers)
    return (WEIGHTS + GRADIENTS) * (outside + 2 * block)
