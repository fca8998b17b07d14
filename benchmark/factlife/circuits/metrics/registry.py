"""Names, units and meanings of the circuits track's metrics, for the registry of standard metrics.

Scopes: `overall` (one disjoint role per component); a relation (only what differs between
relations: the relation and fact roles, and what is active); `tau=0.02` or `theta=0.2` (the same
numbers at another threshold).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """One metric, in the fields of the registry of standard metrics."""

    name: str
    title: str
    unit: str
    direction: str
    meaning: str
    headline: bool = False
    tokenizer_free: bool = True
    per_revision: bool = True


KINDS = {"head": "heads", "ffn": "FFNs", "expert": "experts"}
ROLE_NAMES = ("general", "entity", "relation", "fact")
SETS = (*ROLE_NAMES, "active")
THIRDS = ("early", "middle", "late")
_HOLDS = {
    "general": "are active for all kinds of tokens",
    "entity": "are active for subjects and answers, but not in general",
    "relation": "are active for the answers of a relation, but in no wider role",
    "fact": "are active for the answer of single facts, but in no wider role",
    "active": "hold any role",
}


def prefix(kind: str) -> str:
    """What the names of a kind's metrics begin with; heads have the plain names."""
    return "circuits." if kind == "head" else f"circuits.{kind}_"


def _counts() -> Iterator[Entry]:
    yield Entry(
        "circuits.active_head_share", "Active heads", "share of heads", "neither",
        "Share of attention heads that hold any role in the recall of the facts.", headline=True,
    )  # fmt: skip
    yield Entry(
        "circuits.active_heads", "Number of active heads", "heads", "neither",
        "Attention heads that hold any role in the recall of the facts.",
    )  # fmt: skip
    yield Entry(
        "circuits.active_heads_excess", "Active heads beyond an untrained model", "heads",
        "neither", "Active heads minus those of a randomly initialised model of the same shape.",
    )  # fmt: skip
    for kind, several in (("ffn", "FFNs"), ("expert", "experts")):
        yield Entry(
            f"circuits.active_{kind}_share", f"Active {several}", f"share of {several}", "neither",
            f"Share of {several} that hold any role in the recall of the facts.",
        )  # fmt: skip
    for kind, several in KINDS.items():
        for role in ROLE_NAMES:
            yield Entry(
                f"circuits.{kind}_share_{role}", f"{role.capitalize()} {several}",
                f"share of {several}", "neither", f"Share of {several} that {_HOLDS[role]}.",
            )  # fmt: skip
    yield Entry(
        "circuits.fact_heads_per_fact", "Fact heads per fact", "heads per fact", "neither",
        "Mean over facts of the heads that are active for this fact's answer but hold no wider "
        "role.",
    )  # fmt: skip
    yield Entry(
        "circuits.relation_heads_null", "Relation heads, labels permuted", "heads", "neither",
        "Relation heads that are found when the facts are dealt to the relations at random.",
    )  # fmt: skip
    yield Entry(
        "circuits.relation_heads_excess", "Relation heads beyond permuted labels", "heads",
        "neither", "Relation heads minus those found when facts are dealt to relations at random.",
    )  # fmt: skip


def _overlaps() -> Iterator[Entry]:
    against = {"last": "at the end of pretraining", "previous": "at the checkpoint before"}
    for kind, several in KINDS.items():
        for other, words in against.items():
            for role in SETS:
                name = f"{prefix(kind)}iou_{other}_{role}"
                title = f"IoU with the {other}, {role} {several}"
                yield Entry(
                    name, title, "IoU", "neither",
                    f"Overlap (intersection over union) of the {role} {several} with those "
                    f"{words}.",
                )  # fmt: skip
                yield Entry(
                    f"{name}_null", f"{title}: null", "IoU", "neither",
                    "The same overlap when as many components are drawn at random "
                    + ("within each layer." if kind != "ffn" else "among all layers."),
                )  # fmt: skip
    yield Entry(
        "circuits.iou_general_excess", "Stability of the general heads", "IoU above the null",
        "neither",
        "Overlap of the general heads with those at the end of pretraining, above its null, "
        "averaged over the logarithm of training tokens.",
        headline=True, per_revision=False,
    )  # fmt: skip
    for role in SETS:
        yield Entry(
            f"circuits.split_half_{role}", f"Split-half agreement, {role} heads", "IoU", "higher",
            f"Overlap of the {role} heads that two random halves of the facts give: the most that "
            "any comparison of such sets could show.",
        )  # fmt: skip


def _switches() -> Iterator[Entry]:
    for third in THIRDS:
        name, title = f"circuits.switches_{third}", f"Role switches, {third} layers"
        yield Entry(
            name, title, "switches per head", "neither",
            f"Changes from one active role to another between checkpoints, per head of the {third} "
            "third of the layers.",
            per_revision=False,
        )  # fmt: skip
        yield Entry(
            f"{name}_null", f"{title}: null", "switches per head", "neither",
            "The same number when the heads of a layer are shuffled at every checkpoint.",
            per_revision=False,
        )  # fmt: skip
        yield Entry(
            f"{name}_excess", f"{title} beyond the null", "switches per head", "neither",
            "Switches minus their number when the heads of a layer are shuffled: below 0 where "
            "heads keep their roles.",
            per_revision=False,
        )  # fmt: skip


def _ablations() -> Iterator[Entry]:
    for role in ROLE_NAMES:
        for suffix, unit in (("", "difference of shares"), ("_nats", "nats")):
            what = "recall" if not suffix else "the answer's log-probability"
            yield Entry(
                f"circuits.ablation_whole{suffix}_{role}",
                f"Loss without any {role} head" + (", nats" if suffix else ""), unit, "neither",
                f"How much {what} drops when all of the {role} heads are set to their mean.",
            )  # fmt: skip
            yield Entry(
                f"circuits.ablation_drop{suffix}_{role}",
                f"Loss without the {role} heads" + (", nats" if suffix else ""), unit, "neither",
                f"How much {what} drops when the {role} heads, as many as have controls, are set "
                "to their mean.",
            )  # fmt: skip
            yield Entry(
                f"circuits.ablation_effect{suffix}_{role}",
                f"Loss due to the {role} heads" + (", nats" if suffix else ""), unit, "neither",
                f"How much further {what} drops than with as many other active heads of the same "
                "layers set to their mean.",
                headline=not suffix and role == "general",
            )  # fmt: skip
    for name, title, meaning in (
        ("faithfulness", "Faithfulness of circuits",
         "Recall with all but each fact's circuit set to its mean, as a share of intact recall."),
        ("faithfulness_control", "Faithfulness of random circuits",
         "The same share with a random circuit of as many components of each layer kept."),
        ("faithfulness_none", "Recall without any circuit",
         "The same share with every head and FFN set to its mean."),
    ):  # fmt: skip
        yield Entry(f"circuits.{name}", title, "share of intact recall", "neither", meaning)
    yield Entry(
        "circuits.circuit_only_drop_nats", "Loss with circuits only", "nats", "neither",
        "How much the answer's log-probability drops when all but its fact's circuit is set to "
        "its mean.",
    )  # fmt: skip


REGISTRY: tuple[Entry, ...] = (*_counts(), *_overlaps(), *_switches(), *_ablations())
