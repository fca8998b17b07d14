"""A Hugging Face Hub on the loopback interface, for the real huggingface_hub and transformers.

It speaks the part of the protocol that reading needs: refs, model info, tree (paged), resolve with
ETag, X-Repo-Commit, Content-Length and Range. Faults are planted by path and used up one by one.
It listens on 127.0.0.1 only, and stops by itself after `LIFETIME` seconds.

HF_ENDPOINT is read at import: commands under test run in a process of their own, see `environment`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LIFETIME = 300.0
LFS = (".safetensors", ".bin")
ROOT = Path(__file__).parents[1]


@dataclass
class Fault:
    """Something that goes wrong with requests whose `METHOD path` contains `match`.

    kind: `status` (an error answer), `cut` (connection reset after half of the body), `truncate`
    (half of the body, and a Content-Length that says so), `short` (half of the body, then a clean
    end), `corrupt` (one byte changed), `etag` (an ETag of something else).
    """

    kind: str
    match: str
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    """Commits (files by path) and the names that stand for them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: str = ""  # the token that may read it

    def commit(self, branch: str, files: dict[str, bytes], tag: bool = False) -> str:
        """Add a commit under a branch or tag; its id."""
        digest = hashlib.sha1(branch.encode())
        for path, data in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha256(data).digest())
        sha = digest.hexdigest()
        self.commits[sha] = files
        (self.tags if tag else self.branches)[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit id."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None


class LoopbackHub:
    """The server: `with LoopbackHub() as hub: hub.repo("org/name").commit("main", files)`."""

    def __init__(self, bandwidth: float | None = None, page: int = 1000) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.bandwidth, self.page = bandwidth, page
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.sent: dict[str, int] = {}  # bytes of bodies by path
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self._timer = threading.Timer(LIFETIME, self._server.shutdown)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str) -> Repo:
        return self.repos.setdefault(name, Repo())

    def fault(self, kind: str, match: str, **more: Any) -> None:
        """Plant a fault."""
        self.faults.append(Fault(kind, match, **more))

    def take_fault(self, line: str) -> Fault | None:
        """The fault for this request, used up once."""
        with self.lock:
            for f in self.faults:
                if f.times > 0 and f.match in line:
                    f.times -= 1
                    return f
        return None

    def downloads(self, part: str = "") -> list[str]:
        """Paths of files that were sent, in order."""
        return [p for m, p, _ in self.log if m == "GET" and "/resolve/" in p and part in p]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a process that talks to this Hub and keeps its cache under `home`."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return {
            **clean,
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
            "no_proxy": "127.0.0.1", "PYTHONPATH": f"{ROOT / 'benchmark'}{os.pathsep}{ROOT}",
            **more,
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.log.append((self.command, path, dict(self.headers)))
        fault = self.hub.take_fault(f"{self.command} {path}")
        if fault and fault.kind == "status":
            return self._error(fault.status, "", fault.headers)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
            return self._with(match[1], self._refs)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._with(match[1], lambda r: self._at(r, match[2], self._tree))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            return self._with(match[1], lambda r: self._at(r, match[2] or "main", self._info))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._with(
                match[1],
                lambda r: self._at(
                    r, match[2], lambda repo, sha: self._file(repo, sha, match[3], fault)
                ),
            )
        return self._error(404, "")

    def _with(self, name: str, then: Any) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._error(404, "RepoNotFound")
        said = self.headers.get("Authorization", "")
        if repo.gated and said != f"Bearer {repo.gated}":
            return self._error(403 if said else 401, "GatedRepo")
        return then(repo)

    def _at(self, repo: Repo, revision: str, then: Any) -> None:
        sha = repo.resolve(revision)
        return self._error(404, "RevisionNotFound") if sha is None else then(repo, sha)

    def _refs(self, repo: Repo) -> None:
        def described(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": s} for n, s in refs.items()
            ]

        self._json(
            {
                "branches": described("heads", repo.branches),
                "tags": described("tags", repo.tags),
                "converts": [],
            }
        )

    def _info(self, repo: Repo, sha: str) -> None:
        name = next(n for n, r in self.hub.repos.items() if r is repo)
        files = [{"rfilename": p} for p in sorted(repo.commits[sha])]
        self._json({"id": name, "modelId": name, "sha": sha, "siblings": files, "tags": []})

    def _tree(self, repo: Repo, sha: str) -> None:
        entries = [_entry(p, d) for p, d in sorted(repo.commits[sha].items())]
        query = urlsplit(self.path).query
        cursor = re.search(r"cursor=(\d+)", query)
        start = int(cursor[1]) if cursor else 0
        end = start + self.hub.page
        headers = {}
        if end < len(entries):
            base = self.path.split("?")[0]
            headers["Link"] = f'<{self.hub.url}{base}?recursive=True&cursor={end}>; rel="next"'
        self._json(entries[start:end], headers)

    def _file(self, repo: Repo, sha: str, path: str, fault: Fault | None) -> None:
        data = repo.commits[sha].get(path)
        if data is None:
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": sha})
        kind = fault.kind if fault else ""
        entry = _entry(path, data)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        if kind == "etag":
            etag = hashlib.sha256(b"something else").hexdigest()
        if kind == "truncate":
            data = data[: len(data) // 2]
        if kind == "corrupt":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
        status, headers = 200, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, total = 206, len(data)
            headers["Content-Range"] = f"bytes {asked[1]}-{total - 1}/{total}"
            data = data[int(asked[1]) :]
        self._send(status, headers, data, kind)
        return None

    def _send(self, status: int, headers: dict[str, str], data: bytes, kind: str = "") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = len(data) if kind not in ("cut", "short") else len(data) // 2
        path = unquote(urlsplit(self.path).path)
        for start in range(0, whole, 1 << 14):
            piece = data[start : min(start + (1 << 14), whole)]
            self.wfile.write(piece)
            with self.hub.lock:
                self.hub.sent[path] = self.hub.sent.get(path, 0) + len(piece)
            if self.hub.bandwidth:
                time.sleep(len(piece) / self.hub.bandwidth)
        if kind == "short":
            self.close_connection = True
        if kind == "cut":  # a reset, not a clean end
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json", **(headers or {})}, body)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(status, {**said, **(headers or {})}, b"" if self.command == "HEAD" else b"{}")


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(LFS):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
    return entry


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files, as a commit takes them."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
