"""The ranked profile is what the design says, and no shipped profile changes under its version."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.freeze_profiles import frozen
from tests.hub.results import make_result

from factlife.config import load_profile, profile_names
from factlife.hub import protocol
from factlife.hub.collect import Entry
from factlife.runner.injection import choose_starts
from factlife.scores import METRICS
from factlife.series.local import Revision
from factlife.series.select import select
from factlife.store import sha256_json

STANDARD = load_profile("standard")
# Of `standard` version 0, as it was shipped: the version before it could be ranked.
ZERO = "09b351d1dc8ac5fe0811b170d0238c2cb2a41e4ffc15b05db40c0244721b0d3c"


def revision(step: int) -> Revision:
    tokens = step * 2_097_152
    return Revision(f"step{step}", "org/m", Path("m"), "main", step, tokens, "name")


def test_standard_is_version_1_and_the_only_ranked_profile() -> None:
    assert (STANDARD.version, STANDARD.ranked, STANDARD.badge) == (1, True, "")
    assert [n for n in profile_names() if load_profile(n).ranked] == ["standard"]


def test_all_tracks_run() -> None:
    assert STANDARD.tracks == ("recall", "circuits", "injection", "dynamics")


def test_at_most_20_checkpoints_spaced_in_the_logarithm_of_tokens() -> None:
    # Pythia's 154 steps: 0, the powers of 2 to 512, then every 1,000 to 143,000
    steps = [0, *(2**i for i in range(10)), *range(1000, 144_000, 1000)]
    chosen = [r.step or 0 for r in select([revision(s) for s in steps], STANDARD.selection)]
    assert len(chosen) == 20 and {0, 1, 143_000} <= set(chosen)
    # log2(143,000) = 17.1 octaves over 18 gaps: no two neighbours are more than two octaves apart
    assert max(b / a for a, b in itertools.pairwise(chosen[1:])) <= 4


def test_injection_has_three_stages_and_three_seeds() -> None:
    settings = STANDARD.injection
    assert (settings.seeds, settings.study) == (3, "main")
    starts = choose_starts([revision(s) for s in range(0, 144_000, 1000)], settings.starts)
    assert [s.position for s in starts] == ["early", "mid", "late"]
    assert (settings.per_arm, settings.controls) == (40, 40)  # with three arms: 160 passages
    assert (settings.window, settings.lead_in, settings.long) == (50, 50, "truncate")


def test_circuits_as_the_poster_has_them_and_ablation_at_the_last_checkpoint() -> None:
    c = STANDARD.circuits
    assert (c.tau, c.theta, c.threshold, c.self_edges) == (0.01, 0.1, "per_head_key", "separate")
    assert (c.scores, c.empty_union, c.ablations) == ("averaged", "null", "last")


def test_only_the_last_checkpoint_is_fine_tuned_once_a_seed() -> None:
    d = STANDARD.dynamics
    assert (d.people, d.seeds, d.replay_weights) == ((), 3, (0.0,))


def test_hallucination_and_candidates_are_measured() -> None:
    r = STANDARD.recall
    assert (r.candidates, r.templates, r.generation) == (True, "all", "source")
    assert (STANDARD.model.dtype, STANDARD.intervals.level) == ("float32", 0.95)


def test_the_headlines_are_those_of_the_design() -> None:
    assert {m.name for m in METRICS if m.headline} == {
        "recall.whole_answer_accuracy", "recall.candidate_accuracy_corrected",
        "recall.emergence50", "hallucination.excess_loss", "hallucination.name_information",
        "circuits.iou_general_excess", "circuits.active_head_share",
        "circuits.ablation_effect_general",
        "injection.effectivity", "injection.decay_constant", "injection.corruption",
        "dynamics.corruption",
    }  # fmt: skip


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_does_not_change_under_its_version(name: str) -> None:
    """If this fails, raise the profile's version, then `python -m tests.freeze_profiles`."""
    profile = load_profile(name)
    assert protocol.recorded()[name][str(profile.version)] == sha256_json(profile.params())


def test_recording_the_present_versions_keeps_the_earlier_ones() -> None:
    assert frozen() == protocol.recorded()
    assert frozen()["standard"]["0"] == ZERO
    assert frozen()["reference"].keys() == {"1", "2"}


def test_a_result_of_version_0_is_known_and_unranked(monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_result(profile="standard", version=0, ranked=False, badge="preview")
    (problem,) = protocol.profile_problems(result, "f")  # made-up parameters are not version 0
    assert problem.pointer == "/protocol/version"
    said = sha256_json(result["protocol"]["params"])
    monkeypatch.setattr(protocol, "recorded", lambda: {"standard": {"0": said}})
    assert list(protocol.profile_problems(result, "f")) == []
    entry = Entry(result)
    assert (entry.section, entry.badge, entry.ranked) == ("standard", "preview", False)


def test_nobody_ranks_version_0_by_saying_so() -> None:
    result = make_result(profile="standard", version=0, ranked=True)
    assert not Entry(result).ranked
