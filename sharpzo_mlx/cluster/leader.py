"""The leader of a cluster: hands pieces to workers, and takes each result once.

The scheduler lives in this process, in a thread of its own. If a worker is lost its pieces are given to another; if
nothing is left to give out, pieces that take much longer than others are given to an idle worker too, and the first
answer counts. If this process is lost, workers wait for the next leader at the same address: no results are theirs.

>>> with Leader(read_address("local:2")) as leader:  # doctest: +SKIP
...     results = dict(leader.perform("nap", [Nap(0.1, 0)], NO_MODEL))
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import os
import queue
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from sharpzo_mlx.cluster import records
from sharpzo_mlx.cluster.address import Address
from sharpzo_mlx.cluster.hub import Hub
from sharpzo_mlx.cluster.local_workers import LocalWorkers
from sharpzo_mlx.cluster.settings import THREAD
from sharpzo_mlx.cluster.work import Answer, Envelope, result_kind
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.runtime.helpers import Model, Shared

BEAT_SECONDS = 0.2  # between two looks at the workers
QUIET_SECONDS = 5.0  # without a worker before the user is told
STOP_SECONDS = 10.0
AHEAD = 2  # pieces for each worker that are given out at once


@dataclass(frozen=True)
class Written:
    """A shared record as bytes, and its SHA-256; both are empty where there is none."""

    key: bytes
    content: bytes


class Leader:
    """Helpers, see `sharpzo_mlx.runtime.helpers`, that are workers of a cluster; use it in a `with` block.

    Args:
        address: where the leader listens.

    Raises:
        UserError: the address cannot be listened on, or the certificate cannot be used.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=THREAD, daemon=True)
        self._local: LocalWorkers | None = None
        self._hub: Hub | None = None
        self._told = False
        self._written: WeakKeyDictionary[Shared, Written] = WeakKeyDictionary()
        self._looked = 0.0

    def __enter__(self) -> Leader:
        self._thread.start()
        try:
            if self.address.workers:
                self._local = LocalWorkers(self.address.workers)
                self.address = self._local.secure(self.address)
            self._hub = Hub(self.address)
            self._wait(self._hub.start())
            if self._local:
                self._local.start(self._hub.url)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hub is not None:
            with suppress(TimeoutError, concurrent.futures.TimeoutError):  # of a worker that hangs
                self._begin(self._hub.stop()).result(timeout=STOP_SECONDS)
        if self._local is not None:
            self._local.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    @property
    def url(self) -> str:
        """The address that workers connect to."""
        assert self._hub is not None, "the leader listens inside its block"
        return self._hub.url

    @property
    def pids(self) -> list[int]:
        """The ids of the processes of workers that it started here."""
        return self._local.pids if self._local is not None else []

    @property
    def count(self) -> int:
        """The number of workers at present, at least 1; with `local:N` those that are being started count."""
        assert self._hub is not None, "the leader listens inside its block"
        return max(1, self._hub.workers, self.address.workers)

    @property
    def present(self) -> int:
        """The number of workers that are there, perhaps none."""
        return self._hub.workers if self._hub is not None else 0

    def perform(
        self, work: str, pieces: Iterable[Any], model: Model, shared: Shared | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Have pieces done; see `sharpzo_mlx.runtime.helpers.Helpers`."""
        assert self._hub is not None, "the leader listens inside its block"
        kind, waiting = result_kind(work), enumerate(pieces)
        folder, common = os.fsencode(os.path.abspath(model.folder)), self._write_once(shared)
        ready: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
        out: dict[int, Any] = {}
        try:
            while True:
                while len(out) < AHEAD * self.count and (taken := next(waiting, None)) is not None:
                    number, piece = taken
                    envelope = Envelope(work, model.key, folder, records.write(piece), common.key)
                    out[number] = self._begin(self._report(number, envelope, common.content, ready))
                if not out:
                    return
                number, answer = self._next(ready)
                del out[number]
                yield number, _open(answer, kind)
        finally:
            for future in out.values():
                future.cancel()

    def _write_once(self, shared: Shared | None) -> Written:
        """Return a shared record as bytes."""
        if shared is None:
            return Written(b"", b"")
        if shared not in self._written:
            content = records.write(shared.record)
            self._written[shared] = Written(hashlib.sha256(content).digest(), content)
        return self._written[shared]

    async def _report(self, number: int, envelope: Envelope, content: bytes, ready: queue.SimpleQueue[Any]) -> None:
        assert self._hub is not None
        try:
            answer: Answer | BaseException = await self._hub.do(envelope, content)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            answer = error
        ready.put((number, answer))

    def _next(self, ready: queue.SimpleQueue[tuple[int, Answer | BaseException]]) -> tuple[int, Answer | BaseException]:
        """Return the next answer; meanwhile look after the workers."""
        began = time.monotonic()
        while True:
            if time.monotonic() - self._looked >= BEAT_SECONDS:  # also where answers come one after the other
                self._look(time.monotonic() - began)
                self._looked = time.monotonic()
            with suppress(queue.Empty):
                return ready.get(timeout=BEAT_SECONDS)

    def _look(self, waited: float) -> None:
        assert self._hub is not None
        if self._local is not None:
            self._local.look()
        elif not self._hub.workers and waited > QUIET_SECONDS and not self._told:
            self._told = True
            key = " --certificate FILE" if self.url.startswith("tls:") else ""
            notify(f"no worker yet; start one on each machine: sharpzo-mlx worker {self.url}{key}")

    def _begin(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._begin(work).result()


def _open(answer: Answer | BaseException, kind: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    if answer.error:
        raise UserError(f"worker {answer.worker}: {answer.error}")
    try:
        return records.read(answer.result, kind)
    except ValueError as error:
        reason = f"sent another result than was asked for ({error}); use one version everywhere"
        raise UserError(f"worker {answer.worker}: {reason}") from error
