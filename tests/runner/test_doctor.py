"""`factlife doctor`: what is wrong is found, named and comes with a way out."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from factlife.cli import app
from factlife.corpora.fact_probes import load_fact_probes
from factlife.runner import doctor
from factlife.runner.doctor import ERROR, OK, WARNING, Finding, examine, failed
from factlife.tracing import native

ROOT = Path(__file__).parents[2]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {f.name: f for f in findings}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    out = tmp_path_factory.mktemp("here") / "runs"
    return by_name(examine(out, ROOT / "datasets", offline=True))


def test_everything_is_looked_at(healthy: dict[str, Finding]) -> None:
    wanted = {
        "factlife", "packages", "torch", "kernel", "memory", "fact-probes", "datasets/fact-probes",
        "datasets/fictional-knowledge", "datasets/synthetic-biographies", "run folder",
        "download cache", "Hub",
    }  # fmt: skip
    assert wanted <= set(healthy)
    assert failed(list(healthy.values())) == []
    assert (
        healthy["fact-probes"].found == f"fingerprint {load_fact_probes().fingerprint()}, built in"
    )
    assert healthy["Hub"].found.startswith("not asked")


def test_whatever_is_not_ok_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "load", lambda: (None, "no C compiler on the PATH"))
    monkeypatch.setattr(native, "compiler", lambda: None)
    found = examine(Path("/proc/runs"), tmp_path, offline=True)
    bad = [f for f in found if f.state != OK]
    assert all(f.todo for f in bad)
    named = by_name(found)
    assert named["run folder"].state == ERROR
    assert named["datasets/fact-probes"].state == WARNING
    assert [f.name for f in failed(found)] == ["run folder"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:2000]), "cannot be read as parquet"),
        (lambda f: f.unlink(), "no file"),
        (lambda f: pq.write_table(pq.read_table(f).slice(1), f), "check(s) failed"),
    ],
    ids=["cut off", "gone", "a row less"],
)
def test_a_damaged_data_set_is_an_error(
    harm: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "DATA_SETS", ("fact-probes", "synthetic-biographies"))  # the quick
    root = Path(shutil.copytree(ROOT / "datasets", tmp_path / "datasets"))
    harm(root / "fact-probes" / "facts.parquet")
    found = by_name(doctor._data_sets(root))
    bad = found["datasets/fact-probes"]
    assert bad.state == ERROR and said in bad.found
    assert bad.todo == "factlife datasets build fact-probes"
    assert found["datasets/synthetic-biographies"].state == OK
    assert found["datasets/synthetic-biographies"].found.endswith("checks hold")


def test_a_missing_compiler_is_a_warning_with_its_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: another kernel is chosen")
    monkeypatch.setattr(native, "load", lambda: (None, "no C compiler on the PATH"))
    monkeypatch.setattr(native, "compiler", lambda: None)
    (finding,) = doctor._kernel()
    assert finding.state == WARNING
    assert finding.found == "eager: no C compiler on the PATH"
    assert "gcc" in finding.todo


def test_without_torch_scoring_is_said_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    (finding,) = doctor._device()
    assert finding.state == WARNING and "factlife[models]" in finding.todo
    assert doctor._kernel() == []


def test_an_old_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_required", lambda: [("numpy", "", "999.0"), ("absent-x", "", "1")]
    )
    found = doctor._packages()
    assert [f.state for f in found] == [OK, ERROR, ERROR]
    assert "absent-x" in found[1].found
    assert "older than 999.0" in found[2].found


def test_versions_are_compared_as_numbers() -> None:
    assert doctor._numbers("2.13.0+cu130") == (2, 13, 0)
    assert doctor._numbers("2.9") < doctor._numbers("2.13")


def test_a_look_that_breaks_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("no\nsuch thing")

    monkeypatch.setattr(doctor, "_memory", broken)
    found = by_name(examine(Path("runs"), tmp_path, offline=True))
    assert found["memory"] == Finding("memory", ERROR, "RuntimeError: no such thing", "see --debug")
    assert "Hub" in found


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A loopback Hub that gives the first line of its list as an answer."""
    answers = ["200 OK"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", host)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    head = (
                        f"HTTP/1.1 {answers[0]}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    )
                    connection.sendall(head.encode())

        threading.Thread(target=serve, daemon=True).start()
        yield answers


def test_a_hub_that_answers_is_said_to(
    answering: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/absent")
    found = doctor._hub(offline=False)
    assert found.found.endswith("answers, without a token")
    assert found.state == OK and found.found.startswith(constants.ENDPOINT)
    answering[0] = "503 Service Unavailable"
    assert doctor._hub(offline=False).state == WARNING


def test_a_token_is_asked_about_and_never_shown(
    answering: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert doctor._hub(offline=False).found.endswith("answers, with a token")
    answering[0] = "401 Unauthorized"
    found = doctor._hub(offline=False)
    assert found.state == WARNING and "does not know the token (401)" in found.found
    assert "secret" not in str(found)


def test_a_hub_that_does_not_answer_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")  # nobody listens
    found = doctor._hub(offline=False)
    assert found.state == WARNING and "does not answer" in found.found
    assert doctor._hub(offline=True).state == OK


def test_the_command_exits_2_on_an_error_and_prints_json(tmp_path: Path) -> None:
    words = ["doctor", "--offline", "--root", str(tmp_path), "--json", "--out"]
    good = CliRunner().invoke(app, [*words, str(tmp_path / "runs")])
    assert good.exit_code == 0, good.stderr
    rows = json.loads(good.stdout)
    assert {tuple(row) for row in rows} == {("name", "state", "found", "todo")}
    bad = CliRunner().invoke(app, [*words, "/proc/runs"])
    assert bad.exit_code == 2
    assert "first run folder" in bad.stderr and "choose another --out" in bad.stderr
    assert json.loads(bad.stdout)
