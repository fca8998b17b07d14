"""Revision names: what they say is read, and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.series.names import ParsedName, parse_name, stage_key

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=150)
B = 10**9


@pytest.mark.parametrize(
    ("name", "stage", "step", "tokens"),
    [
        ("step143000", "main", 143_000, None),  # Pythia, PolyPythias
        ("step0", "main", 0, None),
        ("step1000-tokens4B", "main", 1000, 4 * B),  # OLMo 1, 1.7, 0724, Apertus
        ("stage1-step1000-tokens5B", "stage1", 1000, 5 * B),  # OLMo 2
        ("stage2-ingredient3-step12000-tokens26B", "stage2-ingredient3", 12_000, 26 * B),
        ("step150-tokens1B", "main", 150, B),
        ("stage1-step1413814", "stage1", 1_413_814, None),  # Olmo 3
        ("step-160000", "main", 160_000, None),  # SmolLM2
        ("stage2-step-40000", "stage2", 40_000, None),  # SmolLM3
        ("lc-4k-to-32k-step-4000", "lc-4k-to-32k", 4000, None),
        ("CrystalCoder_phase1_checkpoint_055500", "CrystalCoder_phase1", 55_500, None),
        ("step-001000-2BT", "main", 1000, 2 * B),
        ("240b_tokens", "main", None, 240 * B),
        ("checkpoint-500", "main", 500, None),
        ("global_step500", "main", 500, None),
        ("step1250-seed-default", "seed-default", 1250, None),  # DataDecide
        ("step1250-seed-large-aux-2", "seed-large-aux-2", 1250, None),
        ("step10-tokens2.5M", "main", 10, 2_500_000),
        ("step10-tokens500", "main", 10, 500),
        ("step10-tokens3T", "main", 10, 3 * 10**12),
        ("STEP7-TOKENS1b", "main", 7, B),
        ("stage1-global_step5", "stage1", 5, None),
        ("stage1-step5-tokens2B-seed-x", "stage1-seed-x", 5, 2 * B),
    ],
)
def test_every_published_form_is_read(
    name: str, stage: str, step: int | None, tokens: int | None
) -> None:
    assert parse_name(name) == ParsedName(stage, step, tokens, None)


@pytest.mark.parametrize(
    ("name", "index", "tokens"), [("ckpt_000", 0, None), ("ckpt_359", 359, None),
                                  ("ckpt_5-tokens2B", 5, 2 * B)],
)  # fmt: skip
def test_a_count_of_checkpoints_is_an_index_and_no_step(
    name: str, index: int, tokens: int | None
) -> None:
    assert parse_name(name) == ParsedName("main", None, tokens, index)


@pytest.mark.parametrize(
    "name",
    [
        "main", "phoenix", "", " ", "step", "step-", "seed-default", "seed-3", "tokens4B", "4B",
        "240_tokens", "b_tokens", "1000", "v1.0", "misstep5", "footsteps-5", "stepping5",
        "step5x", "step5-", "-step5", "step5-final", "step5 ", " step5", "step5\n",
        "step5/tokens4B",
        "step-5-tokens", "step5-tokensB", "step5-tokens4X", "step+5", "step1e3", "step1.5",
        "step٣", "step１２", "step²", "ſtep5", "240b_tokens\n", "step5-2B",
    ],
)  # fmt: skip
def test_names_that_say_no_step_are_not_guessed_at(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["step" + "9" * 19, "step" + "9" * 5000, "step5-tokens" + "9" * 5000 + "B",
     "step5-tokens99999999999T", "99999999999t_tokens"],
    ids=["step", "endless step", "endless tokens", "tokens", "only tokens"],
)  # fmt: skip
def test_numbers_beyond_what_a_table_holds_are_refused(name: str) -> None:
    assert parse_name(name) is None


def test_the_largest_numbers_are_read_exactly() -> None:
    assert parse_name("step" + "9" * 18) == ParsedName("main", 10**18 - 1, None)
    assert parse_name("step1-tokens9223372T") == ParsedName("main", 1, 9_223_372 * 10**12)
    assert parse_name("step1-tokens9223373T") is None  # 2**63 - 1 = 9,223,372,036,854,775,807


def test_a_fraction_of_tokens_is_not_rounded_through_a_float() -> None:
    # 0.1 + 0.2 is no float: 4503599627.370497 B must keep its last digit
    assert parse_name("step1-tokens4503599627.370497B") == ParsedName(
        "main", 1, 4_503_599_627_370_497_000
    )


UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
STEP = st.integers(0, 10**12)
AMOUNT = st.tuples(st.integers(0, 10**6), st.sampled_from(list(UNITS)))
STAGES = st.sampled_from(
    ["stage1", "stage2", "stage10", "stage2-ingredient3", "lc-4k-to-32k", "phase_1", "CPT", "v1.2"]
)
FORMS = st.sampled_from(["step{}", "step-{}", "step_{}", "global_step{}", "checkpoint-{}",
                         "checkpoint_{:06d}", "iter_{:07d}", "step-{:06d}"])  # fmt: skip


@EXACT
@given(
    STEP, FORMS, st.none() | STAGES, st.none() | AMOUNT, st.none() | st.sampled_from(["a", "b-2"])
)
def test_a_name_that_is_put_together_is_taken_apart(
    step: int, form: str, stage: str | None, amount: tuple[int, str] | None, seed: str | None
) -> None:
    name = f"{stage}-" * bool(stage) + form.format(step)
    name += f"-tokens{amount[0]}{amount[1]}" if amount else ""
    name += f"-seed-{seed}" if seed else ""
    stages = [stage] * bool(stage) + [f"seed-{seed}"] * bool(seed)
    tokens = amount[0] * UNITS[amount[1]] if amount else None
    assert parse_name(name) == ParsedName("-".join(stages) or "main", step, tokens)


@EXACT
@given(STEP, AMOUNT)
def test_token_forms_without_the_word_are_read_too(step: int, amount: tuple[int, str]) -> None:
    count, unit = amount
    if unit:
        parsed = parse_name(f"step-{step:06d}-{count}{unit}T")
        assert parsed == ParsedName("main", step, count * UNITS[unit])
        assert parse_name(f"{count}{unit.lower()}_tokens") == ParsedName(
            "main", None, count * UNITS[unit]
        )


@EXACT
@given(STEP, FORMS, st.none() | STAGES)
def test_tokens_are_never_inferred(step: int, form: str, stage: str | None) -> None:
    parsed = parse_name(f"{stage}-" * bool(stage) + form.format(step))
    assert parsed is not None and parsed.tokens is None


@EXACT
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_its_numbers_fit_a_table(text: str) -> None:
    parsed = parse_name(text)
    if parsed is not None:
        numbers = [n for n in (parsed.step, parsed.tokens, parsed.index) if n is not None]
        assert numbers and all(0 <= n < 2**63 for n in numbers)


def test_stages_are_in_natural_order_with_main_first_and_long_context_last() -> None:
    ordered = [
        "main", "stage1", "stage2", "stage2-ingredient1", "stage2-ingredient3",
        "stage2-ingredient10", "stage3", "stage10", "CPT", "lc-4k-to-32k", "lc-32k-to-64k",
        "lc-128k-to-256k", "seed-default",
    ]  # fmt: skip
    mixed = ordered.copy()
    random.Random(0).shuffle(mixed)
    assert mixed != ordered and sorted(mixed, key=stage_key) == ordered


@EXACT
@given(st.lists(st.text(max_size=8) | st.just("x²") | st.just("stage٣"), max_size=6))
def test_any_two_stages_can_be_compared(stages: list[str]) -> None:
    keys = [stage_key(s) for s in stages]
    assert sorted(keys) == sorted(keys, reverse=True)[::-1]
