"""Close connections whose request does not arrive: uvicorn itself waits for headers without an end.

>>> uvicorn.Config(app, http=make_protocol(quiet_seconds=15))  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def make_protocol(quiet_seconds: float) -> type[H11Protocol]:
    """Return the protocol of a connection that is closed if the headers of a request take longer than so many seconds.

    The body's time is the application's to bound, see `Limits`.
    """

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_headers(self) -> None:
            """Begin to wait where none or a part of them is here, and stop where they are whole."""
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(quiet_seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
