"""Workers on this machine, as processes of their own: started with the leader, replaced when lost, gone with it.

They share the cores, and connect by TLS with a certificate that is made for this leader alone. A worker's standard
input is a pipe from the leader: when it closes, however the leader ended, the worker ends.

>>> workers = LocalWorkers(2)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from sharpzo_mlx.cluster.address import Address
from sharpzo_mlx.cluster.certificates import make_certificate
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.runtime.threads import SHARERS, shared_cores, sharers

PATIENCE = 5  # seconds that a worker has to end
USER_ERROR = 2
MOST_LOST = 100  # workers that are replaced


class LocalWorkers:
    """The processes of a number of workers.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._folder = tempfile.TemporaryDirectory(prefix="sharpzo-mlx-cluster-")
        self._certificate = Path(self._folder.name) / "cluster.pem"
        self._url = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lost = 0
        self._hinted = False

    def secure(self, address: Address) -> Address:
        """Return the address with a new certificate."""
        make_certificate(self._certificate)
        return replace(address, certificate=self._certificate)

    def start(self, url: str) -> None:
        """Start the workers of the leader at an address."""
        self._url = url
        self._processes = [self._start_one() for _ in range(self.count)]

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes]

    def look(self) -> None:
        """Replace the workers that were lost.

        Raises:
            UserError: a worker cannot work here, or too many were lost.
        """
        for number, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            if code == USER_ERROR:
                raise UserError(f"{self._url}: a worker of this machine cannot work; its reason stands above")
            self._lost += 1
            if self._lost > MOST_LOST:
                raise UserError(f"{self._lost} workers of this machine were lost; the last ended with code {code}")
            if code == -signal.SIGKILL and not self._hinted:
                self._hinted = True
                notify(f"a worker of this machine was killed; if memory was short, name fewer than local:{self.count}")
            _close(process)
            self._processes[number] = self._start_one()

    def stop(self) -> None:
        """End the workers."""
        for process in self._processes:
            _close(process)
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        self._folder.cleanup()

    def _start_one(self) -> subprocess.Popen[bytes]:
        threads = max(1, shared_cores() // self.count)
        command = [sys.executable, "-m", "sharpzo_mlx.cluster.local_worker", self._url, str(self._certificate)]
        # as many threads as the user allows at most
        allowed = os.environ.get("OPENBLAS_NUM_THREADS", "")
        threads = min(threads, int(allowed)) if allowed.isdigit() and int(allowed) else threads
        variables = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), SHARERS: str(self.count * sharers())}
        # in a session of its own: Ctrl-C is the leader's to hear
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=variables, start_new_session=True
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
