"""One cell of a comparison for another process: a method, a seed, and the features of all images as plain arrays.

A helper runs the method as this process would, and sends the measurements back. A method that reads images again runs
only where all of them are seen with the same content.

>>> cell = Cell.of(variant, task, evaluation)  # doctest: +SKIP
>>> run_cell(clip, cell).measurements.test  # doctest: +SKIP
0.91
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.measuring import measure_method
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.method import Task
from sharpzo_mlx.comparison.results import Measurements
from sharpzo_mlx.comparison.sources import EvaluationImages, EvaluationParts
from sharpzo_mlx.comparison.variants import VARIANTS, MethodVariant, choose_variants
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, finish
from sharpzo_mlx.features.pieces import holds
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.runtime.limits import bounded_cache

WORK = "cell"


@dataclass(frozen=True)
class CellImages:
    """`Features` as plain values; paths are bytes, as the leader's system names files."""

    embeddings: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    folders: list[str]
    paths: list[bytes]
    digests: list[bytes]
    content: str

    @classmethod
    def of(cls, features: Features) -> CellImages:
        """Return features as plain values."""
        return cls(
            np.array(features.embeddings),
            features.labels,
            list(features.class_names),
            list(features.folders),
            [os.fsencode(os.path.abspath(path)) for path in features.paths],
            list(features.digests),
            features.content,
        )

    def features(self) -> Features:
        """Return the features."""
        return Features(
            embeddings=mx.array(self.embeddings),
            labels=self.labels,
            class_names=tuple(self.class_names),
            folders=tuple(self.folders),
            paths=tuple(Path(os.fsdecode(path)) for path in self.paths),
            content=self.content,
            digests=tuple(self.digests),
        )


@dataclass(frozen=True)
class CellPart:
    """`EvaluationImages` as plain values."""

    images: CellImages
    owner: np.ndarray
    candidates: np.ndarray
    kind: str

    @classmethod
    def of(cls, part: EvaluationImages) -> CellPart:
        """Return a set of images as plain values."""
        own = part.images
        return cls(CellImages.of(part.features), own.owner, own.candidates, own.kind)

    def part(self) -> EvaluationImages:
        """Return the set of images."""
        features = self.images.features()
        files = ImageSet(features.paths, tuple(features.labels.tolist()), features.class_names, features.folders)
        return EvaluationImages(EvaluationSet(files, self.owner, self.candidates, self.kind), features)


@dataclass(frozen=True)
class Cell:
    """What a helper needs for one result.

    Attributes:
        method: name of the method.
        variant: which of its options.
        config: the shared configuration with the seed, as `TuneConfig.to_json` gives it.
        train: the training images.
        val: the validation images.
        evaluation: the images that the result is measured on, by name.
    """

    method: str
    variant: str
    config: dict[str, Any]
    train: CellImages
    val: CellImages
    evaluation: dict[str, list[CellPart]]

    @classmethod
    def of(cls, variant: MethodVariant, task: Task, evaluation: EvaluationParts) -> Cell:
        """Return a method's task as plain values."""
        parts = {name: [CellPart.of(part) for part in own] for name, own in evaluation.items()}
        train, val = CellImages.of(task.train), CellImages.of(task.val)
        return cls(variant.method.name, variant.variant, task.config.to_json(), train, val, parts)


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
        measurements: None if the method failed or was not run.
        error: the message if it failed.
        trace: where it failed.
        unseen: whether it was not run because it reads images that are not here.
    """

    measurements: Measurements | None
    error: str = ""
    trace: str = ""
    unseen: bool = False


def run_cell(clip: Clip, piece: Cell) -> CellResult:
    """Run a method; this is what a helper does."""
    variant = _find_variant(piece)
    images = [piece.train, piece.val, *(part.images for own in piece.evaluation.values() for part in own)]
    if variant.method.reads_images and not all(map(_sees, images)):
        return CellResult(None, unseen=True)
    config = TuneConfig.from_json(piece.config)
    evaluation = {name: [part.part() for part in own] for name, own in piece.evaluation.items()}
    task = Task(clip, piece.train.features(), piece.val.features(), config, cast(int, config.query_budget))
    try:
        return CellResult(_measure(variant, task, evaluation))
    except Exception as error:  # a method's failure is part of its result
        return CellResult(None, describe_failure(error), traceback.format_exc())
    finally:
        clip.release_text()
        clip.release_vision()


def describe_failure(error: Exception) -> str:
    """Return an error of a method in one line."""
    return " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())


def _measure(variant: MethodVariant, task: Task, evaluation: Mapping[str, list[EvaluationImages]]) -> Measurements:
    held = sum(one.features.embeddings.nbytes for own in evaluation.values() for one in own)
    with bounded_cache(allowed_memory(task.config.memory_budget)):
        return finish(measure_method(variant, task, evaluation, features_bytes=held))


def _find_variant(piece: Cell) -> MethodVariant:
    if piece.method in registry.names():
        for variant in choose_variants(piece.method, VARIANTS):
            if (variant.method.name, variant.variant) == (piece.method, piece.variant):
                return variant
    raise UserError(f"method {piece.method!r} ({piece.variant}) is not known here")


def _sees(images: CellImages) -> bool:
    if len(images.digests) != len(images.paths):
        return False
    return all(holds(Path(os.fsdecode(path)), one) for path, one in zip(images.paths, images.digests, strict=True))
