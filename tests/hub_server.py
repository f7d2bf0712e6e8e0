"""A Hub on the loopback interface: the HTTP interface that the real client speaks, with the faults that a Hub can have.

Repositories of both kinds, with branches, tags and commits; gated and private ones, tokens; files in git and files in
LFS, which are redirected to another origin (the CDN); Range. `faults` are answers in place of the next ones.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

GIT_LIMIT = 1000  # bytes; larger files are in LFS


def commit_of(files: dict[str, bytes]) -> str:
    """A commit's name, of the files that it holds."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Repository:
    """`commits` has the files of each commit, `refs` the commit of each branch and tag. `gated`: only accounts in
    `readers` may read files. `private`: nobody else sees that it is there."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    xet: bool = False  # large files are offered by the Hub's own transfer too, whose hosts do not answer
    private: bool = False
    readers: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)  # of files that the Hub says another SHA-256 of

    def commit(self, revision: str) -> str | None:
        return {
            **dict.fromkeys(self.commits),
            **{name: name for name in self.commits},
            **self.tags,
            **self.branches,
        }.get(revision)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit, which the branch is at from now on. Returns its name."""
        commit = commit_of(files)
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@dataclass
class Fault:
    """An answer in place of the right one, for the next `times` requests whose method and path match. `cut`: the answer
    ends after so many bytes of its body. `reset`: the connection is reset at that place."""

    pattern: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1
    cut: int | None = None
    reset: bool = False


class Gate:
    """Holds back an answer: `reached` is set when it is asked for, and it is given when `open` is."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.reached, self.open = pattern, threading.Event(), threading.Event()


class Hub:
    """Serves `repositories` ((kind, name) -> repository) at `url`, and their LFS files at `cdn`. `tokens` has the
    account of each token. `asked` has each request: "GET /path", with the Range where it has one."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.gates: list[Gate] = []
        self.asked: deque[str] = deque()
        self.sent_to_cdn: list[str] = []  # the Authorization headers that the CDN saw
        self.lock = threading.Lock()
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self, cdn)) for cdn in (False, True)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", **options: Any) -> Repository:
        """Offer a repository with one commit on `main`."""
        made = self.repositories[kind, name] = Repository(**options)
        made.push(files)
        return made

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def hold(self, pattern: str) -> Gate:
        """Hold back the answers to requests that match."""
        self.gates.append(Gate(pattern))
        return self.gates[-1]

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


def handler_of(hub: Hub, cdn: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            request = f"{self.command} {path}"
            hub.asked.append(request + (f" {self.headers['Range']}" if self.headers["Range"] else ""))
            for gate in hub.gates:
                if re.search(gate.pattern, request):
                    gate.reached.set()
                    gate.open.wait(60)
            fault = hub.fault_for(request)
            if fault is not None and fault.status:
                return self.answer(fault.status, fault.body, fault.headers)
            (self.serve_content if cdn else self.serve)(path, fault)
            return None

        do_HEAD = do_GET

        def serve(self, path: str, fault: Fault | None) -> None:
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/(.+))?)?", path):
                kind, name, what, revision = match.groups()
                if repository := self.readable(kind, name):
                    self.serve_api(repository, name, what or "revision", revision or "main")
                return
            if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                kind, name, revision, file = match.groups()
                if repository := self.readable("datasets" if kind else "models", name):
                    self.serve_file(repository, name, revision, file, fault)
                return
            self.refuse(404, "", "Not found")

        def readable(self, kind: str, name: str) -> Repository | None:
            """The repository, or None after the answer that it cannot be seen."""
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            self.account = hub.tokens.get(token, "")
            repository = hub.repositories.get((kind, name))
            if token and not self.account:
                self.refuse(401, "", "Invalid credentials in Authorization header")
            elif repository is None or (repository.private and self.account not in repository.readers):
                # Without a token the Hub does not say whether a repository exists.
                self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            else:
                return repository
            return None

        def serve_api(self, repository: Repository, name: str, what: str, revision: str) -> None:
            if what == "refs":
                refs = {
                    kind: [
                        {"name": ref, "ref": f"refs/x/{ref}", "targetCommit": commit} for ref, commit in refs.items()
                    ]
                    for kind, refs in (("branches", repository.branches), ("tags", repository.tags))
                }
                self.answer_json({**refs, "converts": []})
            elif (commit := repository.commit(revision)) is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            elif what == "revision":
                siblings = [{"rfilename": file} for file in repository.commits[commit]]
                self.answer_json({"id": name, "sha": commit, "siblings": siblings, "gated": repository.gated})
            else:
                self.answer_json([self.listed(repository, *item) for item in repository.commits[commit].items()])

        def listed(self, repository: Repository, file: str, body: bytes) -> dict[str, Any]:
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(body), "oid": git_id(body)}
            if len(body) > GIT_LIMIT:
                digest = hashlib.sha256(body).hexdigest()
                entry |= {"xetHash": digest} if repository.xet else {}
                entry["lfs"] = {"oid": digest, "size": len(body), "pointerSize": 134}
            return entry

        def serve_file(self, repository: Repository, name: str, revision: str, file: str, fault: Fault | None) -> None:
            commit = repository.commit(revision)
            if commit is None:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if repository.gated and self.account not in repository.readers:
                said = f"Access to model {name} is restricted"
                return self.refuse(403 if self.account else 401, "GatedRepo", said)
            body = repository.commits[commit].get(file)
            if body is None:
                return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(body)}"', "Accept-Ranges": "bytes"}
            if len(body) > GIT_LIMIT:
                digest = hashlib.sha256(body).hexdigest()
                place = f"{hub.cdn}/{digest}?Signature=secret"
                etag = repository.digests.get(file, digest)
                if repository.xet:
                    headers |= {"X-Xet-Hash": digest, "Link": f'<{hub.url}/api/xet>; rel="xet-auth"'}
                linked = {"X-Linked-Size": str(len(body)), "X-Linked-Etag": f'"{etag}"', "Location": place}
                return self.answer(302, b"", {**headers, **linked})
            return self.content(body, headers, fault)

        def serve_content(self, path: str, fault: Fault | None) -> None:
            hub.sent_to_cdn += [self.headers["Authorization"]] if self.headers["Authorization"] else []
            for repository in hub.repositories.values():
                for files in repository.commits.values():
                    for body in files.values():
                        if path == f"/{hashlib.sha256(body).hexdigest()}":
                            return self.content(body, {"ETag": '"of-the-storage"'}, fault)
            return self.refuse(404, "", "Not found")

        def content(self, body: bytes, headers: dict[str, str], fault: Fault | None) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            start = int(wanted[1]) if wanted else 0
            if wanted:
                headers = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            self.answer(206 if wanted else 200, body[start:], headers, fault)

        def refuse(self, status: int, code: str, said: str, headers: dict[str, str] | None = None) -> None:
            named = {"X-Error-Code": code} if code else {}
            body = json.dumps({"error": said}).encode()
            self.answer(
                status, body, {**named, "X-Error-Message": said, "Content-Type": "application/json", **(headers or {})}
            )

        def answer_json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "GET":
                return
            if fault is None or fault.cut is None:
                self.wfile.write(body)
                return
            self.wfile.write(body[: fault.cut])
            self.wfile.flush()
            self.close_connection = True
            if fault.reset:
                import socket
                import struct

                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def git_id(body: bytes) -> str:
    """The name that git gives a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
