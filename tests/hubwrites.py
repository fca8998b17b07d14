"""What the loopback Hub does when it is written to: repos, cards, uploads, commits, pull requests.

A commit names its parent; where the head is another one, the answer is 412, for pull requests too.
Files of the suffixes `LFS` are uploaded first and named by their sha256; the commit holds the rest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Accounts:
    """Who may do what: token -> name; `readers` may only read. Nobody is known: all may write."""

    names: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)


@dataclass
class PullRequest:
    """A pull request: its number, author, title, and state; its commit is `refs/pr/N`."""

    number: int
    author: str
    title: str
    status: str = "open"


class Writes:
    """The answers to POST and PUT, for the handler of the loopback Hub."""

    hub: Any
    command: str
    path: str
    headers: Any
    rfile: Any
    connection: Any
    close_connection: bool
    _json: Callable[..., Any]
    _error: Callable[..., Any]
    _send: Callable[..., Any]

    def body(self) -> bytes:
        """The request's body, whether its length is told or it comes in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return bytes(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def who(self) -> str | None:
        """Name of the asking account; None where it is not known."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = self.hub.accounts.names
        return known.get(token) if known else "anybody"

    def reset(self) -> None:
        """Break the connection off, not cleanly."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    # ---- routes --------------------------------------------------------------------------

    def write(self, path: str, fault: Any) -> Any:
        """Answer a POST or PUT."""
        if fault and fault.kind == "cut":
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length // 2)
            return self.reset()
        data = self.body()
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self._store(match[1], data)
        if path == "/api/validate-yaml":
            return self._validate_yaml(json.loads(data))
        if match := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/paths-info/(.+)", path):
            return self._paths_info(match[1], match[2], match[3], data)
        if self.who() is None:
            return self._error(401, "")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.hub.accounts.readers:
            return self._error(403, "")
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if match := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/preupload/(.+)", path):
            return self._preupload(match[1], match[2], json.loads(data))
        if match := re.fullmatch(r"/(?:(datasets|spaces)/)?(.+)\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(json.loads(data))
        if match := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(match[1], match[2], match[3], data, fault)
        return self._error(404, "")

    def _find(self, kind: str, name: str) -> Any:
        return self.hub.repos.get(KINDS.get(kind, "?") + name)

    def _create(self, asked: dict[str, Any]) -> Any:
        name = f"{asked['organization']}/{asked['name']}"
        key = KINDS[asked.get("type", "model") + "s"] + name
        if key in self.hub.repos:
            return self._error(409, "")
        self.hub.repo(key).commit("main", {".gitattributes": b"*.parquet filter=lfs\n"})
        return self._json({"url": f"{self.hub.url}/{key}", "name": name, "id": "1"})

    def _validate_yaml(self, asked: dict[str, Any]) -> Any:
        head = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        try:
            found = yaml.safe_load(head[1]) if head else {}
        except yaml.YAMLError:
            found = None
        if not isinstance(found, dict):
            body = {"errors": [{"message": "no mapping"}], "warnings": []}
            return self._send(400, {"Content-Type": "application/json"}, json.dumps(body).encode())
        return self._json({"errors": [], "warnings": []})

    def _paths_info(self, kind: str, name: str, revision: str, data: bytes) -> Any:
        from tests.hubserver import entry

        repo = self._find(kind, name)
        sha = repo and repo.resolve(revision)
        if not sha:
            return self._error(404, "RevisionNotFound" if repo else "RepoNotFound")
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(data)["paths"]
        else:
            paths = parse_qs(data.decode()).get("paths", [])
        held = repo.commits[sha]
        return self._json([entry(p, held[p]) for p in paths if p in held])

    def _preupload(self, kind: str, name: str, asked: dict[str, Any]) -> Any:
        from tests.hubserver import LFS

        if self._find(kind, name) is None:
            return self._error(404, "RepoNotFound")
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for f in asked["files"]
        ]
        return self._json({"files": files})

    # ---- large files ---------------------------------------------------------------------

    def _lfs_batch(self, asked: dict[str, Any]) -> Any:
        objects = []
        for one in asked["objects"]:
            href = f"{self.hub.url}/lfs/{one['oid']}"
            actions = {"upload": {"href": href, "header": {}}}
            known = one["oid"] in self.hub.uploads
            objects.append(one if known else {**one, "actions": actions})
        return self._json({"objects": objects, "transfer": "basic"})

    def _store(self, oid: str, data: bytes) -> Any:
        if hashlib.sha256(data).hexdigest() != oid:
            return self._error(400, "")
        self.hub.uploads[oid] = data
        return self._send(200, {}, b"")

    # ---- commits -------------------------------------------------------------------------

    def _commit(self, kind: str, name: str, revision: str, data: bytes, fault: Any) -> Any:
        repo = self._find(kind, name)
        if repo is None:
            return self._error(404, "RepoNotFound")
        if self.hub.barrier is not None:
            self.hub.barrier.wait(timeout=20)
            self.hub.barrier = None
        lines = [json.loads(x) for x in data.splitlines()]
        create_pr = "create_pr=1" in urlsplit(self.path).query
        with self.hub.writing:
            answer = self._apply(repo, revision, lines, create_pr)
        if isinstance(answer, int):
            return self._error(answer, "")
        if fault and fault.kind == "lost":
            return self.reset()
        key = KINDS[kind] + name
        url = f"{self.hub.url}/{key}"
        pull = f"{url}/discussions/{answer[1]}" if create_pr else None
        return self._json(
            {
                "success": True,
                "commitOid": answer[0],
                "commitUrl": f"{url}/commit/{answer[0]}",
                "pullRequestUrl": pull,
            }
        )

    def _apply(
        self, repo: Any, revision: str, lines: list[dict[str, Any]], create_pr: bool
    ) -> tuple[str, int] | int:
        """Make the commit; an error status where that cannot be."""
        header, operations = lines[0]["value"], lines[1:]
        head = repo.resolve(revision)
        if "parentCommit" in header and header["parentCommit"] != head:
            return 412
        files = dict(repo.commits[head]) if head else {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    return 400
                files[value["path"]] = self.hub.uploads[value["oid"]]
            else:
                files.pop(value["path"], None)
        number = len(repo.pulls) + 1
        if create_pr:
            repo.pulls.append(PullRequest(number, self.who() or "", header["summary"]))
            revision = f"refs/pr/{number}"
        self.hub.made.append((revision, header["summary"]))
        sha = repo.commit(revision, files, parent=head or "")
        if create_pr and self.hub.merges:
            repo.merge(number)
        return sha, number

    # ---- reading what writing made -------------------------------------------------------

    def discussions(self, repo: Any, name: str, kind: str) -> Any:
        """The list of pull requests, as the query filters it."""
        asked = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        found = [
            {
                "title": p.title, "num": p.number, "author": {"name": p.author},
                "createdAt": DATE, "status": p.status, "isPullRequest": True,
                "repo": {"name": name, "type": kind.removesuffix("s")},
            }
            for p in repo.pulls
            if asked.get("status", p.status) == p.status
            and asked.get("author", p.author) == p.author
        ]  # fmt: skip
        return self._json({"count": len(found), "start": 0, "discussions": found})

    def commit_list(self, history: list[str]) -> Any:
        """The history of a revision."""
        return self._json(
            [{"id": s, "title": "", "message": "", "date": DATE, "authors": []} for s in history]
        )

    def whoami(self) -> Any:
        """The asking account."""
        name = self.who()
        return self._error(401, "") if name is None else self._json({"name": name, "type": "user"})
