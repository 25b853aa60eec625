"""The loss at the best temperature, against a fine grid, and which candidate is kept by it."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.objective.loss import Score, score_calibrated, score_logits
from sharpzo_mlx.tuning.selection import Selection, SelectionState


def drawn(images: int = 60, classes: int = 5, *, worth: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    return worth * np.eye(classes)[labels] + rng.normal(size=(images, classes)), labels


def smoothed_loss(logits: np.ndarray, labels: np.ndarray, inverse: float) -> float:
    """The mean cross-entropy at a temperature, of labels smoothed as if one more image had any class."""
    images, classes = logits.shape
    scaled = inverse * logits
    top = scaled.max(axis=1, keepdims=True)
    log_p = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
    target = np.full((images, classes), 1 / classes / (images + 1))
    target[np.arange(images), labels] += images / (images + 1)
    return float(-(target * log_p).sum(axis=1).mean())


def calibrated(logits: np.ndarray, labels: np.ndarray) -> Score:
    return score_calibrated(mx.array(logits.astype(np.float32)), mx.array(labels))


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("worth", [0.2, 1.0, 6.0])
def test_it_is_the_lowest_loss_of_all_temperatures(scale: float, worth: float) -> None:
    """Also of logits that are far too large or too small; a grid of a thousandth of a decade."""
    logits, labels = drawn(worth=worth)
    grid = min(smoothed_loss(logits, labels, inverse) for inverse in np.geomspace(1e-3, 1e2, 5001))
    found = calibrated(scale * logits, labels)
    assert found.loss == pytest.approx(min(grid, math.log(5)), abs=1e-5)
    assert found.images == 60


def test_the_accuracy_is_that_of_the_logits() -> None:
    logits, labels = drawn()
    plain = score_logits(mx.array(logits.astype(np.float32)), mx.array(labels))
    assert calibrated(logits, labels).accuracy == pytest.approx(plain.accuracy)
    assert calibrated(logits, labels).loss < plain.loss + 0.1


def test_the_scale_and_a_constant_of_each_image_change_nothing() -> None:
    logits, labels = drawn()
    moved = 7 * (logits + np.random.default_rng(1).normal(size=(60, 1)))
    assert calibrated(moved, labels).loss == pytest.approx(calibrated(logits, labels).loss, abs=1e-5)


@pytest.mark.parametrize("images", [1, 3, 200])
def test_where_all_are_right_it_stays_finite(images: int) -> None:
    logits, labels = drawn(images, worth=50.0)
    found = calibrated(logits, labels)
    assert found.accuracy == 1
    assert 0 < found.loss < math.log(5)
    least = math.inf
    for inverse in np.geomspace(1e-4, 10, 4001):
        least = min(least, smoothed_loss(logits, labels, inverse))
    assert found.loss == pytest.approx(least, abs=1e-4)


def test_chance_costs_no_more_than_the_logarithm_of_the_classes() -> None:
    labels = np.arange(40) % 4
    for logits in (np.zeros((40, 4)), -30 * np.eye(4)[labels], np.full((40, 4), 1e4)):
        assert calibrated(logits, labels).loss == pytest.approx(math.log(4), abs=1e-9)


def test_a_confident_classifier_does_not_lose_by_its_confidence() -> None:
    """Better by accuracy and far too sure, against a worse one that is modest."""
    good, labels = drawn(200, worth=2.0)
    poor, _ = drawn(200, worth=1.0)
    plain = [score_logits(mx.array(x.astype(np.float32)), mx.array(labels)).loss for x in (50 * good, poor)]
    assert plain[0] > plain[1]
    assert calibrated(50 * good, labels).loss < calibrated(poor, labels).loss


def test_below_the_first_candidate_nothing_is_kept() -> None:
    """Whatever its loss; the slack of a standard error is for those above it."""
    best = Selection(slack=1.0)
    assert best.consider(Score(0.5, 1.5, 100))
    assert not best.consider(Score(0.49, 0.1, 100))
    assert best.consider(Score(0.5, 1.4, 100))
    assert best.consider(Score(0.53, 1.3, 100))
    assert not best.consider(Score(0.495, 0.2, 100))  # within a standard error of the best, below the first
    assert best.consider(Score(0.51, 1.2, 100))
    assert best.best == Score(0.51, 1.2, 100)


def test_the_floor_survives_a_checkpoint() -> None:
    best = Selection(slack=1.0)
    best.consider(Score(0.5, 1.5, 100))
    best.consider(Score(0.52, 1.4, 100))
    again = Selection(slack=1.0)
    again.restore(SelectionState.from_json(best.state().to_json()))
    assert not again.consider(Score(0.49, 0.1, 100))
    assert again.consider(Score(0.5, 0.1, 100))
    assert SelectionState.from_json(Selection(1.0).state().to_json()) == SelectionState()


def test_a_loss_that_is_not_finite_is_kept_only_at_first() -> None:
    best = Selection(slack=0.0)
    assert best.consider(Score(0.5, math.nan, 10))
    assert not best.consider(Score(0.9, math.inf, 10))
    assert best.consider(Score(0.5, 2.0, 10))
