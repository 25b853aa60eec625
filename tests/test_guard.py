"""The guard against plain distances, its formula, and the precision of float32 where all images are alike."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from labelled_features import normalise

from sharpzo_mlx.heads.gaussians import GaussianFit
from sharpzo_mlx.heads.guard import Guard, make_guard, open_by_distance


def plain_distances(fit: GaussianFit, x: np.ndarray) -> np.ndarray:
    """The least Mahalanobis distance to a class mean in float64, one class at a time."""
    means = fit.means + fit.mean
    squares = [((x - mean) @ fit.precision * (x - mean)).sum(axis=1) for mean in means]
    found: np.ndarray = np.sqrt(np.min(squares, axis=0))
    return found


def drawn(images: int = 60, classes: int = 4, dimension: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    directions = np.random.default_rng(7).normal(size=(classes, dimension))
    return normalise(directions[labels] + 0.5 * rng.normal(size=(images, dimension))), labels


@pytest.fixture
def fit() -> GaussianFit:
    return GaussianFit(*drawn(), 4)


@pytest.fixture
def guard(fit: GaussianFit) -> Guard:
    return make_guard(fit, fit.leave_out(np.arange(60)).distances)


def test_distances_are_the_least_mahalanobis_distances(fit: GaussianFit, guard: Guard) -> None:
    x, _ = drawn(seed=1)
    np.testing.assert_allclose(guard.distances(mx.array(x.astype(np.float32))), plain_distances(fit, x), rtol=1e-5)


def test_the_scale_is_that_of_the_left_out_images(fit: GaussianFit, guard: Guard) -> None:
    distances = fit.leave_out(np.arange(60)).distances
    assert guard.centre == pytest.approx(distances.mean())
    assert guard.spread == pytest.approx(distances.std())


def test_the_opening_is_its_formula_and_falls_with_the_distance(guard: Guard) -> None:
    x, _ = drawn(seed=2)
    away = mx.array(normalise(np.linspace(0, 4, 60)[:, None] * np.eye(12)[3] + x).astype(np.float32))
    distances = np.array(guard.distances(away), np.float64)
    wanted = 1 / (1 + np.exp(-(2 - (distances - guard.centre) / guard.spread) / 0.5))
    np.testing.assert_allclose(guard.opening(away), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(open_by_distance(distances, guard), wanted, rtol=1e-12)
    steps = open_by_distance(guard.centre + guard.spread * np.linspace(-3, 8, 100), guard)
    assert (np.diff(steps) < 0).all()
    assert open_by_distance(np.array([guard.centre + 2 * guard.spread]), guard)[0] == pytest.approx(0.5)
    assert open_by_distance(np.array([guard.centre]), guard)[0] > 0.98


def test_far_away_it_is_shut_without_overflow(guard: Guard) -> None:
    with np.errstate(all="raise"):
        assert open_by_distance(np.array([0.0, 1e9]), guard).tolist() == pytest.approx([1, 0], abs=1e-3)
    assert guard.opening(1e6 * mx.ones((1, 12))).tolist() == [0.0]


def test_float32_is_precise_where_all_features_point_the_same_way() -> None:
    """Unit vectors of mean cosine 0.7 in 512 dimensions; the common part is much longer than what is measured."""
    rng, classes, dimension = np.random.default_rng(0), 20, 512
    common, labels = rng.normal(size=dimension), np.arange(320) % classes
    directions = common + 0.4 * rng.normal(size=(classes, dimension))
    scales = 1.2 / np.arange(1, dimension + 1) ** 0.5  # a spectrum that decays, as that of real features

    def images(each: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(len(each), dimension))
        return normalise(directions[each] + 4 * scales * noise)

    x, others = images(labels, 1), images(labels, 2)
    cosines = x @ x.T
    assert cosines[np.triu_indices(len(x), 1)].mean() == pytest.approx(0.7, abs=0.1)
    for shrinkage in (0.25, 4.0):
        fit = GaussianFit(x.astype(np.float32), labels, classes, shrinkage)
        guard = make_guard(fit, fit.leave_out(np.arange(len(x))).distances)
        rounded = others.astype(np.float32)
        exact = plain_distances(fit, rounded.astype(np.float64))
        assert np.abs(np.array(guard.distances(mx.array(rounded))) / exact - 1).max() < 1e-3
        opening = np.array(guard.opening(mx.array(rounded)))
        assert np.abs(opening - open_by_distance(exact, guard)).max() < 0.01


def test_equal_distances_have_a_spread_all_the_same(fit: GaussianFit) -> None:
    guard = make_guard(fit, np.full(5, 3.0))
    assert 0 < guard.spread < 0.01
    assert open_by_distance(np.array([3.0, 3.1]), guard).tolist() == pytest.approx([1, 0], abs=0.02)


def test_images_that_are_all_one_image_shut_it_for_others() -> None:
    """No distance and no spread: every number stays finite."""
    x, labels = np.full((6, 4), 0.5), np.repeat([0, 1], 3)
    fit = GaussianFit(x, labels, 2)
    guard = make_guard(fit, fit.leave_out(np.arange(6)).distances)
    assert guard.spread > 0
    opening = np.array(guard.opening(mx.concatenate([mx.array(x.astype(np.float32)), mx.eye(4)])))
    assert np.isfinite(opening).all()
    assert opening[6:].max() < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_the_images_of_a_class_open_it(seed: int) -> None:
    """All images of each class are one file, so that left-out distances are 0, and those in float32 are nearly."""
    x = drawn(images=8, classes=8, dimension=64, seed=seed)[0].astype(np.float32)
    copies, labels = np.repeat(x, 4, axis=0), np.repeat(np.arange(8), 4)
    fit = GaussianFit(copies, labels, 8)
    distances = fit.leave_out(np.arange(32)).distances
    guard = make_guard(fit, distances)
    assert np.array(guard.distances(mx.array(x))).max() <= distances.max()  # none is turned away
    assert np.array(guard.opening(mx.array(x))).min() > 0.98
    away = mx.array(drawn(images=8, classes=8, dimension=64, seed=seed + 100)[0].astype(np.float32))
    assert np.array(guard.opening(away)).max() < 0.01
