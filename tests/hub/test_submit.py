"""A run becomes a pull request: the real client against a loopback Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.drive import WAIT_SCALE, Done, Driver
from tests.hub.runs import make_run
from tests.hubserver import ROOT, LoopbackHub, Repo
from tests.hubwrites import PullRequest

from factlife.hub.submission import prepare
from factlife.store import sha256_json, write_json

TO = "org/factlife-results"
ANN, BOB, EVE = "hf_AnnAnnAnnAnnAnnAnn", "hf_BobBobBobBobBobBob", "hf_EveEveEveEveEveEve"


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def driver(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    home = tmp_path_factory.mktemp("home")
    with Driver(hub.environment(home, **{WAIT_SCALE: "0.02"})) as made:
        yield made


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("scored") / "run")


@pytest.fixture(scope="module")
def other_scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("other") / "run", "org/other", weights="other")


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(scored, tmp_path / "run"))


@pytest.fixture(autouse=True)
def repo(hub: LoopbackHub) -> Repo:
    """An empty results repo, two accounts that may write, and one that may not."""
    hub.clear()
    hub.accounts.names = {ANN: "ann", BOB: "bob", EVE: "eve"}
    hub.accounts.readers = {EVE}
    made = hub.repo(f"datasets/{TO}")
    made.commit("main", {"README.md": b"# results\n"})
    return made


def hand_in(driver: Driver, run: Path, *more: str, token: str = ANN, to: str = TO) -> Done:
    done = driver("submit", run, "--to", to, *more, HF_TOKEN=token, **{WAIT_SCALE: "0.02"})
    assert "Traceback" not in done.stderr, done.stderr
    assert token not in done.stdout + done.stderr or not token
    return done


def edit(run: Path, **changes: Any) -> None:
    path = run / "result.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def edit_protocol(run: Path, **changes: Any) -> None:
    protocol = json.loads((run / "result.json").read_text())["protocol"]
    edit(run, protocol={**protocol, **changes})


# ---- what happens when all goes well ---------------------------------------------------------


def test_a_dry_run_shows_files_and_sizes_and_asks_nothing(
    hub: LoopbackHub, driver: Driver, run: Path
) -> None:
    done = hand_in(driver, run, "--dry-run", token="")
    assert done.code == 0 and hub.log == []
    expected = {p: len(data) for p, data in prepare(run, None).paths.items()}
    assert len(expected) == 2
    for path, size in expected.items():
        assert f"{size:,} bytes  {path}\n" in done.stdout
    as_json = json.loads(hand_in(driver, run, "--dry-run", "--json", token="").stdout)
    assert as_json["status"] == "dry run" and as_json["files"] == expected


def test_a_submission_is_one_commit_in_a_pull_request(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    before = repo.branches["main"]
    done = hand_in(driver, run)
    made = prepare(run, "ann")
    assert done.code == 0, done.stderr
    assert done.stdout.endswith(f"{TO}: handed in: {hub.url}/datasets/{TO}/discussions/1\n")
    assert hub.made == [("refs/pr/1", f"Add {made.folder}")]
    held = repo.commits[repo.branches["refs/pr/1"]]
    assert held == {"README.md": b"# results\n", **made.paths}
    assert repo.branches["main"] == before
    assert [p.author for p in repo.pulls] == ["ann"]
    result = json.loads(held[f"{made.folder}/result.json"])
    assert result["submitter"] == "ann"
    assert result["command"] == "factlife run org/tiny --profile reference --tracks recall"
    assert result["env"]["seeds"] == {"bootstrap": 0, "training": 3}
    assert re.fullmatch(r"results/org__tiny/[0-9a-f]{16}/[0-9a-f]{64}", made.folder)


def test_the_same_again_says_so_and_writes_nothing(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    hand_in(driver, run)
    again = hand_in(driver, run)
    assert again.code == 0 and "waits in an open pull request already" in again.stdout
    repo.merge(1)
    after = hand_in(driver, run)
    assert after.code == 0 and "is there already" in after.stdout
    assert len(hub.made) == len(repo.pulls) == 1


def test_ones_own_open_pull_request_is_brought_up_to_date(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    hand_in(driver, run)
    edit(run, command="factlife run org/tiny --profile reference --tracks recall --device cpu")
    done = hand_in(driver, run)
    assert done.code == 0 and "brought the open pull request up to date" in done.stdout
    assert [r for r, _ in hub.made] == ["refs/pr/1", "refs/pr/1"] and len(repo.pulls) == 1
    assert repo.commits[repo.branches["refs/pr/1"]].items() >= prepare(run, "ann").paths.items()


def test_another_accounts_row_is_never_replaced(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    theirs = prepare(run, "bob").paths
    repo.commit("main", theirs)
    done = hand_in(driver, run)
    assert done.code == 3 and len(done.errors) == 1
    assert "is a result of bob" in done.errors[0]
    assert hub.made == [] and repo.commits[repo.branches["main"]] == theirs


def test_ones_own_row_may_be_replaced_by_a_pull_request(
    driver: Driver, run: Path, repo: Repo
) -> None:
    repo.commit("main", prepare(run, "ann").paths)
    edit(run, command="factlife run org/tiny --device cpu")
    assert "handed in" in hand_in(driver, run).stdout


# ---- two at once -----------------------------------------------------------------------------


def both(driver: Driver, second: Driver, runs: tuple[Path, Path]) -> list[Done]:
    found: dict[int, Done] = {}

    def one(i: int) -> None:
        found[i] = hand_in((driver, second)[i], runs[i], token=(ANN, BOB)[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return [found[0], found[1]]


@pytest.fixture(scope="module")
def second(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with Driver(hub.environment(tmp_path_factory.mktemp("home2"))) as made:
        yield made


def test_of_two_submitters_at_once_the_later_one_reads_again(
    hub: LoopbackHub, driver: Driver, second: Driver, run: Path, other_scored: Path, repo: Repo
) -> None:
    # Both commits are held until both are there; whichever is second finds another head: 412.
    hub.barrier, hub.merges = threading.Barrier(2), True
    found = both(driver, second, (run, other_scored))
    assert [d.code for d in found] == [0, 0], found
    assert len(commits(hub)) == 3 and len(hub.made) == 2
    held = repo.commits[repo.branches["main"]]
    wanted = prepare(run, "ann").paths | prepare(other_scored, "bob").paths
    assert {p for p in held if p.startswith("results/")} == set(wanted)


def test_of_two_submitters_of_one_row_the_later_one_is_told(
    hub: LoopbackHub, driver: Driver, second: Driver, run: Path, scored: Path, repo: Repo
) -> None:
    hub.barrier, hub.merges = threading.Barrier(2), True
    found = both(driver, second, (run, scored))
    assert sorted(d.code for d in found) == [0, 3]
    assert len(hub.made) == 1 and len(repo.pulls) == 1
    (refused,) = (d for d in found if d.code)
    assert "is a result of" in refused.errors[0]


def commits(hub: LoopbackHub) -> list[str]:
    return [p for m, p, _ in hub.log if m == "POST" and "/commit/" in p]


def test_a_repo_that_never_rests_is_left_alone(hub: LoopbackHub, driver: Driver, run: Path) -> None:
    hub.fault("status", "/commit/", status=412, times=99)
    done = hand_in(driver, run)
    assert done.code == 5 and "changes faster than it can be read (412)" in done.errors[0]
    assert hub.made == [] and 2 <= len(commits(hub)) <= 5


# ---- what the Hub refuses --------------------------------------------------------------------

REFUSALS = [
    (400, 3, "takes the files for invalid (400)"),
    (401, 2, "does not know the token (401): log in with `hf auth login`"),
    (403, 2, "may not write there (403): make one with the right"),
    (404, 2, "no such repo on the Hub, or none that the token may see (404)"),
    (409, 5, "busy with another change of it (409); nothing was half written: run the same"),
    (413, 3, "too large for the Hub (413)"),
    (429, 5, "asks to slow down (429); nothing was half written: run the same command again in 7"),
    (500, 5, "the Hub answers 500; nothing was half written"),
    (503, 5, "the Hub answers 503; nothing was half written"),
]


@pytest.mark.parametrize(("status", "code", "words"), REFUSALS)
def test_a_refusal_is_one_line_and_leaves_nothing(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo, status: int, code: int, words: str
) -> None:
    hub.fault("status", "/commit/", status=status, headers={"Retry-After": "7"}, times=9)
    done = hand_in(driver, run)
    assert (done.code, len(done.errors)) == (code, 1), done.stderr
    assert words in done.errors[0] and TO in done.errors[0]
    assert hub.made == [] and repo.pulls == []
    hub.faults.clear()
    assert hand_in(driver, run).code == 0  # the same command goes on


def test_a_token_that_may_only_read_is_told_so(driver: Driver, run: Path) -> None:
    done = hand_in(driver, run, token=EVE)
    assert done.code == 2 and "may not write there (403)" in done.errors[0]


def test_an_unknown_token_is_told_so(driver: Driver, run: Path) -> None:
    done = hand_in(driver, run, token="hf_nobodynobodynobody")
    assert done.code == 2 and "does not know the token (401)" in done.errors[0]


def test_without_a_token_nothing_is_asked(hub: LoopbackHub, driver: Driver, run: Path) -> None:
    done = hand_in(driver, run, token="")
    assert done.code == 2 and "no token" in done.errors[0] and hub.log == []


def test_a_repo_that_is_not_there(driver: Driver, run: Path) -> None:
    done = hand_in(driver, run, to="org/nowhere")
    assert done.code == 2 and "data set org/nowhere: no such repo" in done.errors[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_while_reading_is_waited_for(
    hub: LoopbackHub, driver: Driver, run: Path, status: int
) -> None:
    hub.fault("status", f"/api/datasets/{TO}/revision/main", status=status, times=2)
    assert hand_in(driver, run).code == 0


# ---- broken connections ----------------------------------------------------------------------


def test_an_upload_that_was_cut_is_sent_again(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    hub.fault("cut", "PUT /lfs/")
    assert hand_in(driver, run).code == 0
    assert [m for m, p, _ in hub.log if p.startswith("/lfs/")] == ["PUT", "PUT"]
    assert repo.commits[repo.branches["refs/pr/1"]].items() >= prepare(run, "ann").paths.items()


def test_after_a_stop_only_what_is_missing_is_sent(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    hub.fault("cut", "/commit/")
    stopped = hand_in(driver, run)
    assert stopped.code == 5 and "what was uploaded is kept" in stopped.errors[0]
    assert repo.pulls == [] and len(hub.uploads) == 1
    hub.log.clear()
    assert hand_in(driver, run).code == 0
    assert not [p for _, p, _ in hub.log if p.startswith("/lfs/")]
    assert len(repo.pulls) == 1


def test_a_commit_whose_answer_was_lost_is_found_and_not_made_twice(
    hub: LoopbackHub, driver: Driver, run: Path, repo: Repo
) -> None:
    hub.fault("lost", "/commit/")
    done = hand_in(driver, run)
    assert done.code == 0 and "/discussions/1" in done.stdout
    assert len(hub.made) == len(repo.pulls) == 1


# ---- what is not handed in -------------------------------------------------------------------


@pytest.mark.parametrize("to", ["../../x", "org", "org/../x", "<script>/x", "a/b/c", "org/x y"])
def test_a_name_that_is_no_repo_is_refused(
    hub: LoopbackHub, driver: Driver, run: Path, to: str
) -> None:
    done = hand_in(driver, run, to=to)
    assert done.code == 2 and "is no repo on the Hub: give ORG/NAME" in done.errors[0]
    assert hub.log == []


def test_a_changed_shipped_profile_is_refused(driver: Driver, run: Path) -> None:
    manifest = json.loads((run / "result.json").read_text())["protocol"]["params"]
    changed = {**manifest, "intervals": {**manifest["intervals"], "draws": 100}}
    edit_protocol(run, params=changed)
    done = hand_in(driver, run)
    assert done.code == 3 and "/protocol/hash: is not the hash of the parameters" in done.errors[0]
    data = {"fact-probes": json.loads((run / "result.json").read_text())["data"][0]["fingerprint"]}
    edit_protocol(run, hash=sha256_json({"params": changed, "data": data}))
    done = hand_in(driver, run)
    assert done.code == 3
    assert "/protocol/params/intervals: differs from the profile reference" in done.errors[0]


def test_a_result_that_was_edited_is_refused(driver: Driver, run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    name = "recall.whole_answer_accuracy"
    better = {"value": 1.0, "ci_high": 1.0}
    edit(run, metrics={**result["metrics"], name: {**result["metrics"][name], **better}})
    done = hand_in(driver, run)
    assert done.code == 3 and "metric 'recall.whole_answer_accuracy' is another" in done.errors[0]


def test_a_damaged_table_is_an_integrity_error(driver: Driver, run: Path) -> None:
    part = run / "tables" / "scores" / "part.parquet"
    part.write_bytes(part.read_bytes()[:-7])
    done = hand_in(driver, run)
    assert done.code == 4 and "checksum is wrong" in done.errors[0]


def test_no_run_folder_is_a_usage_error(driver: Driver, tmp_path: Path) -> None:
    assert hand_in(driver, tmp_path / "nowhere").code == 2


def test_a_run_without_result_is_told_to_score(driver: Driver, run: Path) -> None:
    (run / "result.json").unlink()
    done = hand_in(driver, run)
    assert done.code == 3 and "factlife score" in done.errors[0]


# ---- CI of the results repo ------------------------------------------------------------------

WORKFLOW = ROOT / "docs" / "results-ci.yml"


def ci_script() -> str:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["check"]["steps"]
    (script,) = (s["run"] for s in steps if s.get("shell") == "python")
    return str(script)


def run_ci(hub: LoopbackHub, home: Path) -> subprocess.CompletedProcess[str]:
    environment = hub.environment(home, RESULTS=TO, HF_TOKEN=ANN)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-c", ci_script()], capture_output=True, text=True, env=environment,
        cwd=home, timeout=120,
    )  # fmt: skip


def test_the_workflow_checks_every_open_pull_request(
    hub: LoopbackHub, driver: Driver, run: Path, other_scored: Path, repo: Repo, tmp_path: Path
) -> None:
    left = repo.branches["main"]
    hand_in(driver, run)
    # main moves on: a row that a pull request does not have is none that it removes
    repo.commit("main", {"README.md": b"# results\n", **prepare(other_scored, "bob").paths})
    # eve's pull requests, not made by `submit`: ann's row in her own name, and a program;
    files = {**prepare(run, "ann").paths, "README.md": b"# results\n", "run.py": b"print()"}
    repo.commit("refs/pr/2", files, parent=left)
    # and one that takes bob's row away
    repo.commit("refs/pr/3", {"README.md": b"# results\n"}, parent=repo.branches["main"])
    repo.pulls += [PullRequest(2, "eve", "better"), PullRequest(3, "eve", "tidy up")]
    done = run_ci(hub, tmp_path)
    assert done.returncode == 1
    main, ann, eve, tidy = re.split(r"pull request \d of \w+\n", done.stdout)
    assert "valid (1 results)" in main and "valid (2 results)" in ann and eve + tidy == ""
    submitter, program, two, *removed, last = (
        x for x in done.stderr.splitlines() if x and "Fetching" not in x
    )
    assert "run.py: /: is no file of a result; a result is results/MODEL" in program
    assert "/submitter: says 'ann', the change is 'eve''s" in submitter and "2 problems" in two
    assert len(removed) == 2 and all("was removed, a file of bob's" in x for x in removed)
    assert "2 problems in 0 results" in last
