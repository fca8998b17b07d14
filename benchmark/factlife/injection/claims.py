"""The claims of injection-2024, each tested on rows of `scores`; pure.

A claim is made of comparisons, each a number that is above 0 (or about 0) if the claim holds. It is
`supported` if every comparison holds with its interval, `not supported` if one is contradicted with
its interval, `undecided` otherwise, and `not tested` where there is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factlife.injection.metrics.curves import POSITIONS

Row = Mapping[str, Any]
SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
UNDECIDED, NOT_TESTED = "undecided", "not tested"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_TESTED)
MARGIN = 0.25  # of a decay constant: differences within it count as none
NEGLIGIBLE = 0.1  # of the accumulation at the shortest spacing


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        what: in words, with the direction that the claim asks for.
        row: its number with interval and unit; None where there is none.
        verdict: one of VERDICTS.
        reason: why there is no number.
    """

    what: str
    row: Row | None
    verdict: str
    reason: str = ""

    def line(self) -> str:
        """The comparison with its number in plain text."""
        if self.row is None or self.row["value"] is None:
            return f"{self.what}: {self.reason or 'not measured'}"
        low, value, high = (f"{self.row[k]:.3g}" for k in ("ci_low", "value", "ci_high"))
        return f"{self.what}: {value} [{low}, {high}] {self.row['unit']}, {self.verdict}"


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict; `note` says what else a reader must know."""

    number: int
    text: str
    verdict: str
    parts: tuple[Part, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """Rows of `scores` for lookup.

    Attributes:
        rows: (metric, scope) -> row.
        failed: position -> runs that did not finish, with their reasons.
    """

    rows: Mapping[tuple[str, str], Row]
    failed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def make(cls, scores: Sequence[Row], runs: Sequence[Row] = ()) -> Evidence:
        """From rows of `scores` and of `injection_runs`."""
        rows = {(r["metric"], r["scope"]): r for r in scores if r["revision"] == ""}
        failed: dict[str, list[str]] = {}
        for r in runs:
            if r["reason"] and r["study"] == "main":
                failed.setdefault(r["position"], []).append(f"{r['injection_run']}: {r['reason']}")
        return cls(rows, failed)

    def get(self, metric: str, scope: str) -> Row | None:
        """A row of the injection track."""
        return self.rows.get((f"injection.{metric}", scope))

    @property
    def positions(self) -> list[str]:
        """Starts of the main runs, in the order of training."""
        scopes = {s for m, s in self.rows if m == "injection.effectivity"}
        named = sorted(s for s in scopes if s.startswith("named(") and s.endswith(")"))
        return [p for p in POSITIONS if p in scopes] + named

    @property
    def last(self) -> str:
        """The latest start; empty without one."""
        return self.positions[-1] if self.positions else ""


def above(e: Evidence, what: str, metric: str, scope: str, sign: int = 1) -> Part:
    """A number that must be above 0 (below, with sign -1) with its interval."""
    row = e.get(metric, scope)
    if row is None or row["value"] is None:
        return Part(what, row, NOT_TESTED, (row or {}).get("reason") or "not measured")
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    return Part(what, row, side(low, high))


def side(low: float, high: float) -> str:
    """Where an interval lies, for a number that must be above 0."""
    if low > 0:
        return SUPPORTED
    return NOT_SUPPORTED if high < 0 else UNDECIDED


def within(e: Evidence, what: str, metric: str, scope: str, margin: float) -> Part:
    """A number that must be 0 within a margin: an equivalence, shown by the whole interval."""
    row = e.get(metric, scope)
    if row is None or row["value"] is None:
        return Part(what, row, NOT_TESTED, (row or {}).get("reason") or "not measured")
    if -margin <= row["ci_low"] and row["ci_high"] <= margin:
        return Part(what, row, SUPPORTED)
    apart = row["ci_low"] > margin or row["ci_high"] < -margin
    return Part(what, row, NOT_SUPPORTED if apart else UNDECIDED)


def judged(number: int, text: str, parts: Sequence[Part], note: str = "") -> Claim:
    """A claim from its comparisons; those without a number leave it undecided at best."""
    verdicts = {p.verdict for p in parts}
    if verdicts <= {NOT_TESTED}:
        verdict = NOT_TESTED
    elif NOT_SUPPORTED in verdicts:
        verdict = NOT_SUPPORTED
    else:
        verdict = SUPPORTED if verdicts == {SUPPORTED} else UNDECIDED
    return Claim(number, text, verdict, tuple(parts), note)


# ---- the claims ------------------------------------------------------------------------------

E, A, DE, DA = "effectivity", "decay_constant", "effectivity_difference", "decay_difference"
Test = Callable[[Evidence], tuple[Sequence[Part], str]]


def _acquire_and_decay(e: Evidence) -> tuple[Sequence[Part], str]:
    p = e.last
    return [
        above(e, "an injection raises log-probability", E, p),
        above(e, "the gain decays", A, p),
        above(e, "gains accumulate over injections", "accumulation", p),
    ], ""


def _by_depth(e: Evidence) -> tuple[Sequence[Part], str]:
    p = e.last
    return [
        above(e, "memorization above semantic", DE, f"{p}.memorization-semantic"),
        above(e, "semantic above compositional", DE, f"{p}.semantic-compositional"),
    ], ""


def _gap(e: Evidence) -> tuple[Sequence[Part], str]:
    what = "gap between memorization and semantic wider with duplication than with paraphrase"
    return [above(e, what, DE, f"{e.last}.gap_duplication-gap_paraphrase")], ""


def _duplication(e: Evidence) -> tuple[Sequence[Part], str]:
    where = f"{e.last}.duplication-paraphrase"
    return [
        above(e, "effectivity larger with duplication", DE, where),
        above(e, "forgetting faster with duplication", DA, where),
    ], ""


def _stages(e: Evidence) -> tuple[Sequence[Part], str]:
    p = e.positions
    parts = []
    if len(p) > 1:
        parts = [above_or_equal(e, p[0], p[-1])]
    return parts, "" if parts else "one start only"


def above_or_equal(e: Evidence, first: str, last: str) -> Part:
    """Effectivity at the later start must not exceed that at the earlier one."""
    what = f"effectivity {first} minus {last}: not below 0"
    row = e.get(DE, f"{first}-{last}")
    if row is None or row["value"] is None:
        return Part(what, row, NOT_TESTED, (row or {}).get("reason") or "not measured")
    if row["ci_high"] < 0:
        return Part(what, row, NOT_SUPPORTED)
    return Part(what, row, SUPPORTED if row["ci_low"] >= 0 else UNDECIDED)


def _size(_: Evidence) -> tuple[Sequence[Part], str]:
    return [], "needs runs of models of different sizes: factlife compare RUN…"


def _first(e: Evidence) -> tuple[Sequence[Part], str]:
    return [above(e, "first encounter above the later ones", DE, f"{e.last}.first-later")], ""


def _law(e: Evidence) -> tuple[Sequence[Part], str]:
    what = "logarithmic law fits better than power law and exponential"
    return [above(e, what, "log_fit_advantage", e.last)], "by AICc, over resampled passages"


def _slow_composition(e: Evidence) -> tuple[Sequence[Part], str]:
    p = e.last
    return [
        above(
            e, "decay of memorization above compositional", DA, f"{p}.memorization-compositional"
        ),
        above(e, "decay: semantic above compositional", DA, f"{p}.semantic-compositional"),
    ], ""


def _paraphrase_lasts(e: Evidence) -> tuple[Sequence[Part], str]:
    what = "decay with duplication above paraphrase"
    return [above(e, what, DA, f"{e.last}.duplication-paraphrase")], ""


def _stable_decay(e: Evidence) -> tuple[Sequence[Part], str]:
    a = e.get(A, e.last)
    if a is None or a["value"] is None or len(e.positions) < 2:
        return [], "one start only" if len(e.positions) < 2 else "no decay constant"
    margin = MARGIN * abs(a["value"])
    pairs = [(p, q) for i, p in enumerate(e.positions) for q in e.positions[i + 1 :]]
    parts = [
        within(e, f"decay {p} minus {q}: within ±{100 * margin:.1f} %", DA, f"{p}-{q}", margin)
        for p, q in pairs
    ]
    return parts, f"counts as stable within {MARGIN:.0%} of the decay constant at the latest start"


def _batch(e: Evidence) -> tuple[Sequence[Part], str]:
    where = next((s for _, s in e.rows if s.startswith("batch_rows-")), "batch_rows")
    parts = [
        above(e, "effectivity falls with batch", "effectivity_slope", where, -1),
        above(e, "decay constant falls with batch", "decay_slope", where, -1),
        above(e, "extrapolated threshold (tokens) rises with batch", "threshold_slope", where),
    ]
    return parts, "needs the batch study, or factlife compare RUN…"


def _spacing(e: Evidence) -> tuple[Sequence[Part], str]:
    """Slopes of G at the spacings beyond the threshold that decay extrapolates to."""
    study = next((s for m, s in e.rows if m == "injection.spacing_threshold"), "")
    if not study:
        return [], "needs the spacing study"
    slopes = dict(sorted(_every(e, study)))
    limit = e.get("threshold_steps", e.last)
    if limit is None or limit["value"] is None or not slopes:
        return [], "no extrapolated threshold to test" if slopes else "no spacing was measured"
    steps = 10 ** limit["value"]
    beyond = {n: r for n, r in slopes.items() if n > steps}
    note = f"extrapolated threshold {steps:.3g} steps, longest spacing {max(slopes)}"
    if not beyond:
        return [], f"{note}: no spacing beyond it was tested"
    margin = NEGLIGIBLE * abs(next(iter(slopes.values()))["value"])
    parts = [_no_rise(n, r, margin) for n, r in beyond.items()]
    return parts, f"{note}; nothing accumulates: below {margin:.2g} nats per injection"


def _every(e: Evidence, study: str) -> Iterator[tuple[int, Row]]:
    for (metric, scope), row in e.rows.items():
        number = scope.removeprefix(f"{study}.every-")
        if metric == "injection.accumulation" and number.isdigit() and row["value"] is not None:
            yield int(number), row


def _no_rise(spacing: int, row: Row, margin: float) -> Part:
    what = f"every {spacing} steps: accumulation below {margin:.2g}"
    if row["ci_low"] > 0:
        return Part(what, row, NOT_SUPPORTED)
    return Part(what, row, SUPPORTED if row["ci_high"] <= margin else UNDECIDED)


_EARLY = ("first", "early")


def _unstable(e: Evidence) -> tuple[Sequence[Part], str]:
    p = e.positions
    failed = [line for position in _EARLY for line in e.failed.get(position, ())]
    note = f"did not finish: {'; '.join(failed)}" if failed else ""
    if len(p) < 2:
        return [], note or "one start only"
    what = f"readings fluctuate more {p[0]} than {p[-1]}"
    return [above(e, what, "fluctuation_difference", f"{p[0]}-{p[-1]}")], note


CLAIMS: tuple[tuple[str, Test], ...] = (
    ("Each injection raises log-probability, then it decays; gains accumulate", _acquire_and_decay),
    ("Gain is largest for memorization, then semantic, then compositional probes", _by_depth),
    ("Paraphrasing closes the gap between memorization and semantic probes", _gap),
    ("Duplication is more effective, and forgotten faster", _duplication),
    ("Effectivity does not rise from early to late in training", _stages),
    ("Effectivity grows with model size at a matched learning rate", _size),
    ("The first encounter has the largest effectivity", _first),
    ("Decay is linear in the logarithm of time", _law),
    ("Compositional knowledge decays more slowly", _slow_composition),
    ("Paraphrased knowledge decays more slowly than duplicated", _paraphrase_lasts),
    ("The decay constant is stable over stages at a fixed learning rate", _stable_decay),
    ("Smaller batches: larger effectivity, faster decay, smaller threshold", _batch),
    ("Beyond the learnability threshold repeated encounters never accumulate", _spacing),
    ("Early starts are unstable", _unstable),
)  # fmt: skip


def evaluate(e: Evidence) -> list[Claim]:
    """All fourteen claims, in the order of the specification."""
    found = []
    for number, (text, test) in enumerate(CLAIMS, start=1):
        parts, note = test(e)
        found.append(judged(number, text, parts, note))
    return found
