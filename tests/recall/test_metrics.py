"""The recall track's numbers, each worked by hand on tables small enough to read.

The tiny run: relation `capital` (LOC) with facts f1 and f2, relation `ceo` (NAME) with fact f3; a
source template s and an extra one x; checkpoints after 0, 100 and 10,000 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife import stats
from factlife.errors import UsageError
from factlife.recall import metrics
from factlife.recall.metrics import Checkpoint, cube, excess_and_information, measure_all
from factlife.schema import CANDIDATES, RECALL
from factlife.stats import Estimate, Floats, Resampler

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=100)
LN2 = math.log(2)

STEPS = ("step0", "step10", "step20")
CHECKPOINTS = (Checkpoint("step0", 0), Checkpoint("step10", 100), Checkpoint("step20", 10_000))
RELATIONS = {"f1": ("capital", "LOC"), "f2": ("capital", "LOC"), "f3": ("ceo", "NAME")}
#                        f1 f2 f3, source template
WHOLE = {"step0": (0, 0, 0), "step10": (1, 0, 0), "step20": (1, 1, 0)}
EXTRA = {"step0": (0, 0, 0), "step10": (0, 0, 0), "step20": (1, 0, 0)}
RANK = {"step0": (40, 12, 100), "step10": (0, 9, 10), "step20": (0, 0, 3)}
LOGPROB = {"step0": (-9, -9, -9), "step10": (-2, -4, -9), "step20": (-1, -3, -8)}
N_TOKENS = (2, 1, 4)
GENERATED = {"step0": (0, 0, 0), "step10": (1, 0, 0), "step20": (1, 0, 1)}

Row = dict[str, Any]


def recall_row(revision: str, fact: str, template: str, **values: Any) -> Row:
    relation, group = RELATIONS[fact]
    return {
        "revision": revision, "stage": "main", "step": int(revision[4:]), "fact_id": fact,
        "template_id": f"{relation}.{template}", "relation": relation, "group": group,
        "template_role": "source" if template == "s" else "extra", **values,
    }  # fmt: skip


def recall_rows() -> list[Row]:
    """The tiny run."""
    rows = []
    for step in STEPS:
        for i, fact in enumerate(RELATIONS):
            rows.append(
                recall_row(
                    step, fact, "s", rank=RANK[step][i], logprob_sum_nats=LOGPROB[step][i],
                    n_tokens=N_TOKENS[i], whole_answer=bool(WHOLE[step][i]), generation="…",
                    exact_match=bool(GENERATED[step][i]),
                )
            )  # fmt: skip
            rows.append(recall_row(step, fact, "x", whole_answer=bool(EXTRA[step][i]), n_tokens=1))
    return rows


CANDIDATE_NAMES = {"capital": ("A", "B"), "ceo": ("P", "Q", "R", "S")}
ANSWERS = {"f1": "A", "f2": "B", "f3": "P"}
# Probabilities of the candidates. f1 is right, f2 wrong (K = 2), f3 right (K = 4).
KNOWN = {"f1": (0.8, 0.2), "f2": (0.6, 0.4), "f3": (0.7, 0.1, 0.1, 0.1)}
UNSEEN = {
    "capital": ((0.75, 0.25), (0.25, 0.75)),
    "ceo": ((0.25, 0.25, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25)),
}
PRIOR = {"capital": (0.75, 0.25), "ceo": (0.25, 0.25, 0.25, 0.25)}


def subject_rows(
    revision: str, relation: str, kind: str, subject: str, p: Sequence[float], fact: str | None
) -> list[Row]:
    """One subject's candidates; a summed log-probability is ln p up to what all share."""
    return [
        {
            "revision": revision, "stage": "main", "step": int(revision[4:]), "relation": relation,
            "subject": subject, "subject_kind": kind, "fact_id": fact, "candidate": name,
            "is_answer": name == ANSWERS[fact] if fact else None,
            "logprob_sum_nats": math.log(value) - 3, "n_tokens": 2,
        }
        for name, value in zip(CANDIDATE_NAMES[relation], p, strict=True)
    ]  # fmt: skip


def candidate_rows(
    revision: str = "step20",
    known: Mapping[str, Sequence[float]] = KNOWN,
    unseen: Mapping[str, Sequence[Sequence[float]]] = UNSEEN,
    prior: Mapping[str, Sequence[float]] = PRIOR,
) -> list[Row]:
    rows = []
    for fact, p in known.items():
        rows += subject_rows(revision, RELATIONS[fact][0], "known", fact, p, fact)
    for relation, names in unseen.items():
        for i, p in enumerate(names):
            rows += subject_rows(revision, relation, "unseen", f"u{i}", p, None)
    for relation, p in prior.items():
        rows += subject_rows(revision, relation, "context_free", "N/A", p, None)
    return rows


Found = dict[tuple[str, str, str], Estimate]


def measured(
    rows: list[Row] | None = None,
    candidates: list[Row] | None = None,
    checkpoints: Sequence[Checkpoint] = CHECKPOINTS,
    *,
    subsets: Mapping[str, Sequence[str]] | None = None,
    chance: float = 0.25,
) -> Found:
    """All metrics of a run by (metric without its track, scope, revision)."""
    found = measure_all(
        RECALL.from_rows(recall_rows() if rows is None else rows),
        CANDIDATES.from_rows(candidate_rows() if candidates is None else candidates),
        checkpoints,
        chance={"capital": chance, "ceo": chance},
        subsets=subsets or {},
        draws=200,
        seed=0,
        level=0.95,
    )
    keys = [(m.metric.split(".", 1)[1], m.scope, m.revision) for m in found]
    assert len(keys) == len(set(keys))
    return {key: m.estimate for key, m in zip(keys, found, strict=True)}


TINY = measured(subsets={"stated": ["f1", "f3"], "nobody": []})


def interval(e: Estimate) -> tuple[float | None, float | None, float | None]:
    return e.value, e.ci_low, e.ci_high


# ---- per checkpoint --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "scope", "revision", "value", "n"),
    [
        ("whole_answer_accuracy", "overall", "step0", 0, 3),
        ("whole_answer_accuracy", "overall", "step10", 1 / 3, 3),
        ("whole_answer_accuracy", "overall", "step20", 2 / 3, 3),  # micro: f1, f2 of 3
        ("whole_answer_accuracy", "LOC", "step20", 1, 2),
        ("whole_answer_accuracy", "NAME", "step20", 0, 1),
        ("whole_answer_accuracy", "capital", "step10", 1 / 2, 2),
        ("whole_answer_accuracy", "ceo", "step20", 0, 1),
        ("whole_answer_accuracy_macro", "overall", "step20", (1 + 0) / 2, 3),
        ("whole_answer_accuracy_macro", "overall", "step10", (1 / 2 + 0) / 2, 3),
        ("whole_answer_accuracy_macro", "stated", "step20", (1 + 0) / 2, 2),
        ("top1_accuracy", "overall", "step10", 1 / 3, 3),  # ranks 0, 9, 10
        ("top10_accuracy", "overall", "step10", 2 / 3, 3),  # rank 10 is the eleventh
        ("top10_accuracy", "overall", "step0", 0, 3),
        ("logprob_sum", "overall", "step20", -(1 + 3 + 8) / 3, 3),
        ("logprob_sum", "NAME", "step20", -8, 1),
        ("logprob_per_token", "overall", "step20", -(1 / 2 + 3 / 1 + 8 / 4) / 3, 3),
        ("generation_accuracy", "overall", "step20", 2 / 3, 3),
        # both templates at step 20: f1 2/2, f2 1/2, f3 0/2
        ("template_mean_accuracy", "overall", "step20", (1 + 1 / 2 + 0) / 3, 3),
        ("template_agreement", "overall", "step20", 2 / 3, 3),  # f1 always, f3 never
        ("template_agreement", "LOC", "step20", 1 / 2, 2),
        # source minus extra: capital 1 - 1/2, ceo 0 - 0; the mean over relations
        ("template_spread", "overall", "step20", (1 / 2 + 0) / 2, 3),
        ("template_spread", "capital", "step20", 1 / 2, 2),
        ("template_spread", "overall", "step0", 0, 3),
        ("loc_name_gap", "overall", "step20", 1 - 0, 3),
        ("loc_name_gap", "overall", "step10", 1 / 2 - 0, 3),
        ("loc_name_gap", "stated", "step20", 1 - 0, 2),
        # a named subset, alone and crossed with the groups
        ("whole_answer_accuracy", "stated", "step20", 1 / 2, 2),
        ("whole_answer_accuracy", "stated.LOC", "step20", 1, 1),
        ("whole_answer_accuracy", "stated.NAME", "step20", 0, 1),
    ],
)
def test_aggregates_by_hand(metric: str, scope: str, revision: str, value: float, n: int) -> None:
    e = TINY[metric, scope, revision]
    assert e.value == pytest.approx(value)
    assert (e.n, e.reason) == (n, None)


def test_a_gap_exists_only_where_both_groups_do_and_macro_only_over_several_relations() -> None:
    scopes = {scope for metric, scope, _ in TINY if metric == "loc_name_gap"}
    assert scopes == {"overall", "stated"}
    macro = {scope for metric, scope, _ in TINY if metric == "whole_answer_accuracy_macro"}
    assert "overall" in macro and not macro & {"capital", "ceo"}


def test_the_interval_of_the_gap_is_newcombes_where_no_draw_differs() -> None:
    # LOC 2 of 2: low 2 / 5.841459 = 0.342380; NAME 0 of 1: high 3.841459 / 4.841459 = 0.793451
    # down = √(0.657620² + 0.793451²) = √1.062029 = 1.030548
    e = TINY["loc_name_gap", "overall", "step20"]
    assert interval(e) == pytest.approx((1, 1 - 1.030548, 1), abs=1e-5)


def test_log_probabilities_have_no_bound_to_lean_on() -> None:
    # NAME is one fact: its sum of -8 nats is known, its uncertainty is not
    e = TINY["logprob_sum", "NAME", "step20"]
    assert interval(e) == (-8, -8, -8) and e.method == "none: no relation varies"


def test_the_spread_of_a_draw_is_over_the_relations_that_it_holds() -> None:
    # In the subset, capital is there only when f1 was drawn: f1's spread at step 20 is 0 (both
    # right), f3's is 1 (extra wrong), so that a draw gives (0 + 1) / 2 or, without f1, 1.
    rows, subset = with_whole({"f3": (0, 0, 1)}), {"stated": ["f1", "f3"]}
    e = measured(rows, subsets=subset)["template_spread", "stated", "step20"]
    c = cube(RECALL.from_rows(rows), CHECKPOINTS)
    counts = Resampler.make(c.relations, 200, 0).counts
    draws = np.where(counts[:, c.fact_ids.index("f1")] > 0, 0.5, 1.0)
    low, high = np.quantile(draws - draws.mean() + 0.5, [0.025, 0.975])
    assert interval(e) == pytest.approx((0.5, max(low, 0), min(high, 1)))


def test_spread_needs_two_templates() -> None:
    rows = [r for r in recall_rows() if r["template_role"] == "source"]
    found = measured(rows)
    e = found["template_spread", "overall", "step20"]
    assert (e.value, e.n, e.reason) == (None, 3, "only one template was measured")
    # what one template can say is still said
    assert found["template_mean_accuracy", "overall", "step20"].value == pytest.approx(2 / 3)
    assert found["template_agreement", "overall", "step20"].value is None
    # one relation with one template: the other one speaks
    rows = [r for r in recall_rows() if r["relation"] == "capital" or r["template_id"] == "ceo.s"]
    e = measured(rows)["template_spread", "overall", "step20"]
    assert (e.value, e.n) == (pytest.approx(1 / 2), 2)


# ---- over the series -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "scope", "value"),
    [
        # from ln 100 to ln 10,000 in one step; step 0 has no place on the axis
        ("area", "overall", (1 / 3 + 2 / 3) / 2),
        ("area", "LOC", (1 / 2 + 1) / 2),
        ("area", "NAME", 0),
        ("flip_rate", "overall", (1 + 1 + 0) / 3),
        ("flip_rate", "LOC", 1),
        ("forgotten_share", "overall", 0),
        ("emergence50", "LOC", 100),  # 0, 1/2, 1: half of 1 is reached at 100 tokens
        ("emergence90", "LOC", 10_000),
    ],
)
def test_curves_by_hand(metric: str, scope: str, value: float) -> None:
    assert TINY[metric, scope, ""].value == pytest.approx(value)


def test_emergence_is_censored_by_the_checkpoints_and_widened_by_the_draws() -> None:
    # LOC draws of (f1, f2): twice f1 or one each emerges in [0, 100], twice f2 (1 in 4 draws) in
    # [100, 10000]
    assert interval(TINY["emergence50", "LOC", ""]) == (100, 0, 10_000)
    assert interval(TINY["emergence90", "LOC", ""]) == (10_000, 0, 10_000)


def test_emergence_is_null_exactly_when_the_final_interval_reaches_chance() -> None:
    # LOC ends at 2 of 2, Wilson's low end 2 / 5.841459 = 0.342380
    assert measured(chance=0.3423)["emergence50", "LOC", ""].value == 100
    e = measured(chance=0.3424)["emergence50", "LOC", ""]
    assert interval(e) == (None, None, None)
    assert e.reason == "final accuracy is not above chance (0.342)"


def with_whole(facts: Mapping[str, Sequence[int]]) -> list[Row]:
    """The tiny run with other outcomes of the source template."""
    rows = recall_rows()
    for r in rows:
        if r["template_role"] == "source" and r["fact_id"] in facts:
            r["whole_answer"] = bool(facts[r["fact_id"]][STEPS.index(r["revision"])])
    return rows


def test_flips_and_forgotten_facts_by_hand() -> None:
    # f1 learned and forgotten (2 flips), f2 known from the start and kept, f3 forgotten at the end
    found = measured(with_whole({"f1": (0, 1, 0), "f2": (1, 1, 1), "f3": (1, 1, 0)}))
    assert found["flip_rate", "overall", ""].value == pytest.approx((2 + 0 + 1) / 3)
    assert found["forgotten_share", "overall", ""].value == pytest.approx(2 / 3)
    # one fact, one change: 1 ± the 0.793451 that one trial leaves open
    assert interval(found["flip_rate", "NAME", ""]) == pytest.approx(
        (1, 1 - 0.793451, 1 + 0.793451), abs=1e-6
    )


def test_without_tokens_there_is_no_axis_but_flips_remain() -> None:
    unknown = (CHECKPOINTS[0], Checkpoint("step10", None), CHECKPOINTS[2])
    found = measured(checkpoints=unknown)
    for metric in ("emergence50", "emergence90", "area"):
        e = found[metric, "LOC", ""]
        assert e.value is None and e.reason is not None and "tokens are unknown" in e.reason
    assert found["flip_rate", "overall", ""].value == pytest.approx(2 / 3)
    assert found["whole_answer_accuracy", "overall", "step20"].value == pytest.approx(2 / 3)


def test_branches_have_no_common_curve() -> None:
    back = (CHECKPOINTS[0], Checkpoint("step10", 20_000), CHECKPOINTS[2])
    for metric in ("emergence50", "area"):
        e = measured(checkpoints=back)[metric, "LOC", ""]
        assert e.value is None and e.reason is not None and "tokens go back" in e.reason


def test_one_checkpoint_has_no_curve_and_no_changes() -> None:
    rows = [r for r in recall_rows() if r["revision"] == "step20"]
    found = measured(rows, checkpoints=CHECKPOINTS[2:])
    assert found["area", "LOC", ""].reason == "fewer than two checkpoints after step 0"
    assert found["flip_rate", "LOC", ""].reason == "only one checkpoint was measured"
    assert found["forgotten_share", "LOC", ""].reason == "only one checkpoint was measured"
    # it emerged at some time up to then
    assert interval(found["emergence50", "LOC", ""]) == (10_000, 0, 10_000)


def test_draws_that_hold_no_fact_of_a_scope_do_not_count_as_zeros() -> None:
    # f1 alone is missed by 1 draw in 4. Its curve is 1, 1: the area is 1, and one fact leaves
    # 3.841459 / 4.841459 = 0.793451 open. A draw counted as zero would give [0, 1].
    e = measured(subsets={"one": ["f1"]})["area", "one", ""]
    assert interval(e) == pytest.approx((1, 1 - 0.793451, 1), abs=1e-6)


# ---- scopes and dropped rows -----------------------------------------------------------------


def test_an_empty_subset_has_rows_without_a_value_but_with_a_reason() -> None:
    rows = {key: e for key, e in TINY.items() if key[1].split(".")[0] == "nobody"}
    assert {m for m, scope, _ in rows if scope == "nobody"} >= {
        "whole_answer_accuracy", "whole_answer_accuracy_macro", "template_spread", "area",
        "emergence50", "flip_rate", "candidate_accuracy_corrected", "auroc",
    }  # fmt: skip
    assert all(e.value is None and e.reason and e.n == 0 for e in rows.values())


@pytest.mark.parametrize("name", ["overall", "LOC", "capital"])
def test_a_subset_cannot_take_the_name_of_another_scope(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' already names another set"):
        measured(subsets={name: ["f1"]})


def test_a_subset_cannot_take_the_name_of_a_crossing() -> None:
    with pytest.raises(UsageError, match=r"'a\.LOC' already names another set"):
        measured(subsets={"a": ["f1"], "a.LOC": ["f2"]})


def drop(rows: list[Row], revision: str, fact: str, template: str) -> list[Row]:
    """The rows with one that could not be measured."""
    keys = ("revision", "stage", "step", "fact_id", "template_id", "template_role", "relation",
            "group")  # fmt: skip
    at = (revision, fact, f"{RELATIONS[fact][0]}.{template}")
    return [
        {**{k: r[k] for k in keys}, "reason": "too long"}
        if (r["revision"], r["fact_id"], r["template_id"]) == at
        else r
        for r in rows
    ]


def test_a_fact_that_one_checkpoint_could_not_measure_is_left_out_everywhere() -> None:
    found = measured(drop(recall_rows(), "step10", "f1", "s"))
    for step, value in (("step0", 0), ("step10", 0), ("step20", 1 / 2)):  # f2 and f3 remain
        e = found["whole_answer_accuracy", "overall", step]
        assert (e.value, e.n) == (value, 2)
    assert found["area", "overall", ""].value == pytest.approx((0 + 1 / 2) / 2)
    assert found["candidate_accuracy", "overall", "step20"].n == 2


def test_a_fact_without_a_row_at_one_checkpoint_is_left_out_too() -> None:
    rows = [r for r in recall_rows() if (r["revision"], r["fact_id"]) != ("step10", "f1")]
    assert measured(rows)["flip_rate", "overall", ""].n == 2


def test_an_extra_template_that_could_not_be_measured_drops_only_itself() -> None:
    found = measured(drop(recall_rows(), "step20", "f2", "x"))
    assert found["whole_answer_accuracy", "overall", "step20"].n == 3
    # f1 2/2, f2 1/1, f3 0/2; agreement needs two templates
    e = found["template_mean_accuracy", "overall", "step20"]
    assert (e.value, e.n) == (pytest.approx((1 + 1 + 0) / 3), 3)
    assert found["template_agreement", "overall", "step20"].n == 2


def test_a_revision_that_is_not_measured_any_more_has_no_say() -> None:
    found = measured(drop(recall_rows(), "step10", "f1", "s"), checkpoints=CHECKPOINTS[::2])
    assert {revision for _, _, revision in found} == {"", "step0", "step20"}
    assert found["whole_answer_accuracy", "overall", "step20"].n == 3


def test_when_every_fact_is_dropped_every_number_is_null_with_a_reason() -> None:
    rows = recall_rows()
    for fact in RELATIONS:
        rows = drop(rows, "step20", fact, "s")
    found = measured(rows, candidates=[])
    assert found and all(e.value is None and e.reason and e.n == 0 for e in found.values())


def test_nothing_measured_gives_no_rows() -> None:
    assert measured([], []) == {}
    assert measured(checkpoints=[]) == {}


def test_the_order_of_rows_does_not_matter_to_values() -> None:
    found = measured(recall_rows()[::-1], candidate_rows()[::-1])
    for key, e in measured().items():
        assert found[key].value == pytest.approx(e.value)


# ---- candidates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "scope", "value", "n"),
    [
        ("candidate_accuracy", "overall", 2 / 3, 3),
        ("candidate_accuracy", "capital", 1 / 2, 2),
        # K = 2: right (1 - 1/2) / (1/2) = 1, wrong (0 - 1/2) / (1/2) = -1
        ("candidate_accuracy_corrected", "capital", (1 - 1) / 2, 2),
        ("candidate_accuracy_corrected", "ceo", 1, 1),
        ("candidate_accuracy_corrected", "overall", (1 - 1 + 1) / 3, 3),
    ],
)
def test_candidate_accuracy_by_hand(metric: str, scope: str, value: float, n: int) -> None:
    e = TINY[metric, scope, "step20"]
    assert (e.value, e.n) == (pytest.approx(value), n)


def test_a_wrong_answer_among_four_costs_a_third_and_its_doubt_ends_at_one() -> None:
    known = KNOWN | {"f3": (0.1, 0.7, 0.1, 0.1)}
    e = measured(candidates=candidate_rows(known=known))
    # (0 - 1/4) / (3/4) = -1/3; one trial leaves 0.793451 of the way to 1 open
    assert interval(e["candidate_accuracy_corrected", "ceo", "step20"]) == pytest.approx(
        (-1 / 3, -1 / 3, -1 / 3 + 0.793451 * 4 / 3), abs=1e-6
    )


def test_a_model_that_knows_nothing_is_at_chance_whatever_the_alphabet_says() -> None:
    known = {"f1": (0.5, 0.5), "f2": (0.5, 0.5), "f3": (0.25,) * 4}
    found = measured(candidates=candidate_rows(known=known))
    assert found["candidate_accuracy", "overall", "step20"].value == pytest.approx(
        (1 / 2 + 1 / 2 + 1 / 4) / 3
    )
    for scope in ("overall", "capital", "ceo"):
        e = found["candidate_accuracy_corrected", scope, "step20"]
        assert e.value == pytest.approx(0, abs=1e-12)


def test_checkpoints_without_candidates_say_so() -> None:
    e = TINY["candidate_accuracy", "overall", "step10"]
    assert (e.value, e.n, e.reason) == (None, 0, "no measured facts")


def test_without_the_candidates_table_its_metrics_are_absent() -> None:
    names = {metric for metric, _, _ in measured(candidates=[])}
    assert "whole_answer_accuracy" in names
    assert not names & {"candidate_accuracy", "excess_loss", "auroc"}


def test_a_subject_with_a_candidate_that_could_not_be_measured_is_left_out() -> None:
    rows = candidate_rows()
    lost = next(i for i, r in enumerate(rows) if r["fact_id"] == "f2" and r["candidate"] == "B")
    dropped = [*rows[:lost], {**rows[lost], "logprob_sum_nats": None, "reason": "x"},
               *rows[lost + 1 :]]  # fmt: skip
    for candidates in (dropped, [*rows[:lost], *rows[lost + 1 :]]):  # null, or no row at all
        e = measured(candidates=candidates)["candidate_accuracy", "capital", "step20"]
        assert (e.value, e.n) == (1.0, 1)


# ---- unseen names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "scope", "value", "n"),
    [
        # capital: q = (3/4, 1/4), (1/4, 3/4), p̄ = (1/2, 1/2)
        # X = ½ ln(½ / ¾) + ½ ln(½ / ¼) = -0.202733 + 0.346574 for both names
        ("excess_loss", "capital", 0.143841, 2),
        # J = ln 2 - H(¾) = 0.693147 - 0.562335
        ("name_information", "capital", 0.130812, 2),
        ("excess_loss", "ceo", 0, 2),
        ("name_information", "ceo", 0, 2),
        ("excess_loss", "overall", 0.143841 / 2, 4),
        ("name_information", "overall", 0.130812 / 2, 4),
        # without the prior (3/4, 1/4): q = (1/2, 1/2) and (1/10, 9/10), p̄ = (0.3, 0.7)
        # J = H(0.3) - (ln 2 + H(0.1)) / 2 = 0.610864 - (0.693147 + 0.325083) / 2
        ("name_information_prior_corrected", "capital", 0.101749, 2),
        # X = ((0.3 ln 0.6 + 0.7 ln 1.4) + (0.3 ln 3 + 0.7 ln 7/9)) / 2 = (0.082283 + 0.153664) / 2
        ("excess_loss_prior_corrected", "capital", 0.117973, 2),
        ("excess_loss_prior_corrected", "overall", 0.117973 / 2, 4),
        ("top_probability", "capital", 0.75, 2),
        ("top_probability", "overall", (0.75 + 0.25) / 2, 4),
        ("normalised_entropy", "capital", 0.562335 / LN2, 2),
        ("normalised_entropy", "ceo", 1, 2),
        ("normalised_entropy", "overall", (0.562335 / LN2 + 1) / 2, 4),
        ("confident_share", "capital", 1, 2),
        ("confident_share", "ceo", 0, 2),
        ("confident_share", "overall", 1 / 2, 4),
        # capital: known 0.8 and 0.6 against 0.75 twice: 1/2; ceo: 0.7 against 0.25 twice: 1
        ("auroc", "overall", (1 / 2 + 1) / 2, 7),
    ],
)
def test_hallucination_by_hand(metric: str, scope: str, value: float, n: int) -> None:
    e = TINY[metric, scope, "step20"]
    assert e.value == pytest.approx(value, abs=2e-6)
    assert e.n == n


def test_the_prior_is_divided_out_and_not_multiplied_in() -> None:
    unseen = {"capital": ((0.75, 0.25), (0.5, 0.5))}
    e = measured(candidates=candidate_rows(unseen=unseen))
    # by the prior (3/4, 1/4): q = (1/2, 1/2), (1/4, 3/4), p̄ = (3/8, 5/8)
    # J = H(3/8) - (ln 2 + H(1/4)) / 2 = 0.661563 - (0.693147 + 0.562335) / 2
    found = e["name_information_prior_corrected", "capital", "step20"]
    assert found.value == pytest.approx(0.033822, abs=2e-6)


def test_every_relation_has_the_same_weight_in_a_mean_over_names() -> None:
    unseen = UNSEEN | {"capital": (*UNSEEN["capital"], (0.75, 0.25))}
    e = measured(candidates=candidate_rows(unseen=unseen))["top_probability", "overall", "step20"]
    # three names at 3/4, two at 1/4: not (3 · 3/4 + 2 · 1/4) / 5 = 0.55
    assert (e.value, e.n) == (pytest.approx((0.75 + 0.25) / 2), 5)


def test_a_mean_over_names_has_the_interval_of_the_definition() -> None:
    unseen = {
        "capital": ((0.75, 0.25), (0.9, 0.1), (0.6, 0.4)),
        "ceo": ((0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1)),
    }
    e = measured(candidates=candidate_rows(unseen=unseen))["top_probability", "overall", "step20"]
    capital = Resampler.make(["capital"] * 3, 200, 0).counts
    ceo = Resampler.make(["ceo"] * 2, 200, 1).counts
    draws = [
        (np.repeat([0.75, 0.9, 0.6], c).mean() + np.repeat([0.25, 0.7], k).mean()) / 2
        for c, k in zip(capital, ceo, strict=True)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert interval(e) == pytest.approx(((0.75 + 0.475) / 2, low, high))


def test_known_against_unseen_in_a_subset_uses_its_facts_only() -> None:
    # stated f1 (0.8 beats both 0.75) and f3 (0.7 beats both 0.25): nothing lost, yet three
    # known and four unseen names are no proof: 2 disjoint pairs leave 3.841459 / 5.841459 open
    e = TINY["auroc", "stated", "step20"]
    assert interval(e) == pytest.approx((1, 1 - 0.657620, 1), abs=1e-6)
    assert e.n == 6


def test_auroc_against_the_definition_of_pairs() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 4, 7) / 4, rng.integers(0, 4, 9) / 4
    e = metrics._auroc([(p, q)], np.random.default_rng(1), 500, 0.95)
    assert e.value == pytest.approx(stats.auroc(p, q))
    assert e.ci_low is not None and e.ci_high is not None and e.value is not None
    assert 0 <= e.ci_low < e.value < e.ci_high <= 1


def log(*rows: Sequence[float]) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float64))


ONE = np.ones((1, 2), dtype=np.int64)


def test_two_certain_names_that_differ_carry_ln_2() -> None:
    s = excess_and_information(log((1, 0), (0, 1)), ONE)
    assert s.j == pytest.approx(LN2)
    # X would be infinite; the smallest double, ln = -708.396, stands for 0:
    # X = ½ ln(½ / 1) + ½ (ln ½ + 708.396) = -0.693147 + 354.198
    assert s.x == pytest.approx(353.505, abs=1e-3)


def test_names_that_all_get_one_distribution_carry_nothing() -> None:
    for row in ((0.7, 0.2, 0.1), (1, 0, 0), (1 / 3, 1 / 3, 1 / 3)):
        counts = Resampler.make(["r"] * 5, 50, 0).counts
        s = excess_and_information(log(*[row] * 5), counts)
        assert (s.x, s.j) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
        assert s.x_draws.max() < 1e-12 and s.j_draws.max() < 1e-12


def by_definition(log_q: Floats) -> tuple[float, float]:
    """X and J as sums of KL divergences, name by name."""
    q = np.exp(log_q)
    p = q.mean(axis=0)
    x = [sum(p[k] * math.log(p[k] / q[n, k]) for k in range(len(p))) for n in range(len(q))]
    j = [sum(q[n, k] * math.log(q[n, k] / p[k]) for k in range(len(p))) for n in range(len(q))]
    return float(np.mean(x)), float(np.mean(j))


def test_every_draw_of_x_and_j_is_the_definition_on_the_names_drawn() -> None:
    rng = np.random.default_rng(0)
    log_q = metrics._log_softmax(rng.normal(size=(6, 4)) * 2)
    counts = Resampler.make(["r"] * 6, 60, 0).counts
    s = excess_and_information(log_q, counts)
    assert (s.x, s.j) == pytest.approx(by_definition(log_q))
    for b, c in enumerate(counts):
        assert (s.x_draws[b], s.j_draws[b]) == pytest.approx(
            by_definition(np.repeat(log_q, c, axis=0)), abs=1e-9
        )


LOGITS = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.lists(st.floats(-2000, 0), min_size=k, max_size=k), min_size=2, max_size=6
    )
)


@EXACT
@given(LOGITS)
def test_x_and_j_are_finite_not_negative_and_j_at_most_ln_k(logits: list[list[float]]) -> None:
    rows = np.array(logits)
    counts = Resampler.make(["r"] * len(rows), 20, 0).counts
    s = excess_and_information(metrics._log_softmax(rows), counts)
    for value in (s.x, *s.x_draws):
        assert 0 <= value < 710
    for value in (s.j, *s.j_draws):
        assert 0 <= value <= math.log(rows.shape[1]) + 1e-9


@EXACT
@given(LOGITS, st.floats(-50, 50))
def test_what_all_candidates_share_does_not_change_x_and_j(
    logits: list[list[float]], shift: float
) -> None:
    rows = np.array(logits) / 100
    moved = rows + shift * np.arange(len(rows))[:, None]
    a, b = (
        excess_and_information(metrics._log_softmax(r), np.ones((1, len(rows)), dtype=np.int64))
        for r in (rows, moved)
    )
    assert (a.x, a.j) == pytest.approx((b.x, b.j), abs=1e-6)


def test_subtracting_a_prior_that_is_flat_changes_nothing() -> None:
    found = measured(candidates=candidate_rows(prior={"capital": (0.5, 0.5)}))
    for metric in ("excess_loss", "name_information"):
        plain = found[metric, "capital", "step20"]
        assert found[f"{metric}_prior_corrected", "capital", "step20"] == plain


def test_the_interval_of_j_covers_its_mean_over_sets_of_as_many_names() -> None:
    rng = np.random.default_rng(0)
    n, k, draws = 12, 5, 200

    def names() -> Floats:
        return metrics._log_softmax(2 * rng.normal(size=(n, k)))

    one, r = np.ones((1, n), dtype=np.int64), Resampler.make(["r"] * n, draws, 0)
    truth = np.mean([excess_and_information(names(), one).j for _ in range(2000)])
    covered = 0
    for _ in range(200):
        s = excess_and_information(names(), r.counts)
        e = metrics._centred(s.j, s.j_draws, r, n)
        assert e.ci_low is not None and e.ci_high is not None
        covered += e.ci_low <= truth <= e.ci_high
    assert 0.80 <= covered / 200 <= 0.98


def test_a_centred_interval_stays_in_the_range_of_its_statistic() -> None:
    r = Resampler(np.zeros((4, 1), dtype=np.int64), 0.95)
    e = metrics._centred(0.02, np.array([0.0, 0.0, 0.0, 0.2]), r, 1, highest=0.1)
    assert e.ci_low == 0.0 and e.ci_high == 0.1
    # draws all but one equal: their quantiles, moved, would miss the value
    flat = metrics._centred(0.5, np.array([0.1] * 199 + [0.9]), r, 1)
    assert flat.ci_low is not None and flat.ci_high is not None
    assert flat.ci_low <= 0.5 <= flat.ci_high


# ---- degenerate relations --------------------------------------------------------------------


def test_a_relation_with_one_candidate_says_nothing_and_does_not_thin_the_mean() -> None:
    ceo = [r for r in candidate_rows() if r["relation"] == "ceo" and r["candidate"] == "P"]
    capital = [r for r in candidate_rows() if r["relation"] == "capital"]
    found = measured(candidates=capital + ceo)
    for metric in ("excess_loss", "name_information_prior_corrected", "normalised_entropy"):
        e = found[metric, "ceo", "step20"]
        assert e.value is None and e.reason is not None and "two candidates" in e.reason
        overall, alone = (found[metric, scope, "step20"] for scope in ("overall", "capital"))
        assert (overall.value, overall.n) == (alone.value, alone.n)
    # the only candidate is right, which no correction can weigh
    assert found["candidate_accuracy", "ceo", "step20"].value == 1
    assert found["candidate_accuracy_corrected", "ceo", "step20"].value is None
    assert found["candidate_accuracy_corrected", "overall", "step20"].n == 2
    assert found["auroc", "overall", "step20"].value == pytest.approx(1 / 2)


def test_one_unseen_name_has_nothing_to_differ_from() -> None:
    unseen = {"capital": UNSEEN["capital"][:1]}
    found = measured(candidates=candidate_rows(unseen=unseen))
    for scope, n in (("capital", 1), ("ceo", 0), ("overall", 0)):
        e = found["name_information", scope, "step20"]
        assert (e.value, e.n) == (None, n)
        assert e.reason is not None and "fewer than two unseen names" in e.reason


def test_without_a_prior_only_the_corrected_numbers_are_missing() -> None:
    found = measured(candidates=candidate_rows(prior={}))
    for scope in ("capital", "ceo", "overall"):
        e = found["excess_loss_prior_corrected", scope, "step20"]
        assert (e.value, e.reason) == (None, "the context-free prior was not measured")
        assert found["excess_loss", scope, "step20"].value is not None
    half = measured(candidates=candidate_rows(prior={"ceo": PRIOR["ceo"]}))
    assert half["excess_loss_prior_corrected", "capital", "step20"].value is None
    assert half["excess_loss_prior_corrected", "overall", "step20"].n == 2


def test_without_unseen_names_there_is_nothing_to_tell_apart() -> None:
    e = measured(candidates=candidate_rows(unseen={}))["auroc", "overall", "step20"]
    assert (e.value, e.n) == (None, 0)
    assert e.reason == "no relation has both known and unseen subjects"
