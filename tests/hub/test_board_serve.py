"""The local server: the board's files to this machine, nothing else to anyone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.hub.results import make_result

from factlife.errors import UsageError
from factlife.hub import build_board, serve


@pytest.fixture
def site(folder: Callable[..., Path], tmp_path: Path) -> Path:
    out = build_board([folder(make_result("a"))], tmp_path / "out").parent
    (out / ".hidden.html").write_text("no")
    (out / "notes.txt").write_text("no")
    (out.parent / "secret.json").write_text("no")
    (out / "link.json").symlink_to(out.parent / "secret.json")
    return out


@pytest.fixture
def ask(site: Path) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    with serve(site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def get(path: str, method: str = "GET") -> tuple[int, bytes]:
            link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
            link.request(method, path)
            answer = link.getresponse()
            assert answer.getheader("Cache-Control") == "no-store" or answer.status == 501
            return answer.status, answer.read()

        yield get
        server.shutdown()
        thread.join()


def test_it_serves_the_board(site: Path, ask: Callable[[str], tuple[int, bytes]]) -> None:
    page = (site / "index.html").read_bytes()
    assert ask("/") == ask("/index.html") == ask("/?x=1") == (200, page)
    (script,) = (site / "series").iterdir()
    assert ask(f"/series/{script.name}")[0] == 200
    assert ask("/leaderboard.parquet")[1][:4] == b"PAR1"


@pytest.mark.parametrize(
    "path",
    ["/series/", "/.hidden.html", "/notes.txt", "/../secret.json", "/%2e%2e/secret.json",
     "/series/../../secret.json", "/link.json", "//etc/passwd", "/nowhere.html", "/%00.html"],
)  # fmt: skip
def test_nothing_else(ask: Callable[[str], tuple[int, bytes]], path: str) -> None:
    status, said = ask(path)
    assert status == 404
    assert b"no" not in said.split(b"Message:")[0].split(b"<title>")[0]


def test_only_this_machine_may_ask(site: Path) -> None:
    with serve(site) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(UsageError, match="choose another --port"):
            serve(site, server.server_address[1])


def test_a_folder_without_a_board_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaderboard build RESULTS"):
        serve(tmp_path)
    (tmp_path / "index.html").write_text("x")
    with pytest.raises(UsageError, match="choose another --port"):
        serve(tmp_path, 70_000)
