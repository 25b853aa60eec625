"""Measure heads on image features of a large CLIP that were stored by someone else; `heads.py --features` calls this.

A file has `train1_x` [N, D] and `train1_y` [N] and so on for 2, 4, 8 and 16 images a class, `val_x`, `val_y`, `test_x`,
`test_y`, and class features `text` [K, D] if the classes have names. Each seed draws four validation images a class.
Measured are GDA alone, GDA and words joined by shares chosen on the validation images, and the default head; and how
the guard takes the file's own test images and those of the other files.

>>> draw_rows(np.array([0, 0, 1, 1]), 1, seed=0).shape
(2,)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.closed_form import fit_discriminant
from sharpzo_mlx.heads.ensemble import choose_shares_by_loss, join_classifiers
from sharpzo_mlx.heads.fit import fit_head
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.rng import generator_for

SHOTS = (1, 2, 4, 8, 16)
LOGIT_SCALE = 100.0
VAL = 4  # validation images a class
CLASSIFIERS = {"gda": "GDA", "joined": "words + GDA, validation shares", "unguarded": "head, no guard", "head": "head"}


@dataclass(frozen=True)
class FeatureFile:
    """The features of one data set.

    Attributes:
        name: of the file.
        text: class features [K, D], or None.
        train: training images by the number of images a class.
        val: images to draw the validation images from.
        test: test images.
    """

    name: str
    text: mx.array | None
    train: Mapping[int, Features]
    val: Features
    test: Features

    @classmethod
    def read(cls, path: Path) -> FeatureFile:
        """Read a file.

        Raises:
            UserError: it is no such file.
        """
        try:
            with np.load(path) as arrays:
                classes = int(arrays["test_y"].max()) + 1
                parts = {name: _make_features(arrays, name, classes) for name in ("val", "test")}
                train = {n: _make_features(arrays, f"train{n}", classes) for n in SHOTS if f"train{n}_x" in arrays}
                text = mx.array(_normalise(arrays["text"])) if "text" in arrays else None
        except (OSError, KeyError, ValueError) as error:
            raise sz.UserError(f"{path}: no file of features ({error}); see benchmarks/head_features.py") from error
        return cls(path.stem, text, train, parts["val"], parts["test"])


@dataclass(frozen=True)
class FeatureMeasured:
    """The result of one draw; accuracies and shares are 0..1, None where words are needed and there are none.

    Attributes:
        file: the name of the file.
        shots: training images a class.
        seed: of the validation images.
        accuracies: by classifier, see CLASSIFIERS.
        opened: the share of own test images with the guard more than half open.
        lost: accuracy without the guard minus accuracy with it.
        auroc: the probability that a test image of another file lies farther from the classes than an own one, by file.
    """

    file: str
    shots: int
    seed: int
    accuracies: dict[str, float | None]
    opened: float
    lost: float | None
    auroc: dict[str, float]


def _normalise(rows: np.ndarray) -> np.ndarray:
    x = rows.astype(np.float32)
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def _make_features(arrays: Mapping[str, np.ndarray], name: str, classes: int) -> Features:
    names = tuple(map(str, range(classes)))
    labels = arrays[f"{name}_y"].astype(np.int32)
    paths = tuple(Path(f"{name}-{row}") for row in range(len(labels)))
    return Features(mx.array(_normalise(arrays[f"{name}_x"])), labels, names, names, paths)


def draw_rows(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return the positions of so many images of each class, or all of a class that has fewer."""
    order = generator_for(seed, "validation images").permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == k][:count] for k in np.unique(labels)]))


def measure_auroc(own: np.ndarray, foreign: np.ndarray) -> float:
    """Return the probability that a foreign value exceeds one of our own; equals count half."""
    ordered = np.sort(own)
    below = np.searchsorted(ordered, foreign, side="left") + np.searchsorted(ordered, foreign, side="right")
    return float(below.mean() / (2 * len(own)))


def measure_file(file: FeatureFile, others: Sequence[FeatureFile], shots: int, seed: int) -> FeatureMeasured:
    """Measure all classifiers of one draw."""
    train, val = file.train[shots], file.val.take(draw_rows(file.val.labels, VAL, seed=seed))
    classes, test = len(train.class_names), file.test
    x, images = np.array(test.embeddings), test.embeddings
    gda = fit_discriminant(np.array(train.embeddings), train.labels, classes)
    found = {"gda": gda.logits(x)}
    words = mx.zeros((classes, images.shape[1])) if file.text is None else file.text
    if file.text is not None:
        text = LOGIT_SCALE * np.array(file.text, np.float64)
        of_val = np.array(val.embeddings, np.float64)
        found["joined"] = join_classifiers(
            text, gda, choose_shares_by_loss(of_val @ text.T, gda.logits(of_val), val.labels)
        ).logits(x)
    head = fit_head(words, LOGIT_SCALE, train, val).head
    found["unguarded"] = np.array(images @ head.weight.T + head.bias)
    found["head"] = np.array(head.join(LOGIT_SCALE * (images @ words.T), images))
    accuracies = {name: float(mark_right(logits, test.labels).mean()) for name, logits in found.items()}
    own = np.array(head.guard.distances(images))
    far = {one.name: np.array(head.guard.distances(one.test.embeddings)) for one in others}
    return FeatureMeasured(
        file=file.name,
        shots=shots,
        seed=seed,
        accuracies={name: accuracies.get(name) for name in CLASSIFIERS},
        opened=float((np.array(head.opening(images)) > 0.5).mean()),
        lost=None if file.text is None else accuracies["unguarded"] - accuracies["head"],
        auroc={name: measure_auroc(own, distances) for name, distances in far.items()},
    )


def measure_files(
    paths: Sequence[Path], seeds: int, done: set[tuple[str, int, int]], shots: Sequence[int] = SHOTS
) -> Iterator[FeatureMeasured]:
    """Measure every file with every number of training images and seed that is not done."""
    files = [FeatureFile.read(path) for path in paths]
    for file in files:
        others = [one for one in files if one is not file]
        for count in sorted(file.train.keys() & set(shots)):
            for seed in range(seeds):
                if (file.name, count, seed) not in done:
                    yield measure_file(file, others, count, seed)


def format_tables(found: Sequence[FeatureMeasured]) -> str:
    """Return a table for each file: means over the seeds in per cent, by training images a class."""
    lines = []
    for name in dict.fromkeys(one.file for one in found):
        own = [one for one in found if one.file == name]
        others = list(own[0].auroc)
        columns = [*CLASSIFIERS.values(), "guard open", "lost by the guard", *(f"AUROC {other}" for other in others)]
        lines += ["", name, "", f"| images a class | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for shots in sorted({one.shots for one in own}):
            rows = [one for one in own if one.shots == shots]
            cells = [_percent([one.accuracies[key] for one in rows]) for key in CLASSIFIERS]
            cells += [_percent([one.opened for one in rows]), _percent([one.lost for one in rows])]
            cells += [_percent([one.auroc.get(other) for one in rows]) for other in others]
            lines.append(f"| {shots} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * np.mean(known):.1f}" if known else "-"
