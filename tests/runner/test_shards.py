"""Shards: together they write the tables of one process, byte for byte, each part once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runner import four_tracks
from tests.tiny import save_series

from factlife.config import Circuits, Intervals, Profile, Recall
from factlife.errors import PartialError, UsageError
from factlife.runner.progress import Silent
from factlife.runner.run import Options, Outcome, run
from factlife.runner.score import score_run
from factlife.runner.shards import Shard, SharedChecks, dealt_by_checkpoint, order
from factlife.series.integrity import check_weights
from factlife.series.local import open_series
from factlife.store import LOCK, SHARDS, RunStore

QUICK = Profile(
    name="quick",
    recall=Recall(templates="source", generation="none", candidates=False),
    circuits=Circuits(ablation_draws=2, null_draws=20),
    intervals=Intervals(draws=100),
)
TRACKS = ("recall", "circuits")


def measured(series: Path, out: Path, options: Options) -> Outcome:
    return run(open_series(str(series)), QUICK, out, options, Silent())


def share(series: Path, out: Path, index: int, total: int) -> Outcome:
    return measured(series, out, Options(shard=Shard(index, total)))


def parts(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("tables/**/part.parquet*")}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints without step 0, and a fourth that repeats the second."""
    folder = save_series(tmp_path_factory.mktemp("made") / "series", (1, 2, 3, 4))
    weights = "model.safetensors"
    shutil.copy(folder / "step2" / weights, folder / "step3" / weights)
    return folder


@pytest.fixture(scope="module")
def unsharded(series: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("one") / "run"
    measured(series, out, Options())
    assert not (out / SHARDS).exists()
    return parts(out)


# ---- the contract ------------------------------------------------------------------------------


def test_a_shard_is_read_from_i_slash_n() -> None:
    assert Shard.parse("3/20") == Shard(3, 20)
    assert str(Shard(3, 20)) == "3/20"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", "1/4/2", ""])
def test_another_word_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give i/n"):
        Shard.parse(text)


@given(total=st.integers(1, 60), checkpoints=st.integers(1, 25))
def test_every_piece_belongs_to_one_shard_and_the_shares_are_even(
    total: int, checkpoints: int
) -> None:
    sizes: Counter[int] = Counter()
    taken: Counter[tuple[int, str]] = Counter()
    for index in range(1, total + 1):
        for c in range(checkpoints):
            tracks = Shard(index, total).share(c, checkpoints, TRACKS)
            taken.update((c, t) for t in tracks)
            sizes[index] += len(tracks)
    assert taken == Counter({(c, t): 1 for c in range(checkpoints) for t in TRACKS})
    step = len(TRACKS) if total <= checkpoints else 1  # whole checkpoints, while these suffice
    assert max(sizes.values()) - min(sizes.values()) <= step


def test_shards_by_hand() -> None:
    # 3 checkpoints, 2 shards: the first has checkpoints 0 and 2, with both tracks each
    assert [Shard(1, 2).share(c, 3, TRACKS) for c in range(3)] == [TRACKS, (), TRACKS]
    # 3 checkpoints, 4 shards: pieces 0 1 2 are recall, 3 4 5 circuits; shard 1 has 0 and 4
    assert [Shard(1, 4).share(c, 3, TRACKS) for c in range(3)] == [("recall",), ("circuits",), ()]


@given(total=st.integers(1, 60), checkpoints=st.integers(1, 25), starts=st.integers(0, 5))
def test_every_start_of_injection_belongs_to_one_shard_and_the_shares_stay_even(
    total: int, checkpoints: int, starts: int
) -> None:
    taken: Counter[int] = Counter()
    sizes: Counter[int] = Counter()  # pieces, or checkpoints while these go whole
    for index in range(1, total + 1):
        shard = Shard(index, total)
        mine = [shard.share(c, checkpoints, TRACKS) for c in range(checkpoints)]
        sizes[index] = sum(bool(m) if total <= checkpoints else len(m) for m in mine)
        trained = shard.starts(starts, checkpoints, TRACKS)
        sizes[index] += len(trained)
        taken.update(trained)
    assert taken == Counter(range(starts))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_starts_by_hand() -> None:
    # 3 checkpoints x 2 tracks are pieces 0 to 5; the starts are 6 and 7: shards 7 and 8 of 8
    assert [Shard(i, 8).starts(2, 3, TRACKS) for i in (1, 6, 7, 8)] == [(), (), (0,), (1,)]
    # 3 whole checkpoints are 0 to 2, the starts 3 and 4: of two shards, the second and the first
    assert [Shard(i, 2).starts(2, 3, TRACKS) for i in (1, 2)] == [(1,), (0,)]


def test_tracks_that_are_dealt_out_by_checkpoint() -> None:
    tracks = ("recall", "injection", "dynamics")
    assert dealt_by_checkpoint(tracks, last=False) == ("recall", "dynamics")
    assert dealt_by_checkpoint(("injection",), last=False) == ()
    assert dealt_by_checkpoint(("injection",), last=True) == ("row",)


@given(n=st.integers(1, 30), total=st.integers(1, 30), data=st.data())
def test_the_order_of_checking_holds_everything_once(
    n: int, total: int, data: st.DataObject
) -> None:
    shard = Shard(data.draw(st.integers(1, total)), total)
    assert sorted(order(n, shard)) == list(range(n)) == order(n, None)


# ---- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [2, 5])
def test_shards_write_the_tables_of_one_process(
    series: Path, unsharded: dict[str, bytes], tmp_path: Path, total: int
) -> None:
    out = tmp_path / "run"
    times: dict[Path, int] = {}
    for index in range(total, 0, -1):
        share(series, out, index, total)
        now = {p: p.stat().st_mtime_ns for p in out.glob("tables/**/part.parquet")}
        assert times.items() <= now.items()  # no part is written twice
        times = now
    assert parts(out) == unsharded  # before anything is put together: `score` may follow at once
    outcome = measured(series, out, Options(assemble=True))
    assert outcome.measured == () and outcome.reused == ("step1", "step2", "step4")
    assert parts(out) == unsharded
    assert {p: p.stat().st_mtime_ns for p in times if "checkpoints" not in str(p)} == {
        p: t for p, t in times.items() if "checkpoints" not in str(p)
    }
    assert not (out / SHARDS).exists()
    assert score_run(out)["metrics"]


def test_shards_at_the_same_time_write_the_tables_of_one_process(
    series: Path, unsharded: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "quick.toml").write_text(PROFILE)
    out = tmp_path / "run"
    words = [sys.executable, "-m", "factlife", "run", str(series), "--out", str(out)]
    words += ["--profile", str(tmp_path / "quick.toml")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*words, "--shard", f"{i}/2"], stderr=subprocess.PIPE, text=True, env=env)
        for i in (1, 2)
    ]
    for process in started:
        _, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
    assert parts(out) == unsharded
    assert not (out / "result.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "0 checkpoints measured, 3 kept from before" in done.stderr
    assert (out / "result.json").is_file()


PROFILE = """
name = "quick"
[recall]
templates = "source"
generation = "none"
candidates = false
[circuits]
ablation_draws = 2
null_draws = 20
[intervals]
draws = 100
"""


def test_shards_of_different_numbers_share_a_folder(
    series: Path, unsharded: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = share(series, out, 1, 2)  # step1 and step4
    assert first.measured == ("step1", "step4")
    with pytest.raises(PartialError, match="1 of 3 checkpoints are not measured yet, first step2"):
        measured(series, out, Options(assemble=True))
    assert share(series, out, 2, 3).measured == ("step2",)
    assert share(series, out, 1, 2).measured == ()
    measured(series, out, Options(assemble=True))
    assert parts(out) == unsharded


def test_a_shard_without_pieces_measures_nothing(series: Path, tmp_path: Path) -> None:
    outcome = share(series, tmp_path / "run", 40, 40)
    assert outcome.measured == outcome.reused == ()
    assert parts(tmp_path / "run") == {}


def test_a_piece_that_another_process_has_is_left_to_it(series: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    manifest = {"identity": {}}
    store = RunStore(out)
    with store.alone("main", "1", "recall") as mine:
        assert mine
        with pytest.raises(PartialError, match="another process is at work on 1 of the"):
            share(series, out, 1, 3)
    assert parts(out).keys() == {p for p in parts(out) if "step=1/" not in p}
    assert share(series, out, 1, 3).measured == ("step1",)
    del manifest


def test_a_run_and_a_shard_refuse_one_another(series: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    share(series, out, 40, 40)
    manifest = RunStore(out).manifest()
    with (
        RunStore.sharer(out, manifest),
        RunStore.sharer(out, manifest),
        pytest.raises(UsageError, match="in use by another process, or by shards"),
        RunStore.writer(out, manifest),
    ):
        pass
    with (
        RunStore.writer(out, manifest),
        pytest.raises(UsageError, match=f"in use by process {os.getpid()}"),
        RunStore.sharer(out, manifest),
    ):
        pass
    assert (out / LOCK).is_file()


def test_a_shard_of_another_protocol_is_refused(series: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    share(series, out, 40, 40)
    other = replace(QUICK, circuits=replace(QUICK.circuits, tau=0.5))
    with pytest.raises(UsageError, match="belongs to another measurement"):
        run(open_series(str(series)), other, out, Options(shard=Shard(1, 40)), Silent())


def test_weights_are_hashed_once_for_all_shards(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def counted(folder: Path, *, allow_pickle: bool) -> object:
        calls.append(folder)
        return check_weights(folder, allow_pickle=allow_pickle)

    monkeypatch.setattr("factlife.runner.shards.check_weights", counted)
    folder = tmp_path / "step1"
    shutil.copytree(series / "step1", folder)
    found = [SharedChecks(tmp_path / "run").check(folder) for _ in range(2)]
    assert found[0] == found[1] == check_weights(folder)
    assert len(calls) == 1
    os.utime(folder / "model.safetensors", ns=(0, 0))  # as if written anew
    SharedChecks(tmp_path / "run").check(folder)
    assert len(calls) == 2


# ---- all four tracks ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_tracks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    """A series of two checkpoints, and a profile of all tracks with injection from both."""
    made = tmp_path_factory.mktemp("four")
    return save_series(made / "series", (1, 2)), four_tracks.four_tracks(made / "corpus")


def test_a_shard_for_each_piece_of_all_tracks(
    all_tracks: tuple[Path, Profile], tmp_path: Path
) -> None:
    """2 checkpoints x 3 tracks, and injection from 2 revisions: 8 shards with one piece each."""
    source, profile = all_tracks
    series, one, out = open_series(str(source)), tmp_path / "one", tmp_path / "run"
    run(series, profile, one, Options(), Silent())
    wrote: dict[int, set[str]] = {}
    for index in range(1, 9):
        before = set(four_tracks.parts(out))
        outcome = run(series, profile, out, Options(shard=Shard(index, 8)), Silent())
        tables = {name.split("/")[1] for name in set(four_tracks.parts(out)) - before}
        wrote[index] = tables - {"checkpoints", "injection_audit"}  # the audit is the first's
        if index == 7:
            assert outcome.injected is not None and len(outcome.injected.measured) == 1
            assert (out / ".injection").is_dir()  # another shard may be about to write there
            with pytest.raises(PartialError, match="1 of 2 injection runs are not finished yet"):
                run(series, profile, out, Options(assemble=True), Silent())
    assert wrote[1] == wrote[2] == {"recall", "candidates"}
    assert wrote[3] == {"circuits", "circuits_sweep", "circuit_edges"}
    assert wrote[5] == {"subject_attention"}
    assert wrote[7] == wrote[8] >= {"injection_runs", "probes"}
    outcome = run(series, profile, out, Options(assemble=True), Silent())
    assert outcome.injected is not None and len(outcome.injected.reused) == 2
    assert not (one / ".injection").exists() and not (out / ".injection").exists()
    made, wanted = four_tracks.parts(out), four_tracks.parts(one)
    assert made.keys() == wanted.keys()
    assert [name for name in wanted if made[name] != wanted[name]] == []


def test_injection_alone_in_shards(all_tracks: tuple[Path, Profile], tmp_path: Path) -> None:
    source, profile = all_tracks
    profile = replace(profile, tracks=("injection",))
    series, one, out = open_series(str(source)), tmp_path / "one", tmp_path / "run"
    run(series, profile, one, Options(), Silent())
    with RunStore(out).alone("injection", "step1") as mine:
        assert mine
        with pytest.raises(PartialError, match="another process trains from step1, which shard"):
            run(series, profile, out, Options(shard=Shard(1, 2)), Silent())
    for index in (1, 2):
        run(series, profile, out, Options(shard=Shard(index, 2)), Silent())
    run(series, profile, out, Options(assemble=True), Silent())
    made, wanted = four_tracks.parts(out), four_tracks.parts(one)
    assert made.keys() == wanted.keys()
    assert [name for name in wanted if made[name] != wanted[name]] == []
