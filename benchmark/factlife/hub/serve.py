"""The board on this machine: a server that only this machine reaches and that asks nobody."""

from __future__ import annotations

import posixpath
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from factlife.errors import UsageError
from factlife.hub.site import PAGE

HOST = "127.0.0.1"
_SERVED = frozenset({".html", ".js", ".json", ".csv", ".parquet"})


def serve(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a built board, listening on this machine only; call its `serve_forever`.

    Args:
        port: 0 takes any free one; `server_address[1]` says which.

    Raises:
        UsageError: no board in the folder, or the port is taken.
    """
    root = folder.resolve()
    if not (root / PAGE).is_file():
        raise UsageError(
            f"{folder} has no {PAGE}: run `factlife leaderboard build RESULTS --out {folder}` first"
        )
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(root)))
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on port {port}: {error}; choose another --port") from error


class Handler(SimpleHTTPRequestHandler):
    """Serves the board's kinds of files, never a listing, a hidden file or one outside."""

    def translate_path(self, path: str) -> str:
        """The file that an address means; a place that does not exist for every other address."""
        root = Path(self.directory)
        parts = [p for p in posixpath.normpath(unquote(urlsplit(path).path)).split("/") if p]
        if any(p.startswith(".") or "\0" in p for p in parts):
            return str(root / "nowhere" / "nothing")
        found = root.joinpath(*parts or [PAGE]).resolve()
        inside = found.is_relative_to(root) and found.suffix in _SERVED and found.is_file()
        return str(found if inside else root / "nowhere" / "nothing")

    def end_headers(self) -> None:
        """Nothing is kept by the browser and nothing is guessed about types."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the address is all that the terminal shows."""
