"""The leader's side of the network: the scheduler, and one piece from its submission to its answer.

Everything here runs in the leader's thread for the network.

>>> hub = Hub(read_address("127.0.0.1:8786"))  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import dask
from distributed import Client
from distributed.client import Future

from sharpzo_mlx.cluster import guard, records
from sharpzo_mlx.cluster.address import Address
from sharpzo_mlx.cluster.certificates import security_of
from sharpzo_mlx.cluster.lost_pieces import take
from sharpzo_mlx.cluster.roll import Roll
from sharpzo_mlx.cluster.servers import LeaderScheduler, be_quiet
from sharpzo_mlx.cluster.settings import SEND_SECONDS, SETTINGS, THREAD
from sharpzo_mlx.cluster.work import Answer, Envelope, perform
from sharpzo_mlx.errors import UserError, notify, one_line, why

SLOW = 4.0  # times the usual time of a piece, after which an idle worker gets it too
LEAST_SECONDS = 2.0  # that a piece may always take
KNOWN = 3  # answers from which on the usual time is known
LEAVING_SECONDS = 1.5  # that a worker takes to go
TRIES = 3  # of a piece that fails
LARGE = 32 << 20  # bytes of a shared record of which dask holds some copies for each worker that it goes to
LARGE_AT_ONCE = 2  # such records that are on their way at once


class Hub:
    """The scheduler of a cluster and its client.

    Args:
        address: where it listens.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.security = security_of(address)
        self._scheduler: LeaderScheduler | None = None
        self._client: Client | None = None
        self._seconds: list[float] = []  # of pieces
        self._settings = ExitStack()
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._refusals: set[str] = set()  # workers that were named to the user
        # by the address of a worker, which gets one shared record at a time
        self._supplies: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Listen.

        Raises:
            UserError: nothing can listen at the address.
        """
        be_quiet()
        guard.install((THREAD,))
        self._settings.enter_context(dask.config.set(SETTINGS))  # to the end: dask reads some with each message
        try:
            self._scheduler = await LeaderScheduler(
                Roll(announce=not self.address.workers),
                host=f"{self.address.scheme}://{self.address.host}",
                port=self.address.port,
                security=self.security,
            )
        except (OSError, RuntimeError) as error:
            cause = error.__cause__ or error
            reason = why(cause) if isinstance(cause, OSError) else str(cause)
            raise UserError(
                f"{self.address.url}: cannot be listened on ({reason}); name an address of this machine and a "
                "port that no other leader has"
            ) from error
        self._client = await Client(self.url, asynchronous=True, security=self.security, set_as_default=False)
        self._client.scheduler_comm.interval = SEND_SECONDS

    async def stop(self) -> None:
        """Let the workers go, and stop listening."""
        with self._settings:
            if self._client is not None:
                await self._client.close()
            if self._scheduler is not None:
                await self._scheduler.close()

    @property
    def url(self) -> str:
        """The address that workers connect to."""
        assert self._scheduler is not None, "start first"
        return str(self._scheduler.address)

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._scheduler.workers) if self._scheduler is not None else 0

    async def do(self, envelope: Envelope, content: bytes = b"") -> Answer:
        """Have one piece done, wherever it takes.

        Args:
            envelope: the piece, without its shared record.
            content: that record, written, for workers that lack it.

        Returns:
            The answer; one with an error if the piece failed on several workers.
        """
        failures = 0
        data = records.write(envelope)
        while True:
            answer, worker = await self._submit(data)
            if answer.lacks:
                answer = await self._supply(replace(envelope, content=content), data, worker)
            if answer.refusal:
                self._report_refusal(answer)
                await asyncio.sleep(LEAVING_SECONDS)
                if not self.workers:
                    raise UserError(f"no worker is left: {answer.worker} has left, because {answer.refusal}")
            elif answer.error and (failures := failures + 1) < TRIES:
                continue
            else:
                self._seconds = [*self._seconds[-99:], answer.seconds]
                return answer

    async def _supply(self, envelope: Envelope, data: bytes, worker: str) -> Answer:
        """Send a piece with its shared record to a worker that lacked it.

        While another piece takes the record there, this one waits, and then tries without. Each call ends with an
        answer of another kind than `lacks`: to lack what came along is an error.
        """
        lock = self._supplies.setdefault(worker, asyncio.Lock())
        there = {"workers": [worker]} if worker else {}
        waited = lock.locked()
        async with lock:
            if waited:
                answer, _ = await self._submit(data, **there)
                if not answer.lacks:
                    return answer
            async with self._large if len(envelope.content) > LARGE else nullcontext():
                answer, _ = await self._submit(records.write(envelope), **there)
        if answer.lacks:
            return replace(answer, lacks=False, error="did not take the record that was sent")
        return answer

    def _report_refusal(self, answer: Answer) -> None:
        if answer.worker not in self._refusals:
            self._refusals.add(answer.worker)
            notify(f"worker {answer.worker} leaves: {one_line(answer.refusal, 300)}")

    async def _submit(self, data: bytes, **options: Any) -> tuple[Answer, str]:
        """Give a piece to a worker, after a long time to an idle one too; return the first answer, and whose it is."""
        began = time.monotonic()
        futures = [self._give(data, **options)]
        waits = [asyncio.ensure_future(futures[0]._result())]
        try:
            while True:
                done, _ = await asyncio.wait(waits, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    first = done.pop()
                    return records.read(take(first), Answer), self._find_holder(futures[waits.index(first)])
                if len(futures) == 1 and (idle := self._find_idle(time.monotonic() - began)):
                    futures.append(self._give(data, workers=[idle]))
                    waits.append(asyncio.ensure_future(futures[1]._result()))
        finally:
            for wait in waits:
                wait.cancel()
            for future in futures:
                future.release()

    def _give(self, data: bytes, **options: Any) -> Future[bytes]:
        assert self._client is not None
        key = f"piece-{uuid.uuid4().hex}"
        return self._client.submit(perform, data, key=key, pure=False, allow_other_workers=bool(options), **options)

    def _find_holder(self, future: Future[bytes]) -> str:
        """Return the address of the worker that has a result; empty if it has gone."""
        assert self._scheduler is not None
        task = self._scheduler.tasks.get(future.key)
        return next((holder.address for holder in task.who_has or ()), "") if task is not None else ""

    def _find_idle(self, waited: float) -> str | None:
        """Return an idle worker if a piece has waited for very long."""
        assert self._scheduler is not None
        if len(self._seconds) < KNOWN or waited < max(LEAST_SECONDS, SLOW * statistics.median(self._seconds)):
            return None
        return next((worker.address for worker in self._scheduler.workers.values() if not worker.processing), None)
