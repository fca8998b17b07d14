"""The injection track of a run: which revisions, what is kept, what is refused, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from tests.injection.small import SETTINGS, corpus, facts
from tests.tiny import save_series

from factlife.config import Injection, Profile, load_profile, profile_names
from factlife.errors import IntegrityError, UsageError
from factlife.injection.corpus import Corpus
from factlife.injection.cost import Memory, Shape, cost, memory, training_flops
from factlife.injection.plan import Start, make_plans, read_plan, write_plan
from factlife.runner.demo import demo_profile
from factlife.runner.injection import (
    PLANS,
    WORK,
    WRITTEN,
    Files,
    Injected,
    Source,
    Track,
    choose_starts,
    identity_of,
    only_starts,
    plans_of,
    run_injection,
    study_of,
)
from factlife.runner.progress import Silent
from factlife.runner.run import Options, run
from factlife.runner.score import score_run
from factlife.series.integrity import check_weights
from factlife.series.local import Revision, Series, open_series
from factlife.store import RunStore

SMALL = replace(SETTINGS, seeds=1, starts=("mid", "late"), background="built-in")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return open_series(str(save_series(tmp_path_factory.mktemp("made") / "series", (0, 30, 100))))


class Told(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def source(revision: Revision) -> Source:
    import contextlib

    identity = check_weights(revision.path).identity
    return Source(revision, identity, lambda: contextlib.nullcontext(Files(revision.path)))


def inject(
    series: Series, root: Path, told: Told | None = None, source_of: Corpus | None = None,
    **changes: Any,
) -> Injected:  # fmt: skip
    profile = Profile("x", tracks=("injection",), injection=replace(SMALL, **changes))
    with RunStore.writer(root, {"identity": {"profile": "x"}}) as store:
        made = source_of or corpus()
        track = Track(store, series, profile, made, facts(), torch.device("cpu"), told or Told())
        plans = plans_of(profile, made, series.revisions)
        return run_injection(track, plans, [source(r) for r in series.revisions])


def tables(root: Path) -> dict[str, pa.Table]:
    read = {name: RunStore(root).read(name) for name in WRITTEN}
    read["training_log"] = read["training_log"].drop(["seconds"])
    return read


# ---- starts ----------------------------------------------------------------------------------


def revisions(tokens: list[int | None], steps: list[int | None] | None = None) -> list[Revision]:
    where = steps or [i for i, _ in enumerate(tokens)]
    return [
        Revision(f"r{i}", "repo", Path(), "main", s, t, "user")
        for i, (t, s) in enumerate(zip(tokens, where, strict=True))
    ]


def test_early_mid_and_late_are_chosen_by_tokens() -> None:
    # of 1500: 177 lies nearest to 150 and 500 to 600 in the logarithm
    found = choose_starts(revisions([0, 10, 150, 300, 600, 1500]), ("late", "early", "mid"))
    assert found == [Start("early", "r2"), Start("mid", "r4"), Start("late", "r5")]


def test_steps_and_places_stand_in_for_unknown_tokens() -> None:
    by_steps = revisions([None] * 4, [0, 12, 33, 100])
    assert [s.revision for s in choose_starts(by_steps, ("early", "mid"))] == ["r1", "r2"]
    by_place = revisions([None] * 3, [None] * 3)
    assert [s.revision for s in choose_starts(by_place, ("mid", "late"))] == ["r0", "r2"]


def test_step_0_and_names_can_be_asked_for() -> None:
    made = revisions([0, 10, 100])
    assert choose_starts(made, ("first", "r1")) == [Start("first", "r0"), Start("named", "r1")]


def test_two_positions_on_one_revision_are_one_start() -> None:
    assert choose_starts(revisions([100]), ("early", "mid", "late")) == [Start("late", "r0")]
    assert choose_starts(revisions([100]), ("late", "r0")) == [Start("named", "r0")]


def test_an_unknown_start_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match="'lat' is no position and no revision .did you mean 'late"
    ):
        choose_starts(revisions([1, 2]), ("lat",))


# ---- runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(series: Series, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "run"
    assert inject(series, root).measured == ("mid-seed0", "late-seed0")
    return root


def test_each_run_is_there_and_no_working_folder_is(finished: Path) -> None:
    rows = RunStore(finished).read("injection_runs").to_pylist()
    assert {(r["injection_run"], r["revision"], r["start_tokens"]) for r in rows} == {
        ("mid-seed0", "step30", 30_000), ("late-seed0", "step100", 100_000),
    }  # fmt: skip
    assert not list((finished / WORK).iterdir())  # the folder itself is the caller's to remove
    assert (finished / PLANS / "late-seed0.jsonl").is_file()


def test_finished_runs_are_kept(finished: Path, series: Series) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("part.parquet")}
    done = inject(series, finished)
    assert (done.measured, done.reused) == ((), ("mid-seed0", "late-seed0"))
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("part.parquet")} == before


def test_starts_do_not_hang_together(finished: Path, series: Series, tmp_path: Path) -> None:
    """Fresh weights for every start: the second run is what it is alone."""
    inject(series, tmp_path / "run", starts=("late",))
    alone, both = tables(tmp_path / "run"), tables(finished)
    for name, table in alone.items():
        kept = [r for r in both[name].to_pylist() if r["injection_run"] == "late-seed0"]
        assert table.to_pylist() == kept, name


def test_a_damaged_part_is_measured_again(finished: Path, series: Series) -> None:
    whole = tables(finished)
    part = RunStore(finished).part_path("probes", {"injection_run": "late-seed0"})
    part.write_bytes(part.read_bytes()[:-9])
    done = inject(series, finished)
    assert (done.measured, done.reused) == (("late-seed0",), ("mid-seed0",))
    assert all(table.equals(whole[name]) for name, table in tables(finished).items())


def test_a_plan_edited_after_the_run_is_refused(finished: Path, series: Series) -> None:
    path = finished / PLANS / "late-seed0.jsonl"
    kept = path.read_text()
    path.write_text("".join(kept.splitlines(keepends=True)[1:]))
    with pytest.raises(UsageError, match="edited after the run began: put the old plan back"):
        inject(series, finished)
    path.write_text(kept)
    assert not inject(series, finished).measured


def test_a_plan_edited_while_the_run_is_broken_off_is_refused(
    series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("factlife.runner.injection.measure", stop)
        with pytest.raises(KeyboardInterrupt):
            inject(series, root, starts=("late",))
    path = root / PLANS / "late-seed0.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UsageError, match="edited after the run began"):
        inject(series, root, starts=("late",))


def test_a_finished_run_is_kept_whatever_the_device_and_a_broken_one_begins_anew(
    series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    inject(series, root)
    RunStore(root).remove_part("injection_runs", {"injection_run": "mid-seed0"})
    work = root / WORK / "mid-seed0"
    with monkeypatch.context() as patch:
        patch.setattr("factlife.runner.injection.measure", stop)
        with pytest.raises(KeyboardInterrupt):
            inject(series, root)
    settings = json.loads((work / "settings.json").read_text())
    assert settings["device"] == "cpu"
    (work / "settings.json").write_text(json.dumps({**settings, "device": "cuda"}))
    (work / "left").touch()
    told = Told()
    done = inject(series, root, told)
    assert (done.measured, done.reused) == (("mid-seed0",), ("late-seed0",))
    assert any("on another device; begins anew" in w for w in told.warnings)


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_a_run_is_made_of_is_the_same_on_every_device(series: Series, tmp_path: Path) -> None:
    """Shards on GPUs are put together without one, and nothing is trained again."""
    profile = Profile("x", tracks=("injection",), injection=SMALL)
    (plan, *_) = plans_of(profile, corpus(), series.revisions)
    store = RunStore(tmp_path)
    found = {
        identity_of(
            Track(store, series, profile, corpus(), facts(), torch.device(d), Told()), plan, "w"
        )
        for d in ("cpu", "cuda")
    }
    assert len(found) == 1


def test_a_plan_edited_beforehand_is_carried_out(series: Series, tmp_path: Path) -> None:
    root = tmp_path / "run"
    (plan,) = make_plans(corpus(), replace(SMALL, seeds=1), [Start("late", "step100")])
    lines = [x for x in plan.lines if x.step < 5]
    write_plan(root / PLANS / "late-seed0.jsonl", lines)
    inject(series, root, starts=("late",))
    rows = RunStore(root).read("injections").to_pylist()
    assert {r["step"] for r in rows} == {3} and len(rows) == len(lines)
    assert read_plan(root / PLANS / "late-seed0.jsonl") == tuple(lines)


def test_a_model_that_diverges_is_recorded_and_the_others_go_on(
    series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factlife.runner import injection

    real = injection.load

    def broken(folder: Path, *words: Any, **more: Any) -> Any:
        made = real(folder, *words, **more)
        if folder.name == "step30":
            with torch.no_grad():
                next(made.model.parameters()).fill_(float("inf"))
        return made

    monkeypatch.setattr(injection, "load", broken)
    told = Told()
    done = inject(series, tmp_path / "run", told)
    assert (done.measured, done.failed) == (("late-seed0",), ("mid-seed0",))
    assert "loss is nan at training step 0" in told.warnings[0]
    rows = {
        r["injection_run"]: r for r in RunStore(tmp_path / "run").read("injection_runs").to_pylist()
    }
    assert "loss is nan" in rows["mid-seed0"]["reason"] and rows["late-seed0"]["reason"] is None
    again = inject(series, tmp_path / "run")
    assert (again.reused, again.failed) == (("late-seed0",), ("mid-seed0",))


def test_a_run_of_which_nothing_came_says_why_and_keeps_its_tables(
    series: Series, tmp_path: Path
) -> None:
    profile = Profile(
        "x", tracks=("injection",), injection=replace(SMALL, starts=("late",), peak_lr=1e12)
    )
    run(series, profile, tmp_path / "run", Options(), Silent())
    with pytest.raises(IntegrityError, match="no metric can be computed.* loss is nan .*lower"):
        score_run(tmp_path / "run")
    (row,) = RunStore(tmp_path / "run").read("injection_runs").to_pylist()
    assert "loss is nan" in row["reason"]
    assert not (tmp_path / "run" / "result.json").exists()


# ---- the background-only run -------------------------------------------------------------------


def test_a_background_only_run_is_planned_for_the_last_or_for_each_start() -> None:
    starts = [Start("mid", "step30"), Start("late", "step100")]

    def names(**changes: Any) -> list[str]:
        return [p.name for p in make_plans(corpus(), replace(SMALL, **changes), starts)]

    assert names() == ["mid-seed0", "late-seed0"]
    assert names(background_runs="last") == ["mid-seed0", "late-seed0", "background-late-seed0"]
    assert names(background_runs="each", seeds=3).count("background-mid-seed0") == 1
    assert len(names(background_runs="each", study="lr", rates=(1e-3,))) == 2  # main runs alone


def test_a_background_only_run_trains_on_the_same_rows_without_passages(
    series: Series, tmp_path: Path
) -> None:
    """Equal losses until the first passage, other ones after; no probes, the facts all the same."""
    root = tmp_path / "run"
    done = inject(series, root, starts=("late",), background_runs="last")
    assert done.measured == ("late-seed0", "background-late-seed0")
    store = RunStore(root)
    log = store.read("training_log").to_pylist()
    with_, without = ([r["loss"] for r in log if r["injection_run"] == n] for n in done.measured)
    first = SMALL.lead_in
    assert with_[1 : first + 1] == without[1 : first + 1] and with_[first + 1] != without[first + 1]
    for table in ("probes", "injections", "injection_passages"):
        assert set(store.read(table)["injection_run"].to_pylist()) == {"late-seed0"}
    asked: dict[str, set[Any]] = {}
    for r in store.read("injection_recall").to_pylist():
        asked.setdefault(r["injection_run"], set()).add((r["step"], r["fact_id"]))
    assert asked["late-seed0"] == asked["background-late-seed0"]
    row = store.read("injection_runs").to_pylist()[0]
    assert (row["injection_run"], row["study"]) == ("background-late-seed0", "background")
    again = inject(series, root, starts=("late",), background_runs="last")
    assert again.reused == done.measured and not again.measured


# ---- studies and profiles --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "changes", "runs"),
    [
        ("spacing", {"spacings": (1, 4), "exposures": 3}, ["spacing-late-seed0"]),
        ("frequency", {"frequencies": (1, 6)}, ["frequency-late-seed0"]),
        ("batch", {"batches": (4, 8)}, ["batch-4-late-seed0", "batch-8-late-seed0"]),
        ("lr", {"rates": (1e-3, 1e-2)}, ["lr-0.001-late-seed0", "lr-0.01-late-seed0"]),
    ],
)
def test_a_study_is_a_set_of_runs(
    study: str, changes: dict[str, Any], runs: list[str], series: Series, tmp_path: Path
) -> None:
    done = inject(series, tmp_path / "run", study=study, starts=("late",), **changes)
    assert list(done.measured) == runs
    rows = RunStore(tmp_path / "run").read("injection_runs").to_pylist()
    assert {r["study"] for r in rows} == {study}
    if study == "batch":
        tokens = {r["steps"] * r["batch_rows"] for r in rows}
        assert len(tokens) == 1 and [r["varied_value"] for r in rows] == [4.0, 8.0]
    if study == "spacing":
        passages = RunStore(tmp_path / "run").read("injection_passages").to_pylist()
        assert {(r["arm"], r["spacing_steps"]) for r in passages} == {
            ("every-1", 1), ("every-4", 4), ("control", None),
        }  # fmt: skip


def test_a_study_measures_only_its_starts(series: Series) -> None:
    profile = study_of(load_profile("standard"), "lr", ("first", "step100"))
    assert (profile.name, profile.badge, profile.injection.study) == ("standard-lr", "study", "lr")
    assert [r.name for r in only_starts(series, profile).revisions] == ["step0", "step100"]


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_that_injects_makes_plans(name: str) -> None:
    profile = load_profile(name)
    if "injection" not in profile.tracks or profile.injection.arms == "published":
        pytest.skip("its corpus is not shipped, or it does not inject")
    from factlife.injection.corpus import load_corpus

    made = plans_of(profile, load_corpus(profile.injection.corpus), revisions([0, 100, 400, 1000]))
    main = [p for p in made if p.study == "main"]
    alone = {"last": 1, "each": len(profile.injection.starts)}[profile.injection.background_runs]
    assert len(main) == len(profile.injection.starts) * profile.injection.seeds
    assert len(made) == len(main) + alone
    assert all(p.balanced == (profile.injection.seeds % 3 == 0) for p in main)


def test_the_demo_trains_on_the_text_of_its_own_series() -> None:
    assert demo_profile(3).injection.background == "reference:3"


# ---- cost ------------------------------------------------------------------------------------


def test_cost_by_hand() -> None:
    (plan,) = make_plans(corpus(), replace(SMALL, seeds=1), [Start("late", "x")])
    made = cost([plan], Shape(1000, 2, 16, 50), 100, 40, 1e6, half=False)
    # 19 updates x 8 rows x 48 tokens; 17 readings of 100 tokens, 7 of 40 + 4 rows x 48
    assert made.tokens == 19 * 8 * 48 == 7296
    assert made.probe_tokens == 17 * 100 + 7 * (40 + 192) == 3324
    # 6 x 1000 + 6 x 2 x 16 x 48 = 15216 FLOPs a token; probing a third
    assert made.flops == 15216 * (7296 + 3324 / 3)
    assert made.seconds == made.flops / 1e6
    # 16 x 1000 + 384 tokens x 104 bytes x 16 channels x 2 layers + 16 bytes x 384 x 50
    assert made.memory == 16_000 + 384 * 104 * 32 + 16 * 384 * 50


def test_memory_by_hand() -> None:
    settings = Injection(batch_rows=8, context=10, accumulation=2)
    shape = Shape(1000, 3, 4, 50, "llama", tied=False)
    one = memory(shape, settings, half=True)
    # 4 rows x 10 tokens in a micro-batch; 50 bytes x 4 channels x 3 layers; 14 bytes x 50 entries
    assert (one.weights, one.gradients, one.moments, one.casts) == (4000, 4000, 8000, 2000)
    assert (one.gathered, one.activations, one.logits) == (0, 40 * 600, 40 * 700)
    assert one.total == 18_000 + 24_000 + 28_000
    two = memory(shape, settings, half=True, devices=2)
    # 2 rows each; two embeddings of 50 x 4 stay whole, and two of three blocks of 600 / 3
    assert (two.weights, two.gradients, two.moments) == (2000, 2000, 4000)
    assert (two.gathered, two.logits) == (8 * (400 + 2 * 200), 20 * 700)
    again = memory(shape, replace(settings, checkpointing=True), half=True)
    # what each layer begins from, 4 bytes; a layer's 200 bytes a token are less than the logits
    assert again.activations == 40 * 4 * 4 * 3
    assert training_flops(shape, settings) == 3 * (2 * (1000 - 200) + 2 * 3 * 4 * 10)
    assert training_flops(shape, replace(settings, checkpointing=True)) == 4 * (1600 + 240)


def test_what_fits() -> None:
    def held(total: float) -> Memory:
        return Memory(total, 0, 0, 0, 0, 0, 0)

    # nine tenths of 24 GB are 21.6
    assert held(21.5e9).fits == "24 GB"
    assert held(21.7e9).fits == "40 GB"
    assert held(200e9).fits is None


def test_a_billion_parameters_in_three_gpu_hours() -> None:
    """What docs/injection.md says of `standard`."""
    from factlife.injection.corpus import load_corpus

    profile = load_profile("standard")
    plans = plans_of(profile, load_corpus(profile.injection.corpus), revisions([1, 118, 333, 1000]))
    assert len(plans) == 10 and plans[-1].name == "background-late-seed0"
    made = cost(
        plans, Shape(1_177_000_000, 16, 2048, 50304), 70_000, 2_500, 0.4 * 989e12, half=True
    )
    assert made.seconds < 3 * 3600
    assert made.memory < 80e9


# ---- going on --------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.runner.test_injection import *
import factlife.training.loop as loop
real = loop.Trainer.advance
def slow(self):
    time.sleep(0.02)
    return real(self)
loop.Trainer.advance = slow
from factlife.config import Execution
execution = Execution(state_seconds=0.0)
profile = Profile("x", tracks=("injection",), injection=SMALL, execution=execution)
series = open_series(sys.argv[1])
with RunStore.writer(Path(sys.argv[2]), {"identity": {"profile": "x"}}) as store:
    track = Track(store, series, profile, corpus(), facts(), torch.device("cpu"), Silent())
    plans = plans_of(profile, corpus(), series.revisions)
    run_injection(track, plans, [source(r) for r in series.revisions])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_tables(
    series: Series, finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"

    def start() -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        words = [sys.executable, "-c", KILLED, series.source, str(root)]
        return subprocess.Popen(words, env=environment, cwd=Path(__file__).parents[2])

    killed, deadline = start(), time.monotonic() + 120
    while not (root / WORK / "late-seed0" / "states" / "step-00000004").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert start().wait(timeout=120) == 0
    one, two = tables(root), tables(finished)
    assert all(one[name].equals(two[name]) for name in one)
    assert not list((root / WORK).iterdir())


def test_the_demo_books_injection_by_itself(
    series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factlife.runner import demo
    from factlife.runner.run import Outcome

    done = Injected(("a", "b", "c", "d", "e"), (), (), seconds=0.0)
    outcome = Outcome(tmp_path, ("step0",), (), injected=done)
    monkeypatch.setattr(demo, "train_reference_series", lambda *_, **__: Path(series.source))
    monkeypatch.setattr(demo, "run", lambda *_: outcome)
    monkeypatch.setattr(demo, "score_and_report", lambda _: {"metrics": {}})
    monkeypatch.setattr(demo, "build_board", lambda *_: tmp_path)
    monkeypatch.setattr(demo, "train_beside", lambda *_: SimpleNamespace(trained=(), reused=()))
    made = demo.demo(tmp_path, arch="olmo2", seed=0, command="", progress=Silent())
    stages = {s.name: s for s in made.stages}
    assert list(stages) == ["training", "recall", "injection", "dynamics", "report and board"]
    assert stages["injection"].budget == 70 and stages["injection"].seconds == 0.0
    assert stages["injection"].detail == (
        "5 runs: 2 checkpoints x 2 seeds, one without passages; 0 kept"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.jsonl", "no such file"),
        ("broken.jsonl", "no background text"),
        ("builtin", "give"),
    ],
)
def test_background_that_cannot_be_read_is_refused_before_anything_is_measured(
    source: str, said: str, series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text('{"words": "no column text"}\n')
    profile = Profile("x", tracks=("recall", "injection"), injection=Injection(background=source))
    with pytest.raises((UsageError, IntegrityError), match=said):
        run(series, profile, tmp_path / "run", Options(), Silent())
    assert not (tmp_path / "run" / "tables").exists()
