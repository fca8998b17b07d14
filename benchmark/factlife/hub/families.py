"""Which charts the page of a series draws, read off the registry.

A family is a group of metrics of one unit whose names differ in their last word alone, such as
the share of heads in each role. A headline metric without a family has a chart of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factlife.circuits.metrics.registry import SETS
from factlife.scores import METRICS, Metric

NULL = "_null"
SMALLEST = 3  # members of a family


def registry() -> list[dict[str, Any]]:
    """The registry for the page's script."""
    return [
        {
            "name": m.name, "track": track(m), "title": m.title, "unit": m.unit,
            "direction": m.direction, "meaning": m.meaning, "headline": m.headline,
            "comparable": m.tokenizer_free, "curve": m.per_revision,
        }
        for m in METRICS
    ]  # fmt: skip


def track(metric: Metric) -> str:
    """What stands before the first dot of its name."""
    return metric.name.partition(".")[0]


def families() -> list[dict[str, Any]]:
    """Charts of a series' page in the order of the registry.

    Each has `title`, `meaning`, `unit`, `track`, and `lines`: metric, label, and whether it is a
    null. A chart with a single line is drawn for several sets of facts instead.
    """
    groups: dict[tuple[str, str], list[Metric]] = {}
    for m in METRICS:
        if m.per_revision:
            groups.setdefault((m.name.removesuffix(NULL).rpartition("_")[0], m.unit), []).append(m)
    charts = []
    for members in groups.values():
        own = [m for m in members if not m.name.endswith(NULL)]
        if len(own) >= SMALLEST:
            charts.append(_family(members, own))
        else:
            charts += [_single(m) for m in own if m.headline]
    return charts


def _single(m: Metric) -> dict[str, Any]:
    lines = [{"metric": m.name, "label": m.title, "null": False}]
    return _chart(m, m.title, m.meaning, lines)


def _family(members: Sequence[Metric], own: Sequence[Metric]) -> dict[str, Any]:
    lines = [
        {"metric": m.name, "label": m.name.removesuffix(NULL).rpartition("_")[2],
         "null": m.name.endswith(NULL)}
        for m in members
    ]  # fmt: skip
    names = ", ".join(dict.fromkeys(str(line["label"]) for line in lines))
    about = f"In {own[0].unit}; one line each: {names}."
    if len(own) < len(members):
        about += " Dashed: what chance alone would give."
    shared = shared_title([m.title for m in own])
    unit = own[0].unit[:1].upper() + own[0].unit[1:]
    title = shared if " " in shared else f"{unit} in each role" if _roles(own) else unit
    return _chart(own[0], title, about, lines)


def _roles(members: Sequence[Metric]) -> bool:
    return {m.name.rpartition("_")[2] for m in members} <= set(SETS)


def _chart(m: Metric, title: str, meaning: str, lines: Sequence[Any]) -> dict[str, Any]:
    return {
        "title": title, "meaning": meaning, "unit": m.unit, "track": track(m), "lines": lines,
    }  # fmt: skip


def shared_title(titles: Sequence[str]) -> str:
    """What all titles begin and end with: `General heads`, `Fact heads` -> `Heads`."""
    words = [t.replace(",", " ,").split() for t in titles]
    begin = _shared(words)
    end = _shared([w[len(begin) :][::-1] for w in words])[::-1]
    joined = " ".join([*begin, *end]).replace(" ,", ",").strip(" ,:")
    return joined[:1].upper() + joined[1:] if joined else titles[0]


def _shared(words: Sequence[Sequence[str]]) -> list[str]:
    found = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        found.append(column[0])
    return found
