"""Arms, halves and plans: the Latin square, the schedule, and what a plan is refused for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.injection.small import SETTINGS, corpus, plan

from factlife.config import Injection, load_profile
from factlife.errors import IntegrityError, UsageError
from factlife.injection.arms import ARMS, assign, balanced, choose_blocks, grouped
from factlife.injection.corpus import Corpus, load_corpus
from factlife.injection.plan import (
    Line,
    Start,
    check_plan,
    make_plans,
    read_plan,
    to_jsonl,
    write_plan,
)

EXACT = hypothesis_settings(derandomize=True, database=None, deadline=None, max_examples=40)


# ---- arms ------------------------------------------------------------------------------------


def test_three_seeds_put_every_injected_passage_into_every_arm_once() -> None:
    arms: dict[str, list[str]] = {}
    for seed in range(3):
        for a in assign(corpus(blocks=True), SETTINGS, seed):
            arms.setdefault(a.passage.passage_id, []).append(a.arm)
    counts = Counter(tuple(sorted(v)) for v in arms.values())
    # 8 passages: 2 in each of A, B, C and control
    assert counts == {tuple(sorted(ARMS)): 6, ("control",) * 3: 2}


def test_blocks_of_the_corpus_are_kept_whole() -> None:
    of = {a.passage.passage_id: a for a in assign(corpus(blocks=True), SETTINGS, 1)}
    assert all(a.block == a.passage.block for a in of.values())
    assert len({(a.block, a.arm) for a in of.values()}) == 4


def test_without_blocks_they_are_drawn_within_kind_and_the_same_for_all_seeds() -> None:
    blocks = choose_blocks(corpus(), SETTINGS)
    # 4 passages of each of 2 kinds: each of 4 blocks of two holds one of each kind
    assert all(sorted(p.kind for p in b) == ["a", "b"] for b in blocks.values())
    assert len({p.passage_id for b in blocks.values() for p in b}) == 8


@pytest.mark.parametrize("seed", range(4))
def test_halves_are_disjoint_and_as_large_in_every_arm(seed: int) -> None:
    counts = Counter((a.arm, a.half) for a in assign(corpus(), SETTINGS, seed))
    assert counts == {(arm, half): 1 for arm in (*ARMS, "control") for half in "AB"}


@EXACT
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 20))
def test_halves_differ_by_at_most_one(per_arm: int, controls: int, seed: int) -> None:
    settings = replace(SETTINGS, per_arm=per_arm, controls=controls)
    made = assign(corpus(3 * per_arm + controls + 3), settings, seed)
    counts = Counter((a.arm, a.half) for a in made)
    assert sum(counts.values()) == 3 * per_arm + controls
    for arm in (*ARMS, "control"):
        assert abs(counts[arm, "A"] - counts[arm, "B"]) <= 1


def test_balance_needs_a_multiple_of_three_seeds_and_as_many_as_groups() -> None:
    assert balanced(SETTINGS) and not balanced(replace(SETTINGS, seeds=2))
    assert balanced(replace(SETTINGS, seeds=6))
    two = replace(SETTINGS, study="spacing", spacings=(1, 4))
    assert balanced(replace(two, seeds=2)) and not balanced(replace(two, seeds=3))


def test_published_arms_go_by_place() -> None:
    made = assign(corpus(), replace(SETTINGS, arms="published"), 5)
    assert [a.arm for a in made] == [a for a in ARMS for _ in "ab"] + ["control"] * 2


def test_groups_of_a_study_are_disjoint_and_turn_with_the_seed() -> None:
    settings = replace(SETTINGS, study="spacing", spacings=(1, 4))
    arms: dict[str, set[str]] = {}
    for seed in (0, 1):
        for a in grouped(corpus(), settings, ["every-1", "every-4"], seed):
            arms.setdefault(a.passage.passage_id, set()).add(a.arm)
    assert Counter(map(frozenset, arms.values())) == {
        frozenset({"every-1", "every-4"}): 6, frozenset({"control"}): 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_arm": 3}, "wanted: lower per_arm and controls"),
        ({"injections": 4, "interval": 2}, "has 2 paraphrases, the paraphrase arm wants 3"),
        ({"study": "spacing", "spacings": (1, 2, 3, 4)}, "too few for 4 groups of two"),
        ({"study": "frequency", "frequencies": (1, 99)}, "99 times do not fit into 12 steps"),
        ({"study": "batch", "batches": (3, 8)}, "3 does not divide the largest, 8"),
    ],
)
def test_settings_that_the_corpus_cannot_hold_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(**changes)


# ---- corpora ---------------------------------------------------------------------------------


def test_the_built_in_corpus_is_the_data_set() -> None:
    import pyarrow.parquet as pq

    made = load_corpus("fictional-knowledge")
    folder = Path(__file__).parents[2] / "datasets" / "fictional-knowledge"
    rows = pq.read_table(folder / "passages.parquet").to_pylist()
    assert [p.passage_id for p in made.passages] == [r["passage_id"] for r in rows]
    assert made.passages[7].texts == (rows[7]["text"], *rows[7]["paraphrases"])
    from_folder = load_corpus(str(folder))
    assert from_folder.passages == made.passages and from_folder.probes == made.probes


def published(path: Path, count: int = 8) -> Path:
    objects = [
        {
            "train_context": f"Text {i}.",
            "paraphrases": [f"Text {i} again.", f"Once more {i}."] if i < 2 else [],
            **{
                f"{p}_{end}": [f"{p} {end} {i} {k}" for k in range(5)]
                for p in ("mem", "gen", "hard_gen")
                for end in ("input", "target")
            },
        }
        for i in range(count)
    ]
    path.write_text(json.dumps(objects))
    return path


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    made = load_corpus(str(published(tmp_path / "fk.json")))
    assert made.published and len(made.passages) == 8 and len(made.probes) == 8 * 15
    assert made.passages[1].texts == ("Text 1.", "Text 1 again.", "Once more 1.")
    probe = made.probes[5]
    assert (probe.probe_id, probe.depth) == ("passage-000.sem0", "semantic")
    assert (probe.prefix, probe.target) == ("gen input 0 0", "gen target 0 0")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no-such", UsageError, "no corpus 'no-such'"),
        ("missing.json", UsageError, "no file missing.json"),
        (".", UsageError, "a corpus folder has passages.parquet"),
    ],
)
def test_a_corpus_that_is_not_there_is_refused(
    source: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_corpus(source)


def test_a_damaged_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "passages.parquet").write_bytes(b"no parquet")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_corpus(str(tmp_path))


# ---- plans -----------------------------------------------------------------------------------


def test_the_schedule_by_hand() -> None:
    made = plan().schedule
    # lead-in 3 holds a window of 3, so that step 0 is a placebo; injections at 3, 7, 11;
    # 3 + 3 x 4 + 4 = 19 updates; windows 0-3, 3-6, 7-10, 11-14; then 11 + round(3 x 10^(k/3)):
    # 17 (k = 1: 6) and no other up to 19; the end
    assert made.injection_steps == (3, 7, 11) and made.placebo_steps == (0,)
    assert made.steps == 19
    assert made.probe_steps == (*range(15), 17, 19)
    assert made.corruption_steps == (0, 3, 7, 11, 14, 17, 19)


def test_no_placebo_where_the_lead_in_is_shorter_than_the_window() -> None:
    assert plan(lead_in=2).schedule.placebo_steps == ()


def test_what_each_arm_is_given() -> None:
    made = plan()
    arm = {a.passage.passage_id: a.arm for a in made.assignments}
    seen: dict[str, list[tuple[int, int]]] = {}
    for line in made.lines:
        seen.setdefault(arm[line.passage], []).append((line.step, line.variant))
    assert sorted(seen["once"]) == [(3, 0)] * 2
    assert sorted(seen["duplication"]) == [(s, 0) for s in (3, 7, 11) for _ in "ab"]
    assert sorted(seen["paraphrase"]) == [(s, k) for k, s in enumerate((3, 7, 11)) for _ in "ab"]
    assert "control" not in seen


def test_the_published_protocol_by_its_numbers() -> None:
    settings = load_profile("injection-2024").injection
    made_of = corpus(130)
    texts = {p.passage_id: p for p in made_of.passages}
    long = Corpus(
        "x",
        tuple(replace(p, texts=tuple("abcdefghij")) for p in texts.values()),
        made_of.probes,
    )
    (made,) = make_plans(long, replace(settings, seeds=1), [Start("late", "x")])
    # 120 + 9 x 80 = 840 sequences, at 0, 100, ..., 900; 1000 + 1500 steps; read after every one
    assert len(made.lines) == 840 and made.schedule.steps == 2500
    assert made.schedule.injection_steps == tuple(range(0, 1000, 100))
    assert made.schedule.probe_steps == tuple(range(2501))
    first = [x for x in made.lines if x.step == 0]
    assert len(first) == 120 and {x.variant for x in first} == {0}
    assert {x.variant for x in made.lines if x.step == 300 and x.passage < "p40"} == {3}


def test_spacing_groups_share_one_run_and_begin_together() -> None:
    made = plan(study="spacing", spacings=(1, 4), exposures=3)
    arm = {a.passage.passage_id: a.arm for a in made.assignments}
    steps = {arm[p]: s for p, s in made.steps_of().items()}
    assert steps == {"every-1": (3, 4, 5), "every-4": (3, 7, 11)}
    assert {3, 4, 5, 6, 7, 8, 11, 12} <= set(made.schedule.probe_steps)


def test_frequencies_fill_the_same_span() -> None:
    made = plan(study="frequency", frequencies=(1, 4))
    arm = {a.passage.passage_id: a.arm for a in made.assignments}
    steps = {arm[p]: s for p, s in made.steps_of().items()}
    # 3 injections x interval 4 = 12 steps: 4 times is every 3 steps
    assert steps == {"times-1": (3,), "times-4": (3, 6, 9, 12)}


def test_a_smaller_batch_keeps_tokens_and_injected_share() -> None:
    settings = replace(SETTINGS, study="batch", batches=(4, 8), seeds=1)
    small, large = make_plans(corpus(), settings, [Start("late", "x")])
    assert (small.name, large.name) == ("batch-4-late-seed0", "batch-8-late-seed0")
    assert small.schedule.steps == 2 * large.schedule.steps
    assert len(small.lines) == len(large.lines)
    most = {len(p.lines): max(Counter(x.step for x in p.lines).values()) for p in (small, large)}
    per_step = [max(Counter(x.step for x in p.lines).values()) for p in (small, large)]
    assert per_step == [3, 6] and most  # half as many texts in half as many rows
    for p in (small, large):
        for steps in p.steps_of().values():
            assert {t + d for t in steps for d in (0, 1)} <= set(p.schedule.probe_steps)


def test_rates_differ_in_nothing_else() -> None:
    one, *_, other = make_plans(
        corpus(), replace(SETTINGS, study="lr", rates=(1e-3, 1e-2)), [Start("late", "x")]
    )
    assert (one.settings.peak_lr, other.settings.peak_lr) == (1e-3, 1e-2)
    assert one.varied == "peak_lr" and one.schedule == other.schedule


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = plan()
    write_plan(tmp_path / "plan.jsonl", made.lines)
    assert read_plan(tmp_path / "plan.jsonl") == made.lines
    first = json.loads((tmp_path / "plan.jsonl").read_text().splitlines()[0])
    assert set(first) == {"step", "row", "passage", "variant"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "line 1: no plan line"),
        ('{"step": 1, "row": 0, "passage": "p00"}', "line 1: no plan line"),
        ('{"step": -1, "row": 0, "passage": "p00", "variant": 0}', "numbers from 0"),
        ('{"step": 1.5, "row": 0, "passage": "p00", "variant": 0}', "numbers from 0"),
    ],
)
def test_a_broken_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.jsonl").write_text(text + "\n")
    with pytest.raises(UsageError, match=message):
        read_plan(tmp_path / "plan.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda p: Line(0, 0, "p99", 0), "no such passage"),
        (lambda p: Line(0, 0, p["control"], 0), "it is a control"),
        (lambda p: Line(0, 0, p["once"], 3), "no paraphrase 3"),
        (lambda p: Line(19, 0, p["once"], 0), "the run has 19 steps"),
        (lambda p: Line(3, 0, p["once"], 0), "row 0 is taken"),
    ],
)
def test_a_plan_that_says_other_than_the_arms_is_refused(line: object, message: str) -> None:
    made = plan()
    arms = {a.arm: a.passage.passage_id for a in made.assignments}
    assert callable(line)
    with pytest.raises(UsageError, match=message):
        check_plan(replace(made, lines=(*made.lines, line(arms))), "my plan")


def test_equal_settings_make_equal_plans_and_seeds_do_not() -> None:
    assert plan().sha256 == plan().sha256 != plan(seed=1).sha256
    assert to_jsonl(plan().lines) == to_jsonl(plan().lines)


@EXACT
@given(
    st.integers(1, 5), st.integers(1, 8), st.integers(0, 6), st.integers(1, 9), st.integers(1, 4)
)
def test_every_passage_is_read_before_and_after_each_of_its_injections(
    injections: int, interval: int, lead_in: int, window: int, dense: int
) -> None:
    settings = Injection(
        per_arm=2, controls=2, seeds=1, injections=min(injections, 3), interval=interval,
        lead_in=lead_in, window=window, dense_every=dense, after=window,
    )  # fmt: skip
    (made,) = make_plans(corpus(), settings, [Start("late", "x")])
    read = set(made.schedule.probe_steps)
    assert {0, made.schedule.steps} <= read
    assert max(read) == made.schedule.steps
    for steps in made.steps_of().values():
        assert {t + d for t in steps for d in (0, 1)} <= read
