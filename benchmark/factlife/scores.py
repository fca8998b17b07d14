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
from factlife.dynamics import metrics as dynamics_metrics
from factlife.dynamics.formulas import FORMULAS as DYNAMICS_FORMULAS
from factlife.injection import metrics as injection_metrics
from factlife.injection.formulas import FORMULAS as INJECTION_FORMULAS
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
        """How the value is made."""
        return _formula(self.name)[0]

    @property
    def source(self) -> str:
        """Paper and section, or `ours`."""
        return _formula(self.name)[1]

    @property
    def interval(self) -> str:
        """How the interval is made."""
        return _formula(self.name)[2]


def _formula(name: str) -> tuple[str, str, str]:
    return FORMULAS[name]


# Formula, source and interval method of each metric, from the tracks that state them.
FORMULAS: Mapping[str, tuple[str, str, str]] = {
    **RECALL_FORMULAS, **CIRCUIT_FORMULAS, **INJECTION_FORMULAS, **DYNAMICS_FORMULAS,
}  # fmt: skip


_ACCURACY = "share of facts"
_NATS_PER_TARGET = "nats per target"
_A_DECADE = "share of the gain per decade"
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
    Metric(
        "injection.effectivity", "Effectivity", _NATS_PER_TARGET, "higher",
        "Rise of an injected fact's summed log-probability from just before an encounter to its "
        "peak, minus that of control facts; the peak is picked on one half of the passages and "
        "read on the other, so that nothing learned gives 0. Mean over arms, latest start.",
        headline=True, per_revision=False,
    ),
    Metric(
        "injection.effectivity_placebo", "Effectivity at placebo times", _NATS_PER_TARGET,
        "neither",
        "The same number at steps at which nothing of the arm was injected: it should be 0.",
        per_revision=False,
    ),
    Metric(
        "injection.effectivity_difference", "Difference of effectivity", _NATS_PER_TARGET,
        "neither",
        "Effectivity of the first named minus that of the second: arms, depths, encounters, or "
        "starts.",
        per_revision=False,
    ),
    Metric(
        "injection.effectivity_published", "Effectivity as published", "nats per token", "higher",
        "Formula of injection-2024 (mean per token, highest of all readings in the window, no "
        "controls, filter 1.5): positive even where nothing is learned.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.effectivity_published_code", "Effectivity as in the published code",
        "nats per token", "higher",
        "The same formula with the filter of the published code (2.0).",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.effectivity_slope", "Effectivity over a swept setting",
        "nats per target, per decade", "neither",
        "Change of effectivity when batch or learning rate grows tenfold.",
        per_revision=False,
    ),
    Metric(
        "injection.gain", "Gain of injection", _NATS_PER_TARGET, "higher",
        "Rise of the targets' summed log-probability from before the first injection to the end "
        "of the window after the last one, minus that of controls.",
        per_revision=False,
    ),
    Metric(
        "injection.gain_slope", "Gain over exposures", "nats per target, per decade", "higher",
        "Change of the gain when a fact is injected ten times as often.",
        per_revision=False,
    ),
    Metric(
        "injection.accumulation", "Accumulation", "nats per injection", "higher",
        "Slope, over injections, of what is left just before the next one: 0 where nothing "
        "accumulates.",
        per_revision=False,
    ),
    Metric(
        "injection.spacing_threshold", "Learnability threshold, measured", "steps", "higher",
        "Spacing of injections at which what is left before the next one stops to rise.",
        per_revision=False,
    ),
    Metric(
        "injection.retained", "Gain kept at the end", "share of the gain", "higher",
        "Gain left at the last step over the gain at the peak after the last injection, as a "
        "ratio of means over one set of probes.",
        per_revision=False,
    ),
    Metric(
        "injection.retention", "Gain kept after t steps", "share of the gain", "higher",
        "Gain left t steps after the peak that follows the last injection, over the gain at that "
        "peak; t stands in the scope.",
        per_revision=False,
    ),
    Metric(
        "injection.decay_constant", "Decay constant", _A_DECADE, "lower",
        "Share of the gain that is lost whenever the steps since the last injection grow "
        "tenfold. Over all arms that were injected more than once, latest start.",
        headline=True, per_revision=False,
    ),
    Metric(
        "injection.decay_theil_sen", "Decay constant, Theil-Sen", _A_DECADE, "lower",
        "The same slope as a median over all pairs of times, which outliers do not move.",
        per_revision=False,
    ),
    Metric(
        "injection.decay_difference", "Difference of decay constants", _A_DECADE, "neither",
        "Decay constant of the first named minus that of the second.",
        per_revision=False,
    ),
    Metric(
        "injection.decay_published", "Decay constant as published", _A_DECADE, "lower",
        "Formula of injection-2024: ratios of single probes, filtered anew at each time, no "
        "controls.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.decay_slope", "Decay constant over a swept setting",
        "share of the gain per decade, per decade", "neither",
        "Change of the decay constant when batch or learning rate grows tenfold.",
        per_revision=False,
    ),
    Metric(
        "injection.power_exponent", "Exponent of power-law decay", "exponent", "lower",
        "p, where the share of the gain that is kept is fitted by c times t to the power of -p.",
        per_revision=False,
    ),
    Metric(
        "injection.exponential_time", "Time of exponential decay", "steps", "higher",
        "Steps in which the gain falls to 1/e, if its decay is fitted by an exponential.",
        per_revision=False,
    ),
    Metric(
        "injection.log_fit_advantage", "Logarithmic decay against the other laws", "AICc",
        "neither",
        "AICc of the better of power law and exponential minus that of the logarithmic law: "
        "positive where the logarithmic law fits best.",
        per_revision=False,
    ),
    Metric(
        "injection.threshold_steps", "Learnability threshold, extrapolated", "log10 steps",
        "higher",
        "Logarithm of the steps at which the fitted line of decay reaches 0.",
        per_revision=False,
    ),
    Metric(
        "injection.threshold_tokens", "Learnability threshold in tokens", "log10 tokens", "higher",
        "The same in training tokens.",
        per_revision=False,
    ),
    Metric(
        "injection.threshold_published", "Learnability threshold as published", "log10 steps",
        "higher",
        "Where the published fit of retainability reaches 0.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.threshold_slope", "Extrapolated threshold over a swept setting",
        "log10 tokens, per decade", "neither",
        "Change of the extrapolated threshold when batch or learning rate grows tenfold.",
        per_revision=False,
    ),
    Metric(
        "injection.logprob_sum", "Log-probability of injected targets", "nats", "higher",
        "Mean summed log-probability of the targets of an arm before, during and after injection.",
        per_revision=False,
    ),
    Metric(
        "injection.logprob_per_token", "Log-probability of injected targets per token",
        "nats per token", "higher",
        "The same, each divided by its number of tokens.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.rank", "Rank of injected targets", "log10 rank", "lower",
        "Mean logarithm of 1 plus the rank of a target's first token.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.exact_match", "Injected targets generated", "share of targets", "higher",
        "Share of targets that greedy decoding of the prompt gives exactly.",
        per_revision=False,
    ),
    Metric(
        "injection.generation_slope", "Generation over log-probability", "log-odds per nat",
        "neither",
        "Slope of a logistic fit of exact match on the target's summed log-probability.",
        per_revision=False,
    ),
    Metric(
        "injection.generation_midpoint", "Log-probability at which half is generated", "nats",
        "neither",
        "Where that fit reaches one half.",
        per_revision=False,
    ),
    Metric(
        "injection.corruption", "Corruption", "nats lost per nat gained", "lower",
        "Log-probability that real facts lose beyond what they lose in the same training without "
        "passages, per nat that injected targets gain, at the end of injection.",
        headline=True, per_revision=False,
    ),
    Metric(
        "injection.corruption_uncorrected", "Corruption, continued training included",
        "nats lost per nat gained", "lower",
        "The same without subtracting what training on background alone takes.",
        per_revision=False,
    ),
    Metric(
        "injection.facts_lost_background", "Real facts: log-probability lost without injection",
        "nats", "lower",
        "The fall at the same step of the same training without passages.",
        per_revision=False,
    ),
    Metric(
        "injection.facts_lost_excess", "Real facts: log-probability lost to injection", "nats",
        "lower",
        "The fall with injection minus the fall without, fact by fact.",
        per_revision=False,
    ),
    Metric(
        "injection.background_loss_excess", "Change of background loss due to injection",
        "nats per token", "lower",
        "Change of the loss on held-out background with injection minus the change without.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.facts_lost_nats", "Real facts: log-probability lost", "nats", "lower",
        "Mean fall of the log-probability of the 160 facts from before injection to its end.",
        per_revision=False,
    ),
    Metric(
        "injection.facts_lost", "Real facts: accuracy lost", "difference of shares", "lower",
        "Whole-answer accuracy before injection minus that at its end.",
        per_revision=False,
    ),
    Metric(
        "injection.background_loss_change", "Change of background loss", "nats per token", "lower",
        "Loss on held-out background text at the end of injection minus that before.",
        tokenizer_free=False, per_revision=False,
    ),
    Metric(
        "injection.fluctuation", "Fluctuation", "nats", "lower",
        "Mean over control facts of the standard deviation of the change of log-probability in "
        "one step.",
        per_revision=False,
    ),
    Metric(
        "injection.fluctuation_difference", "Difference of fluctuation", "nats", "neither",
        "Fluctuation of the first named start minus that of the second.",
        per_revision=False,
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
        ("corruption", "Corruption by fine-tuning", "share of old accuracy", "lower",
         "Share of the old accuracy that is lost, at most, while new people are learned.", True),
        ("recovered_attention", "Back with the old attention", "share of what was lost", "neither",
         "Share of the lost old accuracy that comes back with the old attention weights.", False),
        ("recovered_mlp", "Back with the old FFNs", "share of what was lost", "neither",
         "Share of the lost old accuracy that comes back with the old FFN weights.", False),
    )
)  # fmt: skip
METRICS = (
    *METRICS, *DYNAMICS_METRICS,
    Metric(
        "dynamics.series_loss", "Loss on facts among candidates", "nats", "lower",
        "Mean negative log-probability of the right answer among its relation's candidates.",
    ),
    Metric(
        "dynamics.series_loss_unseen", "Loss on made-up names", "nats", "lower",
        "Expected loss on made-up names, if their answers were as frequent as those of the facts.",
    ),
    Metric(
        "dynamics.series_baseline", "Loss of knowing nobody", "nats", "neither",
        "Entropy of the frequencies of right answers: what those two losses are held against.",
        per_revision=False,
    ),
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
    if "injection_runs" in tables:
        injected = injection_metrics.measure_all(
            tables, draws=intervals.draws, seed=intervals.seed, level=intervals.level
        )
        rows += [_row(m) for m in injected]
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


def dynamics_rows(
    runs: pa.Table, summary: Sequence[dict[str, Any]], *, intervals: Intervals
) -> list[dict[str, Any]]:
    """Rows of `scores` from `dynamics_runs` and the rows of `dynamics_summary`."""
    found = dynamics_metrics.measure_all(runs, summary, level=intervals.level)
    return [_row(m) for m in found]


def given_rows(given: dynamics_metrics.Given, *, intervals: Intervals) -> list[dict[str, Any]]:
    """Rows of `scores` for the losses of a given series over its checkpoints."""
    found = dynamics_metrics.given_curves(
        given, draws=intervals.draws, seed=intervals.seed, level=intervals.level
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
