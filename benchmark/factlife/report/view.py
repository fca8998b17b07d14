"""What a report is made from: the tables of one run folder, read once and arranged for lookup.

C = measured checkpoints, n = facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from factlife.circuits.metrics.series import Checkpoint, Series
from factlife.errors import UsageError
from factlife.recall.metrics import SERIES, Cube, cube
from factlife.report.axis import Axis, make_axis
from factlife.report.circuit_data import Dataset, rows_of
from factlife.report.circuit_roles import RoleMap, role_maps
from factlife.report.circuit_view import Selection, select
from factlife.result import load_result, metric_key
from factlife.scores import BY_NAME, METRICS, Metric, measured_checkpoints
from factlife.store import RunStore

Row = dict[str, Any]
OVERALL = "overall"
_OVER_FACTS = (
    "recall.",
    "hallucination.",
)  # their scopes are sets of facts; others have thresholds


@dataclass(frozen=True)
class Scopes:
    """Names of sets of facts, by kind.

    Attributes:
        groups: LOC, NAME.
        relations: relation -> group, sorted by group.
        subsets: sets that the series itself names, e.g. stated and unstated.
        crossed: subset crossed with group, as `stated.LOC`.
    """

    groups: tuple[str, ...]
    relations: Mapping[str, str]
    subsets: tuple[str, ...]
    crossed: tuple[str, ...]

    @property
    def wide(self) -> list[str]:
        """Every scope that spans relations, in the order of reading."""
        return [OVERALL, *self.groups, *self.subsets, *self.crossed]


@dataclass(frozen=True)
class View:
    """One run, as its report sees it.

    Attributes:
        result: the validated result.json.
        manifest: manifest.json. Used if there: `command`, `subsets` (name -> fact ids) and
            `chance` (relation -> accuracy of guessing).
        checkpoints: every row of the table, in the order of training.
        cube: facts measured at every checkpoint.
        scores: (metric, scope, revision) -> row of the scores table.
        subjects, answers: fact id -> name, for facts in the candidates table.
        candidates: relation -> number of candidates.
        run: the run folder; tables of the circuits track are read when they are first asked for.
    """

    result: Row
    manifest: Row
    checkpoints: tuple[Row, ...]
    cube: Cube
    recall: pa.Table
    scores: Mapping[tuple[str, str, str], Row]
    subjects: Mapping[str, str]
    answers: Mapping[str, str]
    candidates: Mapping[str, int]
    run: RunStore

    @cached_property
    def measured(self) -> tuple[Row, ...]:
        """Checkpoints with recall rows, or in a run without recall those with roles: C of them."""
        rows = {c["revision"]: c for c in self.checkpoints}
        if self.recalled:
            return tuple(rows[c.revision] for c in self.cube.checkpoints)
        found = set(pc.unique(self.roles["revision"]).to_pylist())
        return tuple(c for c in self.checkpoints if c["revision"] in found)

    @property
    def recalled(self) -> bool:
        """Whether the recall track was measured."""
        return bool(self.cube.checkpoints)

    @cached_property
    def axis(self) -> Axis:
        """The x-axis of all curves; only where something was measured."""
        return make_axis(self.measured)

    @property
    def interval_name(self) -> str:
        """What intervals are called, with their level where the protocol says it."""
        level = self.result["protocol"]["params"].get("intervals", {}).get("level")
        return f"{100 * level:.3g} % interval" if isinstance(level, float) else "interval"

    @property
    def when(self) -> str:
        """What a chart of all checkpoints spans, for titles."""
        return "over training" if len(self.measured) > 1 else "at the only checkpoint"

    @property
    def last(self) -> str:
        """The last measured revision."""
        return str(self.measured[-1]["revision"])

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The registry's metrics, without those of a track or component that the run has not."""
        found = {m for m, _, _ in self.scores}
        return tuple(m for m in METRICS if m.name in found or not m.name.startswith("circuits."))

    @cached_property
    def scopes(self) -> Scopes:
        """Scopes in the scores table, sorted into kinds."""
        groups = tuple(sorted(set(self.cube.groups)))
        pairs = dict(zip(self.cube.relations, self.cube.groups, strict=True))
        relations = dict(sorted(pairs.items(), key=lambda p: p[1]))
        known = {OVERALL, *groups, *relations}
        named = dict.fromkeys(s for m, s, _ in self.scores if m.startswith(_OVER_FACTS))
        other = [s for s in named if s not in known]
        crossed = tuple(s for s in other if s.rpartition(".")[2] in groups and "." in s)
        subsets = tuple(s for s in other if s not in crossed)
        return Scopes(groups, relations, subsets, crossed)

    def score(self, metric: str, scope: str, revision: str) -> Row | None:
        """A row of the scores table, or None if there is none."""
        return self.scores.get((metric, scope, revision))

    def final(self, metric: str, scope: str = OVERALL) -> Row | None:
        """A metric at the end of the series: from result.json, else from the scores table."""
        if found := self.result["metrics"].get(metric_key(metric, scope)):
            return dict(found)
        per_revision = metric in BY_NAME and BY_NAME[metric].per_revision
        if per_revision and not self.measured:
            return None
        return self.score(metric, scope, self.last if per_revision else SERIES)

    def why_missing(self, metric: str, scope: str = OVERALL) -> str | None:
        """Why a metric has no value anywhere in a scope; None if it has one."""
        rows = [r for (m, s, _), r in self.scores.items() if m == metric and s == scope]
        if any(r["value"] is not None for r in rows):
            return None
        reasons = dict.fromkeys(r["reason"] for r in rows if r["reason"])
        return "; ".join(reasons) or "this profile does not measure it"

    # ---- circuits ------------------------------------------------------------------------

    @cached_property
    def circuits(self) -> pa.Table:
        """Circuits of every position; no rows where the track was not run."""
        return self.run.read("circuits")

    @cached_property
    def circuit_edges(self) -> pa.Table:
        """Edges of the circuits that are shown."""
        return self.run.read("circuit_edges")

    @cached_property
    def circuit_selection(self) -> Selection | None:
        """Circuits of single facts that the report embeds."""
        return select(self)

    @cached_property
    def roles(self) -> pa.Table:
        """Role of every component at every checkpoint."""
        return self.run.read("roles")

    @cached_property
    def role_maps(self) -> Mapping[str, RoleMap]:
        """Kind of component -> roles at the measured checkpoints, for the kinds that have any."""
        return role_maps(self.roles, [c["revision"] for c in self.measured])

    @cached_property
    def circuit_facts(self) -> Mapping[str, str]:
        """Fact -> relation, for the facts with circuits."""
        pairs = self.circuits.group_by(["fact_id", "relation"], use_threads=False).aggregate([])
        return {r["fact_id"]: r["relation"] for r in pairs.to_pylist()}

    @cached_property
    def circuit_scopes(self) -> list[str]:
        """All facts, then the relations in the order of reading."""
        known = list(self.scopes.relations)
        return [OVERALL, *known, *sorted(set(self.circuit_facts.values()) - set(known))]

    @cached_property
    def circuit_series(self) -> Series:
        """The measured checkpoints as the circuits track orders them."""
        return Series(
            tuple(
                Checkpoint(c["revision"], c["stage"], c["step"], c["tokens"]) for c in self.measured
            )
        )

    @cached_property
    def circuit_rows(self) -> Mapping[str, Dataset]:
        """Data set of the circuits track -> its rows and their columns."""
        return rows_of(self)

    def circuit_score(self, metric: str, scope: str, at: int | str) -> Row | None:
        """A metric of the circuits track at a measured checkpoint's place, or of the series."""
        revision = self.measured[at]["revision"] if isinstance(at, int) else at
        return self.score(f"circuits.{metric}", scope, revision)

    @cached_property
    def transitions(self) -> pa.Table:
        """Changes of role between checkpoints."""
        return self.run.read("transitions")

    @cached_property
    def ablations(self) -> pa.Table:
        """Recall of every fact with heads ablated."""
        return self.run.read("ablations")

    # ---- chance --------------------------------------------------------------------------

    @cached_property
    def chance_by_relation(self) -> Mapping[str, float]:
        """Accuracy of guessing among a relation's answers; empty where they are not known."""
        recorded = self.manifest.get("chance")
        if isinstance(recorded, dict):
            return {r: float(v) for r, v in recorded.items()}
        return {r: 1 / k for r, k in self.candidates.items()}

    def chance(self, scope: str = OVERALL) -> float | None:
        """Mean over a scope's facts of the accuracy of guessing; None where it is not known."""
        facts = [r for f, r in self._facts if self._inside(f, r, scope)]
        known = [self.chance_by_relation.get(r) for r in facts]
        if not known or None in known:
            return None
        return sum(k for k in known if k is not None) / len(known)

    @cached_property
    def _facts(self) -> list[tuple[str, str]]:
        return list(zip(self.cube.fact_ids, self.cube.relations, strict=True))

    def _inside(self, fact: str, relation: str, scope: str) -> bool:
        group = self.scopes.relations[relation]
        if scope in (OVERALL, group, relation):
            return True
        subset, _, of_group = scope.rpartition(".")
        if scope in self.scopes.crossed:
            return of_group == group and fact in self.members.get(subset, ())
        return fact in self.members.get(scope, ())

    @cached_property
    def members(self) -> Mapping[str, frozenset[str]]:
        """Subset -> its facts, as the manifest records them."""
        recorded = self.manifest.get("subsets")
        if not isinstance(recorded, dict):
            return {}
        return {str(name): frozenset(map(str, facts)) for name, facts in recorded.items()}

    def set_of(self, fact: str, relation: str) -> str:
        """What a fact is coloured by: the first named subset that it is in, or its group."""
        inside = (n for n in self.scopes.subsets if fact in self.members.get(n, ()))
        return next(inside, self.scopes.relations[relation])

    def subject(self, fact: str) -> str:
        """Name of a fact for readers: its subject, or what its id says."""
        return self.subjects.get(fact) or fact.rpartition(".")[2].replace("_", " ")


def load_view(run: RunStore) -> View:
    """Read everything a report needs from a run folder.

    Raises:
        UsageError: the folder has no result.json yet.
        SubmissionError: its result.json is not to the format.
        IntegrityError: a damaged table or manifest.
    """
    path = run.root / "result.json"
    if not path.is_file():
        raise UsageError(f"{run.root} has no result.json: run `factlife score {run.root}` first")
    checkpoints, recall = run.read("checkpoints"), run.read("recall")
    subjects, answers, candidates = _names(run.read("candidates"))
    return View(
        result=load_result(path),
        manifest=run.manifest(),
        checkpoints=tuple(sorted(checkpoints.to_pylist(), key=lambda c: c["position"])),
        cube=cube(recall, measured_checkpoints(checkpoints)),
        recall=recall,
        scores=_by_key(run.read("scores").to_pylist()),
        subjects=subjects,
        answers=answers,
        candidates=candidates,
        run=run,
    )


def _by_key(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {(r["metric"], r["scope"], r["revision"]): r for r in rows}


def _names(candidates: pa.Table) -> tuple[dict[str, str], dict[str, str], dict[str, int]]:
    """Subject and answer of each fact, and the number of candidates of each relation."""
    right = candidates.filter(pc.fill_null(candidates["is_answer"], False))
    facts = right.select(["fact_id", "subject", "candidate"]).to_pylist()
    pairs = candidates.select(["relation", "candidate"]).group_by(["relation", "candidate"])
    counts: dict[str, int] = {}
    for row in pairs.aggregate([]).to_pylist():
        counts[row["relation"]] = counts.get(row["relation"], 0) + 1
    return (
        {f["fact_id"]: f["subject"] for f in facts},
        {f["fact_id"]: f["candidate"] for f in facts},
        counts,
    )
