"""The claims of dynamics-2025, C1 to C11, each judged by its numbers. Pure: no torch.

A number holds where its whole interval over seeds is where the claim wants it, does not where the
whole interval is elsewhere, and is open otherwise: with one seed it always is. A claim is

    supported      every number holds
    not supported  a number does not
    undecided      anything else
    not tested     nothing was measured

A time that was not reached stands in as the length of the run, its lowest possible value, beside
one that was; its number then says so. Where neither of two was reached there is no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factlife import stats
from factlife.dynamics.metrics import GIVEN, Given, exponents, over_seeds
from factlife.dynamics.phases import Phases, detect
from factlife.stats import Estimate, Resampler, missing

Row = dict[str, Any]
Values = Mapping[int, float]  # seed -> value

SUPPORTED, CONTRADICTED = "supported", "not supported"
UNDECIDED, UNTESTED = "undecided", "not tested"
SCRATCH = "scratch"
LEAST_SIZES = 3  # at which the plateau was left, for its growth
LEAST_PEOPLE = 2048  # population from which C1 is decided: smaller ones have short plateaus
KNOWN = 0.5  # least share of values that is known where people count as known, for C8

STATEMENTS: Mapping[str, str] = {
    "C1": "Learning has three phases: the loss falls to a plateau, stays there, and falls again.",
    "C2": "The plateau grows with the number of people.",
    "C3": "The attention circuit forms during the plateau, and having it shortens the plateau.",
    "C4": "Attention patterns from before the plateau hurt.",
    "C5": "Unequal frequencies shorten the plateau; a medium inequality teaches most.",
    "C6": "A warm-up on few people beats the best fixed distribution in equal steps.",
    "C7": "Hallucination begins when knowledge does.",
    "C8": "The model is more confident on people it knows than on unseen ones.",
    "C9": "New facts corrupt old ones before they are learned themselves.",
    "C10": "Replay saves part of the old facts; people who were rare, not new, do little harm.",
    "C11": "The damage is in the feed-forward layers: their old weights bring old facts back.",
}


@dataclass(frozen=True)
class Number:
    """One number behind a claim.

    Attributes:
        name: what it is.
        wanted: what the claim asks of it, in words.
        low, high: the open interval that it is to lie in.
        undecidable: why it proves nothing, whatever it is; None where it does.
        note: what a reader should know of it.
    """

    claim: str
    name: str
    wanted: str
    low: float
    high: float
    unit: str
    estimate: Estimate
    undecidable: str | None = None
    note: str | None = None

    @property
    def holds(self) -> str:
        """Yes, no or open."""
        e = self.estimate
        certain = e.method is not None and not e.method.startswith("none")
        if self.undecidable or not certain or e.ci_low is None or e.ci_high is None:
            return "open"
        if e.ci_low > self.low and e.ci_high < self.high:
            return "yes"
        return "no" if e.ci_high < self.low or e.ci_low > self.high else "open"


def above(
    claim: str, name: str, bound: float, unit: str, estimate: Estimate, **more: Any
) -> Number:
    """A number that is to lie above a bound."""
    return Number(claim, name, f"above {bound:g}", bound, math.inf, unit, estimate, **more)


def below(
    claim: str, name: str, bound: float, unit: str, estimate: Estimate, **more: Any
) -> Number:
    """A number that is to lie below a bound."""
    return Number(claim, name, f"below {bound:g}", -math.inf, bound, unit, estimate, **more)


def verdict(numbers: Sequence[Number]) -> str:
    """Of a claim, from its numbers (see the module)."""
    if all(n.estimate.n == 0 for n in numbers):
        return UNTESTED
    holds = [n.holds for n in numbers]
    if "no" in holds:
        return CONTRADICTED
    return SUPPORTED if all(h == "yes" for h in holds) else UNDECIDED


def claim_rows(numbers: Sequence[Number], scope: str, why: Mapping[str, str]) -> list[Row]:
    """Rows of `dynamics_claims` for all eleven claims; `why` says what was not measured."""
    rows: list[Row] = []
    for claim, statement in STATEMENTS.items():
        own = [n for n in numbers if n.claim == claim]
        base: Row = {
            "claim": claim,
            "scope": scope,
            "statement": statement,
            "verdict": verdict(own),
        }
        if not own:
            nothing = {"number": "", "holds": "open", "wanted": "", "n": 0, "unit": ""}
            reason = why.get(claim, "no run of this study tests it")
            rows.append({**base, **nothing, "reason": reason})
        rows += [base | _number_columns(n) for n in own]
    return rows


def _number_columns(n: Number) -> Row:
    e = n.estimate
    certain = e.method is not None and not e.method.startswith("none")
    return {
        "number": n.name,
        "holds": n.holds,
        "wanted": n.wanted,
        "value": e.value,
        "ci_low": e.ci_low if certain else None,
        "ci_high": e.ci_high if certain else None,
        "n": e.n,
        "unit": n.unit,
        "interval_method": e.method,
        "reason": _reason(n, certain=certain),
    }


def _reason(n: Number, *, certain: bool) -> str | None:
    known = n.estimate.reason or n.undecidable
    if known is None and not certain:
        known = "one seed has no interval"
    return "; ".join(r for r in (known, n.note) if r) or None


# ---- models trained here ---------------------------------------------------------------------


class Evidence:
    """Quantities of the runs of a study, by condition and seed."""

    def __init__(self, runs: Sequence[Row], summary: Sequence[Row], level: float) -> None:
        self.runs, self.level = list(runs), level
        self._rows = {(r["dynamics_run"], r["quantity"]): r for r in summary}

    def where(self, **columns: Any) -> list[Row]:
        """Runs with these values."""
        return [r for r in self.runs if all(r[k] == v for k, v in columns.items())]

    def values(self, runs: Sequence[Row], quantity: str) -> dict[int, float]:
        """Seed -> value, of the seeds that have one."""
        rows = {r["seed"]: self._rows.get((r["dynamics_run"], quantity)) for r in runs}
        return {s: r["value"] for s, r in rows.items() if r and r["value"] is not None}

    def times(self, runs: Sequence[Row], quantity: str) -> dict[int, float]:
        """Seed -> time, or the run's length where it was not reached."""
        measured = [r for r in runs if (r["dynamics_run"], quantity) in self._rows]
        return {r["seed"]: float(r["steps"]) for r in measured} | self.values(runs, quantity)

    def reason(self, runs: Sequence[Row], quantity: str) -> str:
        """Why a quantity is missing."""
        rows = [self._rows.get((r["dynamics_run"], quantity)) for r in runs]
        return next((r["reason"] for r in rows if r and r["reason"]), "not measured")

    def mean(self, runs: Sequence[Row], quantity: str, **settings: Any) -> Estimate:
        """Over seeds; missing where it is in any seed."""
        values = self.values(runs, quantity)
        if len(values) < len(runs):
            return missing(len(runs), self.reason(runs, quantity))
        return over_seeds(list(values.values()), self.level, **settings)

    def ratio(self, a: Values, b: Values) -> Estimate:
        """Geometric mean of a / b over the seeds that both have."""
        pairs = [a[s] / b[s] for s in sorted(a) if b.get(s) and a[s] > 0]
        return over_seeds(pairs, self.level, log=True)

    def ratio_of_times(
        self, a: tuple[Sequence[Row], str], b: tuple[Sequence[Row], str]
    ) -> tuple[Estimate, str | None]:
        """Geometric mean over seeds of one time over another, each as (runs, quantity); a note.

        Missing where in some seed neither was reached: of two bounds the ratio may be anything.
        """
        reached, times = ([f(*a), f(*b)] for f in (self.values, self.times))
        both = [s for s in sorted(times[0]) if s in times[1]]
        if any(s not in reached[0] and s not in reached[1] for s in both):
            return missing(len(both), f"neither time was reached: {self.reason(*a)}"), None
        absent = sum((s not in reached[0]) + (s not in reached[1]) for s in both)
        note = f"{absent} of {2 * len(both)} times were not reached; the run's length stands in"
        return self.ratio(*times), note if absent else None

    def difference(self, a: Values, b: Values) -> Estimate:
        """Mean of a - b over the seeds that both have."""
        return over_seeds([a[s] - b[s] for s in sorted(a) if s in b], self.level)

    def uniform(self, size: int | None = None) -> list[Row]:
        """The uniform runs of a size; None: of the largest."""
        runs = self.where(kind="scratch", distribution="uniform")
        largest = max((r["n_people"] for r in runs), default=0)
        return [r for r in runs if r["n_people"] == (size or largest)]


def scratch_claims(runs: Sequence[Row], summary: Sequence[Row], level: float) -> list[Row]:
    """Rows of `dynamics_claims` for models trained here."""
    own = [r for r in runs if not r["condition"].startswith(GIVEN)]
    e = Evidence(own, summary, level)
    numbers = [n for find in _SCRATCH for n in find(e)]
    return claim_rows(numbers, SCRATCH, {})


def _three_phases(e: Evidence) -> Iterator[Number]:
    runs = e.uniform()
    if not runs:
        return
    size = runs[0]["n_people"]
    small = None
    if size < LEAST_PEOPLE:
        small = f"decided at {LEAST_PEOPLE} people or more; this study has {size}"
    ratio = e.mean(runs, "plateau_ratio", log=True)
    yield above("C1", f"t2 / t1 at N = {size}", 2, "ratio", ratio, undecidable=small)
    if ratio.value is not None and ratio.value >= 2:
        # Knowing nobody, the commonest value is right about exp(-B) of the time.
        guess = 3 * math.exp(-runs[0]["baseline_nats"])
        accuracy = e.mean(runs, "plateau_accuracy")
        name = f"accuracy half way through the plateau at N = {size}"
        yield below("C1", name, round(guess, 3), "share of values", accuracy, undecidable=small)


def _growth(e: Evidence) -> Iterator[Number]:
    runs = e.where(kind="scratch", distribution="uniform")
    sizes = sorted({r["n_people"] for r in runs})
    if len(sizes) < LEAST_SIZES:
        return
    times: dict[tuple[int, int], float | None] = {}
    for size in sizes:
        for seed, t in e.values(e.uniform(size), "t2").items():
            times[seed, size] = t
    seeds = sorted({r["seed"] for r in runs})
    found = {"exponent of t2 over N": ("exponent", exponents(times)),
             "Spearman correlation of t2 and N": ("correlation", _ranks(times))}  # fmt: skip
    for name, (unit, values) in found.items():
        estimate = over_seeds(values, e.level)
        if not values:
            estimate = missing(len(seeds), "fewer than three sizes left the plateau in every seed")
        left_out = len(seeds) - len(values)
        note = f"{left_out} of {len(seeds)} seeds left it at fewer than three sizes"
        yield above("C2", name, 0, unit, estimate, note=note if values and left_out else None)


def _ranks(times: Mapping[tuple[int, int], float | None]) -> list[float]:
    """Rank correlation of t2 and N, of each seed that left the plateau at three sizes or more."""
    found = []
    for seed in sorted({s for s, _ in times}):
        pairs = [(n, t) for (s, n), t in times.items() if s == seed]
        rank = stats.spearman(*zip(*pairs, strict=True)) if len(pairs) >= LEAST_SIZES else None
        found += [] if rank is None else [rank]
    return found


def _patches(e: Evidence, late: bool) -> tuple[list[Row], list[Row]]:
    """Patched runs whose patterns come from after t2 (late) or before t1, and the plain ones."""
    runs = e.where(kind="patched")
    if not runs:
        return [], []
    plain = e.uniform(runs[0]["n_people"])
    times = e.values(plain, "t2" if late else "t1")
    if not times:
        return [], []
    edge = max(times.values()) if late else min(times.values())
    fits = [r for r in runs if (r["reference_step"] > edge if late else r["reference_step"] < edge)]
    chosen = max(fits, key=lambda r: r["reference_step"] * (1 if late else -1), default=None)
    return ([] if chosen is None else e.where(condition=chosen["condition"])), plain


def _circuit(e: Evidence) -> Iterator[Number]:
    runs = e.uniform()
    if not runs:
        return
    share = e.mean(runs, "circuit_share")
    name = f"share of the circuit's rise inside the plateau at N = {runs[0]['n_people']}"
    yield above("C3", name, 0.5, "share of rise", share)
    patched, plain = _patches(e, late=True)
    if patched:
        r = patched[0]["reference_step"]
        ratio, note = e.ratio_of_times((patched, "t2"), (plain, "t2"))
        name = f"t2 with patterns of step {r} / t2 without"
        yield below("C3", name, 1, "ratio", ratio, note=note)
    elif why := _unpatched(e, late=True):
        yield below("C3", "t2 with later patterns / t2 without", 1, "ratio", why)


def _early_patterns(e: Evidence) -> Iterator[Number]:
    patched, plain = _patches(e, late=False)
    if patched:
        worse = e.difference(e.values(patched, "final_loss"), e.values(plain, "final_loss"))
        r = patched[0]["reference_step"]
        yield above("C4", f"final loss with patterns of step {r} - without", 0, "nats", worse)
    elif why := _unpatched(e, late=False):
        yield above("C4", "final loss with earlier patterns - without", 0, "nats", why)


def _unpatched(e: Evidence, *, late: bool) -> Estimate | None:
    """Why patched runs prove nothing; None where there are none."""
    runs = e.where(kind="patched")
    if not runs:
        return None
    quantity, where = ("t2", "after t2") if late else ("t1", "before t1")
    plain = e.uniform(runs[0]["n_people"])
    seeds = len({r["seed"] for r in runs})
    if not e.values(plain, quantity):
        return missing(seeds, f"without patterns: {e.reason(plain, quantity)}")
    return missing(seeds, f"no patterns were taken from {where} of the runs without")


def _alphas(e: Evidence) -> dict[float, list[Row]]:
    """Exponent -> runs of the size at which distributions are studied; 0 is uniform."""
    found: dict[float, list[Row]] = {}
    for r in e.where(distribution="power_law", kind="scratch"):
        found.setdefault(float(r["alpha"]), []).append(r)
    if found and (plain := e.uniform(next(iter(found.values()))[0]["n_people"])):
        found[0.0] = plain
    return dict(sorted(found.items()))


def _mean_of(values: Values) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan


def _imbalance(e: Evidence) -> Iterator[Number]:
    by_alpha = _alphas(e)
    if len(by_alpha) < 2 or 0.0 not in by_alpha:
        return
    fastest = min(
        (a for a in by_alpha if a > 0), key=lambda a: _mean_of(e.times(by_alpha[a], "t2"))
    )
    ratio, note = e.ratio_of_times((by_alpha[fastest], "t2"), (by_alpha[0.0], "t2"))
    yield below("C5", f"t2 at alpha {fastest:g} / t2 at alpha 0", 1, "ratio", ratio, note=note)
    accuracy = {a: e.values(r, "final_accuracy") for a, r in by_alpha.items()}
    inner = [a for a in by_alpha if 0 < a < max(by_alpha)]
    if not inner:
        return
    best = max(inner, key=lambda a: _mean_of(accuracy[a]))
    for end in (0.0, max(by_alpha)):
        name = f"final accuracy at alpha {best:g} - at alpha {end:g}"
        gain = e.difference(accuracy[best], accuracy[end])
        yield above("C5", name, 0, "difference of shares", gain)


def _warm_up(e: Evidence) -> Iterator[Number]:
    runs, by_alpha = e.where(distribution="warm_up", kind="scratch"), _alphas(e)
    if not runs:
        return
    by_alpha = by_alpha or {0.0: e.uniform(runs[0]["n_people"])}
    accuracy = {a: e.values(r, "final_accuracy") for a, r in by_alpha.items()}
    best = max(accuracy, key=lambda a: _mean_of(accuracy[a]))
    gain = e.difference(e.values(runs, "final_accuracy"), accuracy[best])
    name = f"final accuracy after a warm-up - at the best alpha ({best:g})"
    yield above("C6", name, 0, "difference of shares", gain)


def _onset(e: Evidence) -> Iterator[Number]:
    runs = e.uniform()
    if not runs:
        return
    held, t2 = e.values(runs, "t_held"), e.values(runs, "t2")
    estimate = e.ratio(held, t2)
    if len(held) < len(runs) or len(t2) < len(runs):
        late = "t_held" if len(held) < len(runs) else "t2"
        estimate = missing(len(runs), e.reason(runs, late))
    name = f"t_held / t2 at N = {runs[0]['n_people']}"
    yield Number("C7", name, "between 0.5 and 2", 0.5, 2, "ratio", estimate)


def _confidence(e: Evidence) -> Iterator[Number]:
    """At the largest size whose people the model knows: the claim is about people it knows."""
    sizes = sorted({r["n_people"] for r in e.where(kind="scratch", distribution="uniform")})
    if not sizes:
        return
    known = {n: _mean_of(e.values(e.uniform(n), "final_accuracy")) for n in sizes}
    size = max((n for n in sizes if known[n] >= KNOWN), default=sizes[-1])
    unknown = None
    if not known[size] >= KNOWN:
        unknown = f"the model knows {known[size]:.0%} of what it was shown; {KNOWN:.0%} are asked"
    runs = e.uniform(size)
    gap, ranked = e.mean(runs, "confidence_gap"), e.mean(runs, "auroc")
    name = f"top probability on known - on unseen people at N = {size}"
    yield above("C8", name, 0, "probability", gap, undecidable=unknown)
    name = f"AUROC of known against unseen people at N = {size}"
    yield above("C8", name, 0.5, "AUROC", ranked, undecidable=unknown)


_SCRATCH: tuple[Callable[[Evidence], Iterator[Number]], ...] = (
    _three_phases, _growth, _circuit, _early_patterns, _imbalance, _warm_up, _onset, _confidence,
    lambda e: corruption_numbers(e),
)  # fmt: skip


# ---- fine-tuning, of models trained here and of given ones -----------------------------------


def corruption_numbers(e: Evidence) -> Iterator[Number]:
    """C9 to C11 from the fine-tunings in this evidence."""
    tuned = e.where(kind="fine_tuned", material="new")
    main = [r for r in tuned if "control" not in r["condition"]]
    bare = [r for r in main if r["replay_weight"] == 0]
    if bare:
        yield from _corruption(e, bare)
        yield from _replay(e, bare, [r for r in main if r["replay_weight"]])
    rare = e.where(kind="fine_tuned", material="rare")
    control = [r for r in tuned if "control" in r["condition"]]
    if rare and control:
        lost = {"rare": e.values(rare, "corruption"), "new": e.values(control, "corruption")}
        less = e.difference(lost["new"], lost["rare"])
        name = "old accuracy lost to new people - to rare ones"
        yield above("C10", name, 0, "share of old accuracy", less)


def _corruption(e: Evidence, bare: Sequence[Row]) -> Iterator[Number]:
    name = "steps to lose 10 % of the old / to gain 50 % of the new"
    ratio, note = e.ratio_of_times((bare, "t_lose10"), (bare, "t_gain50"))
    yield below("C9", name, 1, "ratio", ratio, note=note)
    mlp, attention = (e.values(bare, f"recovered_{k}") for k in ("mlp", "attention"))
    back = e.difference(mlp, attention)
    if back.value is None:
        back = missing(len(bare), e.reason(bare, "recovered_mlp"))
    name = "old accuracy back with the old FFNs - with the old attention"
    yield above("C11", name, 0, "share of what was lost", back)


def _replay(e: Evidence, bare: Sequence[Row], replayed: Sequence[Row]) -> Iterator[Number]:
    if not replayed:
        return
    heaviest = max(r["replay_weight"] for r in replayed)
    most = [r for r in replayed if r["replay_weight"] == heaviest]
    with_, without = e.values(most, "old_min"), e.values(bare, "old_min")
    name = f"lowest old accuracy with replay (w = {heaviest:g}) - without"
    yield above("C10", name, 0, "difference of shares", e.difference(with_, without))
    name = f"old accuracy lost all the same with replay (w = {heaviest:g})"
    lost = e.difference(e.values(most, "old_before"), with_)
    yield above("C10", name, 0, "difference of shares", lost)


# ---- a given series --------------------------------------------------------------------------


def given_claims(
    given: Given | None,
    summary: Sequence[Row],
    runs: Sequence[Row],
    *,
    level: float,
    draws: int,
    seed: int,
) -> list[Row]:
    """Rows of `dynamics_claims` for a given series; intervals of C1, C3, C7 and C8 are over facts.

    Args:
        given: the series as read from its candidates table, or None.
        runs: rows of `dynamics_runs`; its fine-tunings are those of condition `series.…`.
    """
    own = [r for r in runs if r["condition"].startswith(GIVEN)]
    numbers = list(corruption_numbers(Evidence(own, summary, level)))
    why = dict.fromkeys(("C2", "C4", "C5", "C6"), "needs models trained here")
    untuned = "the last checkpoint was not fine-tuned: it knows no fact, or its tokenizer forbids"
    why |= dict.fromkeys(("C9", "C10", "C11"), untuned)
    if given is not None:
        numbers = [*_given_numbers(given, summary, level, draws, seed), *numbers]
    return claim_rows(numbers, GIVEN, why)


def _given_numbers(
    g: Given, summary: Sequence[Row], level: float, draws: int, seed: int
) -> Iterator[Number]:
    rows = {r["quantity"]: r for r in summary if r["dynamics_run"] == GIVEN}
    facts = Resampler.make(["facts"] * g.loss.shape[1], draws, seed, level)
    names = Resampler.make(["names"] * g.unseen.shape[1], draws, seed + 1, level)
    drawn = _drawn(g, facts, names)
    ratio = _resampled(rows["plateau_ratio"], [p.ratio for p in drawn], facts, g)
    yield above("C1", "t2 / t1 of the loss among candidates", 2, "ratio", ratio)
    share = rows["circuit_share"]
    name = "share of the rise of attention to the subject between t1 and t2"
    estimate = missing(g.loss.shape[1], str(share["reason"]))
    if share["value"] is not None:
        value, method = share["value"], "none: one series"
        estimate = Estimate(value, value, value, g.loss.shape[1], method)
    yield above("C3", name, 0.5, "share of rise", estimate)
    phases = g.phases()
    value = _onset_ratio(phases)
    reason = phases.t_held.reason or phases.t2.reason
    onset: Row = {"value": value, "reason": reason}
    estimate = _resampled(onset, [_onset_ratio(p) for p in drawn], facts, g)
    yield Number("C7", "t_held / t2", "between 0.5 and 2", 0.5, 2, "ratio", estimate)
    gap = stats.difference(g.top[-1], g.top_unseen[-1], facts, names)
    yield above("C8", "top probability on known - on unseen names", 0, "probability", gap)


def _drawn(g: Given, facts: Resampler, names: Resampler) -> list[Phases]:
    """Phases of the series in each bootstrap draw of facts and of unseen names."""
    loss = facts.counts @ g.loss.T / g.loss.shape[1]
    unseen = names.counts @ g.unseen.T / g.unseen.shape[1]
    return [detect(g.steps, a, b, g.baseline) for a, b in zip(loss, unseen, strict=True)]


def _onset_ratio(phases: Phases) -> float | None:
    if phases.t_held.step is None or not phases.t2.step:
        return None
    return phases.t_held.step / phases.t2.step


def _resampled(
    row: Mapping[str, Any], found: Sequence[float | None], facts: Resampler, g: Given
) -> Estimate:
    """Percentile interval; missing where the value is, or where a tenth of the draws has none."""
    n = g.loss.shape[1]
    if row["value"] is None:
        return missing(n, str(row["reason"]))
    values = np.array([math.nan if v is None else v for v in found])
    value = float(row["value"])
    if np.isnan(values).mean() > 0.1:
        return Estimate(value, value, value, n, "none: many draws do not reach it")
    low, high = facts.interval(values, value)
    return Estimate(value, low, high, n, "bootstrap of facts")
