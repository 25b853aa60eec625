"""Take an answer from dask, or say in one line that the piece was given up because its workers were lost.

What fails inside a piece is part of its answer. So an error of dask means that no worker lived to answer.

>>> take(future)  # doctest: +SKIP
b'...'
"""

from __future__ import annotations

import asyncio
from typing import Any

from sharpzo_mlx.cluster.settings import SETTINGS
from sharpzo_mlx.errors import UserError, one_line

KILLED = "KilledWorker"  # dask's name of the error, which arrives as a pickle that is not read


def take(done: asyncio.Future[Any]) -> bytes:
    """Return the answer of a piece.

    Raises:
        UserError: every worker that had it was lost.
    """
    try:
        answer: bytes = done.result()
    except Exception as error:  # of dask
        if KILLED not in str(error):
            raise UserError(f"a piece of work was given up: {one_line(str(error), 200)}") from error
        times = int(SETTINGS["distributed.scheduler.allowed-failures"]) + 1
        raise UserError(
            f"a piece of work lost its worker {times} times; if memory was short, let fewer workers share a machine"
        ) from None
    return answer
