"""Run a folder with a page in Chromium without a network, and hear from it over the loopback."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 240


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Hands out files, and keeps what a page posts to /result."""

    def __init__(self, *args: Any, heard: Queue[Any], **details: Any) -> None:
        self.heard = heard
        super().__init__(*args, **details)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.heard.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Queue[Any]]]:
    """Serve a folder on the loopback; yield its address and what pages post."""
    heard: Queue[Any] = Queue()
    handler = functools.partial(_Handler, directory=str(folder), heard=heard)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()


def open_page(folder: Path, name: str) -> Any:
    """Open a page of a folder in Chromium, which finds no other host, and return what it posts to /result."""
    assert CHROMIUM is not None
    with serve(folder) as (address, heard), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={home}"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"{address}/{name}"]
        silent = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=silent, stderr=silent, env=os.environ | {"HOME": home}) as process:
            try:
                return heard.get(timeout=SECONDS)
            finally:
                process.terminate()
