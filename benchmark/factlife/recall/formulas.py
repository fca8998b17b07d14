"""How each number of the recall track is made: formula, source and interval, for the registry.

f = a fact, i = its answer tokens, K = candidates of its relation, q_n = the distribution over them
for made-up name n, p̄ = their mean over names, D = training tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

Formula = tuple[str, str, str]  # formula, source, interval method

SHARES = "bootstrap of facts within relations; Wilson where no fact differs"
MEANS = "bootstrap of facts within relations"
NAMES = "centred bootstrap of names within relations"
SUBJECTS = "bootstrap of names within relations"
AXIS = "censoring interval between two checkpoints, widened by a bootstrap of facts"
TIMECOURSE = "after timecourse-2025, with whole answers"
OURS = "ours"
UNSEEN = "after dynamics-2025, unseen names"

FORMULAS: Mapping[str, Formula] = {
    "recall.whole_answer_accuracy": ("mean_f [rank_i = 0 for all i]", TIMECOURSE, SHARES),
    "recall.whole_answer_accuracy_macro": (
        "mean over relations of mean_f [rank_i = 0 for all i]", TIMECOURSE, SHARES
    ),
    "recall.candidate_accuracy_corrected": ("mean_f (hit - 1/K) / (1 - 1/K)", OURS, SHARES),
    "recall.candidate_accuracy": (
        "mean_f hit, hit = [answer is the argmax] / number tied for the first place", OURS, SHARES
    ),
    "recall.generation_accuracy": (
        "mean_f [normalised greedy continuation begins with an accepted answer]",
        "the open question of injection-2024; normalisation ours", SHARES,
    ),
    "recall.top1_accuracy": ("mean_f [rank_1 = 0]", "timecourse-2025", SHARES),
    "recall.top10_accuracy": ("mean_f [rank_1 < 10]", "timecourse-2025", SHARES),
    "recall.logprob_sum": ("mean_f sum_i ln p_i", OURS, MEANS),
    "recall.logprob_per_token": ("mean_f (sum_i ln p_i) / |i|", OURS, MEANS),
    "recall.template_mean_accuracy": (
        "mean_f mean over templates of [rank_i = 0 for all i]", OURS, SHARES
    ),
    "recall.template_agreement": ("mean_f [all templates agree]", OURS, SHARES),
    "recall.template_spread": (
        "mean over relations of (max - min over templates of accuracy)", OURS,
        "centred bootstrap of facts within relations; Wilson where no fact differs",
    ),
    "recall.loc_name_gap": (
        "accuracy(LOC) - accuracy(NAME)", "timecourse-2025",
        "bootstrap of facts within relations; Newcombe where no fact differs",
    ),
    "recall.emergence50": (
        "D at the first checkpoint after the last with accuracy < 0.5 of the final one", OURS, AXIS
    ),
    "recall.emergence90": (
        "D at the first checkpoint after the last with accuracy < 0.9 of the final one", OURS, AXIS
    ),
    "recall.area": ("mean of accuracy over ln D, trapezoids between checkpoints", OURS, SHARES),
    "recall.flip_rate": ("mean_f sum over checkpoints |known_c - known_(c-1)|", OURS, SHARES),
    "recall.forgotten_share": ("mean_f [known once, not at the last checkpoint]", OURS, SHARES),
    "hallucination.excess_loss": ("X = mean_n KL(p̄ ‖ q_n)", UNSEEN, NAMES),
    "hallucination.name_information": ("J = mean_n KL(q_n ‖ p̄)", UNSEEN, NAMES),
    "hallucination.excess_loss_prior_corrected": (
        "X after q_n is divided by the prior without a subject, and normalised", UNSEEN, NAMES
    ),
    "hallucination.name_information_prior_corrected": (
        "J after q_n is divided by the prior without a subject, and normalised", UNSEEN, NAMES
    ),
    "hallucination.top_probability": ("mean_n max_k q_n(k)", UNSEEN, SUBJECTS),
    "hallucination.normalised_entropy": ("mean_n H(q_n) / ln K", UNSEEN, SUBJECTS),
    "hallucination.confident_share": (
        "mean_n [max_k q_n(k) > 1/2]", UNSEEN, SUBJECTS + "; Wilson where no name differs"
    ),
    "hallucination.auroc": (
        "P(top probability of a known name > of a made-up one) + P(equal) / 2, mean over relations",
        OURS, SUBJECTS + "; Wilson where no pair differs",
    ),
}  # fmt: skip
