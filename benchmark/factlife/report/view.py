"""What a report is made from: the tables of one run folder, read once and arranged for lookup.

C = measured checkpoints, n = facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from factlife.errors import UsageError
from factlife.recall.metrics import SERIES, Cube, cube
from factlife.report.axis import Axis, make_axis
from factlife.result import load_result, metric_key
from factlife.schema import DYNAMICS_TABLES
from factlife.scores import BY_NAME, measured_checkpoints
from factlife.store import RunStore

Row = dict[str, Any]
OVERALL = "overall"
_FACT_METRICS = ("recall.", "hallucination.")  # whose scopes are sets of facts


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
        dynamics: rows of each table of the dynamics track, by its name; empty where it did not run.
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
    dynamics: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    @cached_property
    def measured(self) -> tuple[Row, ...]:
        """Checkpoints with recall rows, in order: C of them."""
        rows = {c["revision"]: c for c in self.checkpoints}
        return tuple(rows[c.revision] for c in self.cube.checkpoints)

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
    def scopes(self) -> Scopes:
        """Scopes in the scores table, sorted into kinds."""
        groups = tuple(sorted(set(self.cube.groups)))
        pairs = dict(zip(self.cube.relations, self.cube.groups, strict=True))
        relations = dict(sorted(pairs.items(), key=lambda p: p[1]))
        known = {OVERALL, *groups, *relations}
        named = (s for m, s, _ in self.scores if m.startswith(_FACT_METRICS))
        other = [s for s in dict.fromkeys(named) if s not in known]
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
        dynamics={t.name: tuple(run.read(t.name).to_pylist()) for t in DYNAMICS_TABLES},
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
