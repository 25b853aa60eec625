"""Compare rules that choose the shares of words and head, on zero-shot words joined with GDA.

A rule uses the validation images, some rules also the training images, whose logits come from GDA fitted to the other
folds; the test images evaluate it. `heads.py` measures the rule that was chosen. Images are drawn as in accuracy.py.

    python benchmarks/head_shares.py --model m --testbed ../shared/testbed --work heads
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heads import SEEDS, SHOTS, make_text_classifiers, measure_classifier, pool_set

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np
import numpy.typing as npt

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.closed_form import Linear, fit_discriminant
from sharpzo_mlx.heads.ensemble import Shares, choose_shares_by_accuracy, choose_shares_by_loss
from sharpzo_mlx.tuning.problem import make_problem

Array = npt.NDArray[np.float64]
SETS = ("pacs/photo", "pacs/sketch", "tiny-superclasses")
TEXT = (0.0, 0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
IMAGE: tuple[float, ...] = (0.0, *(2.0 ** (power / 2) for power in range(-20, 10)))
FOLDS = 5
PRIOR = 0.7  # standard deviation of a share's logarithm


@dataclass(frozen=True)
class Case:
    """The logits of words and GDA on validation images, and on training images with GDA fitted to the other folds."""

    text: Array
    image: Array
    labels: np.ndarray
    text_train: Array
    image_train: Array
    labels_train: np.ndarray


def compute_loss(text: Array, image: Array, labels: np.ndarray, a: float, b: float) -> float:
    """Return the mean cross-entropy of the sum of logits with shares a and b."""
    logits = a * text + b * image
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own))


def choose_lowest(value: Callable[[float, float], float], choices: Sequence[tuple[float, float]]) -> Shares:
    """Return the shares with the lowest value."""
    a, b = min(choices, key=lambda pair: value(*pair))
    return Shares(float(a), float(b))


def make_validation_loss(c: Case) -> Callable[[float, float], float]:
    """Return the loss on validation images as a function of the shares."""
    return lambda a, b: compute_loss(c.text, c.image, c.labels, a, b)


def choose_temperature(c: Case) -> float:
    """Choose the factor of GDA's logits that gives the lowest loss on training images."""
    return min(IMAGE[1:], key=lambda b: compute_loss(c.text_train, c.image_train, c.labels_train, 0.0, b))


def sum_of_one(c: Case) -> Shares:
    """Choose shares with a + b = 1, where b is in units of the temperature."""
    if not len(c.labels_train):
        return choose_shares_by_loss(c.text, c.image, c.labels)
    unit = choose_temperature(c)
    return choose_lowest(make_validation_loss(c), [(1 - share, share * unit) for share in np.linspace(0, 1, 21)])


def with_prior(c: Case) -> Shares:
    """Choose shares with log-normal priors: a around 1, b around the temperature; a share of 0 costs two nats."""
    if not len(c.labels_train):
        return choose_shares_by_loss(c.text, c.image, c.labels)
    unit, count = choose_temperature(c), len(c.labels)

    def value(a: float, b: float) -> float:
        away = (np.log(a) ** 2 + np.log(b / unit) ** 2) / (2 * PRIOR**2) if a and b else 2.0
        return count * compute_loss(c.text, c.image, c.labels, a, b) + float(away)

    return choose_lowest(value, list(itertools.product(TEXT, IMAGE)))


def with_training(c: Case) -> Shares:
    """Choose both shares on validation and training images together."""
    parts = (c.text, c.text_train), (c.image, c.image_train), (c.labels, c.labels_train)
    return choose_shares_by_loss(*(np.concatenate(pair) for pair in parts))


RULES: dict[str, Callable[[Case], Shares]] = {
    "words alone": lambda c: Shares(1.0, 0.0),
    "GDA alone, temperature 1": lambda c: Shares(0.0, 1.0),
    "accuracy, a = 1 (the paper's)": lambda c: choose_shares_by_accuracy(c.text, c.image, c.labels),
    "loss, a = 1": lambda c: choose_lowest(make_validation_loss(c), [(1.0, b) for b in IMAGE]),
    "loss, a and b (the rule of `--head`)": lambda c: choose_shares_by_loss(c.text, c.image, c.labels),
    "loss, a + b = 1 in units of a cross-validated temperature": sum_of_one,
    "loss and a prior around the cross-validated temperature": with_prior,
    "loss, a and b, on validation and cross-validated training images": with_training,
}


def predict_by_other_folds(train: Features) -> tuple[np.ndarray, Array]:
    """Return rows of training images and their logits by GDA of the other folds; none with one image per class."""
    x, labels, classes = np.array(train.embeddings), train.labels, len(train.class_names)
    fold = np.zeros(len(labels), int)
    for k in range(classes):
        rows = np.flatnonzero(labels == k)
        fold[rows] = np.arange(len(rows)) % FOLDS
    if fold.max() == 0:
        return np.arange(0), np.zeros((0, classes))
    found = np.zeros((len(labels), classes))
    for part in range(fold.max() + 1):
        here = fold == part
        found[here] = fit_discriminant(x[~here], labels[~here], classes).logits(x[here])
    return np.arange(len(labels)), found


def measure(clip: sz.Clip, folder: Path, shots: int, seed: int) -> dict[str, tuple[float, float]]:
    """Measure accuracy and calibration error of every rule on one draw."""
    split = draw_split(folder, shots=shots, seed=seed)
    assert split.test is not None
    train, val, test = (encode(clip, part) for part in (split.train, split.val, split.test))
    config = sz.TuneConfig(shots=shots, seed=seed)
    prompt = make_problem(clip, train, val, config).prompt(mx.zeros(config.space.dimension))
    words = make_text_classifiers("words", prompt, train, val)["words"]
    fitted = fit_discriminant(np.array(train.embeddings), train.labels, len(train.class_names))
    rows, out_of_fold = predict_by_other_folds(train)
    case = Case(
        np.array(words(val), np.float64),
        fitted.logits(np.array(val.embeddings)),
        val.labels,
        np.array(words(train), np.float64)[rows],
        out_of_fold,
        train.labels[rows],
    )
    return {name: measure_classifier(_sum(words, fitted, rule(case)), test) for name, rule in RULES.items()}


def _sum(words: Callable[[Features], mx.array], fitted: Linear, shares: Shares) -> Callable[[Features], mx.array]:
    return lambda f: (
        shares.text * words(f) + mx.array((shares.image * fitted.logits(np.array(f.embeddings))).astype(np.float32))
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted model folder")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--work", type=Path, default=Path("heads"), help="folder for the images")
    given = parser.parse_args()
    clip = sz.load(given.model)
    folders = [pool_set(name, given.testbed, given.work) for name in SETS]
    draws = [[[measure(clip, f, shots, seed) for seed in range(SEEDS)] for shots in SHOTS] for f in folders]
    # [set, shots, seed, rule, (accuracy, calibration error)]
    found = np.array([[[list(one.values()) for one in seeds] for seeds in rows] for rows in draws])
    means = found.mean(axis=2)  # over seeds
    best = means[:, :, :2, 0].max(axis=2)  # the better part, known only from the test images
    print("| shares chosen by | test accuracy, % | against the best part | worst | calibration error, % |")
    print("|---|---|---|---|---|")
    for place, name in enumerate(RULES):
        gain = 100 * (means[:, :, place, 0] - best)
        accuracy, error = 100 * means[:, :, place].mean(axis=(0, 1))
        print(f"| {name} | {accuracy:.1f} | {gain.mean():+.1f} | {gain.min():+.1f} | {error:.1f} |")


if __name__ == "__main__":
    main()
