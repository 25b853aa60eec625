"""Tell the leader's user, in a line each, which workers come, go, and have no memory for further pieces.

>>> roll = Roll(announce=True)
>>> roll.came("mac-b-41", 2)  # doctest: +SKIP
note: worker mac-b-41 has come: 2 workers
"""

from __future__ import annotations

from sharpzo_mlx.errors import notify
from sharpzo_mlx.report.formatting import amount
from sharpzo_mlx.runtime.helpers import count_words

MOST_LINES = 100  # of workers that come and go; then no more are written


class Roll:
    """What the user was told of workers.

    Args:
        announce: whether to say that one has come, which is no news of workers that are started here.
    """

    def __init__(self, *, announce: bool) -> None:
        self._announce = announce
        self._lines = 0
        self._full: set[str] = set()  # workers that were without memory

    def came(self, name: str, count: int) -> None:
        """Say that a worker has come, and how many there are now."""
        if self._announce:
            self._say(f"worker {name} has come: {count_words(count)}")

    def left(self, name: str, count: int) -> None:
        """Say that a worker has gone, and how many are left."""
        self._say(f"worker {name} has gone, its pieces go to others: {count_words(count)} left")

    def filled(self, name: str, limit: int) -> None:
        """Say once of a worker that it takes no further piece until it uses less than its limit of bytes."""
        if name not in self._full:
            self._full.add(name)
            self._say(
                f"worker {name} takes no further piece for now: it uses nearly all of the {amount(limit)} that it may; "
                "start it with a larger --memory-limit, or let fewer workers share its machine"
            )

    def _say(self, line: str) -> None:
        self._lines += 1
        if self._lines <= MOST_LINES:
            notify(line if self._lines < MOST_LINES else f"{line}; no more lines about workers follow")
