"""A Hugging Face Hub on the loopback interface, for the real huggingface_hub and transformers.

It speaks the part of the protocol that reading needs: refs, info, tree (paged), resolve with
ETag, X-Repo-Commit, Content-Length and Range, for models, data sets and Spaces; writing is in
`hubwrites`. Faults are planted by path and used up one by one.
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

from tests.hubwrites import KINDS, Accounts, PullRequest, Writes

LIFETIME = 300.0
LFS = (".safetensors", ".bin", ".parquet")
ROOT = Path(__file__).parents[1]


@dataclass
class Fault:
    """Something that goes wrong with requests whose `METHOD path` contains `match`.

    kind: `status` (an error answer), `cut` (connection reset after half of the body), `truncate`
    (half of the body, and a Content-Length that says so), `short` (half of the body, then a clean
    end), `corrupt` (one byte changed), `etag` (an ETag of something else); of requests that write:
    `cut` (connection reset in the middle of the upload), `lost` (done, but the answer never comes).
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
    pulls: list[PullRequest] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def commit(
        self, branch: str, files: dict[str, bytes], tag: bool = False, parent: str = ""
    ) -> str:
        """Add a commit under a branch or tag; its id."""
        digest = hashlib.sha1(branch.encode() + parent.encode())
        for path, data in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha256(data).digest())
        sha = digest.hexdigest()
        if (before := parent or self.branches.get(branch, "")) != sha:
            self.parents[sha] = before
        self.commits[sha] = files
        (self.tags if tag else self.branches)[branch] = sha
        return sha

    def history(self, revision: str) -> list[str]:
        """Commits from a revision back to the first one."""
        found = [sha] if (sha := self.resolve(revision)) else []
        while found and (sha := self.parents.get(found[-1])) and sha not in found:
            found.append(sha)
        return found

    def merge(self, number: int) -> None:
        """Merge a pull request: main becomes what it holds."""
        self.pulls[number - 1].status = "merged"
        self.branches["main"] = self.branches[f"refs/pr/{number}"]

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
        self.accounts = Accounts()
        self.uploads: dict[str, bytes] = {}  # large files by sha256
        self.made: list[tuple[str, str]] = []  # commits over HTTP: (revision, summary)
        self.writing = threading.Lock()
        self.merges = False  # whether pull requests are merged as soon as they are open
        self.barrier: threading.Barrier | None = None  # what commits wait at
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

    def clear(self) -> None:
        """Forget every repo, account, fault, upload and request."""
        for found in (self.repos, self.faults, self.log, self.sent, self.uploads, self.made):
            found.clear()
        self.accounts, self.merges, self.barrier = Accounts(), False, None

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


class _Handler(Writes, BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.log.append((self.command, path, dict(self.headers)))
        fault = self.hub.take_fault(f"{self.command} {path}")
        if fault and fault.kind == "status":
            if self.command in ("POST", "PUT"):
                self.body()
            return self._error(fault.status, "", fault.headers)
        if self.command in ("POST", "PUT"):
            return self.write(path, fault)
        if path == "/api/whoami-v2":
            return self.whoami()
        if match := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+?)(/.+)?", path):
            key = KINDS[match[1]] + match[2]
            return self._with(key, lambda r: self._api(r, match[1], match[2], match[3] or ""))
        if match := re.fullmatch(
            r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path
        ):
            return self._with(
                match[1],
                lambda r: self._at(
                    r, match[2], lambda repo, sha: self._file(repo, sha, match[3], fault)
                ),
            )
        return self._error(404, "")

    def _api(self, repo: Repo, kind: str, name: str, rest: str) -> None:
        if rest == "/refs":
            return self._refs(repo)
        if rest == "/discussions":
            return self.discussions(repo, name, kind)
        if match := re.fullmatch(r"/commits/(.+)", rest):
            return self.commit_list(repo.history(match[1]))
        if match := re.fullmatch(r"/tree/(refs/pr/\d+|[^/]+)(?:/.*)?", rest):
            return self._at(repo, match[1], self._tree)
        if match := re.fullmatch(r"(?:/revision/(.+))?", rest):
            return self._at(repo, match[1] or "main", self._info)
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
        key = next(n for n, r in self.hub.repos.items() if r is repo)
        name = key.removeprefix("datasets/").removeprefix("spaces/")
        files = [{"rfilename": p} for p in sorted(repo.commits[sha])]
        self._json({"id": name, "modelId": name, "sha": sha, "siblings": files, "tags": []})

    def _tree(self, repo: Repo, sha: str) -> None:
        entries = [entry(p, d) for p, d in sorted(repo.commits[sha].items())]
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
        listed = entry(path, data)
        etag = listed["lfs"]["oid"] if "lfs" in listed else listed["oid"]
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


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(LFS):
        sha256 = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files, as a commit takes them."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
