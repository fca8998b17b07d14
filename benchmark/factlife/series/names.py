"""Revision names -> (stage, step, tokens).

Tokens are taken from a name only where the name states them; nothing is inferred.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LARGEST = 2**63 - 1  # of the tables' integers
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

# [stage-](global_)step|checkpoint|ckpt[-_]N[-tokens4B | -2BT][-seed-name]
_STEP_NAME = re.compile(
    r"""^(?:(?P<stage>[A-Za-z0-9][A-Za-z0-9._-]*?)[-_])??
        (?P<word>(?:global_)?step|checkpoint|ckpt|iter)[-_]?(?P<number>\d{1,18})
        (?:[-_](?:tokens(?P<tokens>\d{1,18}(?:\.\d{1,9})?)(?P<unit>[kmbt]?)
              |(?P<tokens2>\d{1,18}(?:\.\d{1,9})?)(?P<unit2>[kmbt])t))?
        (?:-(?P<seed>seed-[A-Za-z0-9_.-]+))?$""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_TOKENS_NAME = re.compile(
    r"^(?P<tokens>\d{1,18}(?:\.\d{1,9})?)(?P<unit>[kmbt])_tokens$", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True)
class ParsedName:
    """What a revision name says.

    Attributes:
        stage: training stage, `main` where the name has none.
        step: optimiser step; None where the name holds only tokens or an index.
        tokens: cumulative tokens stated by the name, else None.
        index: place in the series for names that count checkpoints instead of steps.
    """

    stage: str
    step: int | None
    tokens: int | None
    index: int | None = None


def parse_name(name: str) -> ParsedName | None:
    """Read a revision name; None if it says neither step, tokens nor index (or an absurd number).

    >>> parse_name("stage2-ingredient3-step12000-tokens26B")
    ParsedName(stage='stage2-ingredient3', step=12000, tokens=26000000000, index=None)
    """
    if match := _TOKENS_NAME.fullmatch(name):
        stated = _count(match["tokens"], match["unit"])
        return ParsedName("main", None, stated) if stated <= _LARGEST else None
    match = _STEP_NAME.fullmatch(name)
    if match is None:
        return None
    stage = "-".join(part for part in (match["stage"], match["seed"]) if part) or "main"
    number = int(match["number"])
    digits = match["tokens"] or match["tokens2"]
    unit = match["unit"] if match["tokens"] else match["unit2"]
    tokens = _count(digits, unit) if digits else None
    if tokens is not None and tokens > _LARGEST:
        return None
    if match["word"].lower() == "ckpt":
        return ParsedName(stage, None, tokens, number)
    return ParsedName(stage, number, tokens)


def _count(digits: str, unit: str) -> int:
    whole, _, fraction = digits.partition(".")
    return int(whole + fraction) * _UNITS[unit.lower()] // int(10 ** len(fraction))


def stage_key(stage: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Sort key of stages: `main` and numbered stages first, each in natural order."""
    parts = re.findall(r"\d+|\D+", stage)
    natural = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]
    return (0 if stage == "main" or stage.startswith("stage") else 1, natural)
