"""What the dynamics sections draw: runs by condition, their curves, phases and fine-tuning.

A condition is what a run varies; its runs differ in seed. Every chart row has the condition as its
`scope`, so that a reader can choose one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from factlife.report.axis import Axis, make_axis_between
from factlife.report.datasets import pack
from factlife.report.view import Row, View

FALLING, PLATEAU, LEARNING = "falls to the baseline", "plateau", "facts are learned"
PHASES = (FALLING, PLATEAU, LEARNING)
MARKS = {"t1": "t1", "t2": "t2", "t_held": "onset"}  # quantity -> what the chart writes
POPULATIONS = {
    "known": "known people",
    "held_out": "people never seen",
    "old": "old people",
    "taught": "new people",
}
NUMBERS = ("loss_nats", "accuracy", "top_probability", "entropy_nats", "auroc")
SIGNATURES = ("grouping", "extraction", "sharpness")
ANY = "any"
STATES = {
    "before": "before",
    "none": "after fine-tuning",
    "attention": "old attention put back",
    "mlp": "old feed-forward put back",
}
SIZE_TIMES = {"t1": "baseline reached (t1)", "t2": "plateau left (t2)"}
CURVES = ("scope", "dynamics_run", "kind", "number", "series", "step", "x", "x2", "apart", "value")
_TUNED = "fine_tuned"


@dataclass(frozen=True)
class Study:
    """The dynamics tables of one run folder, arranged.

    Attributes:
        runs: name of a dynamics run -> its row.
        evaluations, attention: rows by run and step.
        summary: (run, quantity) -> row.
        claims: rows, in order.
        subject: attention to the subject in given checkpoints.
    """

    runs: Mapping[str, Row]
    evaluations: Sequence[Row]
    attention: Sequence[Row]
    summary: Mapping[tuple[str, str], Row]
    claims: Sequence[Row]
    subject: Sequence[Row]

    @cached_property
    def conditions(self) -> Mapping[str, list[Row]]:
        """Condition -> its runs by seed; the uniform run of most people first, then by size."""
        found: dict[str, list[Row]] = {}
        for run in sorted(self.runs.values(), key=_place):
            found.setdefault(run["condition"], []).append(run)
        return found

    def of_kind(self, *kinds: str) -> list[str]:
        """Conditions whose runs are of these kinds, in order."""
        return [c for c, runs in self.conditions.items() if runs[0]["kind"] in kinds]

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Condition -> words; two conditions never share them."""
        words = {c: label(runs[0]) for c, runs in self.conditions.items()}
        twins = [w for w in words.values() if list(words.values()).count(w) > 1]
        return {c: f"{w} ({c})" if w in twins else w for c, w in words.items()}

    @cached_property
    def short_labels(self) -> Mapping[str, str]:
        """The same without the number of people, for conditions of one size."""
        return {c: words.partition(", ")[2] or words for c, words in self.labels.items()}

    @cached_property
    def axis(self) -> Axis | None:
        """The steps of the runs from scratch; None where there is none."""
        return self._axis("scratch", "patched")

    @cached_property
    def tuning_axis(self) -> Axis | None:
        """The steps of the fine-tunings; None where there is none."""
        return self._axis(_TUNED)

    def _axis(self, *kinds: str) -> Axis | None:
        steps = {r["step"] for r in self.evaluations if self._kind(r) in kinds}
        if not any(step > 0 for step in steps):
            return None
        return make_axis_between("step", "optimiser steps", sorted(steps), zero=0 in steps)

    def _kind(self, row: Row) -> str:
        return str(self.runs[row["dynamics_run"]]["kind"])

    def value(self, run: str, quantity: str) -> float | None:
        """A quantity of one run; None where it has none."""
        row = self.summary.get((run, quantity))
        return None if row is None else row["value"]

    def middle(self, condition: str, quantity: str) -> float | None:
        """Median over the seeds that have the quantity; None where none has."""
        found = [self.value(r["dynamics_run"], quantity) for r in self.conditions[condition]]
        known = [v for v in found if v is not None]
        return median(known) if known else None

    def settled_loss(self) -> float:
        """The largest loss from t1 on (at the end, of runs that have no t1), in nats.

        What a model pays before it knows the values can be ten times as much, and would leave no
        room for what happens at the baseline.
        """
        found = [0.0]
        for r in self.evaluations:
            run = self.runs[r["dynamics_run"]]
            start = self.value(r["dynamics_run"], "t1")
            if run["kind"] != _TUNED and r["step"] >= (run["steps"] if start is None else start):
                found.append(r["loss_nats"])
        return max(found)

    def populations(self, *kinds: str) -> list[str]:
        """Names of the populations that runs of these kinds measured, in the order of reading."""
        found = {r["population"] for r in self.evaluations if self._kind(r) in kinds}
        return [words for population, words in POPULATIONS.items() if population in found]

    def highest(self, number: str) -> float:
        """The largest value of a column of the evaluations; 0 where there is none."""
        return max((r[number] for r in self.evaluations if r[number] is not None), default=0.0)

    @property
    def n_layers(self) -> int:
        """Layers of the deepest run with signatures."""
        return max((r["layer"] for r in self.attention), default=-1) + 1


def study(view: View) -> Study | None:
    """The dynamics tables of a view; None where no dynamics was run."""
    found = view.dynamics
    runs = {r["dynamics_run"]: r for r in found.get("dynamics_runs", ())}
    subject = [r for r in found.get("subject_attention", ()) if r["mass"] is not None]
    claims = found.get("dynamics_claims", ())
    if not runs and not claims and not subject:
        return None

    def of_runs(name: str) -> list[Row]:
        kept = [r for r in found.get(name, ()) if r["dynamics_run"] in runs]
        return sorted(kept, key=lambda r: (r["dynamics_run"], r["step"]))

    return Study(
        runs=runs,
        evaluations=of_runs("biography_eval"),
        attention=of_runs("attention_signatures"),
        summary={(r["dynamics_run"], r["quantity"]): r for r in found.get("dynamics_summary", ())},
        claims=claims,
        subject=subject,
    )


def _place(run: Row) -> tuple[Any, ...]:
    plain = run["kind"] == "scratch" and run["distribution"] == "uniform"
    return (
        not plain,
        ("scratch", "patched", _TUNED).index(run["kind"]),
        -run["n_people"],
        run["distribution"],
        run["alpha"] or 0,
        run["reference_step"] or 0,
        run["material"] or "",
        run["replay_weight"] or 0,
        run["condition"],
        run["seed"],
    )


def label(run: Row) -> str:
    """What a run varies, in words."""
    if run["kind"] == _TUNED:
        return (
            f"{run['n_taught']:,} {run['material']} people after {_before(run)}, {_replay_of(run)}"
        )
    people = f"{run['n_people']:,} people"
    if run["kind"] == "patched":
        late = f" from step {run['patch_from']:,}" if run["patch_from"] else ""
        return f"{people}, attention of step {run['reference_step']:,}{late}"
    return f"{people}, {_distribution(run)}"


def _before(run: Row) -> str:
    """What the model of a fine-tuning knew before."""
    if run["condition"].startswith("series."):
        return f"{run['n_people']:,} facts"
    many = run["distribution"] == "celebrities"
    return f"{run['n_people']:,} celebrities" if many else f"{run['n_people']:,}"


def _replay_of(run: Row) -> str:
    weight = run["replay_weight"]
    return f"replay weight {weight:g}" if weight else "no replay"


def _distribution(run: Row) -> str:
    kind = run["distribution"]
    if kind == "power_law":
        return f"power law α = {run['alpha']:g}"
    if kind == "celebrities":
        return f"{run['celebrities']:,} celebrities × {run['celebrity_weight']:g}"
    if kind == "warm_up":
        return f"warm-up on {run['warm_up_people']:,} for {run['warm_up_steps']:,} steps"
    if kind == "groups":
        return f"{run['groups']} groups one after another"
    return str(kind).replace("_", " ")


# ---- data sets -------------------------------------------------------------------------------


def dynamics_datasets(view: View) -> dict[str, Any]:
    """Every data set that the dynamics figures draw from, by name; empty where there is none."""
    s = study(view)
    if s is None:
        return {}
    subject = list(_subject(view, s)) if view.measured else []
    return {
        "dynamics_curves": pack(list(_curves(s)), CURVES),
        "dynamics_size": pack(
            list(_sizes(s)), ("scope", "dynamics_run", "series", "n_people", "value")
        ),
        "dynamics_estimates": pack(_estimates(view, s), _ESTIMATE),
        "dynamics_replay": pack(
            list(_replay(s)), ("scope", "dynamics_run", "series", "share", "value")
        ),
        "dynamics_swap": pack(list(_swap(s)), ("scope", "dynamics_run", "series", "value")),
        "dynamics_subject": pack(subject, ("scope", "number", "series", "x", "apart", "value")),
    }


def _curves(s: Study) -> Iterator[Row]:
    if s.axis is not None:
        yield from _evaluated(s, s.axis, s.of_kind("scratch", "patched"))
        yield from _signed(s, s.axis)
        for condition in s.of_kind("scratch", "patched"):
            yield from _phases(s, s.axis, condition)
    if s.tuning_axis is not None:
        yield from _evaluated(s, s.tuning_axis, s.of_kind(_TUNED))


def _row(**given: Any) -> Row:
    return {**dict.fromkeys(CURVES), "apart": False, **given}


def _evaluated(s: Study, axis: Axis, conditions: Sequence[str]) -> Iterator[Row]:
    wanted = set(conditions)
    for r in s.evaluations:
        condition = s.runs[r["dynamics_run"]]["condition"]
        if condition not in wanted or r["restored"] != "none":
            continue
        for number in NUMBERS:
            if r[number] is not None:
                yield _row(
                    scope=condition,
                    dynamics_run=r["dynamics_run"],
                    kind="eval",
                    number=number,
                    series=POPULATIONS.get(r["population"], r["population"]),
                    step=r["step"],
                    x=axis.place(r["step"]),
                    apart=axis.is_apart(r["step"]),
                    value=r[number],
                )


def _signed(s: Study, axis: Axis) -> Iterator[Row]:
    for r in s.attention:
        run = s.runs[r["dynamics_run"]]
        if run["kind"] != _TUNED and r["population"] == "known":
            for number in SIGNATURES:
                yield _row(
                    scope=run["condition"],
                    dynamics_run=r["dynamics_run"],
                    kind="eval",
                    number=number,
                    series=layer_name(r["layer"]),
                    step=r["step"],
                    x=axis.place(r["step"]),
                    apart=axis.is_apart(r["step"]),
                    value=r[number],
                )


def layer_name(layer: int) -> str:
    """`layer 1` for the first."""
    return f"layer {layer + 1}"


def _phases(s: Study, axis: Axis, condition: str) -> Iterator[Row]:
    """Shaded phases, moments and the baseline of a condition: medians over its seeds."""
    runs = s.conditions[condition]
    last = max((r["step"] for r in s.evaluations if _of(s, r) == condition), default=0)
    base = [r["baseline_nats"] for r in runs]
    yield _row(scope=condition, kind="baseline", number="loss_nats", value=sum(base) / len(base))
    for name, start, end in spans(s, condition, last):
        yield _row(
            scope=condition,
            kind="phase",
            number=ANY,
            series=name,
            step=start,
            x=axis.low if start is None else axis.place(start),
            x2=axis.place(end),
        )
    for quantity, name in MARKS.items():
        if (at := s.middle(condition, quantity)) is not None:
            yield _row(
                scope=condition, kind="mark", number=ANY, series=name, step=at, x=axis.place(at)
            )


def _of(s: Study, row: Row) -> str:
    return str(s.runs[row["dynamics_run"]]["condition"])


def spans(s: Study, condition: str, last: int) -> list[tuple[str, float | None, float]]:
    """Phases as (name, first step, last step); None starts at the left end.

    A stretch between t1 and t2 that is too short for a plateau (t2 below 2 t1) is no phase. A run
    that never leaves the baseline has its plateau to the end.
    """
    t1, t2 = s.middle(condition, "t1"), s.middle(condition, "t2")
    found: list[tuple[str, float | None, float]] = [(FALLING, None, last if t1 is None else t1)]
    if t1 is not None and (t2 is None or t2 >= 2 * t1):
        found.append((PLATEAU, t1, last if t2 is None else t2))
    if t2 is not None:
        found.append((LEARNING, t2, last))
    return [(name, start, end) for name, start, end in found if start is None or start < end]


def _sizes(s: Study) -> Iterator[Row]:
    for run in s.runs.values():
        if run["kind"] == "scratch" and run["distribution"] == "uniform":
            for quantity, name in SIZE_TIMES.items():
                if (value := s.value(run["dynamics_run"], quantity)) is not None:
                    yield {
                        "scope": run["condition"],
                        "dynamics_run": run["dynamics_run"],
                        "series": name,
                        "n_people": run["n_people"],
                        "value": value,
                    }


_ESTIMATE = ("scope", "label", "short", "kind", "number", "value", "ci_low", "ci_high", "n", "unit")
ESTIMATED = ("dynamics.plateau_end", "dynamics.plateau_ratio", "dynamics.final_accuracy")


def _estimates(view: View, s: Study) -> list[Row]:
    rows = []
    for condition in s.of_kind("scratch", "patched"):
        for metric in ESTIMATED:
            row = view.score(metric, condition, "")
            if row is not None and row["value"] is not None:
                rows.append({
                    "scope": condition,
                    "label": s.labels[condition],
                    "short": s.short_labels[condition],
                    "kind": s.conditions[condition][0]["kind"],
                    "number": metric,
                    **{k: row[k] for k in ("value", "ci_low", "ci_high", "n", "unit")},
                })  # fmt: skip
    return rows


REPLAY = {"old_min": "old people, lowest", "taught_after": "new people, at the end"}


def replayed(s: Study) -> list[str]:
    """Fine-tunings of one model on new people that differ in replay: the most there are."""
    families: dict[str, list[str]] = {}
    for condition in s.of_kind(_TUNED):
        if s.conditions[condition][0]["material"] == "new":
            families.setdefault(condition.rpartition(".w")[0], []).append(condition)
    return max(families.values(), key=len, default=[])


def _replay(s: Study) -> Iterator[Row]:
    for condition in replayed(s):
        for run in s.conditions[condition]:
            for quantity, name in REPLAY.items():
                value = s.value(run["dynamics_run"], quantity)
                if value is not None and run["replay_share"] is not None:
                    yield {
                        "scope": condition,
                        "dynamics_run": run["dynamics_run"],
                        "series": name,
                        "share": run["replay_share"],
                        "value": value,
                    }


def _swap(s: Study) -> Iterator[Row]:
    """Accuracy on old people before, after, and with old weights put back."""
    for r in s.evaluations:
        run = s.runs[r["dynamics_run"]]
        if run["kind"] != _TUNED or r["population"] != "old":
            continue
        last = max(e["step"] for e in s.evaluations if e["dynamics_run"] == r["dynamics_run"])
        if r["step"] == last or r["step"] == 0:
            state = "before" if r["step"] == 0 else r["restored"]
            yield {
                "scope": run["condition"],
                "dynamics_run": r["dynamics_run"],
                "series": STATES[state],
                "value": r["accuracy"],
            }


def swapped(s: Study) -> list[str]:
    """Fine-tunings in which old weights were put back."""
    done = {_of(s, r) for r in s.evaluations if r["restored"] != "none"}
    return [c for c in s.of_kind(_TUNED) if c in done]


def _subject(view: View, s: Study) -> Iterator[Row]:
    place = {c["revision"]: v for c, v in zip(view.measured, view.axis.values, strict=True)}
    for r in sorted(s.subject, key=lambda r: (r["layer"], place.get(r["revision"], 0))):
        if r["revision"] in place:
            at = place[r["revision"]]
            for number in ("mass", "sharpness"):
                if r[number] is not None:
                    yield {
                        "scope": "series",
                        "number": number,
                        "series": layer_name(r["layer"]),
                        "x": view.axis.place(at),
                        "apart": view.axis.is_alone(at),
                        "value": r[number],
                    }
