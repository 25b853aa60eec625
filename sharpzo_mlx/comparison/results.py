"""One cell of a comparison: a method with its options on one data set and seed; its figures, and its file.

A cell's file is named after a digest of all that its figures depend on (options, seed, budget, model, the images'
content, this software's version and sources), so that a comparison which goes on takes the cells that are its own and
leaves those made otherwise alone. A cell that failed keeps its message and is tried again.

    cells = CellFolder(folder)
    cell = cells.find(key) or computed
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sharpzo_mlx.files import atomic_write

FOLDER = "cells"
FORMAT = 2
CURVE = ("queries", "backward_passes", "seconds", "accuracy", "loss", "best_accuracy", "best_loss", "test")


@dataclass(frozen=True)
class Figures:
    """What a method reached on one data set and seed, and what it cost; accuracies are 0..1.

    Attributes:
        test: accuracy on the test split; None where there is none.
        val: accuracy on the validation images of what was kept.
        val_loss: and its loss; None where it was not finite.
        shift: accuracy on each further folder.
        queries: evaluations of the training loss.
        image_passes: passes of single images through the image tower, beyond encoding them once.
        backward_passes: gradients taken by backpropagation.
        seconds: of the method, validation included, encoding and test not.
        peak_memory_mb: MLX's arrays at most, in MiB, without the encoded test images.
        curve: columns as named in CURVE, a row a validation; `test` is the accuracy on the test split of what would be
            kept, measured when the method had ended.
    """

    test: float | None
    val: float
    val_loss: float | None
    shift: dict[str, float]
    queries: int
    image_passes: int
    backward_passes: int
    seconds: float
    peak_memory_mb: float
    curve: dict[str, list[float | None]]


@dataclass(frozen=True)
class Key:
    """What a cell is of.

    Attributes:
        dataset: its name in tables.
        method: its name on the command line.
        variant: "tuned", "published" or "trial-1" and so on; no part of the digest, for the options are.
        seed: of the split, of A and of all that is drawn.
        settings: all else that the figures depend on, as plain values.
    """

    dataset: str
    method: str
    variant: str
    seed: int
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        """Of the method, the seed and the settings."""
        text = json.dumps([FORMAT, self.method, self.seed, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Cell:
    """One finished cell, or one that failed: then `figures` is None and `error` its message."""

    dataset: str
    method: str
    variant: str
    seed: int
    figures: Figures | None
    error: str | None = None


class CellFolder:
    """The files of a comparison's cells.

    Args:
        folder: the comparison's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def path(self, key: Key) -> Path:
        """Where a cell lies."""
        dataset = re.sub(r"[^\w.-]+", "_", key.dataset)
        return self.folder / f"{dataset}-{key.method}-{key.seed}-{key.digest}.json"

    def find(self, key: Key) -> Cell | None:
        """The finished cell; None where there is none, it failed, or its file is damaged."""
        try:
            content = json.loads(self.path(key).read_text(encoding="utf-8"))
            return Cell(key.dataset, key.method, key.variant, key.seed, Figures(**content["figures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, key: Key, cell: Cell, *, traceback: str | None = None, **notes: Any) -> None:
        """Write a cell whole.

        Args:
            key: what it is of.
            cell: its figures or its error.
            traceback: of the error.
            notes: what else is worth knowing, as plain values.
        """
        content = {"format": FORMAT, **asdict(cell), "settings": dict(key.settings), "traceback": traceback, **notes}
        atomic_write(self.path(key), json.dumps(content, indent=1, allow_nan=False) + "\n")


@cache
def source_digest() -> str:
    """Of this package's sources: figures of a method that has been changed since are not taken for its own."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def holds_cells(folder: Path) -> bool:
    """Whether a folder is a comparison's: there are cells in it, and where they lie is nothing else."""
    place = folder / FOLDER
    return place.is_dir() and all(entry.suffix == ".json" or entry.name.startswith(".") for entry in place.iterdir())


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
