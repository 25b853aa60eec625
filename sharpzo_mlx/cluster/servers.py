"""dask's scheduler and worker, reduced to what is used here: fewer messages are answered, and no HTTP is served.

dask answers messages that upload and import files, run functions, load plugins, or write files. These are taken out.
A worker must greet first: it shows its passport, and is given a ticket that its registration has to bear.

>>> scheduler = await LeaderScheduler(host="127.0.0.1", port=0)  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from distributed import Scheduler, Worker
from distributed.core import Status
from distributed.http.routing import RoutingApplication
from distributed.stealing import WorkStealing

from sharpzo_mlx.cluster import passport
from sharpzo_mlx.cluster.roll import Roll
from sharpzo_mlx.cluster.settings import SEND_SECONDS
from sharpzo_mlx.errors import notify, one_line

GREETING = "sharpzo_greet"
OF_SCHEDULER = frozenset(
    {
        *("identity", "register-client", "register-worker", "unregister", "gather", "terminate", "scatter"),
        *("heartbeat_worker", "who_has", "ncores", "get_metadata", "set_metadata", "subscribe_worker_status"),
        *("ping", "connection_stream", "retire_workers"),
    }
)
OF_WORKER = frozenset({"identity", "gather", "get_data", "free_keys", "terminate", "ping", "connection_stream"})


class LeaderScheduler(Scheduler):  # type: ignore[misc]
    """A scheduler that lives in the leader's process.

    Args:
        roll: takes down which workers come and go.
        options: of dask's scheduler.
    """

    def __init__(self, roll: Roll, **options: Any) -> None:
        self._roll = roll
        super().__init__(dashboard=False, extensions={"stealing": WorkStealing}, **options)
        self.handlers: dict[str, Any] = _only(OF_SCHEDULER, self.handlers)
        self.handlers[GREETING] = self.greet
        self._passport = passport.issue()
        self._tickets: set[str] = set()

    def start_http_server(self, routes: Any, *_: Any, **__: Any) -> None:
        """Start no server, which would listen without TLS; dask wants something to close at the end."""
        self.http_application = RoutingApplication([])

    async def greet(self, name: str, shown: Mapping[str, str]) -> dict[str, str]:
        """Compare a worker's passport; return its ticket, or why it is refused."""
        name = one_line(str(name))
        reason = passport.disagreement(self._passport, {str(key): str(value) for key, value in shown.items()})
        if reason:
            notify(f"worker {name} is refused: {one_line(reason, 300)} (`here` is the worker)")
            return {"refusal": reason}
        ticket = f"{name}-{secrets.token_hex(8)}"
        self._tickets.add(ticket)
        return {"ticket": ticket}

    async def add_worker(self, comm: Any, *, name: str, **options: Any) -> None:
        """Register a worker that has a ticket, once."""
        if name not in self._tickets:
            await comm.write({"status": "error", "message": "greet first", "time": 0.0})
            return
        self._tickets.discard(name)
        await super().add_worker(comm, name=name, **options)

    async def handle_worker(self, comm: Any, worker: str) -> None:
        """Note that a worker has come, and listen to it until it has gone.

        What is sent to it waits for less long than is usual in dask, because a search waits for it.
        """
        self.stream_comms[worker].interval = SEND_SECONDS
        self._roll.came(_name(self.workers[worker]), len(self.workers))
        await super().handle_worker(comm, worker)

    def handle_worker_status_change(self, status: Any, worker: Any, stimulus_id: str) -> None:
        """Note that a worker has no memory for further pieces."""
        super().handle_worker_status_change(status, worker, stimulus_id)
        state = self.workers.get(worker) if isinstance(worker, str) else worker
        if state is not None and state.status == Status.paused:
            self._roll.filled(_name(state), state.memory_limit)

    async def remove_worker(self, address: str, **options: Any) -> Any:
        """Note that a worker has gone."""
        state = self.workers.get(address)
        result = await super().remove_worker(address, **options)
        if state is not None and self.status == Status.running:
            self._roll.left(_name(state), len(self.workers))
        return result


class PieceWorker(Worker):  # type: ignore[misc]
    """A worker that does pieces of work and nothing else."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, dashboard=False, extensions={}, **options)
        self.handlers: dict[str, Any] = _only(OF_WORKER, self.handlers)

    def start_http_server(self, routes: Any, *_: Any, **__: Any) -> None:
        """Start no server, which would listen without TLS; dask wants something to close at the end."""
        self.http_application = RoutingApplication([])


def _name(state: Any) -> str:
    """Return a worker's own name, which its ticket begins with."""
    return str(state.name).rpartition("-")[0]


def _only(names: frozenset[str], handlers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: handle for name, handle in handlers.items() if name in names}


def be_quiet() -> None:
    """Keep dask's own lines from the user: what matters is said by the leader and the worker."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    for name in (*names, "distributed", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
