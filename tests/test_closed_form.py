"""Closed forms against formulas written out in NumPy, one image at a time where that can be."""

from __future__ import annotations

import numpy as np
import pytest

from sharpzo_mlx.heads.closed_form import STRENGTHS, Fit, Linear, fit_discriminant, fit_nearest_mean, fit_ridge

CLASSES = 3


def drawn(images: int = 30, dimension: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit features of three classes around three directions, and their labels, unevenly many."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, images - CLASSES)])
    x = rng.normal(size=(CLASSES, dimension))[labels] + 0.7 * rng.normal(size=(images, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def class_means(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([x[labels == k].mean(axis=0) for k in range(CLASSES)])


def test_nearest_mean_is_nearest() -> None:
    (x, labels), (others, _) = drawn(), drawn(seed=1)
    distances = ((others[:, None] - class_means(x, labels)) ** 2).sum(axis=2)
    logits = fit_nearest_mean(x, labels, CLASSES).logits(others)
    np.testing.assert_array_equal(logits.argmax(axis=1), distances.argmin(axis=1))
    # log-likelihoods: differences are those of the distances, over twice the variance within classes
    variance = ((x - class_means(x, labels)[labels]) ** 2).sum() / (len(x) - CLASSES) / x.shape[1]
    np.testing.assert_allclose(logits[:, 0] - logits[:, 1], (distances[:, 1] - distances[:, 0]) / (2 * variance))


def test_discriminant_is_the_densities_of_gaussians() -> None:
    (x, labels), (others, _) = drawn(), drawn(seed=1)
    means, d = class_means(x, labels), x.shape[1]
    freedom = len(x) - CLASSES
    pooled = sum((row - means[k])[:, None] * (row - means[k])[None] for row, k in zip(x, labels, strict=True)) / freedom
    covariance = (freedom * pooled + d * np.trace(pooled) / d * np.eye(d)) / (freedom + d)
    logits = fit_discriminant(x, labels, CLASSES).logits(others)
    for row, found in zip(others, logits, strict=True):
        densities = [-0.5 * (row - mean) @ np.linalg.inv(covariance) @ (row - mean) for mean in means]
        np.testing.assert_allclose(found - found[0], densities - densities[0], atol=1e-9)


def test_the_precision_is_the_papers_but_for_a_factor() -> None:
    """D [(N - 1) S + tr(S) I]^-1 of arXiv 2402.04087: the same labels whatever the number of classes."""
    x, labels = drawn()
    means, (images, d) = class_means(x, labels), x.shape
    centred = x - means[labels]
    spread = centred.T @ centred / (images - CLASSES)
    paper = d * np.linalg.inv((images - CLASSES) * spread + np.trace(spread) * np.eye(d))
    ours = fit_discriminant(x, labels, CLASSES)
    factor = ours.weights / (means @ paper)
    np.testing.assert_allclose(factor, (images - CLASSES + d) / d)


def test_discriminant_with_a_round_covariance_is_nearest_mean() -> None:
    """Two images a class and axis, at equal distances on both sides: the pooled covariance is a multiple of I."""
    d = 4
    means = np.random.default_rng(2).normal(size=(CLASSES, d))
    offsets = 0.3 * np.concatenate([np.eye(d), -np.eye(d)])
    x, labels = (means[:, None] + offsets).reshape(-1, d), np.repeat(np.arange(CLASSES), 2 * d)
    one, other = fit_nearest_mean(x, labels, CLASSES), fit_discriminant(x, labels, CLASSES)
    np.testing.assert_allclose(one.weights, other.weights)
    np.testing.assert_allclose(one.bias, other.bias)


def test_one_image_a_class_is_the_nearest_image() -> None:
    x, labels = drawn(images=CLASSES)
    others = drawn(seed=1)[0]
    for fit in (fit_nearest_mean, fit_discriminant):
        found = fit(x, labels, CLASSES).logits(others)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found.argmax(axis=1), (others @ x.T).argmax(axis=1))
    same = np.ones((4, 5)) / np.sqrt(5)  # nothing to tell apart is no error
    for fit in (fit_nearest_mean, fit_discriminant, fit_ridge):
        assert np.isfinite(fit(same, np.array([0, 0, 1, 1]), 2).logits(same)).all()


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_ridge_solves_the_normal_equations(strength: float) -> None:
    x, labels = drawn()
    targets = np.eye(CLASSES)[labels]
    with_one = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = strength * np.diag([1.0] * x.shape[1] + [0.0])  # none on the bias
    expected = np.linalg.solve(with_one.T @ with_one + penalty, with_one.T @ targets)
    found = fit_ridge(x, labels, CLASSES, strength=strength)
    np.testing.assert_allclose(found.weights, expected[:-1].T, atol=1e-9)
    np.testing.assert_allclose(found.bias, expected[-1], atol=1e-9)


@pytest.mark.parametrize("images", [9, 40])  # fewer and more than there are dimensions
def test_ridge_takes_the_strength_of_the_lowest_error_left_out(images: int) -> None:
    x, labels = drawn(images=images, dimension=12)
    targets = np.eye(CLASSES)[labels]

    def left_out(strength: float) -> float:
        error = 0.0
        for i in range(images):
            rest = np.arange(images) != i
            found = fit_ridge(x[rest], labels[rest], CLASSES, strength=strength)
            error += ((targets[i] - found.logits(x[i : i + 1])[0]) ** 2).sum()
        return error

    best = min(STRENGTHS, key=left_out)
    np.testing.assert_allclose(
        fit_ridge(x, labels, CLASSES).weights, fit_ridge(x, labels, CLASSES, strength=best).weights, atol=1e-12
    )


@pytest.mark.parametrize("fit", [fit_nearest_mean, fit_discriminant, fit_ridge])
def test_turning_the_features_and_naming_classes_anew_changes_nothing(fit: Fit) -> None:
    (x, labels), (others, _) = drawn(), drawn(seed=1)
    plain = fit(x, labels, CLASSES).logits(others)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    np.testing.assert_allclose(fit(x @ turn, labels, CLASSES).logits(others @ turn), plain, atol=1e-9)
    order = np.array([2, 0, 1])
    renamed = fit(x, np.argsort(order)[labels], CLASSES).logits(others)
    np.testing.assert_allclose(renamed, plain[:, order], atol=1e-9)


def test_arithmetic_is_double_whatever_comes_in() -> None:
    x, labels = drawn()
    found = fit_discriminant(x.astype(np.float32), labels.astype(np.int32), CLASSES)
    assert isinstance(found, Linear)
    assert found.weights.dtype == found.bias.dtype == np.float64
    np.testing.assert_allclose(found.weights, fit_discriminant(x, labels, CLASSES).weights, rtol=1e-4)
