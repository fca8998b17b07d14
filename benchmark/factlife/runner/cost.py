"""What a run costs: FLOPs, bytes, memory, seconds. Arithmetic only; no torch.

N = parameters, and T = tokens that run through the model at one checkpoint. A forward takes 2 N T
FLOPs (Kaplan et al., 2020, section 2.1), the attention to earlier tokens left out: prompts are
short. docs/scaling.md holds the measured points behind the constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A forward and its trace against the forward alone, on prompts of this length (docs/log.md, and
# `tox run -e bench`, which bounds it).
TRACING = 1.3
# Share of the speed of a large matrix product that scoring reaches: measured on a CPU, assumed on
# a GPU, which short prompts fill less well.
CPU_EFFICIENCY, GPU_EFFICIENCY = 0.45, 0.25
# The same of fine-tuning in fp32 on short rows, and of training and reading in injection runs.
CPU_TUNING, GPU_TUNING = 0.55, 0.25
CPU_TRAINING, GPU_TRAINING = 0.6, 0.4
# Seconds a checkpoint in tables and files, whatever the model: measured.
FIXED_SECONDS = 1.0
LIBRARY_BYTES = 128 * 2**20
READ_BYTES_A_SECOND = 1e9  # weights are read twice: hashed, then loaded
AT_ONCE = 3  # checkpoints in the cache at once, of a series on the Hub
ITEM = 4  # bytes of a number: weights are held and scored in fp32


@dataclass(frozen=True)
class Work:
    """Tokens that run through the model.

    Attributes:
        scored: for recall, at each checkpoint.
        traced: for circuits, at each checkpoint.
        ablated: for the ablation of roles, at each checkpoint where that is done.
        attended: for the attention to subjects (dynamics), at each checkpoint.
    """

    scored: int
    traced: int = 0
    ablated: int = 0
    attended: int = 0


@dataclass(frozen=True)
class Tuning:
    """Tokens of the fine-tuning of one checkpoint (dynamics), over all of its runs.

    Attributes:
        trained: in training; `read`: in between.
    """

    trained: int = 0
    read: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint to measure.

    Attributes:
        bytes: size of its weight files.
        ablated: whether its roles are ablated.
    """

    parameters: int
    bytes: int
    ablated: bool = False


@dataclass(frozen=True)
class Machine:
    """What a run is done on.

    Attributes:
        flops: FLOP/s of a large matrix product in the dtype of the run.
        download: bytes a second from the Hub; None for a series that is here.
        efficiency: share of `flops` that scoring reaches, and `tuning` that fine-tuning does.
    """

    flops: float
    download: float | None = None
    efficiency: float = GPU_EFFICIENCY
    tuning: float = GPU_TUNING


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        bytes: of weights to read, and to download where they are not here.
        seconds: of one process, downloads beside the work.
    """

    flops: float
    bytes: int
    seconds: float

    @property
    def hours(self) -> float:
        """Hours of one process: on one GPU, GPU-hours."""
        return self.seconds / 3600


def flops(c: Checkpoint, work: Work) -> float:
    """FLOPs of one checkpoint."""
    tokens = work.scored + TRACING * work.traced + (work.ablated if c.ablated else 0)
    return 2 * c.parameters * (tokens + work.attended)


def seconds(c: Checkpoint, work: Work, machine: Machine) -> float:
    """Seconds of one checkpoint; its successor is downloaded meanwhile."""
    busy = FIXED_SECONDS + flops(c, work) / (machine.efficiency * machine.flops)
    busy += 2 * c.bytes / READ_BYTES_A_SECOND
    return max(busy, c.bytes / machine.download) if machine.download else busy


def run_cost(checkpoints: Sequence[Checkpoint], work: Work, machine: Machine) -> Cost:
    """Cost of all checkpoints, one after another in one process."""
    return Cost(
        sum(flops(c, work) for c in checkpoints),
        sum(c.bytes for c in checkpoints),
        sum(seconds(c, work, machine) for c in checkpoints),
    )


def memory(parameters: int, width: int, vocabulary: int, batch_tokens: int) -> int:
    """Bytes that measuring one checkpoint holds at most, about.

    The libraries, the weights, the states of a batch (24 times `width` a token, the FFN's among
    them), the logits of an eighth of its tokens (only answers are unembedded), and the
    contributions of a traced batch (256 MiB, and as much again while they are thresholded).
    """
    states = batch_tokens * (24 * width + vocabulary // 8)
    return LIBRARY_BYTES + ITEM * (parameters + states) + 2 * 256 * 2**20


def disk(checkpoint_bytes: int, checkpoints: int) -> int:
    """Bytes of a series on the Hub that lie in the cache at once."""
    return checkpoint_bytes * min(AT_ONCE, checkpoints)


def tuning_flops(parameters: int, tuning: Tuning) -> float:
    """FLOPs of a fine-tuning: forward 2 and backward 4, per parameter and token."""
    return parameters * (6 * tuning.trained + 2 * tuning.read)


def tuning_seconds(parameters: int, tuning: Tuning, machine: Machine) -> float:
    """Seconds of a fine-tuning, in fp32."""
    return tuning_flops(parameters, tuning) / (machine.tuning * machine.flops)


def tuning_memory(parameters: int) -> int:
    """Bytes of weights, gradients and Adam's two moments in fp32; copies lie on the CPU.

    Batches are short, so that their activations hardly count. It is not sharded.
    """
    return LIBRARY_BYTES + 4 * ITEM * parameters
