"""Studies: what is trained on whom, resumed after a kill, and refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dynamics.small import EVERYTHING, SMALL, run_study

from factlife.config import Dynamics, parse_profile
from factlife.corpora.biographies import Replay, Sampler
from factlife.dynamics.phases import baseline
from factlife.dynamics.plan import (
    RunSpec,
    longest_first,
    needed_weights,
    plan_runs,
    replay_share,
    training_flops,
)
from factlife.dynamics.study import (
    BiographySource,
    affordable,
    distribution,
    make_panels,
    make_world,
    people_of,
)
from factlife.errors import UsageError
from factlife.schema import TABLES
from factlife.store import RunStore
from factlife.training import ARCHITECTURES, NO_LOSS

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=50)
ROOT = Path(__file__).parents[2]


# ---- the plan --------------------------------------------------------------------------------


def test_a_plan_names_every_run_once_and_parents_come_first() -> None:
    runs = plan_runs(replace(EVERYTHING, seeds=3))
    names = [r.name for r in runs]
    assert len(set(names)) == len(names) == 3 * 12
    for i, r in enumerate(runs):
        assert r.parent is None or r.parent in names[:i]
    assert Counter(r.kind for r in runs) == {"scratch": 18, "patched": 6, "fine_tuned": 12}


def test_patterns_come_from_another_seed_and_fine_tunings_from_their_own() -> None:
    for r in plan_runs(EVERYTHING):
        if r.kind == "patched":
            assert r.parent == f"n40.uniform.s{1 - r.seed}"
        elif r.kind == "fine_tuned":
            assert r.parent is not None and r.parent.endswith(f".s{r.seed}")
    (one,) = [r for r in plan_runs(replace(EVERYTHING, seeds=1)) if r.condition.endswith("r0")]
    assert one.parent == "n40.uniform.s0"


def test_weights_are_kept_for_the_runs_that_need_them() -> None:
    needed = needed_weights(plan_runs(EVERYTHING))
    assert needed["n40.uniform.s0"] == {0, 12}  # patterns of steps 0 and 12, and the last weights
    assert needed["n40.celebrities.s1"] == {12}
    assert set(needed) == {f"n40.{c}.s{s}" for c in ("uniform", "celebrities") for s in (0, 1)}


def test_flops_are_6_a_parameter_and_token_and_8_beside_a_reference() -> None:
    spec = RunSpec("n40.uniform", "scratch", 0, 40, steps=10)
    assert training_flops(spec, 1000, 50.0) == 6 * 1000 * 50 * 10
    assert training_flops(replace(spec, kind="patched"), 1000, 50.0) == 8 * 1000 * 50 * 10


def test_what_holds_up_most_comes_first() -> None:
    """Steps 30, 12 (+ 12 * 4/3 of a patched run), 8 of a fine-tuning that waits for its parent."""
    small = replace(
        SMALL, people=(40, 60), steps=(12, 30), seeds=1, patch_size=40, patch_references=(12,),
        fine_tune_size=60,
    )  # fmt: skip
    found = [r.name for r in longest_first(plan_runs(small))]
    # behind each: n60 30 + 8, n40 12 + 16, patched 16, fine-tuning 8
    assert found == ["n60.uniform.s0", "n40.uniform.s0", "n40.patched.r12.s0", "n60.new.w0.s0"]
    everything = plan_runs(EVERYTHING)
    assert sorted(map(str, longest_first(everything))) == sorted(map(str, everything))


# ---- replay ----------------------------------------------------------------------------------


@EXACT
@given(st.floats(0, 10), st.integers(1, 10**6), st.integers(1, 10**4))
def test_the_replay_share_is_that_of_the_weights(w: float, n_old: int, n_new: int) -> None:
    share = replay_share(w, n_old, n_new)
    assert share == pytest.approx(w * n_old / (w * n_old + n_new))
    assert share == pytest.approx(Replay(n_old, n_new, w).share) and 0 <= share <= 1


def test_the_replay_share_by_hand_and_in_the_text() -> None:
    # 0.5 * 40 / (0.5 * 40 + 10) = 2/3 of the rows are about old people.
    spec = next(r for r in plan_runs(EVERYTHING) if r.condition == "n40.new.w0.5")
    assert spec.replay_share == pytest.approx(2 / 3)
    world = make_world(EVERYTHING, 40)
    drawn = Sampler(distribution(spec, world)).people(0, 40, np.random.default_rng(0))
    for seed in range(1, 200):
        more = Sampler(distribution(spec, world)).people(0, 40, np.random.default_rng(seed))
        drawn = np.concatenate([drawn, more])
    assert float((drawn < 40).mean()) == pytest.approx(2 / 3, abs=0.02)
    assert set(drawn[drawn >= 40]) == set(world.population.new)


def test_whom_fine_tunings_are_about() -> None:
    world = make_world(EVERYTHING, 40)
    found = {r.condition: people_of(r, world) for r in plan_runs(EVERYTHING) if r.material}
    old, taught = found["n40.new.w0"]
    assert old.tolist() == list(range(40)) and taught.tolist() == world.population.new.tolist()
    old, taught = found["n40.rare.w0"]
    assert old.tolist() == list(range(12))  # the celebrities
    assert taught.tolist() == list(range(30, 40))  # people seen an eighth as often
    assert found["n40.rare_control.w0"][1].tolist() == world.population.new.tolist()


# ---- text ------------------------------------------------------------------------------------


def rows_of(source: BiographySource, batches: int) -> list[tuple[int, ...]]:
    return [tuple(r) for _ in range(batches) for r in source.next_batch().ids.tolist()]


def test_held_out_and_new_people_are_never_trained_on() -> None:
    world = make_world(SMALL, 40)
    unknown = {
        world.population.full_name(int(p))
        for p in (*world.population.unseen, *world.population.new)
    }
    assert len(unknown) == 22
    runs = [r for r in plan_runs(EVERYTHING) if r.kind == "scratch"]
    for spec in runs:
        ids = [
            int(p)
            for step in range(12)
            for p in Sampler(distribution(spec, world)).people(step, 8, np.random.default_rng(step))
        ]
        assert max(ids) < 40


def test_batches_are_fresh_repeatable_and_padding_is_no_target() -> None:
    world, spec = make_world(SMALL, 40), plan_runs(SMALL)[0]

    def source() -> BiographySource:
        return BiographySource(world.encoder, distribution(spec, world), 8, seed=3)

    one, two = source(), source()
    assert rows_of(one, 4) == rows_of(two, 4)
    two.seek({"batch": 1})
    assert two.position() == {"batch": 1}
    again = source()
    again.next_batch()
    assert torch.equal(two.next_batch().ids, again.next_batch().ids)
    batch = source().next_batch()
    assert batch.labels is not None
    assert torch.equal(batch.labels == NO_LOSS, batch.ids == world.pad)
    assert batch.ids.shape[1] <= world.longest


def test_the_longest_row_fits_the_models_positions() -> None:
    world = make_world(replace(SMALL, attributes=6), 40)
    rng = np.random.default_rng(0)
    lengths = [
        world.encoder.biographies(world.population.known, rng).ids.shape[1] for _ in range(200)
    ]
    assert world.longest - 12 <= max(lengths) <= world.longest


def test_the_baseline_is_the_entropy_of_the_people() -> None:
    people = make_world(SMALL, 40).population
    assert baseline(people.value[: people.n_known]) == pytest.approx(people.entropy_nats())


def test_training_may_be_in_bfloat16_and_says_so(tmp_path: Path) -> None:
    small = replace(SMALL, seeds=1, fine_tune_size=40)
    run_study(tmp_path / "32", small)
    run_study(tmp_path / "16", replace(small, precision="bfloat16"))
    exact, rough = (tables(tmp_path / n) for n in ("32", "16"))
    assert {r["precision"] for r in exact["dynamics_runs"]} == {"float32"}
    assert {r["precision"] for r in rough["dynamics_runs"]} == {"bfloat16"}
    pairs = [
        (a["loss_nats"], b["loss_nats"], a["step"])
        for a, b in zip(exact["biography_eval"], rough["biography_eval"], strict=True)
        if a["dynamics_run"] == "n40.uniform.s0"
    ]
    # What is measured is measured in float32: equal before training, close afterwards.
    assert all(a == b for a, b, step in pairs if step == 0)
    assert all(a == pytest.approx(b, rel=0.02) for a, b, _ in pairs)
    assert any(a != b for a, b, _ in pairs)


def test_evaluations_take_their_share_of_the_time_and_no_more() -> None:
    spec = replace(plan_runs(SMALL)[0], steps=1000)
    world = make_world(SMALL, 40)
    panels = make_panels(spec, SMALL, world)
    assert [len(p.ids) for p in panels] == [8, 8]
    # 0.08 * 1000 steps * 8 rows = 640 rows' time; an evaluation takes that of 16 / 3 rows.
    assert affordable(spec, replace(SMALL, evaluations=1000), panels) == 120
    assert affordable(spec, SMALL, panels) == 8
    assert affordable(replace(spec, steps=10), replace(SMALL, evaluations=50), panels) == 8
    # Beside steps in bfloat16 it is a whole step of 16 rows: 640 / 16.
    rough = replace(SMALL, evaluations=1000, precision="bfloat16")
    assert affordable(spec, rough, panels) == 40


# ---- running ---------------------------------------------------------------------------------


def tables(root: Path) -> dict[str, list[dict[str, Any]]]:
    names = ("dynamics_runs", "biography_eval", "attention_signatures")
    return {n: RunStore(root).read(n).to_pylist() for n in names}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    done = run_study(root, replace(EVERYTHING, seeds=1))
    assert len(done.trained) == 12 and done.reused == ()
    return root


def test_every_run_has_its_rows(everything: Path) -> None:
    found = tables(everything)
    assert [r["dynamics_run"] for r in found["dynamics_runs"]] == sorted(
        r.name for r in plan_runs(replace(EVERYTHING, seeds=1))
    )
    for run in found["dynamics_runs"]:
        rows = [r for r in found["biography_eval"] if r["dynamics_run"] == run["dynamics_run"]]
        tuned = run["kind"] == "fine_tuned"
        assert {r["population"] for r in rows} == (
            {"old", "taught"} if tuned else {"known", "held_out"}
        )
        assert {r["step"] for r in rows} >= {0, run["steps"]}
        swapped = {r["restored"] for r in rows if r["step"] == run["steps"]}
        assert swapped == ({"none", "attention", "mlp"} if tuned else {"none"})
        assert run["arch"] == "llama" and run["n_attributes"] == 2
        assert run["tokens"] >= run["steps"] * 8


def test_weights_and_states_are_gone_when_all_is_done(everything: Path) -> None:
    assert not (everything / ".work").exists()


def test_a_fine_tuning_begins_where_its_parent_ended(everything: Path) -> None:
    found = tables(everything)["biography_eval"]

    def loss(run: str, step: int, population: str) -> float:
        (row,) = [
            r for r in found
            if (r["dynamics_run"], r["step"], r["population"], r["restored"])
            == (run, step, population, "none")
        ]  # fmt: skip
        return float(row["loss_nats"])

    # Two fine-tunings of one parent begin alike and part when their texts do.
    assert loss("n40.new.w0.s0", 0, "old") == loss("n40.new.w0.5.s0", 0, "old")
    assert loss("n40.new.w0.s0", 8, "old") != loss("n40.new.w0.5.s0", 8, "old")


def test_a_second_call_trains_nothing_and_a_new_seed_only_what_is_new(
    everything: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(everything, tmp_path / "copy"))
    again = run_study(root, replace(EVERYTHING, seeds=1))
    assert again.trained == () and len(again.reused) == 12
    more = run_study(root, replace(SMALL, seeds=2, people=(40, 48), steps=(12, 12)))
    assert more.trained == ("n40.uniform.s1", "n48.uniform.s0", "n48.uniform.s1")


def test_a_parent_whose_weights_are_gone_is_trained_again_alike(tmp_path: Path) -> None:
    run_study(tmp_path, replace(SMALL, seeds=1))
    before = tables(tmp_path)["biography_eval"]
    done = run_study(tmp_path, replace(SMALL, seeds=1, fine_tune_size=40))
    assert done.trained == ("n40.uniform.s0", "n40.new.w0.s0")
    after = [r for r in tables(tmp_path)["biography_eval"] if r["dynamics_run"] == "n40.uniform.s0"]
    assert after == before


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from factlife.dynamics import study
from tests.dynamics.small import SMALL, run_study
study.STATE_SECONDS, study.STATE_SHARE = 0.0, float('inf')
settings = replace(SMALL, steps=(12,), seeds=1)
run_study(Path(sys.argv[1]), settings, on_step=lambda name, r: print(name, r.step, flush=True))
"""


def test_a_killed_study_ends_with_the_tables_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", KILLED, str(broken)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["n40.uniform.s0", "6"]:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    subprocess.run([*call[:-1], str(whole)], check=True, capture_output=True, env=environment,
                   cwd=ROOT)  # fmt: skip
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=environment,
                          cwd=ROOT)  # fmt: skip
    first_step = int(done.stdout.split()[1])
    assert 1 < first_step <= 7  # taken up, not begun anew
    assert tables(broken) == tables(whole)


SHARED = """
import sys
from dataclasses import replace
from pathlib import Path
from factlife.dynamics import study
from factlife.store import RunStore
from tests.dynamics.small import EVERYTHING
study.STATE_SECONDS, study.STATE_SHARE, study.WAIT_SECONDS = 0.0, float('inf'), 0.01
root = Path(sys.argv[1])
with RunStore.sharer(root, {"identity": {"study": "small"}}) as store:
    done = study.Study(
        replace(EVERYTHING, seeds=1), store, root / ".work", "cpu",
        on_step=lambda name, r: print(name, r.step, flush=True),
    ).share()
print("trained", *done.trained)
"""


def shares(root: Path, count: int) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([sys.executable, "-c", SHARED, str(root)], stdout=subprocess.PIPE,
                         text=True, env=environment, cwd=ROOT)
        for _ in range(count)
    ]  # fmt: skip


def test_a_killed_share_leaves_its_run_to_another_and_the_tables_are_those_of_one_process(
    everything: Path, tmp_path: Path
) -> None:
    killed, other = shares(tmp_path, 2)
    assert killed.stdout is not None
    seen = []
    for line in killed.stdout:  # until it stands in the midst of its second run
        seen.append(line.split())
        if seen[-1][0] != seen[0][0] and seen[-1][1] == "5":
            break
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    output = other.communicate()[0]
    trained = output.splitlines()[-1].split()[1:]
    assert sorted([*trained, seen[0][0]]) == sorted(
        r["dynamics_run"] for r in tables(everything)["dynamics_runs"]
    )  # each once
    steps = [int(s) for n, s in map(str.split, output.splitlines()[:-1]) if n == seen[-1][0]]
    assert min(steps) > 1  # taken up where it stood
    assert tables(tmp_path) == tables(everything)
    done = run_study(tmp_path, replace(EVERYTHING, seeds=1))  # the call that ends the study
    assert done.trained == () and not (tmp_path / ".work").exists()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_learns_its_text(arch: str, tmp_path: Path) -> None:
    small = replace(
        SMALL, arch=arch, steps=(20,), seeds=1, peak_lr=1e-2, patch_size=40,
        patch_references=(20,), fine_tune_size=40, fine_tune_steps=4,
    )  # fmt: skip
    run_study(tmp_path, small)
    rows = [
        r for r in tables(tmp_path)["biography_eval"]
        if r["population"] == "known" and r["dynamics_run"].startswith("n40.uniform")
    ]  # fmt: skip
    assert rows[-1]["loss_nats"] < 0.9 * rows[0]["loss_nats"]
    assert {r["arch"] for r in tables(tmp_path)["dynamics_runs"]} == {arch}


# ---- refused ---------------------------------------------------------------------------------


def refused(settings: Dynamics, tmp_path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        run_study(tmp_path, settings)
    message = str(caught.value)
    assert "\n" not in message
    assert not (tmp_path / "tables").exists()  # before anything was trained
    return message


def test_more_people_than_the_names_allow(tmp_path: Path) -> None:
    message = refused(replace(SMALL, people=(500,)), tmp_path)
    assert "522 people, but the names allow 512" in message


@pytest.mark.parametrize("names", [(8, 8), (8, 8, 0)])
def test_lists_of_names_that_do_not_exist(names: tuple[int, ...], tmp_path: Path) -> None:
    assert "names must be three sizes" in refused(replace(SMALL, names=names), tmp_path)


def test_a_batch_larger_than_the_warm_up_or_the_taught_people(tmp_path: Path) -> None:
    small = replace(SMALL, distribution_size=40, warm_up_people=6, warm_up_steps=4)
    assert "a batch of 8 does not fit the 6 people" in refused(small, tmp_path)
    small = replace(SMALL, fine_tune_size=40, new_people=5)
    assert "a batch of 8 does not fit the 5 people" in refused(small, tmp_path)


def test_more_celebrities_than_people(tmp_path: Path) -> None:
    small = replace(SMALL, distribution_size=40, celebrities=41)
    assert "celebrities must be 1 to 40" in refused(small, tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("people = [16]\nsteps = [10]", "a batch of 32 is larger than a population of 16"),
        ("people = [64]\nsteps = []", "1 sizes in people but 0 in steps"),
        ("alphas = [1.2]", "alpha 1.2 is outside 0 to 1"),
        ("alphas = [-0.1]", "alpha -0.1 is outside 0 to 1"),
        ("attributes = 7", "attributes: 7 is not below 7"),
        ("attributes = 0", "attributes: 0 is below 1"),
        ("patch_size = 64", "patch_size 64 is not one of people"),
        ("replay_weights = [-1.0]", "a weight below 0"),
        ('arch = "gpt3"', "did you mean 'gpt2'"),
        ("evaluations = 3", "evaluations: 3 is below 8"),
        ("peopel = [64]", "did you mean 'people'"),
        ("alphas = [0.5, 1.0, 0.5]", "alphas holds a value twice"),
        ("people = [64, 64]\nsteps = [10, 10]", "people holds a value twice"),
        (
            "people = [64]\nsteps = [10]\npatch_size = 64\npatch_references = [11]",
            "step 11 is outside 0 to 10, the steps of the run of 64 people",
        ),
        (
            "people = [64]\nsteps = [10]\npatch_size = 64\npatch_references = [-1]",
            "step -1 is outside 0 to 10",
        ),
        (
            "people = [64]\nsteps = [10]\ndistribution_size = 64\nwarm_up_people = 32\n"
            "warm_up_steps = 10",
            "a warm-up of 10 steps does not end within the 10 of its run",
        ),
        ('precision = "float16"', "precision: 'float16' is not one of float32, bfloat16"),
    ],
)
def test_settings_that_are_refused_when_they_are_read(lines: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parse_profile(f'name = "x"\n[dynamics]\n{lines}\n', "x.toml")


def test_another_study_in_the_folder_is_refused_or_trained_anew(tmp_path: Path) -> None:
    run_study(tmp_path, replace(SMALL, seeds=1))
    done = run_study(tmp_path, replace(SMALL, seeds=1, peak_lr=1e-3))
    assert done.trained == ("n40.uniform.s0",)  # other settings: nothing old is mistaken for new


# ---- patched training ------------------------------------------------------------------------


def test_a_patched_run_trains_with_the_reference_from_step_s_on(tmp_path: Path) -> None:
    small = replace(SMALL, seeds=1, patch_size=40, patch_references=(12,), peak_lr=3e-2)
    run_study(tmp_path / "now", small)
    run_study(tmp_path / "late", replace(small, patch_from=9))
    run_study(tmp_path / "never", replace(small, patch_from=99))

    def losses(name: str, run: str) -> dict[int, float]:
        return {
            r["step"]: r["loss_nats"]
            for r in tables(tmp_path / name)["biography_eval"]
            if r["dynamics_run"] == run and r["population"] == "known"
        }

    plain, patched = losses("now", "n40.uniform.s0"), "n40.patched.r12.s0"
    never, late, now = (losses(n, patched) for n in ("never", "late", "now"))
    assert never == pytest.approx(plain, rel=1e-4)
    assert now[12] != pytest.approx(plain[12], rel=1e-4)
    before = [s for s in late if s < 9]
    assert {s: late[s] for s in before} == pytest.approx({s: never[s] for s in before}, rel=1e-4)
    assert late[12] != pytest.approx(never[12], rel=1e-6)


def test_all_tables_of_a_study_keep_their_contract(everything: Path) -> None:
    for name, rows in tables(everything).items():
        assert TABLES[name].from_rows(rows).num_rows == len(rows) > 0
