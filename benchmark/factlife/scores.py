"""The standard metrics: one registry of names, units and directions, and the `scores` table.

There is no single magic score: tracks have headline metrics, and a rank exists only within one
metric. Numbers that depend on the tokenizer are reported, never headlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from factlife.config import Intervals
from factlife.dynamics import metrics as dynamics_metrics
from factlife.recall import metrics as recall_metrics
from factlife.recall.metrics import Checkpoint, Measured


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
)  # fmt: skip

_VALUES = "share of values"
DYNAMICS_METRICS: tuple[Metric, ...] = tuple(
    Metric(f"dynamics.{name}", title, unit, direction, meaning, headline, per_revision=False)
    for name, title, unit, direction, meaning, headline in (
        ("formation", "Plateau reached, t1", "steps", "lower",
         "Step at which the loss on values has fallen to that of knowing nobody.", False),
        ("plateau_end", "Plateau left, t2", "steps", "lower",
         "Step at which the loss on values falls below that of knowing nobody.", False),
        ("plateau_end_twin", "Known and unseen part", "steps", "lower",
         "Step at which the loss on known people falls below that on unseen ones.", False),
        ("hallucination_onset", "Hallucination begins", "steps", "neither",
         "Step at which the loss on unseen people rises above that of knowing nobody.", False),
        ("plateau_ratio", "Plateau, t2 / t1", "ratio", "neither",
         "How many times as long as the way to the plateau the way off it is; 2 makes a plateau.",
         False),
        ("circuit_share", "Circuit formed in the plateau", "share of rise", "neither",
         "Share of the rise of attention to the name that falls into the plateau.", False),
        ("final_loss", "Loss on values", "nats", "lower",
         "Loss on the values of people trained on, in wordings they were not trained with.", False),
        ("final_accuracy", "Accuracy on values", _VALUES, "higher",
         "Share of values of people trained on that the model names in a new wording.", False),
        ("held_out_excess", "Excess loss on unseen people", "nats", "lower",
         "Loss on the values of unseen people beyond that of knowing nobody.", False),
        ("confidence_gap", "Confidence, known - unseen", "probability", "higher",
         "Top probability where a value begins, of known people minus unseen ones.", False),
        ("auroc", "Known against unseen people", "AUROC", "higher",
         "How well the top probability tells known people from unseen ones.", False),
        ("grouping", "Name grouping", "share of attention", "neither",
         "Attention from a name's last token to its others in the first layer.", False),
        ("extraction", "Extraction", "share of attention", "neither",
         "Attention from where a value begins to the name, in the layer that has most.", False),
        ("sharpness", "Evenness of attention", "share of maximum", "neither",
         "Entropy of that attention; 0 looks at one token, 1 evenly at all.", False),
        ("plateau_exponent", "Plateau over population", "exponent", "neither",
         "Slope of the logarithm of t2 over that of the number of people.", False),
        ("lose10", "A tenth of the old lost", "steps", "higher",
         "Fine-tuning steps on new people until a tenth of the old accuracy is lost.", False),
        ("gain50", "Half of the new learned", "steps", "lower",
         "Fine-tuning steps until half of the new people's values are known.", False),
        ("old_min", "Lowest old accuracy", _VALUES, "higher",
         "Lowest accuracy on old facts while new people are learned.", False),
        ("corruption", "Corruption", "share of old accuracy", "lower",
         "Share of the old accuracy that is lost, at most, while new people are learned.", True),
        ("recovered_attention", "Back with the old attention", "share of what was lost", "neither",
         "Share of the lost old accuracy that comes back with the old attention weights.", False),
        ("recovered_mlp", "Back with the old FFNs", "share of what was lost", "neither",
         "Share of the lost old accuracy that comes back with the old FFN weights.", False),
    )
)  # fmt: skip
METRICS = (*METRICS, *DYNAMICS_METRICS)

BY_NAME: Mapping[str, Metric] = {m.name: m for m in METRICS}


def measured_checkpoints(checkpoints: pa.Table) -> list[Checkpoint]:
    """Rows of `checkpoints` that were measured, in the order of training."""
    rows = sorted(checkpoints.to_pylist(), key=lambda r: r["position"])
    return [Checkpoint(r["revision"], r["tokens"]) for r in rows if not r["reason"]]


def score_rows(
    tables: Mapping[str, pa.Table],
    *,
    intervals: Intervals,
    chance: Mapping[str, float],
    subsets: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Compute the rows of `scores` from the run's other tables; needs no model.

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


def dynamics_rows(
    runs: pa.Table, summary: Sequence[dict[str, Any]], *, intervals: Intervals
) -> list[dict[str, Any]]:
    """Rows of `scores` from `dynamics_runs` and the rows of `dynamics_summary`."""
    found = dynamics_metrics.measure_all(runs, summary, level=intervals.level)
    return [_row(m) for m in found]


def _row(m: Measured | dynamics_metrics.Measured) -> dict[str, Any]:
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
