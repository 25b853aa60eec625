"""A worker: greets the leader, does pieces until the leader goes, and waits for the next one.

>>> serve(read_address("127.0.0.1:8786"), [clip], say=print)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dask
from distributed.comm.addressing import get_address_host
from distributed.core import rpc
from distributed.security import Security
from distributed.utils import get_ip

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.cluster import guard, hands, passport
from sharpzo_mlx.cluster.address import Address
from sharpzo_mlx.cluster.certificates import security_of
from sharpzo_mlx.cluster.hands import Hands
from sharpzo_mlx.cluster.servers import GREETING, PieceWorker, be_quiet
from sharpzo_mlx.cluster.settings import SETTINGS
from sharpzo_mlx.cluster.work import Models, Workplace, become
from sharpzo_mlx.cluster.worker_memory import MemoryWatch
from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.runtime.memory import physical

PAUSE_SECONDS = 1.0  # between two attempts to reach a leader
CONNECT_SECONDS = 5.0
INTERRUPTED = 130  # the exit code
THREAD = "MainThread"  # which reads the network


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works.

    Attributes:
        memory_limit: bytes of this process, above which it takes no further piece; None for the machine's memory.
        sharers: workers on this machine, among which its memory is divided.
        once: whether it ends with the first leader.
    """

    memory_limit: int | None = None
    sharers: int = 1
    once: bool = False


def serve(
    address: Address, clips: Sequence[Clip], settings: WorkerSettings | None = None, *, say: Callable[[str], None]
) -> None:
    """Do pieces for the leaders at an address, one after the other, until the process is interrupted.

    Args:
        address: where the leader listens.
        clips: the models of this worker; another one is opened where the leader has it, if it is seen from here.
        settings: how it works.
        say: takes a line for the user at every change.

    Raises:
        UserError: the leader refuses this worker, or this worker cannot do the leader's work.
    """
    be_quiet()
    security = security_of(address)
    workplace = Workplace(f"{one_line(platform.node(), 40)}-{os.getpid()}", Models(clips))
    become(workplace)
    guard.install((THREAD,))
    with dask.config.set(SETTINGS):
        try:
            asyncio.run(_serve(address, security, workplace, settings or WorkerSettings(), say))
        except KeyboardInterrupt:
            if hands.busy():
                print("error: interrupted", file=sys.stderr)
                hands.end(INTERRUPTED)
            raise
    if hands.busy():
        hands.end(0)


async def _serve(
    address: Address, security: Security, workplace: Workplace, settings: WorkerSettings, say: Callable[[str], None]
) -> None:
    told = False
    while True:
        ticket = await _greet(address, security, workplace.name)
        if ticket is not None:
            say(f"works for {address.url} as {workplace.name}")
            await _work(address, security, workplace, (ticket, settings, say))
            workplace.forget()
            if settings.once:
                return
            if hands.busy():
                say("begins anew: the leader has gone, and nobody waits for this piece")
                hands.begin_anew()
            told = False
        if not told:
            say(f"waits for a leader at {address.url}")
            told = True
        await asyncio.sleep(PAUSE_SECONDS)


async def _greet(address: Address, security: Security, name: str) -> str | None:
    """Return the ticket of the leader at an address; None if there is no leader.

    Raises:
        UserError: it refuses this worker.
    """
    connection = security.get_connection_args("worker")
    try:
        async with rpc(address.url, connection_args=connection, timeout=CONNECT_SECONDS) as leader:
            answer = await getattr(leader, GREETING)(name=name, shown=passport.issue())
    except OSError:
        return None
    if refusal := answer.get("refusal"):
        raise UserError(f"{address.url} refuses this worker: {one_line(str(refusal), 400)}")
    return str(answer["ticket"])


async def _work(
    address: Address,
    security: Security,
    workplace: Workplace,
    given: tuple[str, WorkerSettings, Callable[[str], None]],
) -> None:
    """Do pieces until the leader goes.

    Raises:
        UserError: a piece had to be refused.
    """
    ticket, settings, say = given
    try:
        worker = await PieceWorker(
            address.url,
            name=ticket,
            host=_find_host(address),
            nthreads=1,  # a piece uses all cores by itself
            executor=Hands(),  # closed with the worker
            memory_limit=settings.memory_limit or physical() // settings.sharers,
            security=security,
        )
    except (OSError, ValueError, RuntimeError) as error:
        say(f"could not join {address.url} ({one_line(str(error.__cause__ or error), 200)}); tries again")
        return
    memory = MemoryWatch(worker, lambda line: say(f"{workplace.name} {line}"))
    try:
        while worker.status.name not in ("closed", "closing", "failed") and not workplace.refused:
            await asyncio.sleep(0.2)
            workplace.refused = workplace.refused or memory.look()
        if workplace.refused:
            await asyncio.sleep(0.3)  # until the answer is out
    finally:
        await worker.close(timeout=5, executor_wait=False)
    if workplace.refused:
        raise UserError(workplace.refused)


def _find_host(address: Address) -> str:
    """Return the address of this machine that the leader reaches: the worker listens there and nowhere else."""
    if address.is_loopback:
        return f"{address.scheme}://127.0.0.1" if ":" not in address.host else f"{address.scheme}://{address.host}"
    return f"{address.scheme}://{get_ip(get_address_host(address.url), address.port)}"
