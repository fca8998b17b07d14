"""What injection runs cost, counted before anything runs. No torch.

Training takes 6 N + 6 L D c FLOPs a token (N parameters, L layers of width D, rows of c tokens: the
second term is causal attention; Kaplan et al. 2020, section 2.1, with the backward pass at
twice the forward), probing a third of that. Memory is 16 bytes a parameter (float32 weights,
gradients and two moments of AdamW) and, for one micro-batch, 34 D bytes a token and layer in
bfloat16 (Korthikanti et al. 2022, equation 2, without the attention matrix) and 10 bytes a
token and vocabulary entry for logits and their gradient; twice the activations in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factlife.injection.plan import RunPlan

BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Shape:
    """What the cost of a model follows from."""

    parameters: int
    layers: int
    width: int
    vocabulary: int

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
        )


@dataclass(frozen=True)
class Cost:
    """Of all injection runs of a profile.

    Attributes:
        runs, steps: injection runs, and updates over all of them.
        tokens: trained on.
        probe_tokens: read while probing.
        flops: of both.
        memory: bytes on one device.
        seconds: at the speed given.
    """

    runs: int
    steps: int
    tokens: int
    probe_tokens: int
    flops: float
    memory: float
    seconds: float


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
        a_token = 6 * shape.parameters + 6 * shape.layers * shape.width * s.context
        flops += a_token * (tokens + (reads + facts) / 3)
    return Cost(
        runs=len(plans),
        steps=sum(p.schedule.steps for p in plans),
        tokens=int(train),
        probe_tokens=int(forward),
        flops=flops,
        memory=max((_memory(p, shape, half=half) for p in plans), default=0.0),
        seconds=flops / speed,
    )


def _memory(plan: RunPlan, shape: Shape, *, half: bool) -> float:
    s = plan.settings
    tokens = -(-s.batch_rows // s.accumulation) * s.context
    layers = 1 if s.checkpointing else shape.layers
    kept = 2 * shape.width * shape.layers if s.checkpointing else 0
    activations = tokens * (34 * shape.width * layers + kept)
    logits = 10 * tokens * shape.vocabulary
    return BYTES_A_PARAMETER * shape.parameters + (1 if half else 2) * activations + logits
