"""How each number of the circuits track is made: formula, source and interval, for the registry.

H_role = the components that hold a role, S = all of their kind, f = a fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from factlife.circuits.metrics.registry import KINDS, ROLE_NAMES, SETS, THIRDS, prefix

Formula = tuple[str, str, str]  # formula, source, interval method

PAPER = "timecourse-2025, roles and their overlap"
NULLED = "timecourse-2025; the null is ours"
OURS = "ours"
HALVES = "random halves of the facts within relations, moved onto the value"
AGREEMENT = "quantiles over random halves of the facts"
FACTS = "bootstrap of facts within relations; Wilson where no fact differs"
NATS = "bootstrap of facts within relations"
LABELS = "null quantiles (relation labels permuted)"


def _identities(kind: str) -> str:
    return f"null quantiles (identities permuted {'among' if kind == 'ffn' else 'within'} layers)"


def _counts() -> Iterator[tuple[str, Formula]]:
    yield "circuits.active_heads", ("|H_active|", PAPER, HALVES)
    yield "circuits.active_heads_excess", ("|H_active| - |H_active| untrained", OURS, HALVES)
    for kind in KINDS:
        yield f"circuits.active_{kind}_share", ("|H_active| / |S|", PAPER, HALVES)
        for role in ROLE_NAMES:
            yield f"circuits.{kind}_share_{role}", (f"|H_{role}| / |S|", PAPER, HALVES)
    yield "circuits.fact_heads_per_fact", ("mean_f |H_f|", PAPER, FACTS)
    yield "circuits.relation_heads_null", ("mean |H_relation|, labels permuted", OURS, LABELS)
    yield "circuits.relation_heads_excess", ("|H_relation| - its null's mean", OURS, LABELS)


def _overlaps() -> Iterator[tuple[str, Formula]]:
    for kind in KINDS:
        for other in ("last", "previous"):
            for role in SETS:
                name = f"{prefix(kind)}iou_{other}_{role}"
                iou = f"|H_{role} ∩ H'_{role}| / |H_{role} ∪ H'_{role}|, H' of the {other} one"
                yield name, (iou, PAPER, HALVES)
                yield (
                    f"{name}_null",
                    ("mean of that IoU over permutations", OURS, _identities(kind)),
                )
    area = "mean over ln D of (IoU of H_general with the last one - its null's mean)"
    yield "circuits.iou_general_excess", (area, NULLED, _identities("head"))
    for role in SETS:
        halves = f"mean IoU of H_{role} of two disjoint halves of the facts"
        yield f"circuits.split_half_{role}", (halves, OURS, AGREEMENT)


def _switches() -> Iterator[tuple[str, Formula]]:
    heads = "bootstrap of heads within layers; Wilson where no head differs"
    for third in THIRDS:
        name = f"circuits.switches_{third}"
        yield name, ("changes between two active roles / heads of the layers", PAPER, heads)
        yield f"{name}_null", ("its mean, heads of a layer shuffled", OURS, _identities("head"))
        yield f"{name}_excess", ("switches - their null's mean", NULLED, _identities("head"))


def _ablations() -> Iterator[tuple[str, Formula]]:
    for role in ROLE_NAMES:
        for suffix, of, interval in (("", "recall", FACTS), ("_nats", "ln p(answer)", NATS)):
            start = f"circuits.ablation_{{}}{suffix}_{role}"
            whole = f"mean_f {of}(intact) - {of}(all of H_{role} at its mean)"
            yield start.format("whole"), (whole, OURS, interval)
            drop = f"mean_f {of}(intact) - {of}(those of H_{role} with controls at their mean)"
            yield start.format("drop"), (drop, OURS, interval)
            effect = f"mean_f {of}(control heads at their mean) - {of}(H_{role} at its mean)"
            yield start.format("effect"), (effect, OURS, interval)
    for name, kept in (
        ("faithfulness", "the circuit"), ("faithfulness_control", "a random circuit"),
        ("faithfulness_none", "nothing"),
    ):  # fmt: skip
        share = f"sum_f recall(only {kept} kept) / sum_f recall(intact)"
        yield f"circuits.{name}", (share, OURS, FACTS)
    only = "mean_f ln p(answer; intact) - ln p(answer; only the circuit kept)"
    yield "circuits.circuit_only_drop_nats", (only, OURS, NATS)


FORMULAS: Mapping[str, Formula] = dict([*_counts(), *_overlaps(), *_switches(), *_ablations()])
