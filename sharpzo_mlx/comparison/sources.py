"""The datasets of a comparison: where they lie, the split of each seed, and the images that results are measured on.

>>> source = DatasetSource("photos", Path("photos"), TuneConfig(query_budget=5000), shift={})  # doctest: +SKIP
>>> split, shifted = source.draw(seed=0)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sharpzo_mlx.comparison.methods.method import Predictor
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet, recognise
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.metrics import count_correct
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.files import expand, identify

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DatasetSource:
    """A dataset on disk, and the configuration that all methods share on it.

    Attributes:
        name: its name in tables.
        path: its folder.
        config: the configuration, with its template.
        shift: shifted folders with its classes, by name.
    """

    name: str
    path: Path
    config: TuneConfig
    shift: dict[str, Path]

    def draw(self, seed: int) -> tuple[dict[str, EvaluationSet], dict[str, list[EvaluationSet]]]:
        """Return the images of a seed by split, and those of the shifted folders by name; nothing is decoded."""
        split = draw_split(self.path, shots=self.config.shots, seed=seed)
        classes = np.arange(len(split.train.folders))
        drawn = {
            name: EvaluationSet(images, classes, classes, name)
            for name, images in zip(SPLITS, (split.train, split.val, split.test), strict=True)
            if images is not None
        }
        names, folders = split.train.class_names, split.train.folders
        return drawn, {name: recognise(folder, names, folders) for name, folder in self.shift.items()}


@dataclass(frozen=True)
class EvaluationImages:
    """Encoded images that results are measured on."""

    images: EvaluationSet
    features: Features

    def __len__(self) -> int:
        return len(self.features.paths)

    def count_correct(self, predictor: Predictor) -> int:
        """Return how many images the predictor gives their own class."""
        return count_correct(np.array(predictor.logits(self.features)), self.features.labels, self.images)


EvaluationParts: TypeAlias = Mapping[str, Sequence[EvaluationImages]]  # "test" and the shifted folders, by name


def compute_accuracy(parts: Sequence[EvaluationImages], predictor: Predictor) -> float:
    """Return the accuracy of a predictor over all images of some parts, 0..1."""
    return sum(part.count_correct(predictor) for part in parts) / sum(map(len, parts))


def digest_images(train: Features, val: Features, evaluation: EvaluationParts) -> str:
    """Return a digest of the content and labels of all images, of their classes, and of the names of the folders."""
    parts: list[Any] = [_content(train), _content(val), list(train.class_names), list(train.folders)]
    for name, own in evaluation.items():
        parts += [name, *([_content(one.features), one.images.candidates.tolist()] for one in own)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content(features: Features) -> list[Any]:
    return [features.content, features.labels.tolist()]


def name_folders(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Return folders by short names: their own, with as many parents' in front as tell them apart.

    Raises:
        UserError: two folders would have one name.
    """
    different: dict[object, Path] = {}
    for path in paths:
        different.setdefault(identify(expand(path)), expand(path).resolve())
    places = list(different.values())
    parts_shown = dict.fromkeys(places, 1)

    def name(place: Path) -> str:  # as many parts as are shown so far
        joined = "-".join(place.parts[1:][-parts_shown[place] :])
        return joined.encode("utf-8", "replace").decode()  # bytes that are no letter become a question mark

    while True:
        taken = [*map(name, places), *SPLITS]
        alike = [p for p in places if taken.count(name(p)) > 1 and parts_shown[p] < len(p.parts) - 1]
        if not alike:
            break
        parts_shown |= {place: parts_shown[place] + 1 for place in alike}
    named = {name(place): place for place in places}
    if lost := [place for place in places if place not in named.values()]:
        raise UserError(f"{lost[0]}: another folder would have the name {name(lost[0])} too; rename one")
    return named
