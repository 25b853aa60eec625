"""One result of a comparison: a method with its options on one dataset and seed; its measurements, and its file.

The file is named after a digest of everything that the measurements depend on (options, seed, budget, model, content of
the images, version and sources of this package). A comparison that continues therefore takes the results that are its
own, and leaves those that were made in another way alone. A method that failed leaves its message and is tried again.

>>> result = store.find(key)  # doctest: +SKIP
>>> result.measurements.test  # doctest: +SKIP
0.91
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.reading import read_json
from sharpzo_mlx.runs.json_record import Amount, Count, JsonRecord, Number, Share, Text

FOLDER = "results"
FORMAT = 3


@dataclass(frozen=True)
class Curve(JsonRecord):
    """What a method reached over time; one entry in each column for each validation.

    Attributes:
        queries: evaluations of the training loss so far.
        backward_passes: gradients by backpropagation so far.
        seconds: time of the method so far.
        accuracy: validation accuracy of the candidate that was validated, 0..1.
        loss: its validation loss; None where it was not finite.
        best_accuracy: validation accuracy of the candidate that would be kept.
        best_loss: its validation loss.
        test: its accuracy on the test split, measured after the method had ended; None without a test split.
    """

    queries: tuple[Count, ...] = ()
    backward_passes: tuple[Count, ...] = ()
    seconds: tuple[Amount, ...] = ()
    accuracy: tuple[Share, ...] = ()
    loss: tuple[Number | None, ...] = ()
    best_accuracy: tuple[Share, ...] = ()
    best_loss: tuple[Number | None, ...] = ()
    test: tuple[Share | None, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all columns are of one length."""
        return len({len(column) for column in vars(self).values()}) == 1


@dataclass(frozen=True)
class Measurements(JsonRecord):
    """What a method reached on one dataset and seed, and its cost; accuracies are 0..1.

    Attributes:
        test: accuracy on the test split; None where there is none.
        val: validation accuracy of the candidate that was kept.
        val_loss: its validation loss; None where it was not finite.
        shift: accuracy on each shifted folder, by name.
        queries: evaluations of the training loss.
        image_passes: passes of single images through the image tower, beyond encoding each of them once.
        backward_passes: gradients by backpropagation.
        seconds: time of the method with its validations, without encoding and test.
        peak_memory_mb: largest memory of MLX's arrays without the features of the test images, MiB.
        curve: what it reached over time.
    """

    test: Share | None
    val: Share
    val_loss: Number | None
    shift: dict[Text, Share]
    queries: Count
    image_passes: Count
    backward_passes: Count
    seconds: Amount
    peak_memory_mb: Amount
    curve: Curve


@dataclass(frozen=True)
class MethodResult(JsonRecord):
    """The result of one method on one dataset and seed.

    Attributes:
        dataset: its name in tables.
        method: its name on the command line.
        variant: "tuned", "published", "trial-1" and so on.
        seed: the seed.
        measurements: None if the method failed.
        error: the message if it failed.
    """

    dataset: str
    method: str
    variant: str
    seed: int
    measurements: Measurements | None
    error: str | None


@dataclass(frozen=True)
class ResultSettings(JsonRecord):
    """Everything that measurements depend on beside method and seed.

    Attributes:
        options: the options of the method's variant.
        own_code: whether the variant has an implementation of its own.
        config: the configuration that all methods share.
        model: weights and image preparation of the checkpoint, as the feature cache names them.
        data: digest of the content and labels of all images.
        versions: software in use.
        sources: digest of this package's sources.
    """

    options: dict[str, Any]
    own_code: bool
    config: dict[str, Any]
    model: str
    data: str
    versions: dict[str, str]
    sources: str


@dataclass(frozen=True)
class ResultKey:
    """The identity of a result; dataset and variant are names only and no part of the digest."""

    dataset: str
    method: str
    variant: str
    seed: int
    settings: ResultSettings = field(repr=False)

    @property
    def digest(self) -> str:
        """The digest of method, seed and settings."""
        text = json.dumps([FORMAT, self.method, self.seed, self.settings.to_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def succeed(self, measurements: Measurements) -> MethodResult:
        """Return the result of a method that ended well."""
        return MethodResult(self.dataset, self.method, self.variant, self.seed, measurements, None)

    def fail(self, message: str) -> MethodResult:
        """Return the result of a method that failed."""
        return MethodResult(self.dataset, self.method, self.variant, self.seed, None, message)


class ResultStore:
    """The files of a comparison's results.

    Args:
        folder: the comparison's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def path(self, key: ResultKey) -> Path:
        """Return the file of a result."""
        return self.folder / f"{file_name(key.dataset)}-{key.method}-{key.seed}-{key.digest}.json"

    def find(self, key: ResultKey) -> MethodResult | None:
        """Return a result from its file; None where there is none, it failed, or its file is damaged."""
        try:
            found = MethodResult.from_json(read_json(self.path(key)))
        except (OSError, ValueError):
            return None
        if found.measurements is None or not found.measurements.curve.is_whole:
            return None
        return key.succeed(found.measurements)

    def save(self, key: ResultKey, result: MethodResult, *, dataset_path: Path, traceback: str | None = None) -> None:
        """Write a result.

        Args:
            key: its identity.
            result: the measurements or the error.
            dataset_path: folder of the dataset.
            traceback: of the error.
        """
        content: Mapping[str, Any] = {
            "format": FORMAT,
            **result.to_json(),
            "settings": key.settings.to_json(),
            "traceback": traceback,
            "path": str(dataset_path),
        }
        atomic_write(self.path(key), json.dumps(content, indent=1, allow_nan=False) + "\n")


@cache
def source_digest() -> str:
    """Return a digest of this package's sources: results of a method that has been changed since are made anew."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def holds_results(folder: Path) -> bool:
    """Whether a folder is a comparison's: it has a folder of results, which holds nothing else."""
    place = folder / FOLDER
    return place.is_dir() and all(entry.suffix == ".json" or entry.name.startswith(".") for entry in place.iterdir())


def file_name(dataset: str) -> str:
    """Return a dataset's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", dataset)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None if it is not finite."""
    return value if math.isfinite(value) else None
