"""Rows of the dynamics tables -> quantities of each run, and numbers over seeds. Pure: no torch.

Shapes: E = evaluations of a run, S = seeds of a condition, C = checkpoints of a given series.

Source: dynamics-2025. A given series is read by the same definitions: its candidates table gives
a loss on facts and on unseen names, and the answers' frequencies the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats as sps

from factlife.dynamics.phases import Moment, Phases, detect, empirical_entropy, smooth
from factlife.stats import Estimate, Measured, Resampler, auroc, missing

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

GIVEN = "series"  # stands for the given series where others have the name of a run
LOST, GAINED = 0.1, 0.5  # shares of old accuracy lost, and of new values known, that are timed
LEAST_RISE = 0.02  # change of a share below which shares of that change mean nothing

UNITS: Mapping[str, str] = {
    "t1": "steps", "t2": "steps", "t2_twin": "steps", "t_held": "steps",
    "plateau_ratio": "ratio", "plateau_steps": "steps", "plateau_accuracy": "share of values",
    "circuit_share": "share of rise", "final_loss": "nats", "final_accuracy": "share of values",
    "held_out_excess": "nats", "confidence_gap": "probability", "auroc": "AUROC",
    "grouping": "share of attention", "extraction": "share of attention",
    "sharpness": "share of maximum", "t_lose10": "steps", "t_gain50": "steps",
    "old_before": "share of values", "old_min": "share of values",
    "old_after": "share of values", "taught_after": "share of values",
    "corruption": "share of old accuracy", "recovered_attention": "share of what was lost",
    "recovered_mlp": "share of what was lost",
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """A number, or why there is none."""

    value: float | None
    reason: str | None = None


def _none(reason: str) -> Quantity:
    return Quantity(None, reason)


def _of(moment: Moment) -> Quantity:
    return Quantity(moment.step, moment.reason)


# ---- curves ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The evaluations of one run.

    Attributes:
        steps: [E].
        values: (population, column) -> [E], weights as they were trained.
        restored: (what was put back, population) -> accuracy at the last step.
        signatures: (layer, column) -> [E], of people trained on.
    """

    steps: tuple[float, ...]
    values: Mapping[tuple[str, str], Floats]
    restored: Mapping[tuple[str, str], float]
    signatures: Mapping[tuple[int, str], Floats]

    @property
    def layers(self) -> list[int]:
        """Layers with signatures."""
        return sorted({layer for layer, _ in self.signatures})


_EVALUATED = ("loss_nats", "accuracy", "top_probability", "entropy_nats", "auroc")
_SIGNED = ("grouping", "extraction", "sharpness")


def curves(evaluations: pa.Table, signatures: pa.Table) -> dict[str, Curves]:
    """Arrange the two tables by run; NaN stands for "not measured" inside this module only."""
    rows, signed = _by_run(evaluations), _by_run(signatures)
    return {run: _curves(rows[run], signed.get(run, [])) for run in rows}


def _by_run(table: pa.Table) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(table.to_pylist(), key=lambda r: r["step"]):
        found.setdefault(row["dynamics_run"], []).append(row)
    return found


def _curves(rows: Sequence[Row], signed: Sequence[Row]) -> Curves:
    plain = [r for r in rows if r["restored"] == "none"]
    values = {
        (p, c): np.array(
            [math.nan if r[c] is None else r[c] for r in plain if r["population"] == p]
        )
        for p in {r["population"] for r in plain}
        for c in _EVALUATED
    }
    restored = {
        (r["restored"], r["population"]): r["accuracy"] for r in rows if r["restored"] != "none"
    }
    signatures = {
        (layer, c): _column([r for r in signed if r["layer"] == layer], c)
        for layer in {r["layer"] for r in signed}
        for c in _SIGNED
    }
    steps = tuple(dict.fromkeys(float(r["step"]) for r in plain))
    return Curves(steps, values, restored, signatures)


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([math.nan if r[name] is None else r[name] for r in rows], dtype=np.float64)


# ---- quantities of a run ---------------------------------------------------------------------


def summary_rows(tables: Mapping[str, pa.Table]) -> list[Row]:
    """Rows of `dynamics_summary` for every run of `dynamics_runs`."""
    found = curves(tables["biography_eval"], tables["attention_signatures"])
    rows = []
    for run in tables["dynamics_runs"].to_pylist():
        c = found[run["dynamics_run"]]
        quantities = _tuned(c) if run["kind"] == "fine_tuned" else _learned(c, run["baseline_nats"])
        rows += to_rows(run["dynamics_run"], quantities)
    return rows


def to_rows(run: str, quantities: Mapping[str, Quantity]) -> list[Row]:
    """Quantities of one run as rows of `dynamics_summary`."""
    return [
        {
            "dynamics_run": run,
            "quantity": name,
            "value": q.value,
            "unit": UNITS[name],
            "reason": q.reason,
        }
        for name, q in quantities.items()
    ]


def _learned(c: Curves, baseline: float) -> dict[str, Quantity]:
    """Quantities of a run from scratch (dynamics-2025, sections 3 and 4).

    L = loss on known people, nats a value; T = the last evaluation; B = `baseline`.

        t1, t2, t2_twin, t_held   steps (`phases.detect`)
        plateau_ratio             t2 / t1, at least 1; plateau_steps t2 - t1, where it is 2 or more
        plateau_accuracy          share of values right half way (in ln t) between t1 and t2, 0 to 1
        circuit_share             see there
        final_loss                L(T), nats, 0 or more
        final_accuracy            share of values whose every token is the argmax at T, 0 to 1
        held_out_excess           L_heldout(T) - B, nats; above 0: values are made up
        confidence_gap            top probability on known - on unseen people at T, -1 to 1
        auroc                     P(top probability on known > on unseen), ties half, 0 to 1
        grouping                  of the first layer at T; extraction of the layer that has most,
        sharpness                 and of that layer's, 0 to 1 (`attention.Signature`)
    """
    known, held = c.values["known", "loss_nats"], c.values["held_out", "loss_nats"]
    phases = detect(c.steps, known, held, baseline)
    top = c.values["known", "top_probability"], c.values["held_out", "top_probability"]
    last = Quantity(float(c.values["held_out", "auroc"][-1]))
    return {
        **phase_quantities(phases),
        "plateau_accuracy": _plateau_accuracy(c, phases),
        "circuit_share": circuit_share(c.steps, _best(c, "extraction"), phases),
        "final_loss": Quantity(float(known[-1])),
        "final_accuracy": Quantity(float(c.values["known", "accuracy"][-1])),
        "held_out_excess": Quantity(float(held[-1]) - baseline),
        "confidence_gap": Quantity(float(top[0][-1] - top[1][-1])),
        "auroc": last,
        "grouping": Quantity(float(c.signatures[c.layers[0], "grouping"][-1])),
        "extraction": Quantity(float(_best(c, "extraction")[-1])),
        "sharpness": Quantity(float(c.signatures[_best_layer(c), "sharpness"][-1])),
    }


def phase_quantities(phases: Phases) -> dict[str, Quantity]:
    """Times of the phases in steps, t2 / t1, and t2 - t1 in steps where there is a plateau."""
    quantities = {
        "t1": _of(phases.t1),
        "t2": _of(phases.t2),
        "t2_twin": _of(phases.t2_twin),
        "t_held": _of(phases.t_held),
    }
    unknown = phases.t1.reason or phases.t2.reason or "the plateau begins at step 0"
    if phases.ratio is None:
        return {**quantities, "plateau_ratio": _none(unknown), "plateau_steps": _none(unknown)}
    assert phases.t1.step is not None and phases.t2.step is not None
    length = Quantity(phases.t2.step - phases.t1.step)
    if not phases.plateau:
        length = _none(f"no plateau: t2 / t1 is {phases.ratio:.2f}, below 2")
    return {**quantities, "plateau_ratio": Quantity(phases.ratio), "plateau_steps": length}


def _plateau_accuracy(c: Curves, phases: Phases) -> Quantity:
    """Accuracy at the last evaluation before the geometric middle of t1 and t2."""
    if not phases.plateau or phases.t1.step is None or phases.t2.step is None:
        return _none("no plateau")
    middle = math.sqrt(phases.t1.step * phases.t2.step)
    at = max(i for i, s in enumerate(c.steps) if s <= middle)
    return Quantity(float(c.values["known", "accuracy"][at]))


def _best_layer(c: Curves) -> int:
    """The layer that extracts most at the end."""
    return max(c.layers, key=lambda k: float(c.signatures[k, "extraction"][-1]))


def _best(c: Curves, column: str) -> Floats:
    return c.signatures[_best_layer(c), column]


def circuit_share(steps: Sequence[float], extraction: Floats, phases: Phases) -> Quantity:
    """Share of the rise of extraction, from the first to its highest value, between t1 and t2.

    Near 1: the attention circuit forms during the plateau (dynamics-2025, section 4).
    """
    if phases.t1.step is None or phases.t2.step is None:
        return _none(phases.t1.reason or phases.t2.reason or "")
    curve = smooth(extraction)
    rise = float(curve.max() - curve[0])
    if rise < LEAST_RISE:
        return _none("attention to the name does not rise")
    at = [list(steps).index(t) for t in (phases.t1.step, phases.t2.step)]
    return Quantity(float(curve[at[1]] - curve[at[0]]) / rise)


def _tuned(c: Curves) -> dict[str, Quantity]:
    """Quantities of a fine-tuning (dynamics-2025, section 5; `recovered` is ours).

    A(t) = share of old people's values right, A_new(t) of new people's; 0 to 1; T = the last step.

        t_lose10      steps, first t with A(t) <= 0.9 A(0), straight lines between evaluations
        t_gain50      steps, first t with A_new(t) >= 0.5
        old_before    A(0); old_min min A; old_after A(T); taught_after A_new(T)
        corruption    (A(0) - min A) / A(0), 0 to 1
        recovered     (A with old attention, or FFN, weights - A(T)) / (A(0) - A(T)); 1: all is back

    Degenerate: nothing known before has no loss; a loss below 0.02 has no share that came back.
    """
    old, taught = c.values["old", "accuracy"], c.values["taught", "accuracy"]
    before, lowest, after = float(old[0]), float(old.min()), float(old[-1])
    lose = _crossing(c.steps, -old, -(1 - LOST) * before) if before > 0 else None
    gain = _crossing(c.steps, taught, GAINED)
    last = f"at step {c.steps[-1]:g}, where the run ends"
    none_known = "nothing old is known before the fine-tuning"
    kept = none_known if before <= 0 else f"not reached: old accuracy has not fallen by 10 % {last}"
    return {
        "t_lose10": Quantity(lose, None if lose is not None else kept),
        "t_gain50": Quantity(
            gain, None if gain is not None else f"not reached: half of the new values {last}"
        ),
        "old_before": Quantity(before),
        "old_min": Quantity(lowest),
        "old_after": Quantity(after),
        "taught_after": Quantity(float(taught[-1])),
        "corruption": Quantity((before - lowest) / before) if before > 0 else _none(none_known),
        **{f"recovered_{k}": _recovered(c, k, before, after) for k in ("attention", "mlp")},
    }


def _crossing(steps: Sequence[float], values: Floats, level: float) -> float | None:
    """First step at which a curve reaches a level, straight lines between evaluations."""
    above = np.flatnonzero(values >= level)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0:
        return float(steps[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def _recovered(c: Curves, kind: str, before: float, after: float) -> Quantity:
    """Share of the lost old accuracy that comes back with the old weights of one kind."""
    if (kind, "old") not in c.restored:
        return _none("not measured")
    if before - after < LEAST_RISE:
        return _none("no old accuracy was lost")
    return Quantity((c.restored[kind, "old"] - after) / (before - after))


# ---- a given series --------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A given series, read from its candidates table.

    Attributes:
        steps: [C] tokens where all are known, else steps, else places.
        loss, right: [C, facts] on known subjects, over the candidates of their relation.
        unseen: [C, names] expected loss on unseen names if answers were as frequent as they are.
        top, top_unseen: probability of the best candidate.
        baseline: entropy of the answers' frequencies, mean over facts, nats.
        mass: [C] attention to the subject in the layer that has most at the end, or None.
        revisions: [C] names.
        relations, relations_unseen: [facts], [names].
    """

    steps: tuple[float, ...]
    unit: str
    loss: Floats
    right: Floats
    unseen: Floats
    top: Floats
    top_unseen: Floats
    baseline: float
    mass: Floats | None
    revisions: tuple[str, ...]
    relations: tuple[str, ...]
    relations_unseen: tuple[str, ...]

    def phases(self) -> Phases:
        """Phases of the mean over facts and names."""
        return detect(self.steps, self.loss.mean(1), self.unseen.mean(1), self.baseline)


def given_series(checkpoints: pa.Table, candidates: pa.Table, attention: pa.Table) -> Given | None:
    """Read a series; None where it has no checkpoint with all candidates measured."""
    rows = sorted(checkpoints.to_pylist(), key=lambda r: r["position"])
    measured = [r for r in rows if not r["reason"]]
    by_revision: dict[str, list[Row]] = {}
    for row in candidates.to_pylist():
        by_revision.setdefault(row["revision"], []).append(row)
    read = {r["revision"]: _subjects(by_revision.get(r["revision"], [])) for r in measured}
    common = [set(s) for s in read.values() if s]
    if not common or any(not s for s in read.values()):
        return None
    keys = sorted(set.intersection(*common))
    known, unseen = [k for k in keys if k[1] == "known"], [k for k in keys if k[1] == "unseen"]
    if not known or not unseen:
        return None
    table = [read[r["revision"]] for r in measured]

    def grid(subjects: list[tuple[str, str, str]], i: int) -> Floats:
        return np.array([[revision[s][i] for s in subjects] for revision in table])

    steps, unit = _axis(measured)
    entropies = [read[measured[-1]["revision"]][k][3] for k in known]
    return Given(
        steps, unit, grid(known, 0), grid(known, 1), grid(unseen, 0), grid(known, 2),
        grid(unseen, 2), float(np.mean(entropies)), _mass(attention, measured),
        tuple(r["revision"] for r in measured),
        tuple(k[0] for k in known), tuple(k[0] for k in unseen),
    )  # fmt: skip


def _axis(measured: Sequence[Row]) -> tuple[tuple[float, ...], str]:
    for column, unit in (("tokens", "tokens"), ("step", "steps")):
        values = [r[column] for r in measured]
        if all(v is not None for v in values) and values == sorted(set(values)):
            return tuple(map(float, values)), unit
    return tuple(map(float, range(len(measured)))), "checkpoints"


def _subjects(rows: Sequence[Row]) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """(relation, kind, subject) -> (loss, right, top probability, entropy of the answers)."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["subject_kind"] in ("known", "unseen"):
            key = (row["relation"], row["subject_kind"], row["subject"])
            grouped.setdefault(key, []).append(row)
    answers: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["is_answer"]:
            counts = answers.setdefault(row["relation"], {})
            counts[row["candidate"]] = counts.get(row["candidate"], 0) + 1
    found = {}
    for key, members in grouped.items():
        if all(m["logprob_sum_nats"] is not None for m in members) and key[0] in answers:
            found[key] = _subject(members, answers[key[0]])
    return found


def _subject(members: Sequence[Row], answers: Mapping[str, int]) -> tuple[float, ...]:
    logits = np.array([m["logprob_sum_nats"] for m in members], dtype=np.float64)
    log_q = logits - np.logaddexp.reduce(logits)
    counts = np.array([answers.get(m["candidate"], 0) for m in members], dtype=np.float64)
    p = counts / counts.sum()
    entropy = empirical_entropy(np.repeat(np.arange(len(counts)), counts.astype(int)))
    right = np.array([bool(m["is_answer"]) for m in members])
    weights = right / right.sum() if right.any() else p
    best = float(right[int(np.argmax(log_q))])
    return float(-(weights * log_q).sum()), best, float(np.exp(log_q.max())), entropy


def _mass(attention: pa.Table, measured: Sequence[Row]) -> Floats | None:
    """[C] attention to the subject in the layer that has most at the end."""
    rows = {(r["revision"], r["layer"]): r["mass"] for r in attention.to_pylist()}
    layers = sorted({layer for _, layer in rows if layer >= 0})
    table = np.array(
        [[rows.get((r["revision"], k)) for k in layers] for r in measured], dtype=np.float64
    )
    if not layers or np.isnan(table).any():
        return None
    return np.asarray(table[:, int(np.argmax(table[-1]))], dtype=np.float64)


def given_curves(given: Given, *, draws: int, seed: int, level: float) -> Iterator[Measured]:
    """Losses of a given series at every checkpoint, and the baseline that its phases are read by.

    Facts and names are drawn within their relations. The baseline is a property of the facts that
    are asked, not of the model: nothing about it varies.
    """
    method, overall = "bootstrap of facts within relations", "overall"
    for name, grid, relations in (
        ("series_loss", given.loss, given.relations),
        ("series_loss_unseen", given.unseen, given.relations_unseen),
    ):
        sampler = Resampler.make(relations, draws, seed, level)
        weights = np.ones(len(relations))
        for revision, losses in zip(given.revisions, grid, strict=True):
            value = float(losses.mean())
            ends = sampler.interval(sampler.means(losses, weights), value)
            found = Estimate(value, *ends, len(relations), method)
            yield Measured(f"dynamics.{name}", overall, revision, found)
    b, n = given.baseline, len(given.relations)
    fixed = Estimate(b, b, b, n, "none: it follows from the facts asked")
    yield Measured("dynamics.series_baseline", overall, "", fixed)


def given_rows(given: Given) -> list[Row]:
    """Rows of `dynamics_summary` for a given series; times are in its unit."""
    phases = given.phases()
    quantities = phase_quantities(phases)
    if given.mass is None:
        quantities["circuit_share"] = _none("attention was not measured at every checkpoint")
    else:
        quantities["circuit_share"] = circuit_share(given.steps, given.mass, phases)
    quantities["final_loss"] = Quantity(float(given.loss[-1].mean()))
    quantities["final_accuracy"] = Quantity(float(given.right[-1].mean()))
    quantities["held_out_excess"] = Quantity(float(given.unseen[-1].mean()) - given.baseline)
    gap = float(given.top[-1].mean() - given.top_unseen[-1].mean())
    quantities["confidence_gap"] = Quantity(gap)
    quantities["auroc"] = Quantity(auroc(given.top[-1], given.top_unseen[-1]))
    rows = to_rows(GIVEN, quantities)
    return [r | {"unit": given.unit} if r["unit"] == "steps" else r for r in rows]


# ---- over seeds ------------------------------------------------------------------------------


def over_seeds(
    values: Sequence[float], level: float, *, log: bool = False, support: Any = None
) -> Estimate:
    """Mean with a t interval of S - 1 degrees of freedom over seeds.

    Args:
        log: take the mean of logarithms (a geometric mean), for ratios.
        support: (lowest, highest) possible value; the interval is cut there.

    Degenerate case: one seed has no interval; its ends are the value, and the method says so.
    """
    n = len(values)
    if not n:
        return missing(0, "no seed was measured")
    x = np.log(values) if log else np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    half = 0.0
    if n > 1:
        half = float(sps.t.ppf((1 + level) / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    ends = [mean - half, mean, mean + half]
    low, value, high = (math.exp(v) for v in ends) if log else ends
    if support is not None:
        low, high = max(low, min(support[0], value)), min(high, max(support[1], value))
    method = f"t over seeds, {n - 1} degrees of freedom" if n > 1 else "none: one seed"
    return Estimate(value, low, high, n, method)


METRICS: Mapping[str, str] = {
    "t1": "dynamics.formation",
    "t2": "dynamics.plateau_end",
    "t2_twin": "dynamics.plateau_end_twin",
    "t_held": "dynamics.hallucination_onset",
    "plateau_ratio": "dynamics.plateau_ratio",
    "circuit_share": "dynamics.circuit_share",
    "final_loss": "dynamics.final_loss",
    "final_accuracy": "dynamics.final_accuracy",
    "held_out_excess": "dynamics.held_out_excess",
    "confidence_gap": "dynamics.confidence_gap",
    "auroc": "dynamics.auroc",
    "grouping": "dynamics.grouping",
    "extraction": "dynamics.extraction",
    "sharpness": "dynamics.sharpness",
    "t_lose10": "dynamics.lose10",
    "t_gain50": "dynamics.gain50",
    "old_min": "dynamics.old_min",
    "corruption": "dynamics.corruption",
    "recovered_attention": "dynamics.recovered_attention",
    "recovered_mlp": "dynamics.recovered_mlp",
}  # quantity -> metric of the registry

_SUPPORT: Mapping[str, tuple[float, float]] = {
    "steps": (0, math.inf), "ratio": (0, math.inf), "share of values": (0, 1), "AUROC": (0, 1),
    "share of attention": (0, 1), "share of maximum": (0, 1), "probability": (-1, 1),
    "share of old accuracy": (0, 1),
}  # fmt: skip


def measure_all(runs: pa.Table, summary: Sequence[Row], *, level: float) -> Iterator[Measured]:
    """Every metric of every condition; the largest uniform run, or the series, is `overall`."""
    conditions: dict[str, list[str]] = {}
    for row in runs.sort_by("dynamics_run").to_pylist():
        conditions.setdefault(row["condition"], []).append(row["dynamics_run"])
    quantities = {(r["dynamics_run"], r["quantity"]): r for r in summary}
    main = main_conditions(runs.to_pylist())
    for condition, names in conditions.items():
        for quantity, metric in METRICS.items():
            rows = [quantities[n, quantity] for n in names if (n, quantity) in quantities]
            if not rows:
                continue
            estimate = _estimate(rows, level)
            yield Measured(metric, condition, "", estimate)
            if condition in main:
                yield Measured(metric, "overall", "", estimate)
    yield from _exponent(runs, quantities, level)


def main_conditions(runs: Sequence[Row]) -> set[str]:
    """What `overall` means: the largest uniform run, and a fine-tuning on new people, unreplayed.

    The given series' own fine-tuning comes before one of a model trained here.
    """
    uniform = [r for r in runs if r["kind"] == "scratch" and r["distribution"] == "uniform"]
    largest = max(uniform, key=lambda r: r["n_people"], default=None)
    bare = [r for r in runs if r["kind"] == "fine_tuned" and r["condition"].endswith("new.w0")]
    tuned = min(bare, key=lambda r: not r["condition"].startswith(GIVEN), default=None)
    return {r["condition"] for r in (largest, tuned) if r is not None}


def _estimate(rows: Sequence[Row], level: float) -> Estimate:
    absent = [r for r in rows if r["value"] is None]
    if absent:
        share = f"in {len(absent)} of {len(rows)} seeds" if len(rows) > 1 else ""
        return missing(len(rows), f"{absent[0]['reason']} {share}".strip())
    values = [r["value"] for r in rows]
    return over_seeds(values, level, support=_SUPPORT.get(rows[0]["unit"]))


def _exponent(
    runs: pa.Table, quantities: Mapping[tuple[str, str], Row], level: float
) -> Iterator[Measured]:
    """Slope of ln t2 on ln N over the uniform runs of each seed (dynamics-2025: 0.81)."""
    uniform = [
        r for r in runs.to_pylist() if r["kind"] == "scratch" and r["distribution"] == "uniform"
    ]
    if not uniform:
        return
    times = {
        (r["seed"], r["n_people"]): quantities[r["dynamics_run"], "t2"]["value"] for r in uniform
    }
    slopes = exponents(times)
    if slopes:
        yield Measured("dynamics.plateau_exponent", "overall", "", over_seeds(slopes, level))
    else:
        reason = "fewer than three sizes left the plateau"
        yield Measured("dynamics.plateau_exponent", "overall", "", missing(0, reason))


def exponents(times: Mapping[tuple[int, int], float | None]) -> list[float]:
    """Slope of ln t2 on ln N of each seed that left the plateau at three sizes or more.

    Args:
        times: (seed, N) -> t2, None where it was not reached.
    """
    slopes = []
    for seed in sorted({s for s, _ in times}):
        found = [(n, t) for (s, n), t in times.items() if s == seed and t]
        if len(found) >= 3:
            x, y = np.log(np.array(found, dtype=np.float64)).T
            slopes.append(float(np.polyfit(x, y, 1)[0]))
    return slopes
