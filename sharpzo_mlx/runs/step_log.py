"""The log of a run's steps: one record for each generation of stage 1 and each step of stage 2, a JSON line each.

Lines are appended while the search runs. A killed run that is continued cuts the log back to its checkpoint and
repeats what came after.

>>> [step.val_accuracy for step in read_steps(Path("runs/photo-m-0"))]  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.json_record import JsonRecord

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

    stage: int
    step: int
    of: int
    loss: float
    val_accuracy: float | None
    val_loss: float | None
    best_val: float
    queries: int
    val_queries: int
    sigma: float | None
    seconds: float
    peak_memory_mb: float

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
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        self.handle = (folder / STEPS).open("ab")
        self.size = min(size, self.handle.tell())
        self.handle.truncate(self.size)

    def append(self, step: StepRecord) -> None:
        """Add one step."""
        self.size += self.handle.write(json.dumps(step.to_json()).encode() + b"\n")

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        self.handle.flush()
        os.fsync(self.handle.fileno())

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self.handle.close()


def read_steps(folder: Path) -> list[StepRecord]:
    """Read the steps of a run so far; a last line that is half written is left out.

    Args:
        folder: the run's folder.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / STEPS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [_read_step(line, path, number) for number, line in enumerate(lines, 1)]


def _read_step(line: bytes, path: Path, number: int) -> StepRecord:
    try:
        return StepRecord.from_json(json.loads(line))
    except ValueError as error:
        raise UserError(f"{path}: line {number} is damaged; delete that line, or tune again") from error
