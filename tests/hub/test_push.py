"""Data sets and the Space as published: the real clients against a loopback Hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.drive import WAIT_SCALE, Done, Driver
from tests.hubserver import LoopbackHub, files_of
from tests.write_docs import ROOT

from factlife.errors import SubmissionError
from factlife.hub.push import check_data_set_card, folder_files

TOKEN, READER = "hf_AnnAnnAnnAnnAnnAnn", "hf_EveEveEveEveEveEve"
NAMES = sorted(p.name for p in (ROOT / "datasets").iterdir() if p.is_dir())

pytest.importorskip("great_expectations", reason="the suites need it")


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def driver(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with Driver(hub.environment(tmp_path_factory.mktemp("home"))) as made:
        yield made


@pytest.fixture(autouse=True)
def accounts(hub: LoopbackHub) -> None:
    hub.clear()
    hub.accounts.names = {TOKEN: "org", READER: "eve"}
    hub.accounts.readers = {READER}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A board as `leaderboard build` leaves it."""
    folder = tmp_path / "board"
    folder.mkdir()
    shutil.copy(ROOT / "leaderboard" / "README.md", folder)
    (folder / "index.html").write_text("<!doctype html><title>board</title>")
    (folder / "scores.parquet").write_bytes(b"PAR1 made up PAR1")
    return folder


def call(driver: Driver, *words: str | Path, token: str = TOKEN) -> Done:
    done = driver(*words, HF_TOKEN=token, **{WAIT_SCALE: "0.02"})
    assert "Traceback" not in done.stderr, done.stderr
    assert not token or token not in done.stdout + done.stderr
    return done


# ---- data sets -------------------------------------------------------------------------------


def test_a_dry_run_shows_every_file_and_asks_nothing(hub: LoopbackHub, driver: Driver) -> None:
    done = call(driver, "datasets", "push", "--to", "org", "--dry-run", token="")
    assert done.code == 0 and hub.log == []
    for name in NAMES:
        assert f"org/{name}: would be pushed" in done.stdout
        for path, data in files_of(ROOT / "datasets" / name).items():
            assert f"{len(data):,} bytes  {path}\n" in done.stdout


def test_what_is_pushed_is_what_was_built_in_one_commit_each(
    hub: LoopbackHub, driver: Driver
) -> None:
    done = call(driver, "datasets", "push", "--to", "org")
    assert done.code == 0, done.stderr
    assert hub.made == [("main", f"Publish {n}") for n in NAMES]
    for name in NAMES:
        repo = hub.repo(f"datasets/org/{name}")
        held = dict(repo.commits[repo.branches["main"]])
        held.pop(".gitattributes")
        assert held == files_of(ROOT / "datasets" / name)
    again = call(driver, "datasets", "push", "--to", "org", "--json")
    assert [p["status"] for p in json.loads(again.stdout)] == ["there"] * len(NAMES)
    assert len(hub.made) == len(NAMES)


LOAD = """
import json, sys
import datasets
name, config = sys.argv[1:]
loaded = datasets.load_dataset(name, config)
print(json.dumps({split: rows.to_list() for split, rows in loaded.items()}, default=str))
"""


def test_load_dataset_of_what_was_pushed_gives_the_rows_that_were_built(
    hub: LoopbackHub, driver: Driver, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    import pyarrow.parquet as pq

    assert call(driver, "datasets", "push", "fact-probes", "--to", "org").code == 0
    environment = hub.environment(tmp_path, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    environment.pop("HF_DATASETS_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "org/fact-probes", "facts"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (rows,) = json.loads(done.stdout.splitlines()[-1]).values()
    built = pq.read_table(ROOT / "datasets" / "fact-probes" / "facts.parquet").to_pylist()
    assert rows == json.loads(json.dumps(built, default=str)) and len(rows) == 160
    assert any(p.endswith("facts.parquet") for p in hub.downloads())


def test_a_file_that_is_no_longer_built_is_removed_by_the_same_commit(
    hub: LoopbackHub, driver: Driver
) -> None:
    old = {".gitattributes": b"x", "old.parquet": b"PAR1", "README.md": b"# old\n"}
    repo = hub.repo("datasets/org/fact-probes")
    repo.commit("main", old)
    done = call(driver, "datasets", "push", "fact-probes", "--to", "org")
    assert done.code == 0 and "removed  old.parquet" in done.stdout
    held = repo.commits[repo.branches["main"]]
    assert "old.parquet" not in held and ".gitattributes" in held and len(hub.made) == 1


def test_a_repo_that_moved_is_read_again(hub: LoopbackHub, driver: Driver) -> None:
    hub.repo("datasets/org/fact-probes").commit("main", {".gitattributes": b"x"})
    hub.fault("status", "/commit/", status=412)
    assert call(driver, "datasets", "push", "fact-probes", "--to", "org").code == 0
    assert [p for m, p, _ in hub.log if m == "POST" and "/commit/" in p] == [
        "/api/datasets/org/fact-probes/commit/main"
    ] * 2


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(401, 2, "(401)"), (403, 2, "(403)"), (409, 5, "(409)"), (429, 5, "(429)"), (503, 5, "503")],
)
def test_a_refusal_is_one_line(
    hub: LoopbackHub, driver: Driver, space: Path, status: int, code: int, words: str
) -> None:
    hub.repo("spaces/org/board").commit("main", {})
    hub.fault("status", "/commit/", status=status, times=9)
    done = call(driver, "leaderboard", "push", space, "--to", "org/board")
    assert done.code == code and len(done.errors) == 1 and words in done.errors[0]
    assert hub.made == []


def test_a_lost_answer_is_looked_for(hub: LoopbackHub, driver: Driver, space: Path) -> None:
    hub.fault("lost", "/commit/")
    done = call(driver, "leaderboard", "push", space, "--to", "org/board")
    assert done.code == 0 and "pushed: " in done.stdout and len(hub.made) == 1


def test_a_reader_cannot_make_a_repo(driver: Driver, space: Path) -> None:
    done = call(driver, "leaderboard", "push", space, "--to", "org/board", token=READER)
    assert done.code == 2 and "may not write there (403)" in done.errors[0]


@pytest.mark.parametrize("to", ["../x", "a/b", "<script>", ""])
def test_an_account_is_a_name(hub: LoopbackHub, driver: Driver, to: str) -> None:
    done = call(driver, "datasets", "push", "--to", to)
    assert done.code == 2 and "is no account on the Hub" in done.errors[0] and hub.log == []


def test_a_data_set_that_breaks_its_suite_is_not_pushed(
    hub: LoopbackHub, driver: Driver, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    folder = Path(shutil.copytree(ROOT / "datasets" / "fact-probes", tmp_path / "fact-probes"))
    pq.write_table(pq.read_table(folder / "facts.parquet").slice(1), folder / "facts.parquet")
    words = ("datasets", "push", "fact-probes", "--to", "org", "--root", tmp_path)
    done = call(driver, *words)
    assert done.code == 4 and hub.log == []


# ---- cards -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_in_order(name: str) -> None:
    check_data_set_card(folder_files(ROOT / "datasets" / name), ROOT / "datasets" / name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"license:", b"licence:", "/license: is missing"),
        (b"path: facts.parquet", b"path: gone.parquet", "data_files/0/path: names 'gone.parquet'"),
        (b"---\n", b"---\n: [\n", "its header is not what the Hub reads"),
        (b"dataset_info:", b"info:", "/dataset_info: is missing"),
    ],
)
def test_a_broken_card_is_named(old: bytes, new: bytes, words: str) -> None:
    folder = ROOT / "datasets" / "fact-probes"
    files = folder_files(folder)
    assert old in files["README.md"]
    files["README.md"] = files["README.md"].replace(old, new, 1)
    with pytest.raises(SubmissionError) as caught:
        check_data_set_card(files, folder)
    assert words in str(caught.value) and "README.md: /" in str(caught.value)


# ---- the Space -------------------------------------------------------------------------------


def test_the_space_is_pushed_in_one_commit(hub: LoopbackHub, driver: Driver, space: Path) -> None:
    done = call(driver, "leaderboard", "push", space, "--to", "org/board")
    assert done.code == 0 and hub.made == [("main", "Publish the leaderboard")]
    repo = hub.repo("spaces/org/board")
    held = dict(repo.commits[repo.branches["main"]])
    held.pop(".gitattributes")
    assert held == files_of(space)
    again = call(driver, "leaderboard", "push", space, "--to", "org/board")
    assert "is there already" in again.stdout and len(hub.made) == 1
    (space / "index.html").write_text("<!doctype html><title>newer</title>")
    third = call(driver, "leaderboard", "push", space, "--to", "org/board", "--json")
    assert json.loads(third.stdout)[0]["changed"] == ["index.html"]


def test_a_dry_run_of_the_space_asks_nothing(hub: LoopbackHub, driver: Driver, space: Path) -> None:
    done = call(driver, "leaderboard", "push", space, "--to", "org/board", "--dry-run", token="")
    assert done.code == 0 and "org/board: would be pushed" in done.stdout and hub.log == []


def test_the_shipped_board_could_be_pushed(driver: Driver) -> None:
    words = ("leaderboard", "push", ROOT / "leaderboard", "--to", "org/board", "--dry-run")
    assert call(driver, *words).code == 0


def spoil(space: Path, what: str) -> None:
    if what == "no page":
        (space / "index.html").unlink()
    elif what == "no card":
        (space / "README.md").unlink()
    elif what == "gradio":
        text = (space / "README.md").read_text().replace("sdk: static", "sdk: gradio")
        (space / "README.md").write_text(text)
    elif what == "hidden":
        (space / ".env").write_text("HF_TOKEN=x")
    else:
        (space / "link").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("no page", 2, "holds no index.html: make it with `factlife leaderboard build"),
        ("no card", 3, "README.md: /: is missing"),
        ("gradio", 3, "/sdk: is not `static`"),
        ("hidden", 3, ".env: /: is hidden"),
        ("link", 3, "link: /: is a link"),
    ],
)
def test_a_folder_that_is_no_static_space_is_refused(
    hub: LoopbackHub, driver: Driver, space: Path, what: str, code: int, words: str
) -> None:
    spoil(space, what)
    done = call(driver, "leaderboard", "push", space, "--to", "org/board")
    assert done.code == code and words in done.errors[0] and hub.log == []
