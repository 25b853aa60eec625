"""Let concurrent requests pass a model together: what waits becomes one batch, which one thread works on.

While the thread works, further items gather for the next batch; an idle one waits some milliseconds for company. An
item that nobody waits for any more is left out. If a batch fails, each of its items is tried by itself, so that only
the one that is at fault fails.

>>> await Batcher(label, size=32, gather_seconds=0.005).ask([picture])  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result | Exception]


class Batcher(Generic[Item, Result]):
    """Gathers items of several requests into batches; use it in one event loop.

    Args:
        work: returns one result for each item, in order; it is called in one thread that lives as long as the batcher.
        size: items of a batch at most.
        gather_seconds: the time that an idle thread waits for more items.
    """

    def __init__(self, work: Callable[[list[Item]], list[Result]], *, size: int, gather_seconds: float) -> None:
        self._work, self._size, self._seconds = work, size, gather_seconds
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._some, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sharpzo-mlx-model")
        self._task: asyncio.Task[None] | None = None

    async def ask(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Return the result of each item, or the error that it alone gave.

        If the call is cancelled, items that are not worked on yet are left out.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        loop = asyncio.get_running_loop()
        waiting = [_Waiting[Item, Result](item, loop.create_future()) for item in items]
        self._waiting.extend(waiting)
        self._some.set()
        if len(self._waiting) >= self._size:
            self._full.set()
        return list(await asyncio.gather(*(one.result for one in waiting)))

    async def close(self) -> None:
        """End the thread; requests that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for one in self._waiting:
            one.result.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            if len(self._waiting) < self._size:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._seconds)
            if batch := self._take():
                await self._pass(batch)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Return the first items that somebody waits for, at most one batch."""
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._size:
            one = self._waiting.popleft()
            if not one.result.done():
                batch.append(one)
        if not self._waiting:
            self._some.clear()
        if len(self._waiting) < self._size:
            self._full.clear()
        return batch

    async def _pass(self, batch: list[_Waiting[Item, Result]]) -> None:
        items = [one.item for one in batch]
        results = await asyncio.get_running_loop().run_in_executor(self._thread, self._try, items)
        for one, result in zip(batch, results, strict=True):
            if not one.result.done():
                one.result.set_result(result)

    def _try(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return [*self._work(items)]
        except Exception as error:
            return [error] if len(items) == 1 else [result for item in items for result in self._try([item])]
