"""Rows of the scores table for a synthetic circuits track: shapes as measured, values near them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.report.circuit_run import Tracing

Row = dict[str, Any]
ROLES = ("general", "entity", "relation", "fact")
SETS = (*ROLES, "active")
SHARES = {"tau=0.005": 1.3, "tau=0.02": 0.8, "tau=0.04": 0.6, "theta=0.05": 1.2,
          "theta=0.2": 0.9, "theta=0.4": 0.5}  # fmt: skip
OVERLAPS = {"tau=0.005": 1.05, "tau=0.02": 0.9, "tau=0.04": 0.7, "theta=0.05": 1.02,
            "theta=0.2": 0.93, "theta=0.4": 0.8}  # fmt: skip
ONE = "only one checkpoint was measured"


def row(
    metric: str, scope: str, revision: str, value: float | None, half: float = 0.03, n: int = 16,
    unit: str = "share of heads", reason: str | None = None,
) -> Row:  # fmt: skip
    low, high = (None, None) if value is None else (value - half, value + half)
    return {
        "metric": f"circuits.{metric}", "scope": scope, "revision": revision, "value": value,
        "ci_low": low, "ci_high": high, "n": n, "unit": unit, "direction": "neither",
        "interval_method": "random halves of the facts", "reason": reason,
    }  # fmt: skip


def _members(history: np.ndarray[Any, Any], c: int, name: str) -> np.ndarray[Any, Any]:
    return history[c] < 4 if name == "active" else history[c] == SETS.index(name)


def _iou(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float | None:
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else None


def score_rows(tracing: Tracing) -> Iterator[Row]:
    """Every metric that the report draws."""
    revisions = [c["revision"] for c in tracing.checkpoints]
    for c, revision in enumerate(revisions):
        yield from _shares(tracing, c, revision)
        yield from _overlaps(tracing, c, revision)
    yield from _switches(tracing)
    if tracing.design.ablated:
        yield from _ablations(revisions[-1])
    value, reason = (0.31, None) if len(revisions) > 1 else (None, ONE)
    yield row("iou_general_excess", "overall", "", value, unit="IoU above the null", reason=reason)


def _shares(tracing: Tracing, c: int, revision: str) -> Iterator[Row]:
    heads = tracing.roles["overall", "head"]
    n = heads[c].size
    for scope in ("overall", *tracing.relations):
        own = tracing.roles[scope, "head"]
        share = float(_members(own, c, "active").mean())
        yield row("active_head_share", scope, revision, share, n=n)
        yield row("fact_heads_per_fact", scope, revision, 0.4 + c / 9, unit="heads per fact")
    first = float(_members(heads, 0, "active").sum())
    active = float(_members(heads, c, "active").sum())
    yield row("active_heads", "overall", revision, active, 1.0, n, "heads")
    untrained = len(tracing.checkpoints) > 1  # else nothing is there to hold it against
    yield row("active_heads_excess", "overall", revision, active - first if untrained else None,
              2.0, n, "heads", None if untrained else "no untrained model measured")  # fmt: skip
    yield row("relation_heads_excess", "overall", revision, c / 4 - 0.5, 0.8, n, "heads")
    ffn = tracing.roles["overall", "ffn"]
    for role in ROLES:
        share = float(_members(heads, c, role).mean())
        yield row(f"head_share_{role}", "overall", revision, share, n=n)
        share = float(_members(ffn, c, role).mean())
        yield row(f"ffn_share_{role}", "overall", revision, share, 0.1, n, "share of FFNs")
        for scope, factor in SHARES.items():
            share = min(1.0, factor * float(_members(heads, c, role).mean()))
            yield row(f"head_share_{role}", scope, revision, share, n=n)
    for name in SETS:
        yield row(f"split_half_{name}", "overall", revision, 0.6 + c / 50, 0.05, n, "IoU")
    for scope, factor in SHARES.items():
        share = min(1.0, factor * float(_members(heads, c, "active").mean()))
        yield row("active_head_share", scope, revision, share, n=n)


def _overlaps(tracing: Tracing, c: int, revision: str) -> Iterator[Row]:
    last = len(tracing.checkpoints) - 1
    for kind, prefix in (("head", ""), ("ffn", "ffn_")):
        for name in SETS:
            relations = tracing.relations if name in ("relation", "fact", "active") else []
            for scope in ("overall", *(relations if kind == "head" else [])):
                history = tracing.roles[scope, kind]
                for with_, other in (("last", last), ("previous", c - 1)):
                    metric = f"{prefix}iou_{with_}_{name}"
                    yield from _overlap(history, c, other, name, metric, scope, revision, last)
            if kind == "head":
                yield from _swept(tracing, c, name, revision, last)


def _overlap(
    history: np.ndarray[Any, Any], c: int, other: int, name: str, metric: str, scope: str,
    revision: str, last: int,
) -> Iterator[Row]:  # fmt: skip
    mine = _members(history, c, name)
    if other < 0 or last == 0:
        reason = ONE if last == 0 else "there is no checkpoint before the first"
        yield row(metric, scope, revision, None, unit="IoU", reason=reason, n=0)
        return
    value = _iou(mine, _members(history, other, name))
    reason = None if value is not None else "both sets are empty"
    yield row(metric, scope, revision, value, 0.05, unit="IoU", reason=reason)
    null = None if value is None else float(mine.mean() * 0.8)
    yield row(f"{metric}_null", scope, revision, null, 0.06, unit="IoU", reason=reason)


def _swept(tracing: Tracing, c: int, name: str, revision: str, last: int) -> Iterator[Row]:
    history = tracing.roles["overall", "head"]
    value = _iou(_members(history, c, name), _members(history, last, name)) if last else None
    for scope, factor in OVERLAPS.items():
        shown = None if value is None else min(1.0, factor * value)
        reason = ONE if not last else None if value is not None else "both sets are empty"
        yield row(f"iou_last_{name}", scope, revision, shown, 0.04, unit="IoU", reason=reason)


def _switches(tracing: Tracing) -> Iterator[Row]:
    history = tracing.roles["overall", "head"]
    layers = np.array_split(np.arange(tracing.design.layers), 3)
    for third, inside in zip(("early", "middle", "late"), layers, strict=True):
        for suffix in ("", "_null", "_excess"):
            value, reason = None, ONE
            if len(history) > 1:
                a, b = history[:-1, inside], history[1:, inside]
                n = float(((a != b) & (a < 4) & (b < 4)).sum()) / max(history[0, inside].size, 1)
                value, reason = {"": n, "_null": n * 1.8, "_excess": -0.8 * n}[suffix], None
            size = history[0, inside].size
            yield row(f"switches_{third}{suffix}", "overall", "", value, 0.2, size,
                      "switches per head", reason)  # fmt: skip


def _ablations(revision: str) -> Iterator[Row]:
    for role, drop in {"general": 0.42, "entity": 0.3, "relation": None, "fact": 0.2}.items():
        reason = "no head has this role" if drop is None else None
        for metric, factor, unit in (
            ("drop", 1.0, "difference of shares"), ("effect", 0.75, "difference of shares"),
            ("drop_nats", 9.0, "nats"), ("effect_nats", 7.0, "nats"),
        ):  # fmt: skip
            value = None if drop is None else drop * factor
            half = 0.1 * factor
            yield row(f"ablation_{metric}_{role}", "overall", revision, value, half, 160, unit,
                      reason)  # fmt: skip
    for metric, value in (("faithfulness", 0.82), ("faithfulness_control", 0.2),
                          ("faithfulness_none", 0.02)):  # fmt: skip
        yield row(metric, "overall", revision, value, 0.02, 160, "share of intact recall")
    yield row("circuit_only_drop_nats", "overall", revision, 0.9, 0.2, 160, "nats")
