"""Shipped knowledge about published series: tokens a step where names lack them. No torch."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from factlife.config import from_mapping
from factlife.series.names import ParsedName


@dataclass(frozen=True)
class StageEntry:
    """A stage whose names count from its own start.

    Attributes:
        match: regular expression over the whole stage.
        tokens_before: tokens trained on before the stage begins.
    """

    match: str
    tokens_before: int


@dataclass(frozen=True)
class SeriesEntry:
    """One entry of registry.toml.

    Attributes:
        match: regular expression over the whole repo id.
        tokens_per_step: of the stage `main`.
    """

    match: str
    tokens_per_step: int | None = None
    stage: tuple[StageEntry, ...] = ()


@dataclass(frozen=True)
class _Registry:
    series: tuple[SeriesEntry, ...]


@cache
def registry() -> tuple[SeriesEntry, ...]:
    """Every entry of the shipped registry."""
    text = resources.files("factlife.series").joinpath("registry.toml").read_text("utf-8")
    return from_mapping(_Registry, tomllib.loads(text), "series/registry.toml").series


def lookup(repo: str) -> SeriesEntry | None:
    """The entry of a repo, or None."""
    return next((e for e in registry() if re.fullmatch(e.match, repo)), None)


def tokens_of(parsed: ParsedName, repo: str) -> tuple[int | None, str]:
    """Cumulative tokens of a revision and where the number comes from.

    Returns:
        (tokens, `name`): the name states them.
        (tokens, `registry`): the name states a step, or tokens within its stage, and the registry
            the rest.
        (None, `unknown`): neither does; nothing is inferred.
    """
    entry = lookup(repo)
    if parsed.tokens is not None:
        before = _tokens_before(entry, parsed.stage)
        return parsed.tokens + before, "registry" if before else "name"
    if entry and entry.tokens_per_step and parsed.step is not None and parsed.stage == "main":
        return parsed.step * entry.tokens_per_step, "registry"
    return None, "unknown"


def _tokens_before(entry: SeriesEntry | None, stage: str) -> int:
    stages = entry.stage if entry else ()
    return next((s.tokens_before for s in stages if re.fullmatch(s.match, stage)), 0)
