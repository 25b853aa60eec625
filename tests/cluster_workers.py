"""What tests of clusters share: workers and commands in processes of their own, and the comparison of two encodings."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.leader import Leader
from sharpzo_mlx.cluster.opening import open_cluster
from sharpzo_mlx.cluster.work import NO_MODEL, WORKS, Nap
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.runtime.helpers import Model, Shared, helped_by


@contextmanager
def two_workers() -> Iterator[Leader]:
    """Yield a leader with two workers of one thread each; tests let it help by `helped_by`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        with threadpool_limits(1), open_cluster("local:2") as found, helped_by(None):
            assert len(list(found.perform("nap", [Nap(0.1, 1)] * 4, NO_MODEL))) == 4
            yield found


class Here:
    """A helper in this process that remembers what it did."""

    count = present = 1

    def __init__(self) -> None:
        self.works: list[str] = []
        self.pieces: list[Any] = []
        self.addresses: list[str] = []

    def perform(
        self, work: str, pieces: Iterable[Any], model: Model, shared: Shared | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Do the pieces."""
        module, name = WORKS[work].split(":")
        clip = sz.load(model.folder)
        for number, piece in enumerate(pieces):
            self.works.append(work)
            self.pieces.append(piece)
            with helped_by(None):
                done = getattr(import_module(module), name)(clip, piece)
            yield number, done

    @contextmanager
    def open(self, address: str) -> Iterator[None]:
        """Do as `open_cluster`."""
        self.addresses.append(address)
        with helped_by(self):
            yield


def same(a: Features, b: Features) -> bool:
    """Whether two encodings are the same to the last bit."""
    equal = np.array_equal(np.array(a.embeddings), np.array(b.embeddings))
    return equal and (a.paths, a.skipped, a.content, a.digests) == (b.paths, b.skipped, b.content, b.digests)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def started(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is ended at last."""
    command = [sys.executable, "-c", "from sharpzo_mlx.cli.main import main; main()", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def line_of(process: subprocess.Popen[str], words: str) -> str:
    """The next line of a process that has some words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"the process ended without a line that has {words!r}")
