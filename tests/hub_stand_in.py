"""A stand-in of the Hugging Face hub on the loopback: repositories are made, committed to and downloaded.

It keeps every byte of every request, and can fail at any step: `trouble` maps the beginning of a request, such as
"POST /api/models", to the status that it is answered with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_token_of_tests"


@dataclass
class Repository:
    """One repository: whether it is private, and its files after each commit."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class StandIn:
    """The hub's state, and what it was sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.received: list[bytes] = []  # lines and headers of requests, and their bodies
        self.trouble: dict[str, int] = {}
        self.sizes: dict[str, int] = {}  # that are claimed of files
        self.address = ""

    def find_trouble(self, request: str) -> int | None:
        return next((status for start, status in self.trouble.items() if request.startswith(start)), None)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the answer (bytes or JSON) of a request that is no download."""
        plain = path.split("?")[0]
        if status := self.find_trouble(f"{method} {plain}"):
            return status, {"error": "trouble"}
        if plain == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if plain == "/api/repos/create":
            return self._create(json.loads(body))
        if method == "PUT" and plain.startswith("/upload/"):
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        if found := re.fullmatch(r"/(.+?)\.git/info/lfs/objects/batch", plain):
            return 200, {"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree)/([^/]+))?", plain)
        if not found or found[1] not in self.repositories:
            return 404, "RepoNotFound"
        repository = self.repositories[found[1]]
        if found[2] == "preupload":
            return 200, {"files": [_choose_mode(file["path"]) for file in json.loads(body)["files"]]}
        if found[2] == "commit":
            return self._commit(found[1], repository, body)
        if found[2] == "tree":
            return 200, [
                {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
                for name, content in repository.files.items()
            ]
        siblings = [
            {"rfilename": name, "size": self.sizes.get(name, len(content)), "blobId": "b" * 40}
            for name, content in repository.files.items()
        ]
        info = {"_id": "1", "id": found[1], "modelId": found[1], "sha": repository.sha, "private": repository.private}
        return 200, info | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        owner = wanted.get("organization") or "ann"
        name = f"{owner}/{wanted['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo"}
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.repositories[name] = Repository(bool(private))
        return 200, {"url": f"{self.address}/{name}", "name": name, "id": "1"}

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        plain = {"oid": wanted["oid"], "size": wanted["size"]}
        return plain | {"actions": {"upload": {"href": f"{self.address}/upload/{wanted['oid']}"}}}

    def _commit(self, name: str, repository: Repository, body: bytes) -> tuple[int, Any]:
        files = dict(repository.files)
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        repository.commits.append(files)
        sha = repository.sha
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.address}/{name}/commit/{sha}"}

    def find_file(self, path: str) -> tuple[Repository, bytes] | None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path.split("?")[0])
        repository = self.repositories.get(found[1]) if found else None
        if found and repository and found[2] in repository.files:
            return repository, repository.files[found[2]]
        return None


def _choose_mode(name: str) -> dict[str, Any]:
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _make_handler(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve()

        do_HEAD = do_POST = do_PUT = do_GET

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._read_chunks()
            hub.requests.append(f"{self.command} {self.path}")
            hub.received += [f"{self.command} {self.path}\n{self.headers}".encode(), body]
            secret = self.headers.get("Authorization") != f"Bearer {TOKEN}"
            if (found := hub.find_file(self.path)) and not (found[0].private and secret):
                self._send_file(*found)
                return
            status, content = hub.answer(self.command, self.path, body)
            named = isinstance(content, str)
            headers = {"X-Error-Code": content} if named else {}
            self._send(status, json.dumps({"error": content} if named else content).encode(), headers)

        def _read_chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _send_file(self, repository: Repository, content: bytes) -> None:
            digest = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": repository.sha, "X-Linked-ETag": f'"{digest}"'}
            self._send(200, content, headers | {"X-Linked-Size": str(len(content))}, "application/octet-stream")

        def _send(self, status: int, body: bytes, headers: dict[str, str], kind: str = "application/json") -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


@contextmanager
def serve() -> Iterator[StandIn]:
    """Serve a hub on a free port of the loopback until the block ends."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
