"""The log of a run's steps: one record for each generation of stage 1 and each step of stage 2, a JSON line each.

Lines are appended while the search runs. A killed run that is continued cuts the log back to its checkpoint and
repeats what came after.

>>> [step.val_accuracy for step in read_steps(Path("runs/photo-m-0"))]  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import naming
from sharpzo_mlx.reading import parse_json, read_text, reason
from sharpzo_mlx.runs.json_record import Amount, Count, JsonRecord, Number, Share

STEPS = "steps.jsonl"


@dataclass(frozen=True)
class StepRecord(JsonRecord):
    """One generation of stage 1 or one step of stage 2.

    Attributes:
        stage: 1 or 2.
        step: number within its stage, from 1.
        of: the most steps that the stage can have.
        loss: of stage 1 the lowest of the generation, at the shifted points; of stage 2 the mean over the probes, or
            the loss before the step. Infinite where it was not finite.
        val_accuracy: validation accuracy at this step, 0..1; None where it was not validated.
        val_loss: validation loss; None likewise.
        best_val: validation accuracy of the candidate that is kept so far.
        queries: evaluations of the training loss so far.
        val_queries: validations so far.
        sigma: step size of CMA-ES; None in stage 2.
        seconds: time of the search so far.
        peak_memory_mb: largest memory of MLX's arrays so far, MiB.
    """

    stage: Literal[1, 2]
    step: Count
    of: Count
    loss: float
    val_accuracy: Share | None
    val_loss: Number | None
    best_val: Share
    queries: Count
    val_queries: Count
    sigma: Amount | None
    seconds: Amount
    peak_memory_mb: Amount

    @classmethod
    def from_json(cls, content: object, name: str = "") -> StepRecord:
        """Make the record from plain values; a loss that is null was not finite, and becomes infinite."""
        if isinstance(content, dict) and "loss" in content and content["loss"] is None:
            content = {**content, "loss": math.inf}
        return super().from_json(content, name)


class StepLog:
    """The open log of a run.

    Args:
        folder: the run's folder.
        size: bytes to keep from before; the checkpoint remembers this number.

    Raises:
        UserError: the log is not a file of the run alone, but a link, a pipe or a device.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        self.path = folder / STEPS
        self.handle = _open_own(self.path)
        self.size = min(size, os.fstat(self.handle.fileno()).st_size)
        self.handle.truncate(self.size)

    def append(self, step: StepRecord) -> None:
        """Add one step; OSError names the file, here and below."""
        with naming(self.path):
            self.size += self.handle.write(json.dumps(step.to_json()).encode() + b"\n")

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        with naming(self.path):
            self.handle.flush()
            os.fsync(self.handle.fileno())

    def close(self) -> None:
        """Write what is buffered and close the file."""
        with naming(self.path):
            self.handle.close()


def _open_own(path: Path) -> BinaryIO:
    """Open the log for appending; unlike all other files it is not replaced, so what is there must be the run's own."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link (two spellings), a pipe
            raise
        raise UserError(f"{path}: a link or a pipe, not a file of this run; delete it") from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise UserError(f"{path}: also a file of another place, or no file; delete it here")
    return os.fdopen(handle, "ab")


def read_steps(folder: Path) -> list[StepRecord]:
    """Read the steps of a run so far; a last line that is half written is left out.

    Args:
        folder: the run's folder.

    Raises:
        UserError: the file cannot be read, or a line is damaged; the message names the line and the field.
    """
    path = folder / STEPS
    try:
        lines = read_text(path).split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); tune again") from error
    return [_read_step(line, path, number) for number, line in enumerate(lines, 1)]


def _read_step(line: str, path: Path, number: int) -> StepRecord:
    try:
        return StepRecord.from_json(parse_json(line))
    except ValueError as error:
        raise UserError(f"{path}: line {number} is damaged ({error}); delete that line, or tune again") from error
