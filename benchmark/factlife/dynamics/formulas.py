"""How each number of the dynamics track is made: formula, source and interval, for the registry.

L, L_new = loss on values of people trained on, and never seen, nats; for times smoothed by a median
of three evaluations. B = entropy of the values' frequencies: the loss of knowing nobody. e = 0.05;
a time counts where three evaluations in a row agree. N = people. On a given series facts stand for
people and tokens for steps.
"""

from __future__ import annotations

from collections.abc import Mapping

Formula = tuple[str, str, str]  # formula, source, interval method

SEEDS = "t over seeds, S - 1 degrees of freedom; one seed has no interval"
FACTS = "bootstrap of facts or names within relations"
PHASES = "after dynamics-2025, section 3; tolerance and smoothing ours"
PAPER = "dynamics-2025"
CIRCUIT = "after dynamics-2025, section 4"
TUNED = "after dynamics-2025, fine-tuning on new people"
SWAP = "ours, stronger than the argument of dynamics-2025"
OURS = "ours"

FORMULAS: Mapping[str, Formula] = {
    "dynamics.formation": ("t1 = min {t: L <= (1 + e) B}", PHASES, SEEDS),
    "dynamics.plateau_end": ("t2 = min {t: L <= (1 - e) B}", PHASES, SEEDS),
    "dynamics.plateau_end_twin": (
        "min {t: L_new - L > e B from t to the end}", "ours: t2 without a baseline", SEEDS
    ),
    "dynamics.hallucination_onset": ("min {t >= t1: L_new > (1 + e) B}", PHASES, SEEDS),
    "dynamics.plateau_ratio": ("t2 / t1", PHASES, SEEDS),
    "dynamics.circuit_share": (
        "(x(t2) - x(t1)) / (max x - x(0)), x = attention from the value's start to the name in the "
        "layer with most", CIRCUIT, SEEDS,
    ),
    "dynamics.series_loss": (
        "mean_f - ln q_f(right answer), q_f = softmax over the relation's candidates", PHASES, FACTS
    ),
    "dynamics.series_loss_unseen": (
        "mean over made-up names of - sum_k p(k) ln q(k), p = frequencies of the right answers",
        PHASES, FACTS,
    ),
    "dynamics.series_baseline": (
        "B = mean_f of the entropy of its relation's right answers", PHASES, "none: it is fixed"
    ),
    "dynamics.final_loss": ("L at the last step", PAPER, SEEDS),
    "dynamics.final_accuracy": (
        "mean over people and attributes of [every token of the value is the argmax]", PAPER, SEEDS
    ),
    "dynamics.held_out_excess": ("L_new - B at the last step", PAPER, SEEDS),
    "dynamics.confidence_gap": (
        "mean top probability where a value begins, known - unseen people", PAPER, SEEDS
    ),
    "dynamics.auroc": (
        "P(top probability of a known person > of an unseen one) + P(equal) / 2", OURS, SEEDS
    ),
    "dynamics.grouping": (
        "mean attention from a name's last token to its others, first layer, heads averaged",
        CIRCUIT, SEEDS,
    ),
    "dynamics.extraction": (
        "mean attention from the token before a value to the name, in the layer with most", CIRCUIT,
        SEEDS,
    ),
    "dynamics.sharpness": ("entropy of that attention / ln(tokens visible)", CIRCUIT, SEEDS),
    "dynamics.plateau_exponent": (
        "least-squares slope of ln t2 over ln N, three sizes or more (published: 0.81)", PAPER,
        SEEDS,
    ),
    "dynamics.lose10": ("first step at which old accuracy <= 0.9 of that before", TUNED, SEEDS),
    "dynamics.gain50": ("first step at which accuracy on new people >= 0.5", TUNED, SEEDS),
    "dynamics.old_min": ("min over evaluations of old accuracy", TUNED, SEEDS),
    "dynamics.corruption": ("(before - min old accuracy) / before", TUNED, SEEDS),
    "dynamics.recovered_attention": (
        "(accuracy with the old attention weights - after) / (before - after)", SWAP, SEEDS
    ),
    "dynamics.recovered_mlp": (
        "(accuracy with the old FFN weights - after) / (before - after)", SWAP, SEEDS
    ),
}  # fmt: skip
