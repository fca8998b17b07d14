"""A failed request becomes one line and an exit code: without a server."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from factlife.errors import PARTIAL, USAGE, FactlifeError, PartialError, UsageError
from factlife.series import fetch, hub


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))


def failing(error: Exception, times: int = 99) -> Callable[[], str]:
    """A request that fails so many times."""
    left = [times]

    def request() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "answer"

    return request


def status(code: int, **headers: str) -> HfHubHTTPError:
    request = httpx2.Request("GET", "http://127.0.0.1/x")
    return HfHubHTTPError(
        "secret", response=httpx2.Response(code, request=request, headers=headers)
    )


@pytest.mark.parametrize(
    "error",
    [status(429), status(500), status(503), httpx2.ReadError("reset"), ConnectionResetError()],
)
def test_what_may_pass_is_repeated(error: Exception) -> None:
    assert hub.ask(failing(error, 2), "org/m") == "answer"
    with pytest.raises(PartialError):
        hub.ask(failing(error, 3), "org/m")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "full"), PARTIAL, "no space left in the cache"),
        (PermissionError(errno.EACCES, "denied"), USAGE, "cannot write in the cache"),
        (status(401), USAGE, "who asks (401)"),
        (status(403), USAGE, "may not read it (403)"),
        (status(404), USAGE, "no such repo on the Hub (404)"),
        (httpx2.ConnectError("refused"), PARTIAL, "cannot be reached"),
        (LocalEntryNotFoundError("secret"), PARTIAL, "cannot be reached"),
    ],
)
def test_what_lasts_is_one_line_without_the_servers_words(
    error: Exception, code: int, text: str
) -> None:
    with pytest.raises(FactlifeError, match=text.replace("(", r"\(").replace(")", r"\)")) as caught:
        hub.ask(failing(error), "org/m@step1")
    assert caught.value.exit_code == code
    line = str(caught.value)
    assert line.startswith("org/m@step1") and "\n" not in line and "secret" not in line


def test_retry_after_is_obeyed_within_bounds() -> None:
    assert hub._retry_after(status(429, **{"Retry-After": "7"})) == 7
    assert hub._retry_after(status(429, **{"Retry-After": "99999"})) == hub.LONGEST_WAIT
    assert hub._retry_after(status(429, **{"Retry-After": "soon"})) == 0
    assert hub._retry_after(ConnectionResetError()) == 0


def test_a_disk_that_is_too_small_is_named_before_the_first_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    fetch.refuse_full_disk(1)
    with pytest.raises(UsageError, match="needs 1000000.0 GB at once for 3 checkpoints"):
        fetch.refuse_full_disk(10**15)


def test_a_blob_that_another_snapshot_uses_stays(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    links = [tmp_path / "snapshots" / s / "model.safetensors" for s in ("one", "two")]
    for link in links:
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
    hub.remove(links[0])
    assert blob.exists() and not links[0].exists()
    hub.remove(links[1])
    assert not blob.exists()
