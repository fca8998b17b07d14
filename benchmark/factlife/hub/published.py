"""Figures that the papers published, for comparison by eye: never a row, never ranked.

They were measured by others, with other code and other facts. A figure that the papers do not
give, or that could not be read there, is not in this list.
"""

from __future__ import annotations

from dataclasses import dataclass

TIMECOURSE = "Time Course MechInterp (Hakimi et al., Findings of ACL 2025, arXiv 2506.03434)"
DYNAMICS = "How do language models learn facts? (Zucchet et al., arXiv 2503.21676)"


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        subject: model or setting.
        beside: the metric of this board that asks the nearest question; empty where none does.
    """

    quantity: str
    figure: str
    subject: str
    source: str
    beside: str = ""


_OLMO = "OLMo-7B-0424, 5K to 200K steps and the last"
PUBLISHED: tuple[Figure, ...] = (
    Figure(
        "Active attention heads", "113 (11 %) of 1024 at first, 423 (41 %) at last", _OLMO,
        TIMECOURSE, "circuits.active_head_share",
    ),
    Figure(
        "Overlap (IoU) of the general heads with those at the end",
        "0.3 at first, 0.8 late in training", _OLMO, TIMECOURSE, "circuits.iou_last_general",
    ),
    Figure(
        "Number of general heads at the first two checkpoints", "94 and 107", _OLMO, TIMECOURSE,
        "circuits.head_share_general",
    ),
    Figure(
        "Accuracy on locations (LOC)", "nearly perfect within the first few checkpoints", _OLMO,
        TIMECOURSE, "recall.whole_answer_accuracy",
    ),
    Figure(
        "Accuracy on names (NAME)", "rises over all checkpoints", _OLMO, TIMECOURSE,
        "recall.whole_answer_accuracy",
    ),
    Figure(
        "End of the plateau, in steps", "t2 = 0.43 · N^0.81 for N individuals",
        "8 layers, width 512, batch 128, N = 4K to 256K, trained from scratch on biographies",
        DYNAMICS,
    ),
    Figure(
        "Loss without any knowledge of the individual", "6.784 nats, mean over attributes",
        "six attributes drawn uniformly from their lists", DYNAMICS,
    ),
)  # fmt: skip
