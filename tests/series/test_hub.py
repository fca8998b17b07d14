"""A series on a Hub, from its names to its recall: the real client against a loopback Hub."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save
from tests.drive import WAIT_SCALE, Done, Driver
from tests.hubserver import LoopbackHub, files_of
from tests.tiny import byte_level_tokenizer, save_checkpoint

Files = dict[str, bytes]
PROFILE = """
name = "tiny"
[recall]
templates = "source"
generation = "none"
candidates = false
[intervals]
draws = 100
"""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """Six random checkpoints of one model."""
    folder, tokenizer = tmp_path_factory.mktemp("made"), byte_level_tokenizer()
    return [files_of(save_checkpoint(folder / str(i), "llama", i, tokenizer)) for i in range(6)]


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(hub: LoopbackHub, home: Path) -> Iterator[Driver]:
    with Driver(hub.environment(home)) as driver:
        yield driver


@pytest.fixture(autouse=True)
def fresh(hub: LoopbackHub, home: Path) -> None:
    """No repo, fault, log or cache of another test."""
    hub.repos.clear(), hub.faults.clear(), hub.log.clear(), hub.sent.clear()
    hub.page = 1000
    shutil.rmtree(home / "hub", ignore_errors=True)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def measure(run: Driver, profile: Path, tmp_path: Path) -> Any:
    """`factlife run` into one folder."""

    def call(series: str | Path, *words: str, **environment: str) -> Done:
        options = ["--profile", profile, "--out", tmp_path / "run"]
        return run("run", series, *options, *words, **environment)

    return call


def sharded(files: Files, parts: int = 2) -> Files:
    """The same tensors in several files."""
    tensors = load(files[WEIGHTS])
    names = sorted(tensors)
    new = {k: v for k, v in files.items() if k != WEIGHTS}
    where = {}
    for i in range(parts):
        shard = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        mine = names[i::parts]
        new[shard] = save({n: tensors[n] for n in mine}, metadata={"format": "pt"})
        where |= dict.fromkeys(mine, shard)
    new[INDEX] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return new


def with_tensor(files: Files, name: str, change: Any) -> Files:
    """The same checkpoint with one tensor changed."""
    tensors = {k: v.copy() for k, v in load(files[WEIGHTS]).items()}
    change(tensors[name])
    return {**files, WEIGHTS: save(tensors, metadata={"format": "pt"})}


def publish(hub: LoopbackHub, checkpoints: list[Files], steps: tuple[int, ...] = (0, 1, 2)) -> None:
    """org/tiny with a branch a step; main is the last one."""
    repo = hub.repo("org/tiny")
    for i, step in enumerate(steps):
        repo.commit(f"step{step}-tokens{step}B", checkpoints[i])
    repo.commit("main", checkpoints[len(steps) - 1] | {"README.md": b"# tiny"})


def weight_files_of(hub: LoopbackHub, names: list[str]) -> list[bytes]:
    """Weights that org/faulty serves under these branches."""
    repo = hub.repos["org/faulty"]
    return [repo.commits[repo.branches[n]][WEIGHTS] for n in names]


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The checkpoints table by revision."""
    parts = sorted((out / "tables" / "checkpoints").rglob("part.parquet"))
    return {
        r["revision"]: r for p in parts for r in pq.read_table(p, partitioning=None).to_pylist()
    }


def blobs(home: Path, at_least: int = 100_000) -> list[Path]:
    """Weight files in the cache."""
    found = (home / "hub").glob("models--*/blobs/*")
    return [p for p in found if p.stat().st_size >= at_least]


# ---- names, order, commits -------------------------------------------------------------------


def test_branches_and_tags_become_ordered_pinned_revisions(
    hub: LoopbackHub, run: Driver, checkpoints: list[Files]
) -> None:
    repo, hub.page = hub.repo("org/tiny"), 3
    repo.commit("stage2-step5", checkpoints[3])
    shas = [repo.commit(f"step{s}-tokens{s}B", checkpoints[i]) for i, s in enumerate((20, 3))]
    repo.commit("step1000", checkpoints[2], tag=True)
    repo.commit("fix-readme", checkpoints[0])
    repo.commit("main", checkpoints[3] | {"README.md": b"x"})
    done = run("series", "list", "org/tiny", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    found = [
        (r["revision"], r["stage"], r["step"], r["tokens_source"]) for r in report["revisions"]
    ]
    assert found == [
        ("step3-tokens3B", "main", 3, "name"),
        ("step20-tokens20B", "main", 20, "name"),
        ("step1000", "main", 1000, "unknown"),
        ("stage2-step5", "stage2", 5, "unknown"),
    ]
    assert [r["commit_sha"] for r in report["revisions"][:2]] == shas[::-1]
    assert report["revisions"][3]["notes"] == ["alias: main"]
    assert any("fix-readme" in w for w in report["warnings"])
    assert hub.downloads() == []
    table = run("series", "list", "org/tiny").stdout
    assert "step20-tokens20B" in table and shas[0][:10] in table


def test_the_registry_fills_in_tokens_and_a_gap_is_warned_of(
    hub: LoopbackHub, run: Driver, checkpoints: list[Files]
) -> None:
    repo = hub.repo("EleutherAI/pythia-14m")
    for i, step in enumerate((0, 1, 2, 1000, 2000, 3000, 4000, 7000)):
        repo.commit(f"step{step}", checkpoints[i % 6])
    report = json.loads(run("series", "list", "EleutherAI/pythia-14m", "--json").stdout)
    by_step = {r["step"]: (r["tokens"], r["tokens_source"]) for r in report["revisions"]}
    assert by_step[1000] == (1000 * 2_097_152, "registry")
    (gap,) = [w for w in report["warnings"] if "no revision between" in w]
    assert "between step 4000 and step 7000, though they come every 1000 steps" in gap


# ---- integrity -------------------------------------------------------------------------------


def planted(hub: LoopbackHub, c: list[Files]) -> None:
    """A series with every fault that a listing shows."""
    repo = hub.repo("org/faulty")
    broken = sharded(c[4])
    del broken["model-00002-of-00002.safetensors"]
    repo.commit("step1", c[0])
    repo.commit("step2", c[1])
    repo.commit("step3", c[1] | {"README.md": b"equal to step2"})
    repo.commit("step4", c[5])  # final weights under an early name
    repo.commit("step5", broken)
    repo.commit("step6", {"config.json": c[0]["config.json"]})
    large = load(c[2][WEIGHTS]) | {"extra": np.ones(20_000, dtype=np.float32)}
    repo.commit("step7", c[2] | {WEIGHTS: save(large, metadata={"format": "pt"})})
    pickled = {k: v for k, v in c[0].items() if k != WEIGHTS} | {"pytorch_model.bin": b"x" * 99}
    repo.commit("step8", pickled)
    repo.commit("step9", c[5])
    repo.commit("main", c[5] | {"README.md": b"the end"})


def test_the_check_catches_planted_faults_without_a_download(
    hub: LoopbackHub, run: Driver, checkpoints: list[Files]
) -> None:
    planted(hub, checkpoints)
    done = run("series", "check", "org/faulty", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    by = {r["revision"]: r for r in report["revisions"]}
    assert by["step1"]["problems"] == by["step2"]["problems"] == []
    assert by["step3"]["problems"] == ["duplicate: the weights are those of step2"]
    assert by["step4"]["problems"] == ["duplicate: the weights are those of step9"]
    assert by["step5"]["problems"] == [
        "missing shards: 1 of 2, first model-00002-of-00002.safetensors"
    ]
    assert by["step6"]["problems"] == ["no weights"]
    assert by["step7"]["notes"][0].startswith("size_anomaly: ")
    assert by["step8"]["problems"][0].startswith("only pickled weights (pytorch_model.bin)")
    assert by["step9"]["problems"] == [] and by["step9"]["notes"] == ["alias: main"]
    assert {p.rpartition("/")[2] for p in hub.downloads()} <= {INDEX}
    table = run("series", "check", "org/faulty")
    assert table.code == 0
    assert "duplicate: the weights are those of step9" in table.stdout
    assert "5 problems; from the Hub's listings" in table.stdout
    strict = run("series", "check", "org/faulty", "--strict")
    assert strict.code == 4
    assert "org/faulty: 5 problems, first step3: duplicate" in strict.errors[0]


def test_the_check_of_tensors_catches_what_listings_cannot_show(
    hub: LoopbackHub, run: Driver, home: Path, checkpoints: list[Files]
) -> None:
    repo = hub.repo("org/deep")
    name = "model.layers.1.mlp.up_proj.weight"
    repo.commit("step1", checkpoints[0])
    repo.commit("step2", sharded(checkpoints[0]))
    repo.commit("step3", with_tensor(checkpoints[1], name, lambda t: t.fill(np.nan)))
    repo.commit("step4", with_tensor(checkpoints[2], name, lambda t: t.fill(0)))
    done = run("series", "check", "org/deep", "--tensors", "--json")
    assert done.code == 0, done.stderr
    by = {r["revision"]: r for r in json.loads(done.stdout)["revisions"]}
    assert by["step1"]["problems"] == []
    assert by["step2"]["problems"] == ["duplicate: the weights are those of step1"]
    assert "NaN or infinite values" in by["step3"]["problems"][0]
    assert by["step4"]["notes"] == [f"all_zero: {name}"]
    assert blobs(home) == []


def test_a_local_folder_is_checked_as_well(
    run: Driver, tmp_path: Path, checkpoints: list[Files]
) -> None:
    for step, files in ((1, checkpoints[0]), (2, checkpoints[0]), (3, checkpoints[1])):
        (tmp_path / f"step{step}").mkdir()
        for name, data in files.items():
            (tmp_path / f"step{step}" / name).write_bytes(data)
    (tmp_path / "step3" / WEIGHTS).write_bytes(checkpoints[1][WEIGHTS][:-10])
    done = run("series", "check", tmp_path, "--strict")
    assert done.code == 4
    assert "duplicate: the weights are those of step1" in done.stdout
    assert "truncated or corrupt" in " ".join(done.stdout.split())


# ---- plan and run ----------------------------------------------------------------------------


def test_the_plan_downloads_configs_and_a_tokenizer_only(
    hub: LoopbackHub, run: Driver, profile: Path, tmp_path: Path, checkpoints: list[Files]
) -> None:
    planted(hub, checkpoints)
    out = tmp_path / "run"
    done = run("plan", "org/faulty", "--profile", profile, "--out", out, "--json")
    assert done.code == 0, done.stderr
    plan = json.loads(done.stdout)
    fetched = [r["revision"] for r in plan["revisions"] if r["download"]]
    assert fetched == ["step1", "step2", "step7", "step9"]
    listed = [len(f) for f in weight_files_of(hub, fetched)]
    assert plan["download"] == sum(listed)
    assert plan["disk"] == max(sum(listed[:3]), sum(listed[1:]))
    reasons = {r["revision"]: r["reason"] for r in plan["revisions"] if r["reason"]}
    assert set(reasons) == {"step3", "step4", "step5", "step6", "step8"}
    assert plan["seconds"] > 0
    assert not any(p.endswith((".safetensors", ".bin")) for p in hub.downloads())
    assert not out.exists()
    assert "at most" in run("plan", "org/faulty", "--profile", profile, "--out", out).stdout


def test_a_series_is_swept_end_to_end(
    hub: LoopbackHub, measure: Any, run: Driver, home: Path, tmp_path: Path, profile: Path,
    checkpoints: list[Files],
) -> None:  # fmt: skip
    planted(hub, checkpoints)
    done = measure("org/faulty", "--json")
    assert done.code == 0, done.stderr
    assert "4 checkpoints measured, 0 kept from before" in done.stderr
    table = rows(tmp_path / "run")
    assert list(table) == [f"step{i}" for i in range(1, 10)]
    assert table["step3"]["reason"] == "duplicate_of step2: the weights are equal"
    assert table["step4"]["duplicate_of"] == "step9"
    assert table["step5"]["reason"].startswith("missing shards")
    assert table["step6"]["reason"] == "no weights"
    last = table["step9"]
    assert last["commit_sha"] == hub.repos["org/faulty"].branches["step9"]
    assert last["flags"] == ["alias:main"]
    assert len(last["weights_sha256"]) == 1 and last["tensor_hash"]
    assert (last["dtype"], last["attention"]) == ("float32", "sdpa")
    assert "warning: step4: duplicate_of step9" in done.stderr
    result = json.loads(done.stdout)["result"]
    assert set(result["integrity"]["duplicates"]) == {"step3", "step4"}
    assert blobs(home) == []
    assert not (tmp_path / "run" / ".downloads").exists()
    assert all(re.search(r"/resolve/[0-9a-f]{40}/", p) for p in hub.downloads())
    # The same command again asks for no weights, and the numbers are those of local files.
    hub.log.clear()
    again = measure("org/faulty")
    assert "0 checkpoints measured, 4 kept from before" in again.stderr
    assert hub.downloads() == []
    local = tmp_path / "local" / "step9"
    local.mkdir(parents=True)
    for name, data in checkpoints[5].items():
        (local / name).write_bytes(data)
    assert run("run", local.parent, "--profile", profile, "--out", tmp_path / "b").code == 0
    part = "tables/recall/stage=main/step=9/part.parquet"
    ours, theirs = (pq.read_table(tmp_path / f / part) for f in ("run", "b"))
    assert ours["logprob_sum_nats"].to_pylist() == theirs["logprob_sum_nats"].to_pylist()


def test_strict_stops_before_the_first_weight(
    hub: LoopbackHub, measure: Any, checkpoints: list[Files]
) -> None:
    planted(hub, checkpoints)
    done = measure("org/faulty", "--strict")
    assert done.code == 4
    assert "--strict: 5 of 9 revisions cannot count, first step3: duplicate_of" in done.errors[0]
    assert not any(p.endswith(WEIGHTS) for p in hub.downloads())


def test_equal_tensors_in_other_files_are_measured_once(
    hub: LoopbackHub, measure: Any, tmp_path: Path, checkpoints: list[Files]
) -> None:
    repo = hub.repo("org/deep")
    repo.commit("step1", checkpoints[0])
    repo.commit("step2", sharded(checkpoints[0]))
    repo.commit("step3", checkpoints[1])
    done = measure("org/deep")
    assert done.code == 0, done.stderr
    assert "2 checkpoints measured" in done.stderr
    reason = rows(tmp_path / "run")["step2"]["reason"]
    assert reason == "duplicate_of step1: the tensors are equal, in other files"
    hub.log.clear()
    assert "0 checkpoints measured, 3 kept" in measure("org/deep").stderr
    assert hub.downloads("safetensors") == []


def test_never_more_than_three_checkpoints_on_the_disk(
    hub: LoopbackHub, measure: Any, home: Path, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints, (0, 1, 2, 4, 8, 16))
    most, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            try:
                most = max(most, len(blobs(home)))
            except OSError:
                continue
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = measure("org/tiny")
    stop.set()
    watcher.join()
    assert done.code == 0, done.stderr
    assert "6 checkpoints measured" in done.stderr
    assert 1 <= most <= 3
    assert blobs(home) == []


def test_main_without_weights_and_main_of_its_own(
    hub: LoopbackHub, run: Driver, measure: Any, tmp_path: Path, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints)
    repo = hub.repos["org/tiny"]
    repo.commit("main", {"README.md": b"see the branches", "config.json": b"{}"})
    report = json.loads(run("series", "check", "org/tiny", "--json").stdout)
    assert [r["revision"] for r in report["revisions"]][-1] == "step2-tokens2B"
    assert "main holds no weights: left out" in report["warnings"]
    repo.commit("main", checkpoints[4])
    assert measure("org/tiny").code == 0
    assert rows(tmp_path / "run")["main"]["reason"] is None


CHAIN = """
format = 1
name = "org/chain"
repo = "org/tiny"
[[revision]]
name = "base"
revision = "step2-tokens2B"
stage = "pretrain"
[[revision]]
name = "sft"
repo = "org/tiny-sft"
revision = "main"
stage = "sft"
step = 7
[[revision]]
name = "dpo"
path = "dpo"
stage = "dpo"
step = 3
tokens = 3000000000
"""


def test_a_file_may_chain_repos_and_folders(
    hub: LoopbackHub, measure: Any, tmp_path: Path, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints)
    sha = hub.repo("org/tiny-sft").commit("main", checkpoints[3])
    (tmp_path / "dpo").mkdir()
    for name, data in checkpoints[4].items():
        (tmp_path / "dpo" / name).write_bytes(data)
    (tmp_path / "chain.toml").write_text(CHAIN)
    done = measure(tmp_path / "chain.toml")
    assert done.code == 0, done.stderr
    table = rows(tmp_path / "run")
    base = table["base"]
    assert (base["repo"], base["step"], base["tokens"]) == ("org/tiny", 2, 2_000_000_000)
    assert base["tokens_source"] == "name"
    assert (table["sft"]["commit_sha"], table["sft"]["step"]) == (sha, 7)
    assert (table["dpo"]["commit_sha"], table["dpo"]["tokens_source"]) == (None, "user")


# ---- the cache -------------------------------------------------------------------------------


def test_a_kept_cache_is_a_series_without_the_network(
    hub: LoopbackHub, measure: Any, run: Driver, home: Path, tmp_path: Path, profile: Path,
    checkpoints: list[Files],
) -> None:  # fmt: skip
    publish(hub, checkpoints)
    done = run("series", "list", "org/tiny", "--offline")
    assert done.code == 2 and "the network is off" in done.errors[0]
    assert measure("org/tiny", "--keep-cache").code == 0
    assert len(blobs(home)) == 3
    hub.log.clear()
    for source in ("org/tiny", str(home / "hub" / "models--org--tiny")):
        words = ["--profile", profile, "--out", tmp_path / f"run{len(source)}", "--offline"]
        done = run("run", source, *words)
        assert done.code == 0, done.stderr
        assert "3 checkpoints measured" in done.stderr
    assert hub.log == []
    assert rows(tmp_path / "run8")["step2-tokens2B"]["commit_sha"]
    # What lay in the cache before is not evicted by a run that uses it.
    again = tmp_path / "again"
    assert run("run", "org/tiny", "--profile", profile, "--out", again).code == 0
    assert hub.downloads(WEIGHTS) == []
    assert len(blobs(home)) == 3


# ---- faults ----------------------------------------------------------------------------------

SURVIVED = [
    ("status", "/refs", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("status", "/refs", {"status": 500}),
    ("status", "/tree/", {"status": 429, "headers": {"Retry-After": "0"}}),
    ("status", f"GET /org/tiny/resolve/*/{WEIGHTS}", {"status": 503}),
    ("status", f"GET /org/tiny/resolve/*/{WEIGHTS}", {"status": 429}),
    ("status", f"HEAD /org/tiny/resolve/*/{WEIGHTS}", {"status": 503}),
    ("cut", f"GET /org/tiny/resolve/*/{WEIGHTS}", {}),
    ("short", f"GET /org/tiny/resolve/*/{WEIGHTS}", {}),
    ("truncate", f"GET /org/tiny/resolve/*/{WEIGHTS}", {}),
    ("corrupt", f"GET /org/tiny/resolve/*/{WEIGHTS}", {}),
    ("etag", f"HEAD /org/tiny/resolve/*/{WEIGHTS}", {}),
]


def plant(hub: LoopbackHub, kind: str, match: str, **more: Any) -> None:
    """Plant a fault; `*` stands for the commit of step1."""
    sha = hub.repos["org/tiny"].branches["step1-tokens1B"]
    hub.fault(kind, match.replace("*", sha), **more)


@pytest.mark.parametrize(("kind", "match", "more"), SURVIVED)
def test_a_passing_fault_is_survived(
    hub: LoopbackHub, measure: Any, home: Path, checkpoints: list[Files], kind: str, match: str,
    more: dict[str, Any],
) -> None:  # fmt: skip
    publish(hub, checkpoints)
    plant(hub, kind, match, **more)
    started = time.monotonic()
    done = measure("org/tiny")
    assert done.code == 0, done.stderr
    assert "3 checkpoints measured" in done.stderr
    assert hub.faults[0].times == 0
    assert blobs(home) == []
    if more.get("headers") == {"Retry-After": "1"}:
        assert time.monotonic() - started >= 1


LASTING = [
    ("status", "/refs", {"status": 503}, 5, "the Hub answers 503"),
    ("truncate", f"org/tiny/resolve/*/{WEIGHTS}", {}, 4, "serves"),
    ("corrupt", f"GET /org/tiny/resolve/*/{WEIGHTS}", {}, 4, "another sha256 than the Hub lists"),
    ("status", f"GET /org/tiny/resolve/*/{WEIGHTS}", {"status": 403}, 2, "may not read it (403)"),
    (
        "status",
        f"GET /org/tiny/resolve/*/{WEIGHTS}",
        {"status": 401, "headers": {"X-Error-Code": "GatedRepo"}},
        2,
        "is gated (401)",
    ),
    ("status", f"GET /org/tiny/resolve/*/{WEIGHTS}", {"status": 500}, 5, "the Hub answers 500"),
]


@pytest.mark.parametrize(("kind", "match", "more", "code", "text"), LASTING)
def test_a_lasting_fault_stops_with_one_line_and_the_same_command_goes_on(
    hub: LoopbackHub, measure: Any, home: Path, checkpoints: list[Files], kind: str, match: str,
    more: dict[str, Any], code: int, text: str,
) -> None:  # fmt: skip
    publish(hub, checkpoints)
    plant(hub, kind, match, times=1000, **more)
    done = measure("org/tiny", **{WAIT_SCALE: "0.02"})
    assert done.code == code, done.stderr
    (line,) = done.errors
    assert text in line
    assert "Traceback" not in done.stderr
    hub.faults.clear()
    again = measure("org/tiny")
    assert again.code == 0, again.stderr
    kept = 0 if match == "/refs" else 1
    assert f"{3 - kept} checkpoints measured, {kept} kept from before" in again.stderr
    assert blobs(home) == []


def test_a_kill_in_mid_download_leaves_nothing_behind_after_the_next_run(
    hub: LoopbackHub, measure: Any, home: Path, tmp_path: Path, profile: Path,
    checkpoints: list[Files],
) -> None:  # fmt: skip
    publish(hub, checkpoints)
    hub.bandwidth = 100_000.0  # two seconds a checkpoint
    words = ["run", "org/tiny", "--profile", str(profile), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "factlife", *words]
    killed = subprocess.Popen(command, env=hub.environment(home))
    deadline = time.monotonic() + 60
    while not any(n > 50_000 for p, n in hub.sent.items() if p.endswith(WEIGHTS)):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    hub.bandwidth = None
    assert list((home / "hub").glob("models--*/blobs/*.incomplete"))
    assert (tmp_path / "run" / ".downloads").is_file()
    done = measure("org/tiny")
    assert done.code == 0, done.stderr
    assert blobs(home) == []
    assert list((home / "hub").glob("models--*/blobs/*.incomplete")) == []


# ---- rights and tokens -----------------------------------------------------------------------


def test_a_repo_without_any_weights_is_one_clear_line(hub: LoopbackHub, measure: Any) -> None:
    hub.repo("org/empty").commit("main", {"README.md": b"soon"})
    done = measure("org/empty")
    assert done.code == 4, done.stderr
    assert "org/empty: none of the 1 chosen revisions can be measured" in done.errors[0]
    assert "main: no weights" in done.errors[0]


def test_refused_gated_and_absent_are_told_apart(
    hub: LoopbackHub, run: Driver, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints)
    hub.repos["org/tiny"].gated = TOKEN
    assert "org/tiny is gated (401)" in run("series", "list", "org/tiny").errors[0]
    wrong = run("series", "list", "org/tiny", HF_TOKEN="hf_another")
    assert "this token may not read it (403)" in wrong.errors[0]
    assert "no such repo on the Hub (404)" in run("series", "list", "org/none").errors[0]
    for done in (wrong, run("series", "list", "org/none")):
        assert done.code == 2 and len(done.errors) == 1
    assert run("series", "list", "org/tiny", HF_TOKEN=TOKEN).code == 0


def test_a_revision_that_is_not_there_is_named(
    hub: LoopbackHub, run: Driver, tmp_path: Path, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints)
    (tmp_path / "s.toml").write_text(
        'format = 1\nname = "x"\n[[revision]]\nname = "a"\nrepo = "org/tiny"\nrevision = "step9"\n'
    )
    done = run("series", "list", tmp_path / "s.toml")
    assert done.code == 2
    assert "org/tiny@step9: no such revision on the Hub (404)" in done.errors[0]


def test_the_token_is_never_printed_nor_written(
    hub: LoopbackHub, measure: Any, run: Driver, tmp_path: Path, checkpoints: list[Files]
) -> None:
    publish(hub, checkpoints)
    hub.repos["org/tiny"].gated = TOKEN
    done = measure("org/tiny", HF_TOKEN=TOKEN)
    assert done.code == 0, done.stderr
    assert any(TOKEN in "".join(h.values()) for _, _, h in hub.log)
    texts = [done.stdout + done.stderr]
    hub.fault("status", "/refs", status=403, times=1000)
    failed = run("--debug", "series", "list", "org/tiny", HF_TOKEN=TOKEN)
    assert failed.code != 0 and "Traceback" in failed.stderr
    texts.append(failed.stdout + failed.stderr)
    for path in (p for p in (tmp_path / "run").rglob("*") if p.is_file()):
        texts.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            texts.append(str(pq.read_table(path, partitioning=None).to_pydict()))
    assert not any(TOKEN in t for t in texts)
