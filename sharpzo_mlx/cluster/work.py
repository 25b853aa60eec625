"""What a worker does: the registered works by name, and the one function through which the network reaches them.

A message holds the name of a work, the model it needs, and a record as bytes. The record is read by the type that the
work's own function declares; a name that is not in the table, or a record of another shape, is refused.

>>> sorted(WORKS)
['candidates', 'cell', 'encode', 'nap']
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.cluster import records
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import cache_name
from sharpzo_mlx.runtime.helpers import Model

WORKS = {  # name -> its function: (clip, piece) -> result, or (clip, piece, what was prepared) -> result
    "candidates": "sharpzo_mlx.objective.helping:compute_piece",
    "encode": "sharpzo_mlx.features.pieces:encode_piece",
    "cell": "sharpzo_mlx.comparison.cells:run_cell",
    "nap": "sharpzo_mlx.cluster.work:nap",
}
PREPARATIONS = {  # name -> what makes a record that its pieces share ready for them: (clip, record) -> anything
    "candidates": "sharpzo_mlx.objective.helping:prepare",
}
KEPT = 2  # shared records that a worker keeps ready
NO_MODEL = Model("", Path())  # for work that needs none
Ready: TypeAlias = tuple[str, str, bytes]  # a work, its model's key, and the digest of a shared record


@dataclass(frozen=True)
class Envelope:
    """A piece on its way to a worker.

    Attributes:
        work: a name in WORKS.
        model: the key of the model that it needs; empty for none.
        folder: where the leader has the model, as bytes.
        piece: the record, written.
        shared: the SHA-256 of the record that its pieces share; empty for none.
        content: that record, written, if it is sent along.
    """

    work: str
    model: str
    folder: bytes
    piece: bytes
    shared: bytes = b""
    content: bytes = b""


@dataclass(frozen=True)
class Answer:
    """A result on its way back; only one of the last four is not empty.

    Attributes:
        worker: the worker's name.
        seconds: what the piece took there.
        result: the record, written.
        refusal: why this worker does no piece of the kind.
        error: what failed.
        lacks: whether the record that the pieces share is not here yet.
    """

    worker: str
    seconds: float
    result: bytes = b""
    refusal: str = ""
    error: str = ""
    lacks: bool = False


@dataclass(frozen=True)
class Nap:
    """A pause of some seconds, in place of work in simulations, and the bytes of its result."""

    seconds: float
    size: int


def nap(clip: Clip | None, piece: Nap) -> bytes:
    """Sleep, and return as many bytes as asked."""
    time.sleep(piece.seconds)
    return bytes(piece.size)


class Models:
    """The models of a worker.

    Args:
        clips: those that it was started with.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = list(clips)
        self._lock = threading.Lock()

    def find(self, envelope: Envelope) -> Clip | None:
        """Return the model that a piece needs: one's own, or that in the leader's folder if it is seen from here."""
        with self._lock:
            known = next((clip for clip in self._clips if cache_name(clip) == envelope.model), None)
            return known or self._open(envelope)

    def _open(self, envelope: Envelope) -> Clip | None:
        try:
            clip = load(os.fsdecode(envelope.folder))
            if cache_name(clip) != envelope.model:
                return None
        except (UserError, OSError, ValueError):
            return None
        self._clips.append(clip)
        return clip

    def describe(self) -> str:
        """Return the folders of the models, for an error."""
        return ", ".join(str(clip.folder) for clip in self._clips) or "no model"


class Workplace:
    """What this process does as a worker.

    Attributes:
        name: the worker's name.
        models: its models.
        refused: the reason why it stops, once it had to refuse a piece.
    """

    def __init__(self, name: str, models: Models) -> None:
        self.name, self.models = name, models
        self.refused = ""
        self._prepared: dict[Ready, Any] = {}  # the last used last

    def forget(self) -> None:
        """Drop what was made ready for the pieces of a leader that has gone."""
        self._prepared.clear()

    def do(self, data: bytes) -> Answer:
        """Do a piece; what fails is part of the answer."""
        began = time.monotonic()
        try:
            envelope = records.read(data, Envelope)
            function = _find(envelope.work)
            clip = self.models.find(envelope) if envelope.model else None
            if envelope.model and clip is None:
                self.refused = _describe_absent(envelope, self.models)
                return Answer(self.name, 0.0, refusal=self.refused)
            if envelope.shared and not self._prepare(envelope, clip):
                return Answer(self.name, 0.0, lacks=True)
            piece = records.read(envelope.piece, get_type_hints(function)["piece"])
            prepared = [self._prepared[_name_ready(envelope)]] if envelope.shared else []
            result = records.write(function(clip, piece, *prepared))
        except UserError as error:
            return Answer(self.name, time.monotonic() - began, error=str(error))
        except Exception as error:  # whatever fails is the leader's to judge
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return Answer(self.name, time.monotonic() - began, error=f"{type(error).__name__} at {where}: {error}")
        return Answer(self.name, time.monotonic() - began, result=result)

    def _prepare(self, envelope: Envelope, clip: Clip | None) -> bool:
        """Have what the piece shares with others at hand; return False if it has to be sent first."""
        key = _name_ready(envelope)
        if key in self._prepared:
            self._prepared[key] = self._prepared.pop(key)
            return True
        if hashlib.sha256(envelope.content).digest() != envelope.shared:
            return False
        while len(self._prepared) >= KEPT:
            del self._prepared[next(iter(self._prepared))]
        function = _find(envelope.work, PREPARATIONS)
        kind = list(get_type_hints(function).values())[1]
        self._prepared[key] = function(clip, records.read(envelope.content, kind))
        return True


def _name_ready(envelope: Envelope) -> Ready:
    """Return what tells shared records apart once they are ready: the same record is another thing to another model."""
    return envelope.work, envelope.model, envelope.shared


def _find(work: str, table: Mapping[str, str] = WORKS) -> Callable[..., Any]:
    if work not in table:
        raise UserError(f"work {work!r}: this version knows {', '.join(table)}")
    module, name = table[work].split(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def result_kind(work: str) -> Any:
    """Return the type of a work's result."""
    return get_type_hints(_find(work))["return"]


def _describe_absent(envelope: Envelope, models: Models) -> str:
    wanted = os.fsdecode(envelope.folder)
    return (
        f"the leader's model {wanted} ({envelope.model[:8]}) is not here, or another version of it: this worker has "
        f"{models.describe()}; copy the model's folder and name it with --model"
    )


_workplace: list[Workplace] = []  # of this process, once it is a worker


def become(workplace: Workplace) -> None:
    """Make this process a worker."""
    _workplace[:] = [workplace]


def perform(data: bytes) -> bytes:
    """Do the piece in an Envelope, and return an Answer; the only function that a message can name."""
    if not _workplace:
        raise RuntimeError("this process is no worker of sharpzo-mlx")
    return records.write(_workplace[0].do(data))
