"""The shares of two classifiers: the lowest place of a plain function, and what few or useless images do."""

from __future__ import annotations

import numpy as np
import pytest

from sharpzo_mlx.heads.ensemble import Shares, choose_shares_by_accuracy, choose_shares_by_loss


def drawn(text: float, image: float, images: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that know the label that well, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, images)
    known = np.eye(4)[labels]
    return text * known + rng.normal(size=(images, 4)), image * known + 3 * rng.normal(size=(images, 4)), labels


def smoothed_loss(a: float, b: float, text: np.ndarray, image: np.ndarray, labels: np.ndarray) -> float:
    total, images = 0.0, len(labels)
    for one, other, label in zip(text, image, labels, strict=True):
        shares = np.exp(a * one + b * other)
        shares /= shares.sum()
        target = np.full(len(shares), 1 / (images + 1) / len(shares))
        target[label] += images / (images + 1)
        total -= target @ np.log(shares)
    return total / images


@pytest.mark.parametrize(("text", "image"), [(1.0, 4.0), (2.0, 2.0), (1.5, 0.3)])
def test_no_other_shares_have_a_lower_loss(text: float, image: float) -> None:
    case = drawn(text, image)
    shares = choose_shares_by_loss(*case)
    best = smoothed_loss(shares.text, shares.image, *case)
    for factor in (0.8, 0.99, 1.01, 1.25):
        assert best <= smoothed_loss(factor * shares.text, shares.image, *case) + 1e-9
        assert best <= smoothed_loss(shares.text, factor * shares.image, *case) + 1e-9
    assert best < smoothed_loss(0, 0, *case)


def test_either_may_get_nothing() -> None:
    text, image, labels = drawn(2.0, -3.0)  # the second one is worse than chance
    assert choose_shares_by_loss(text, image, labels).image == 0
    assert choose_shares_by_loss(text, image, labels).text > 0
    swapped = choose_shares_by_loss(image, text, labels)
    assert swapped.text == 0
    assert swapped.image == pytest.approx(choose_shares_by_loss(text, image, labels).text)
    assert choose_shares_by_loss(image, image, labels) == Shares(1.0, 0.0)  # nothing that helps: the words as they are
    silent = np.zeros_like(text)
    assert choose_shares_by_loss(silent, text, labels).text == 0
    assert choose_shares_by_loss(silent, silent, labels) == Shares(1.0, 0.0)


def test_images_that_are_all_right_leave_the_shares_finite() -> None:
    labels = np.arange(4)
    sure = np.eye(4)
    shares = choose_shares_by_loss(sure, sure[::-1], labels)
    assert shares.image == pytest.approx(0, abs=1e-9)
    # the probability of the label is that of the smoothed one: 4/5 and a fourth of 1/5
    probability = np.exp(shares.text) / (np.exp(shares.text) + 3)
    assert probability == pytest.approx(0.85, abs=1e-4)


def test_units_of_the_logits_are_taken_up_by_the_shares() -> None:
    text, image, labels = drawn(1.0, 3.0)
    plain, scaled = (
        choose_shares_by_loss(text, image, labels),
        choose_shares_by_loss(100 * text, image / 50 + 7, labels),
    )
    assert scaled.text == pytest.approx(plain.text / 100, rel=1e-3)
    assert scaled.image == pytest.approx(plain.image * 50, rel=1e-3)


def test_one_image_only() -> None:
    shares = choose_shares_by_loss(np.array([[3.0, 1.0]]), np.array([[0.0, 2.0]]), np.array([0]))
    assert shares.image == 0
    assert 0 < shares.text < 10


def test_by_accuracy_is_the_power_of_ten_that_gets_most_right() -> None:
    text, image, labels = drawn(1.0, 4.0)
    right = {p: np.mean((text + 10.0**p * image).argmax(axis=1) == labels) for p in range(-4, 5)}
    found = choose_shares_by_accuracy(text, image, labels)
    assert found.text == 1
    assert right[round(np.log10(found.image))] == max(right.values())
    assert choose_shares_by_accuracy(text, np.zeros_like(text), labels).image == 1e-4  # equals: the smallest
