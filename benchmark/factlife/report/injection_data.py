"""The injection track of a run, as the report sees it: runs, curves, retention, scores, claims.

Scores and claims come from the scores table. T = times after the last injection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from factlife.injection.claims import Claim, Evidence, evaluate
from factlife.injection.metrics import decay
from factlife.injection.metrics.curves import TABLES, Curves, read_curves
from factlife.injection.metrics.overall import prefix_of
from factlife.injection.metrics.retention import Retention, retention
from factlife.injection.metrics.samples import Bootstrap
from factlife.stats import Floats
from factlife.store import RunStore

Row = dict[str, Any]
LAWS = ("logarithmic", "power", "exponential")
DRAWS, LEVEL = 400, 0.95


@dataclass(frozen=True)
class Kept:
    """Retention of one arm at one start, seeds averaged, with the three laws.

    Attributes:
        t, curve, low, high: [T].
        fits: of the curve.
    """

    t: Floats
    curve: Floats
    low: Floats
    high: Floats
    fits: decay.Fits

    @property
    def theil_sen(self) -> float:
        """Share of the gain lost per decade, as a median slope."""
        return float(decay.theil_sen(self.t, self.curve[None])[0])


@dataclass(frozen=True)
class Injection:
    """What the report shows of the injection track.

    Attributes:
        runs: rows of `injection_runs`, failed ones included.
        curves: finished runs.
        tables: the injection tables.
        scores: (metric, scope, revision) -> row of the scores table.
    """

    runs: tuple[Row, ...]
    curves: tuple[Curves, ...]
    tables: Mapping[str, pa.Table]
    scores: Mapping[tuple[str, str, str], Row]

    @cached_property
    def groups(self) -> Mapping[str, tuple[Curves, ...]]:
        """Scope -> runs that differ in their seed only, the main ones first."""
        found: dict[str, list[Curves]] = {}
        for c in self.curves:
            found.setdefault(prefix_of(c), []).append(c)
        return {prefix: tuple(mine) for prefix, mine in found.items()}

    @cached_property
    def main(self) -> tuple[str, ...]:
        """Starts of the main runs, in the order of training."""
        return tuple(p for p, mine in self.groups.items() if mine[0].run["study"] == "main")

    def study(self, name: str) -> tuple[str, ...]:
        """Scopes of a study."""
        return tuple(p for p, mine in self.groups.items() if mine[0].run["study"] == name)

    @cached_property
    def claims(self) -> list[Claim]:
        """The fourteen claims."""
        return evaluate(Evidence.make(list(self.scores.values()), self.runs))

    def score(self, metric: str, scope: str) -> Row | None:
        """A row of the scores table that has a value."""
        row = self.scores.get((f"injection.{metric}", scope, ""))
        return row if row is not None and row["value"] is not None else None

    @cached_property
    def kept(self) -> Mapping[tuple[str, str], Kept]:
        """(start, arm) -> retention, where something was gained."""
        pairs = [(p, a) for p in self.main for a in self.groups[p][0].injected_arms]
        found = {pair: _kept(self.groups[pair[0]], pair[1]) for pair in pairs}
        return {pair: k for pair, k in found.items() if k is not None}


def load_injection(run: RunStore, scores: Mapping[tuple[str, str, str], Row]) -> Injection | None:
    """The injection tables of a run folder; None where nothing was injected.

    Raises:
        IntegrityError: a damaged table.
    """
    tables = {name: run.read(name) for name in TABLES}
    rows = tables["injection_runs"].to_pylist()
    if not rows:
        return None
    return Injection(tuple(rows), tuple(read_curves(tables)), tables, scores)


def _kept(runs: Sequence[Curves], arm: str) -> Kept | None:
    """Mean gains over seeds, one over the other; None where the gain may be nothing."""
    found: list[tuple[Retention, Bootstrap]] = []
    for i, c in enumerate(runs):
        r = retention(c, c.by_passage(), arm)
        if not isinstance(r, str):
            strata = np.char.add(np.char.add(c.arms, "."), c.halves)
            found.append((r, Bootstrap.make(strata, DRAWS, i, LEVEL)))
    size = min((len(r.t) for r, _ in found), default=0)
    if size < 5 or any(b.bare(r.peak) for r, b in found):
        return None
    tail = (1 - LEVEL) / 2
    peak = np.mean([b.draws(r.peak) for r, b in found], axis=0)
    if np.quantile(peak, tail) <= 0:
        return None
    t = found[0][0].t[:size]
    gain = np.mean([r.peak.sum() for r, _ in found])
    curve = np.mean([r.later[:size].sum(axis=1) for r, _ in found], axis=0) / gain
    drawn = np.mean([b.draws(r.later[:size]) for r, b in found], axis=0) / peak[:, None]
    low, high = np.quantile(drawn[peak > 0], [tail, 1 - tail], axis=0)
    return Kept(t, curve, low, high, decay.fit(t, curve[None]))
