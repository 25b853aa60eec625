"""Hand pieces of work to other processes, if there are any: inside a block of `helped_by`, this thread has helpers.

Code with independent pieces asks for the `current` helpers and hands out its pieces, or does them itself where there
are none. A piece and its result are typed records of plain values and arrays; the work is named. `sharpzo_mlx.cluster`
has the helpers; the code that hands out work does not know of them.

>>> current() is None
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Model:
    """The model that a piece of work needs.

    Attributes:
        key: what tells models and their image preparation apart, as the feature cache names them.
        folder: where the leader has it.
    """

    key: str
    folder: Path


class Shared:
    """A record that all pieces of some work need beside their own; every helper gets it once.

    Args:
        record: of the kind that the work declares.
    """

    def __init__(self, record: Any) -> None:
        self.record = record


@dataclass(frozen=True)
class Origin:
    """What helpers rebuild an object from that this process holds."""

    model: Model
    shared: Shared


class Helpers(Protocol):
    """Processes that do pieces of work."""

    @property
    def count(self) -> int:
        """How many there are at present, at least 1."""

    @property
    def present(self) -> int:
        """How many are there to work now, perhaps none yet."""

    def perform(
        self, work: str, pieces: Iterable[Any], model: Model, shared: Shared | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Have pieces done.

        Args:
            work: the name of the work.
            pieces: records of the work's own kind; a few of them are taken ahead.
            model: the model that they need.
            shared: what they need beside it, or None.

        Yields:
            Each piece's position and result, once, as they become ready.

        Raises:
            UserError: a piece cannot be done by anyone.
        """


Opener = Callable[[str], AbstractContextManager[object]]
_openers: list[Opener] = []
_current: ContextVar[Helpers | None] = ContextVar("helpers", default=None)


def current() -> Helpers | None:
    """Return the helpers of this thread, or None."""
    return _current.get()


def count_helpers() -> int:
    """Return how many pieces can be done at once: the number of helpers, 1 without any."""
    helpers = current()
    return 1 if helpers is None else helpers.count


def describe_helpers() -> str:
    """Return in words how many helpers are there, behind a comma; empty where this thread has none.

    >>> describe_helpers()
    ''
    """
    helpers = current()
    if helpers is None:
        return ""
    return f", {count_words(helpers.present)}"


def count_words(count: int) -> str:
    """Return a number of workers in words.

    >>> count_words(0), count_words(2)
    ('no worker', '2 workers')
    """
    return f"{count or 'no'} worker{'' if count < 2 else 's'}"


@contextmanager
def helped_by(helpers: Helpers | None) -> Iterator[None]:
    """Let this thread hand out work inside a block."""
    token = _current.set(helpers)
    try:
        yield
    finally:
        _current.reset(token)


def open_by(opener: Opener) -> None:
    """Say what opens the cluster at an address, and lets it help this thread; the package itself does at its import."""
    _openers[:] = [opener]


@contextmanager
def helped_at(cluster: str | None) -> Iterator[None]:
    """Let the workers of a cluster help this thread inside a block; None leaves the thread as it is.

    Raises:
        UserError: the cluster cannot be opened.
    """
    if cluster is None:
        yield
        return
    with _openers[0](cluster):
        yield
