"""How each number of the injection track is made: formula, source and interval, for the registry.

l(t) = log-probability of a passage's targets after update t, nats, mean over its probes. T_i = step
of injection i, W = window. D(t) = mean over injected passages of l(t) - l(T) minus the same of
controls, in one of two disjoint halves A and B. t* = argmax of D over [T_i + 1, T_i + W], picked on
the one half and read on the other. g(t) = the same with l before the first injection as the base.
"""

from __future__ import annotations

from collections.abc import Mapping

Formula = tuple[str, str, str]  # formula, source, interval method

SEEDS = "t over 3 or more seeds, S - 1 degrees of freedom; else bootstrap of passages"
FACTS = "t over 3 or more seeds, S - 1 degrees of freedom; else bootstrap of facts within relations"
LEVELS = f"{SEEDS}; Wilson where no target differs"
SANDWICH = "sandwich covariance, clustered by passage; the midpoint's by the delta method"
ONE_RUN = "t over 3 or more seeds; with fewer the range of the runs, marked as no interval"
PAPER = "injection-2024"
CROSSED = "after injection-2024, with controls and the peak picked on the other half"
RATIO = "after injection-2024, as a ratio of means over one set of probes"
OURS = "ours"
AS_PRINTED = "injection-2024, as printed, for comparison"

FORMULAS: Mapping[str, Formula] = {
    "injection.effectivity": (
        "mean_i (D_A(t*_B) + D_B(t*_A)) / 2; mean over arms of the latest start", CROSSED, SEEDS
    ),
    "injection.effectivity_placebo": (
        "the same at steps T at which nothing of the arm was injected", OURS, SEEDS
    ),
    "injection.effectivity_difference": ("E(first named) - E(second)", OURS, SEEDS),
    "injection.effectivity_published": (
        "mean_i mean_q of max_(T_i < t <= T_i + W) l(t) - l(T_i), l per token, values beyond the "
        "quartiles by 1.5 of their distance left out", AS_PRINTED, SEEDS,
    ),
    "injection.effectivity_published_code": (
        "the same with 2.0 instead of 1.5", "the code of injection-2024, for comparison", SEEDS
    ),
    "injection.effectivity_slope": (
        "least-squares slope of E over log10 of the setting", OURS, SEEDS
    ),
    "injection.gain": ("g(T_last + W), halves averaged; mean over arms", OURS, SEEDS),
    "injection.gain_slope": (
        "least-squares slope of the gain over log10 of the exposures", OURS, SEEDS
    ),
    "injection.accumulation": (
        "least-squares slope in k of G(k) = g(T_(k+1)), just before injection k + 1", OURS, SEEDS
    ),
    "injection.spacing_threshold": (
        "spacing at which the slope of G in k, made to fall with spacing, reaches 0; between two "
        "spacings over log10 of them", OURS,
        "bootstrap of passages; the longest spacing tested bounds it",
    ),
    "injection.retained": ("R(t_last), R(t) = sum g(t* + t) / sum g(t*)", RATIO, SEEDS),
    "injection.retention": (
        "R(t) at t steps after the peak, interpolated over log t between followed steps", RATIO,
        SEEDS,
    ),
    "injection.decay_constant": (
        "a of R(t) = b - a log10 t, least squares on log-spaced t", RATIO, SEEDS
    ),
    "injection.decay_theil_sen": (
        "- median over pairs of times of (R(t_j) - R(t_i)) / (log10 t_j - log10 t_i)",
        "Theil 1950, Sen 1968", SEEDS,
    ),
    "injection.decay_difference": ("a(first named) - a(second)", OURS, SEEDS),
    "injection.decay_published": (
        "a of mean_q R(q, t) = b - a log10 t, R(q, t) = (l(t_LAM + t) - l(0)) / (l(t_LAM) - l(0)) "
        "filtered anew at each t", AS_PRINTED, SEEDS,
    ),
    "injection.decay_slope": ("least-squares slope of a over log10 of the setting", OURS, SEEDS),
    "injection.power_exponent": ("p of R(t) = c t^-p, least squares on R itself", OURS, SEEDS),
    "injection.exponential_time": (
        "tau of R(t) = c exp(-t / tau), least squares on R itself", OURS, SEEDS
    ),
    "injection.log_fit_advantage": (
        "min(AICc(power), AICc(exponential)) - AICc(log), AICc = n ln(RSS / n) + 6 + 24 / (n - 4)",
        "Hurvich and Tsai 1989", SEEDS,
    ),
    "injection.threshold_steps": ("b / a of the logarithmic law; none unless a > 0", RATIO, SEEDS),
    "injection.threshold_tokens": (
        "the same plus log10 of the tokens of an update", RATIO, SEEDS
    ),
    "injection.threshold_published": ("b / a of the published fit", AS_PRINTED, SEEDS),
    "injection.threshold_slope": (
        "least-squares slope of the threshold in tokens over log10 of the setting", OURS, SEEDS
    ),
    "injection.logprob_sum": ("mean over passages of l", PAPER, SEEDS),
    "injection.logprob_per_token": (
        "mean over passages of l, each target's divided by its tokens", PAPER, SEEDS
    ),
    "injection.rank": ("mean over passages of log10(1 + rank of the first token)", OURS, SEEDS),
    "injection.exact_match": (
        "mean over passages of [greedy decoding gives the target]",
        "the open question of injection-2024", LEVELS,
    ),
    "injection.generation_slope": (
        "s of P(exact match) = 1 / (1 + exp(-s (l - m))), maximum likelihood", OURS, SANDWICH
    ),
    "injection.generation_midpoint": ("m of the same fit", OURS, SANDWICH),
    "injection.corruption": (
        "mean_f (x_f - y_f) / gain of injected targets; x_f = ln p_f(before) - ln p_f(T_last + W) "
        "with injection, y_f = the same in the run of this start on the same background without "
        "passages; none without such a run, or unless the gain is above 0 with its interval",
        "joins injection-2024 and dynamics-2025", f"{FACTS} and of passages",
    ),
    "injection.corruption_uncorrected": (
        "mean_f x_f / gain of injected targets", "joins injection-2024 and dynamics-2025",
        f"{FACTS} and of passages",
    ),
    "injection.facts_lost_nats": (
        "mean_f x_f, x_f = ln p_f(before) - ln p_f(T_last + W)", "after dynamics-2025", FACTS
    ),
    "injection.facts_lost_background": (
        "mean_f y_f: x_f in the background-only run of this start", OURS, FACTS
    ),
    "injection.facts_lost_excess": ("mean_f (x_f - y_f)", OURS, FACTS),
    "injection.facts_lost": (
        "whole-answer accuracy before - at T_last + W", "after dynamics-2025",
        f"{FACTS}; Wilson where no fact differs",
    ),
    "injection.background_loss_change": (
        "loss on held-out background at T_last + W - before", "after injection-2024", ONE_RUN
    ),
    "injection.background_loss_excess": (
        "injection.background_loss_change minus the same in the background-only run", OURS, ONE_RUN
    ),
    "injection.fluctuation": (
        "mean over controls of SD(l(t + m) - l(t)) / sqrt(m), m = steps between close readings",
        OURS, SEEDS,
    ),
    "injection.fluctuation_difference": (
        "fluctuation(first named start) - fluctuation(second)", OURS, SEEDS
    ),
}  # fmt: skip
