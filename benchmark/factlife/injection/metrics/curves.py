"""Probe rows of an injection run -> arrays.

Shapes: S = probed steps in order, P = probes, N = passages, B = bootstrap draws.
A step counts optimiser updates since the start revision: a passage injected at T is in the batch
of update T, so that step T is the last reading before it and T + 1 the first after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from factlife.errors import IntegrityError
from factlife.stats import Floats, Ints

Row = dict[str, Any]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.str_]
CONTROL = "control"
ARMS = ("paraphrase", "duplication", "once")
DEPTHS = ("memorization", "semantic", "compositional")
POSITIONS = ("first", "early", "mid", "late", "named")  # in the order of training
TABLES = (
    "injection_runs", "injection_passages", "injections", "probes", "injection_recall",
    "training_log",
)  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """The probes of one injection run.

    Only probes that were measured at every step, of passages with such probes at every depth, are
    kept: every curve, and every ratio of two of them, is over one fixed set.

    Attributes:
        run: its row of `injection_runs`.
        steps: [S] increasing.
        passages, arms, halves: [N].
        injected: [N] steps at which each passage was injected.
        spacing, exposures: [N] of the passages; spacing 0 where it has none.
        passage_of: [P] place of each probe's passage.
        depths: [P].
        n_tokens: [P] of the targets.
        total: [S, P] summed log-probability of the target in nats.
        rank, exact: [S, P] rank of the first target token; 1 where greedy decoding is right. NaN
            where not measured.
        dropped: probes that were left out.
    """

    run: Row
    steps: Ints
    passages: tuple[str, ...]
    arms: Names
    halves: Names
    injected: tuple[tuple[int, ...], ...]
    spacing: Ints
    exposures: Ints
    passage_of: Ints
    depths: Names
    n_tokens: Floats
    total: Floats
    rank: Floats
    exact: Floats
    dropped: int

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.run["injection_run"])

    @property
    def window(self) -> int:
        """Steps after an injection in which the peak is looked for."""
        return int(self.run["window"])

    @cached_property
    def control(self) -> Mask:
        """[N] passages that are never injected."""
        found: Mask = self.arms == CONTROL
        return found

    @cached_property
    def injected_arms(self) -> tuple[str, ...]:
        """Arms other than controls: the main ones in their order, then those of a study by size."""
        found = {str(a) for a in self.arms} - {CONTROL}
        return tuple(sorted(found, key=_arm_order))

    @cached_property
    def known_depths(self) -> tuple[str, ...]:
        """Depths that were probed, in their order."""
        found = {str(d) for d in self.depths}
        return tuple(d for d in DEPTHS if d in found) + tuple(sorted(found - set(DEPTHS)))

    def times(self, arm: str) -> tuple[int, ...]:
        """Steps at which an arm was injected; the first ones, where passages lag behind others.

        Raises:
            IntegrityError: passages of one arm are not injected at the same distances.
        """
        found = sorted({t for t, a in zip(self.injected, self.arms, strict=True) if a == arm})
        for t in found:
            if [s - t[0] for s in t] != [s - found[0][0] for s in found[0]]:
                raise IntegrityError(
                    f"injection run {self.name}: passages of arm {arm} are injected at different "
                    "distances; measure it again"
                )
        return found[0] if found else ()

    def lags(self, arm: str) -> Ints:
        """[N] steps by which each passage of an arm comes after the arm's times; 0 for others.

        A batch study spreads one injection over several small batches.
        """
        times, member = self.times(arm), self.arms == arm
        late = [t[0] - times[0] if m and t else 0
                for t, m in zip(self.injected, member, strict=True)]  # fmt: skip
        return np.array(late, dtype=np.int64)

    def at(self, y: Floats, steps: Ints) -> Floats:
        """Columns of y [S, n] at steps [T], interpolated between the probed ones: [T, n]."""
        columns = [np.interp(steps, self.steps, column) for column in y.T]
        return np.array(columns).T.reshape(len(steps), y.shape[1])

    def by_passage(self, depth: str | None = None, per_token: bool = False) -> Floats:
        """Mean log-probability of the target over a passage's probes: [S, N], in nats.

        Args:
            depth: of the probes; None for all.
            per_token: divide each probe's sum by its target's tokens.
        """
        return self.mean_over_probes(self.total / self.n_tokens if per_token else self.total, depth)

    def mean_over_probes(self, values: Floats, depth: str | None = None) -> Floats:
        """Mean over a passage's probes of one depth, or of all: [S, P] -> [S, N]."""
        use = np.ones(len(self.depths), dtype=bool) if depth is None else self.depths == depth
        share = np.zeros((len(self.depths), len(self.passages)))
        share[np.flatnonzero(use), self.passage_of[use]] = 1.0
        means: Floats = values @ (share / np.maximum(share.sum(axis=0), 1))
        return means

    def place(self, step: int) -> int | None:
        """Place of a step among the probed ones, or None."""
        at = int(np.searchsorted(self.steps, step))
        return at if at < len(self.steps) and self.steps[at] == step else None


def _arm_order(arm: str) -> tuple[int, int, str]:
    if arm in ARMS:
        return ARMS.index(arm), 0, arm
    number = arm.rpartition("-")[2]
    return len(ARMS), int(number) if number.isdigit() else 0, arm


def read_curves(tables: Mapping[str, pa.Table]) -> list[Curves]:
    """The finished injection runs as arrays, by study, training order and seed.

    Args:
        tables: `injection_runs`, `injection_passages` and `probes`.
    """
    rows = [r for r in tables["injection_runs"].to_pylist() if not r["reason"]]
    found = []
    for row in sorted(rows, key=run_order):
        probes = _of_run(tables["probes"], row["injection_run"])
        passages = _of_run(tables["injection_passages"], row["injection_run"])
        if probes.num_rows:
            found.append(make_curves(row, passages.to_pylist(), probes))
    return found


def run_order(row: Row) -> tuple[bool, str, float, int, int, str]:
    """Main runs first; then by study, varied value, position and seed."""
    at = POSITIONS.index(row["position"]) if row["position"] in POSITIONS else len(POSITIONS)
    value = row["varied_value"] if row["varied_value"] is not None else 0.0
    study = str(row["study"])
    return study != "main", study, value, at, int(row["seed"]), str(row["injection_run"])


def _of_run(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.equal(table["injection_run"], name))


def make_curves(row: Row, passages: Sequence[Row], probes: pa.Table) -> Curves:
    """Arrange one run's rows of `probes` and `injection_passages`."""
    steps, at = np.unique(probes["step"].to_numpy(), return_inverse=True)
    ids = pc.dictionary_encode(probes["probe_id"].combine_chunks())
    code = ids.indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(code, return_index=True)
    shape = (len(steps), len(ids.dictionary))
    total, rank, exact = (
        scattered(probes[c], at, code, shape) for c in ("logprob_sum_nats", "rank", "exact_match")
    )
    used = {p["passage_id"]: p for p in passages if not p["reason"]}
    about = probes.take(pa.array(first)).select(["passage_id", "depth", "n_tokens"]).to_pydict()
    keep = ~np.isnan(total).any(axis=0) & np.array([p in used for p in about["passage_id"]])
    keep &= _complete(about["passage_id"], np.array(about["depth"]), keep)
    names = sorted({p for p, k in zip(about["passage_id"], keep, strict=True) if k})
    place = {p: i for i, p in enumerate(names)}
    kept = np.flatnonzero(keep)
    mine = [used[n] for n in names]
    return Curves(
        run=row,
        steps=steps.astype(np.int64),
        passages=tuple(names),
        arms=np.array([p["arm"] for p in mine], dtype=np.str_),
        halves=np.array([p["half"] for p in mine], dtype=np.str_),
        injected=tuple(tuple(p["injection_steps"]) for p in mine),
        spacing=np.array([p["spacing_steps"] or 0 for p in mine], dtype=np.int64),
        exposures=np.array([p["exposures"] for p in mine], dtype=np.int64),
        passage_of=np.array([place[about["passage_id"][i]] for i in kept], dtype=np.int64),
        depths=np.array([about["depth"][i] for i in kept], dtype=np.str_),
        n_tokens=np.array([about["n_tokens"][i] for i in kept], dtype=np.float64),
        total=total[:, kept],
        rank=rank[:, kept],
        exact=exact[:, kept],
        dropped=int(len(keep) - keep.sum()),
    )


def scattered(column: pa.ChunkedArray, at: Ints, code: Ints, shape: tuple[int, int]) -> Floats:
    """A column as [S, P]; NaN stands for "not measured" inside this room only."""
    grid = np.full(shape, np.nan)
    values = pc.cast(column, pa.float64()) if not pa.types.is_boolean(column.type) else column
    if pa.types.is_boolean(column.type):
        values = pc.cast(pc.cast(values, pa.int8()), pa.float64())
    grid[at, code] = values.to_numpy(zero_copy_only=False)
    return grid


def _complete(passages: Sequence[str], depths: Names, keep: Mask) -> Mask:
    """[P] whether the probe's passage has a kept probe at every depth."""
    wanted = set(depths.tolist())
    have: dict[str, set[str]] = {}
    for passage, depth, k in zip(passages, depths.tolist(), keep, strict=True):
        if k:
            have.setdefault(passage, set()).add(depth)
    return np.array([have.get(p) == wanted for p in passages], dtype=bool)
