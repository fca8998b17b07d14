"""Given checkpoints: attention to the subject, and corruption of the facts they know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.dynamics.small import SMALL
from tests.tiny import VOCAB, byte_level_tokenizer

from factlife.config import Intervals, Profile, Recall
from factlife.corpora.fact_probes import load_fact_probes
from factlife.dynamics import series
from factlife.dynamics.attention import attended
from factlife.dynamics.series import (
    MaterialSource,
    corruption,
    given_runs,
    make_material,
    source_prompts,
    subject_attention,
)
from factlife.errors import UsageError
from factlife.runner.dynamics_series import dynamics_finished
from factlife.runner.run import Options, run
from factlife.runner.score import score_run
from factlife.schema import BIOGRAPHY_EVAL, DYNAMICS_RUNS, SUBJECT_ATTENTION
from factlife.series.local import open_series
from factlife.store import RunStore
from factlife.training import (
    ARCHITECTURES,
    ModelShape,
    RowSource,
    Trainer,
    TrainingConfig,
    build_model,
    model_config,
)

SETTINGS = replace(
    SMALL, people=(), steps=(), names=(64, 64, 64), replay_weights=(0.0, 1.0), seeds=1
)
PROFILE = Profile(
    "small",
    tracks=("recall", "dynamics"),
    recall=Recall(templates="source", generation="none"),
    dynamics=SETTINGS,
    intervals=Intervals(draws=100),
)
KEYS = {"revision": "r", "stage": "main", "step": 1}


def tiny(arch: str = "llama", layers: int = 2) -> Any:
    shape = ModelShape(layers=layers, width=32, heads=4, ffn=48, positions=160)
    return build_model(model_config(arch, shape, VOCAB, 0, 1), 0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = byte_level_tokenizer()
    made.pad_token = made.eos_token
    return made


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[Any]:
    return source_prompts(tokenizer, load_fact_probes(), PROFILE, None)


# ---- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_attention_to_the_subject_is_that_of_each_prompt_alone(
    arch: str, prompts: list[Any]
) -> None:
    m, some = tiny(arch).eval(), prompts[:6]
    rows = subject_attention(m, some, 200, KEYS)
    SUBJECT_ATTENTION.from_rows(rows)
    for row in rows:
        masses = []
        for p in some:
            _, patterns = attended(m, torch.tensor([p.ids]))
            looking = patterns[row["layer"]][0, :, p.answer[0] - 1]
            masses.append(float(looking[:, p.subject[0] : p.subject[1]].sum(-1).mean()))
        assert row["mass"] == pytest.approx(float(np.mean(masses)), abs=1e-5)
        assert 0 < row["sharpness"] <= 1 + 1e-6 and row["n_facts"] == 6
    assert [r["layer"] for r in rows] == [0, 1]


def test_a_model_without_attention_weights_keeps_a_row_with_the_reason(
    prompts: list[Any],
) -> None:
    m = tiny().eval()
    m.forward = lambda **_: type("Out", (), {"attentions": None})()
    (row,) = subject_attention(m, prompts[:2], 500, KEYS)
    SUBJECT_ATTENTION.from_rows([row])
    assert row["layer"] == -1 and "no attention weights" in row["reason"]


def test_a_forward_that_knows_no_attention_keeps_a_row_and_a_mistake_of_ours_does_not(
    prompts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    m = tiny().eval()
    m.forward = lambda input_ids, attention_mask, use_cache: None
    (row,) = subject_attention(m, prompts[:2], 500, KEYS)
    assert "output_attentions" in row["reason"]
    monkeypatch.setattr("factlife.dynamics.series.pad", lambda *_: None)
    with pytest.raises(AttributeError):
        subject_attention(tiny().eval(), prompts[:2], 500, KEYS)


# ---- corruption ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def knowing(prompts: list[Any]) -> Any:
    """A tiny model that was taught five facts by heart."""
    m = tiny()
    facts = [p.ids for p in prompts[:5]]
    width = max(map(len, facts))
    rows = torch.tensor([[*f, *[1] * (width - len(f))] for f in facts])
    config = TrainingConfig(steps=60, batch_rows=5, context=width, peak_lr=1e-2)
    trainer = Trainer(m, RowSource(rows, 5, pad=1), config, "cpu")
    while trainer.step < 60:
        trainer.advance()
    return m.eval()


def test_old_knowledge_is_the_facts_it_knew(knowing: Any, tokenizer: Any) -> None:
    material = make_material(knowing, tokenizer, load_fact_probes(), PROFILE, None)
    found = source_prompts(tokenizer, load_fact_probes(), PROFILE, None)
    assert {p.ids for p in material.known} >= {p.ids for p in found[:5]}
    assert len(material.replay) == len(material.known)
    # Replay is in other wordings than what is measured.
    assert not {p.ids for p in material.known} & {r for m in material.replay for r in m}


def test_a_model_that_knows_nothing_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="knows none of the facts"):
        make_material(tiny(), tokenizer, load_fact_probes(), PROFILE, None)


def test_text_is_about_new_people_and_with_weight_about_known_facts(
    knowing: Any, tokenizer: Any
) -> None:
    material = make_material(knowing, tokenizer, load_fact_probes(), PROFILE, None)
    old = {r for m in material.replay for r in m}

    def rows(weight: float) -> list[tuple[int, ...]]:
        source = MaterialSource(material, 8, weight, 1)
        made = []
        for _ in range(20):
            batch = source.next_batch()
            assert batch.labels is not None
            made += [tuple(r[r >= 0].tolist()) for r in batch.labels]
        return made

    assert not [r for r in rows(0.0) if r in old]
    n_old, n_new = len(material.known), 10
    share = sum(r in old for r in rows(1.0)) / 160
    assert share == pytest.approx(n_old / (n_old + n_new), abs=0.15)


def test_corruption_leaves_the_checkpoint_as_it_was(knowing: Any, tokenizer: Any) -> None:
    before = {n: p.clone() for n, p in knowing.named_parameters()}
    material = make_material(knowing, tokenizer, load_fact_probes(), PROFILE, None)
    hard = replace(PROFILE, dynamics=replace(SETTINGS, fine_tune_lr=3e-2))
    found = list(corruption(knowing, material, hard, "step9"))
    assert all(torch.equal(p, before[n]) for n, p in knowing.named_parameters())
    assert not knowing.training and all(p.grad is None for p in knowing.parameters())
    assert [s.name for s, _ in found] == ["series.new.w0.s0", "series.new.w1.s0"]
    for spec, rows in found:
        DYNAMICS_RUNS.from_rows(rows["dynamics_runs"])
        BIOGRAPHY_EVAL.from_rows(rows["biography_eval"])
        old = [r for r in rows["biography_eval"] if r["population"] == "old"]
        assert old[0]["step"] == 0 and old[0]["accuracy"] == 1.0  # what it knew, it knew
        assert old[0]["loss_nats"] < old[-1]["loss_nats"]
        assert [r["restored"] for r in old[-2:]] == ["attention", "mlp"]
        (run_row,) = rows["dynamics_runs"]
        assert run_row["parent"] == "step9" and run_row["n_people"] == len(material.known)
        assert spec.replay_share == run_row["replay_share"]


# ---- in a run --------------------------------------------------------------------------------


@pytest.fixture
def given_series(tmp_path: Path, knowing: Any, tokenizer: Any) -> Path:
    for step, m in ((0, tiny()), (10, knowing)):
        folder = tmp_path / "series" / f"step{step}"
        m.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return tmp_path / "series"


class Heard:
    """Progress that remembers its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, stage: str, total: int, unit: str) -> None: ...
    def advance(self, done: int, detail: str = "") -> None: ...
    def finish(self) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_a_run_measures_the_track_once_and_scores_it(given_series: Path, tmp_path: Path) -> None:
    opened, out = open_series(str(given_series)), tmp_path / "run"
    first = run(opened, PROFILE, out, Options(), Heard())
    assert first.measured == ("step0", "step10") and first.seconds["dynamics"] > 0
    again = run(opened, PROFILE, out, Options(), Heard())
    assert again.reused == ("step0", "step10") and again.seconds["dynamics"] == 0
    store = RunStore(out)
    assert store.read("subject_attention").num_rows == 4
    assert store.read("dynamics_runs").num_rows == 2
    result = score_run(out)
    claims = store.read("dynamics_claims").to_pylist()
    assert {(c["claim"], c["scope"]) for c in claims} == {(f"C{k}", "series") for k in range(1, 12)}
    assert result["metrics"]["dynamics.corruption"]["scope"] == "overall"
    assert {"dynamics_runs", "subject_attention", "dynamics_claims"} <= set(result["tables"])
    assert score_run(out) == result


def test_a_lost_part_of_the_track_is_measured_again(given_series: Path, tmp_path: Path) -> None:
    opened, out = open_series(str(given_series)), tmp_path / "run"
    run(opened, PROFILE, out, Options(), Heard())
    store = RunStore(out)
    before = store.digest("biography_eval")
    store.part_path("biography_eval", {"dynamics_run": "series.new.w0.s0"}).unlink()
    again = run(opened, PROFILE, out, Options(), Heard())
    assert again.measured == ("step10",) and store.digest("biography_eval") == before


def test_a_last_checkpoint_that_knows_nothing_is_a_warning_and_is_not_asked_again(
    given_series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "_right", lambda *_: [])
    opened, out, heard = open_series(str(given_series)), tmp_path / "run", Heard()
    run(opened, PROFILE, out, Options(), heard)
    assert [w for w in heard.warnings if "corruption is not measured" in w]
    assert run(opened, PROFILE, out, Options(), Heard()).measured == ()
    assert RunStore(out).read("dynamics_runs").num_rows == 0
    score_run(out)


def test_without_the_track_nothing_of_it_is_written(given_series: Path, tmp_path: Path) -> None:
    plain, out = replace(PROFILE, tracks=("recall",)), tmp_path / "run"
    opened = open_series(str(given_series))
    run(opened, plain, out, Options(), Heard())
    score_run(out)
    assert {p.name for p in (out / "tables").iterdir()} == {
        "checkpoints", "recall", "candidates", "scores",
    }  # fmt: skip
    revision = opened.revisions[-1]
    assert dynamics_finished(RunStore(out), plain, revision, "", last=True)
    assert not dynamics_finished(RunStore(out), PROFILE, revision, "", last=True)


def test_fine_tunings_of_a_checkpoint_are_planned_by_weight_and_seed() -> None:
    runs = given_runs(replace(SETTINGS, seeds=2), 7, "last")
    assert [r.name for r in runs] == [
        "series.new.w0.s0", "series.new.w0.s1", "series.new.w1.s0", "series.new.w1.s1",
    ]  # fmt: skip
    assert runs[-1].replay_share == pytest.approx(7 / 17)
