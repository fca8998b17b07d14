"""The standard metrics: one registry of names, units and directions, and the `scores` table.

There is no single magic score: tracks have headline metrics, and a rank exists only within one
metric. Numbers that depend on the tokenizer are reported, never headlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from factlife.circuits import metrics as circuit_metrics
from factlife.circuits.metrics.formulas import FORMULAS as CIRCUIT_FORMULAS
from factlife.config import Circuits, Intervals, from_mapping
from factlife.recall import metrics as recall_metrics
from factlife.recall.formulas import FORMULAS as RECALL_FORMULAS
from factlife.recall.metrics import Checkpoint
from factlife.stats import Measured


@dataclass(frozen=True)
class Metric:
    """A standard metric.

    Attributes:
        name: key in tables and results.
        title: as shown on pages.
        unit: of value and interval.
        direction: higher, lower, or neither is better.
        meaning: one sentence for readers of the report.
        headline: shown first, and in the board's table.
        tokenizer_free: whether models with different tokenizers may be compared by it.
        per_revision: whether it exists at every revision or once a series.
    """

    name: str
    title: str
    unit: str
    direction: str
    meaning: str
    headline: bool = False
    tokenizer_free: bool = True
    per_revision: bool = True

    @property
    def track(self) -> str:
        """The track that measures it; made-up names belong to recall."""
        first = self.name.partition(".")[0]
        return "recall" if first == "hallucination" else first

    @property
    def formula(self) -> str:
        """How the value is made; empty where its track does not say."""
        return _formula(self.name)[0]

    @property
    def source(self) -> str:
        """Paper and section, or `ours`; empty where its track does not say."""
        return _formula(self.name)[1]

    @property
    def interval(self) -> str:
        """How the interval is made; empty where its track does not say."""
        return _formula(self.name)[2]


def _formula(name: str) -> tuple[str, str, str]:
    return FORMULAS.get(name, ("", "", ""))


# Formula, source and interval method of each metric, from the tracks that state them.
FORMULAS: Mapping[str, tuple[str, str, str]] = {**RECALL_FORMULAS, **CIRCUIT_FORMULAS}


_ACCURACY = "share of facts"
METRICS: tuple[Metric, ...] = (
    Metric(
        "recall.whole_answer_accuracy", "Whole-answer accuracy", _ACCURACY, "higher",
        "Share of facts whose every answer token is the model's first choice, each given the "
        "right tokens before it (source template).",
        headline=True,
    ),
    Metric(
        "recall.whole_answer_accuracy_macro", "Whole-answer accuracy, mean over relations",
        "mean share of facts", "higher",
        "The same accuracy averaged over relations, so that large relations do not weigh more.",
    ),
    Metric(
        "recall.candidate_accuracy_corrected", "Candidate accuracy above chance",
        "share of facts above chance", "higher",
        "Share of facts whose right answer beats the relation's other answers, rescaled so that "
        "guessing gives 0 and perfection 1.",
        headline=True,
    ),
    Metric(
        "recall.candidate_accuracy", "Candidate accuracy", _ACCURACY, "higher",
        "Share of facts whose right answer is more probable than the relation's other answers.",
    ),
    Metric(
        "recall.generation_accuracy", "Generation accuracy", _ACCURACY, "higher",
        "Share of facts whose greedy continuation begins with the answer or one of its aliases.",
    ),
    Metric(
        "recall.top1_accuracy", "First-token top-1", _ACCURACY, "higher",
        "Share of facts whose first answer token is the most probable next token.",
        tokenizer_free=False,
    ),
    Metric(
        "recall.top10_accuracy", "First-token top-10", _ACCURACY, "higher",
        "Share of facts whose first answer token is among the ten most probable next tokens.",
        tokenizer_free=False,
    ),
    Metric(
        "recall.logprob_sum", "Log-probability of the answer", "nats", "higher",
        "Mean over facts of the summed log-probability of the answer's tokens.",
    ),
    Metric(
        "recall.logprob_per_token", "Log-probability per token", "nats per token", "higher",
        "Mean over facts of the answer's log-probability divided by its number of tokens.",
        tokenizer_free=False,
    ),
    Metric(
        "recall.template_mean_accuracy", "Accuracy over all templates",
        "share of fact-template pairs", "higher",
        "Whole-answer accuracy averaged over the source template and the extra ones.",
    ),
    Metric(
        "recall.template_agreement", "Template agreement", _ACCURACY, "higher",
        "Share of facts that are right with every template or wrong with every template.",
    ),
    Metric(
        "recall.template_spread", "Template spread", "difference of shares", "lower",
        "Accuracy with a relation's best template minus that with its worst, averaged over "
        "relations: how far wording alone moves the number.",
    ),
    Metric(
        "recall.loc_name_gap", "LOC - NAME gap", "difference of shares", "neither",
        "Whole-answer accuracy on locations and the like minus that on person names.",
    ),
    Metric(
        "recall.emergence50", "Emergence, 50 %", "tokens", "lower",
        "Training tokens by which accuracy has reached half of its final value for good.",
        headline=True, per_revision=False,
    ),
    Metric(
        "recall.emergence90", "Emergence, 90 %", "tokens", "lower",
        "Training tokens by which accuracy has reached nine tenths of its final value for good.",
        per_revision=False,
    ),
    Metric(
        "recall.area", "Area under the curve", "mean share of facts", "higher",
        "Mean whole-answer accuracy over the logarithm of training tokens.",
        per_revision=False,
    ),
    Metric(
        "recall.flip_rate", "Flips per fact", "changes per fact", "lower",
        "How often a fact changes between known and unknown from one checkpoint to the next.",
        per_revision=False,
    ),
    Metric(
        "recall.forgotten_share", "Forgotten facts", _ACCURACY, "lower",
        "Share of facts that were known at some checkpoint but not at the last one.",
        per_revision=False,
    ),
    Metric(
        "hallucination.excess_loss", "Hallucination X", "nats", "lower",
        "Extra loss the model would suffer on made-up names if answers were random, because it "
        "commits to something instead of staying with the average.",
        headline=True,
    ),
    Metric(
        "hallucination.name_information", "Hallucination J", "nats", "lower",
        "How much the model's answer depends on a made-up name that can tell it nothing.",
        headline=True,
    ),
    Metric(
        "hallucination.excess_loss_prior_corrected", "Hallucination X, prior removed", "nats",
        "lower", "X after the probability of each answer without any subject is divided out.",
    ),
    Metric(
        "hallucination.name_information_prior_corrected", "Hallucination J, prior removed", "nats",
        "lower", "J after the probability of each answer without any subject is divided out.",
    ),
    Metric(
        "hallucination.top_probability", "Top probability on made-up names", "probability", "lower",
        "Mean probability of the best candidate for a made-up name.",
    ),
    Metric(
        "hallucination.normalised_entropy", "Entropy on made-up names", "share of maximum",
        "higher",
        "Entropy over the candidates for a made-up name, 1 when all are equally probable.",
    ),
    Metric(
        "hallucination.confident_share", "Confident on made-up names", "share of made-up names",
        "lower", "Share of made-up names for which one candidate gets more than half.",
    ),
    Metric(
        "hallucination.auroc", "Known against made-up", "AUROC", "higher",
        "How well the top probability tells real subjects from made-up ones; 0.5 is not at all.",
    ),
    *(Metric(*entry) for entry in circuit_metrics.REGISTRY),
)  # fmt: skip

BY_NAME: Mapping[str, Metric] = {m.name: m for m in METRICS}


def measured_checkpoints(checkpoints: pa.Table) -> list[Checkpoint]:
    """Rows of `checkpoints` that were measured, in the order of training."""
    rows = sorted(checkpoints.to_pylist(), key=lambda r: r["position"])
    return [Checkpoint(r["revision"], r["tokens"]) for r in rows if not r["reason"]]


@dataclass(frozen=True)
class Protocol:
    """The settings of a run that its scores depend on."""

    tracks: tuple[str, ...]
    intervals: Intervals
    circuits: Circuits

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Protocol:
        """From a manifest's `protocol.params`. Raises UsageError where they are not to the form."""
        sections = {"intervals": Intervals, "circuits": Circuits}
        made: dict[str, Any] = {
            name: from_mapping(of, params.get(name, {}), f"manifest.json: {name}")
            for name, of in sections.items()
        }
        return cls(tuple(params.get("tracks", ("recall",))), **made)


@dataclass(frozen=True)
class Scored:
    """The derived tables; empty where nothing was there to derive them from."""

    scores: list[dict[str, Any]]
    roles: pa.Table
    transitions: list[dict[str, Any]]


def score_tables(
    tables: Mapping[str, pa.Table],
    protocol: Protocol,
    *,
    chance: Mapping[str, float],
    subsets: Mapping[str, Sequence[str]],
) -> Scored:
    """Derive `scores`, `roles` and `transitions` from the measured tables; needs no model.

    Args:
        tables: the measured tables by name; those of a track that was not run are empty.
        chance, subsets: as in `score_rows`.
    """
    intervals = protocol.intervals
    rows: list[dict[str, Any]] = []
    if "recall" in protocol.tracks:
        rows += score_rows(tables, intervals=intervals, chance=chance, subsets=subsets)
    circuits = circuit_metrics.measure_all(
        tables["circuits"],
        tables["circuits_sweep"],
        tables["ablations"],
        tables["checkpoints"],
        settings=protocol.circuits,
        intervals=intervals,
    )
    rows += [_row(m) for m in circuits.measured]
    return Scored(rows, circuits.roles, circuits.transitions)


def score_rows(
    tables: Mapping[str, pa.Table],
    *,
    intervals: Intervals,
    chance: Mapping[str, float],
    subsets: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Compute the rows of `scores` that recall gives from the run's tables; needs no model.

    Args:
        tables: `checkpoints`, `recall` and `candidates`.
        chance: relation -> accuracy of guessing among its candidates.
        subsets: name -> fact ids that are reported apart.
    """
    found = recall_metrics.measure_all(
        tables["recall"],
        tables["candidates"],
        measured_checkpoints(tables["checkpoints"]),
        chance=chance,
        subsets=subsets,
        draws=intervals.draws,
        seed=intervals.seed,
        level=intervals.level,
    )
    return [_row(m) for m in found]


def _row(m: Measured) -> dict[str, Any]:
    metric, e = BY_NAME[m.metric], m.estimate
    return {
        "metric": m.metric,
        "scope": m.scope,
        "revision": m.revision,
        "value": e.value,
        "ci_low": e.ci_low,
        "ci_high": e.ci_high,
        "n": e.n,
        "unit": metric.unit,
        "direction": metric.direction,
        "interval_method": e.method,
        "reason": e.reason,
    }
