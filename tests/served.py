"""A real server for tests: in a thread of this process, on a free port, with requests through http.client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

import sharpzo_mlx as sz
from sharpzo_mlx.serving import app
from sharpzo_mlx.serving.connections import make_protocol
from sharpzo_mlx.serving.limits import Limits

BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that listens on the loopback."""

    port: int

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request on a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def predict(
        self, files: Sequence[tuple[str, bytes]], query: str = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send files in one form."""
        return self.ask("POST", f"/predict{query}", form(files), form_headers() | dict(headers or {}))


def form_headers() -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(files: Sequence[tuple[str | bytes, bytes]]) -> bytes:
    """Return the body of a form with files, whose names go in as they are."""
    parts = []
    for name, content in files:
        raw = name if isinstance(name, bytes) else name.encode()
        head = b'Content-Disposition: form-data; name="image"; filename="' + raw + b'"\r\nContent-Type: image/png'
        parts.append(f"--{BOUNDARY}\r\n".encode() + head + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def serving(run: Path | sz.Run, *, limits: Limits | None = None, **settings: Any) -> Iterator[Served]:
    """Serve a run in a thread until the block ends."""
    limits = limits or Limits()
    config = uvicorn.Config(
        app(run, limits=limits, **settings),
        port=0,
        http=make_protocol(limits.quiet_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Served(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def as_numbers(labels: object) -> dict[str, float]:
    """Return the probabilities of a record's labels."""
    assert isinstance(labels, list)
    return {one["label"]: one["probability"] for one in labels}
