"""Gaussians of the classes against the plain way: fit them anew without each image."""

from __future__ import annotations

import numpy as np
import pytest

from sharpzo_mlx.heads.gaussians import GaussianFit, LeftOut

SHRINKAGES = (0.05, 1.0, 4.0)
KINDS = ("more images", "more dimensions", "balanced", "small classes")


def drawn(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, D], labels, class texts [K, D] and other features of the same images, all with a common mean."""
    rng = np.random.default_rng(seed)
    counts, dimension = {
        "more images": ([9, 4, 2, 12, 5], 6),
        "more dimensions": ([3, 1, 2, 6], 40),
        "balanced": ([4, 4, 4], 12),
        "small classes": ([1, 2, 1, 2, 3], 7),
    }[kind]
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    directions = 2.0 + rng.normal(size=(len(counts), dimension))
    spread = rng.uniform(0.2, 1.5, dimension)  # not round
    x = directions[labels] + spread * rng.normal(size=(len(labels), dimension))
    texts = directions + rng.normal(size=directions.shape)
    return x, labels, texts, x + 0.1 * rng.normal(size=x.shape)


def fit_plainly(
    x: np.ndarray, labels: np.ndarray, classes: int, ridge: float, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class means, infinite where a class has no image, and the precision, with a given multiple of the identity."""
    present = [k for k in range(classes) if (labels == k).any()]
    means = np.full((classes, x.shape[1]), np.inf)
    scatter = ridge * np.eye(x.shape[1])
    for k in present:
        means[k] = x[labels == k].mean(axis=0)
        scatter += (x[labels == k] - means[k]).T @ (x[labels == k] - means[k])
    return means, np.linalg.inv(scatter) * (len(x) - len(present) + shrinkage * x.shape[1])


def ridge_of_all(x: np.ndarray, labels: np.ndarray, classes: int, shrinkage: float) -> float:
    """The multiple of the identity of the whole fit, which fits without one image share."""
    means = np.stack([x[labels == k].mean(axis=0) for k in range(classes)])
    return shrinkage * float(((x - means[labels]) ** 2).sum()) / (len(x) - classes)


def allow_plainly(x: np.ndarray, labels: np.ndarray, classes: int, shrinkage: float) -> np.ndarray:
    """A quarter of the squared distance to a mean without error, over the images of the class."""
    ridge, exact = ridge_of_all(x, labels, classes, shrinkage), []
    counts = np.bincount(labels)
    for i, own in enumerate(labels):
        if counts[own] > 1:
            rest = np.arange(len(x)) != i
            means, precision = fit_plainly(x[rest], labels[rest], classes, ridge, shrinkage)
            exact.append((1 - 1 / counts[own]) * (x[i] - means[own]) @ precision @ (x[i] - means[own]))
    return np.asarray(np.mean(exact) / (4 * counts))


def leave_out_plainly(
    x: np.ndarray, labels: np.ndarray, texts: np.ndarray, judged: np.ndarray, shrinkage: float
) -> LeftOut:
    """Fit without each image in turn; the own squared distance times 1 - 1/n^2."""
    classes = len(texts)
    ridge = ridge_of_all(x, labels, classes, shrinkage)
    origin = np.stack([x[labels == k].mean(axis=0) for k in range(classes)]).mean(axis=0)
    logits, named, distances = [], [], []
    allowances = allow_plainly(x, labels, classes, shrinkage)
    for i, own in enumerate(labels):
        rest = np.arange(len(x)) != i
        means, precision = fit_plainly(x[rest], labels[rest], classes, ridge, shrinkage)
        squared = np.full(classes, np.inf)
        for k in range(classes):
            if np.isfinite(means[k]).all():
                squared[k] = (judged[i] - means[k]) @ precision @ (judged[i] - means[k])
        squared[own] *= 1 - 1 / max((labels == own).sum(), 2) ** 2
        logits.append(allowances - 0.5 * (squared - squared.min()))
        named.append((texts - texts.mean(axis=0)) @ precision @ (judged[i] - origin))
        distances.append(np.sqrt(squared.min()))
    return LeftOut(np.array(logits), np.array(named), np.array(distances))


def assert_same(found: LeftOut, wanted: LeftOut, tolerance: float = 1e-8) -> None:
    for name in ("logits", "text", "distances"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_leaving_out_is_fitting_anew(kind: str, shrinkage: float) -> None:
    x, labels, texts, judged = drawn(kind)
    rows = np.arange(len(x))
    found = GaussianFit(x, labels, len(texts), shrinkage).leave_out(rows, texts)
    assert_same(found, leave_out_plainly(x, labels, texts, x, shrinkage))
    found = GaussianFit(x, labels, len(texts), shrinkage, judged=judged).leave_out(rows, texts)
    assert_same(found, leave_out_plainly(x, labels, texts, judged, shrinkage))


def test_the_column_of_a_class_without_other_images_is_minus_infinity() -> None:
    x, labels, texts, _ = drawn("small classes")
    found = GaussianFit(x, labels, len(texts)).leave_out(np.arange(len(x)), texts)
    alone = np.bincount(labels)[labels] == 1
    assert alone.sum() == 2
    np.testing.assert_array_equal(np.isneginf(found.logits[np.arange(len(x)), labels]), alone)
    assert np.isneginf(found.logits).sum() == 2
    assert np.isfinite(found.text).all()
    assert np.isfinite(found.distances).all()


def test_blocks_and_parts_of_the_rows_change_nothing() -> None:
    """More rows than are left out at once, and a few rows in another order."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(3), [2000, 1500, 1]))
    x, texts = rng.normal(size=(len(labels), 4)) + labels[:, None], rng.normal(size=(3, 4))
    fit = GaussianFit(x, labels, 3)
    whole = fit.leave_out(np.arange(len(x)), texts)
    assert whole.logits.shape == whole.text.shape == (3501, 3)
    for rows in (np.array([3500, 7, 2047, 2048]), np.arange(2000, 2100), np.arange(1500, 3501)):
        part = fit.leave_out(rows, texts)
        assert_same(part, LeftOut(whole.logits[rows], whole.text[rows], whole.distances[rows]), 1e-10)
    nothing = fit.leave_out(np.arange(0), texts)
    assert (nothing.logits.shape, nothing.text.shape, nothing.distances.shape) == ((0, 3), (0, 3), (0,))


def test_only_unequal_classes_get_unequal_allowances() -> None:
    x, labels, texts, _ = drawn("balanced")
    assert np.ptp(GaussianFit(x, labels, len(texts)).allowances) < 1e-12
    rest = np.flatnonzero((labels != 1) | (np.cumsum(labels == 1) <= 2))  # two images of class 1 stay
    fit = GaussianFit(x[rest], labels[rest], len(texts))
    assert fit.allowances.argmax() == 1
    assert fit.with_shrinkage(4.0).allowances[1] != fit.allowances[1]


def test_without_texts_their_logits_are_zero() -> None:
    x, labels, texts, _ = drawn("balanced")
    found = GaussianFit(x, labels, len(texts)).leave_out(np.arange(len(x)))
    np.testing.assert_array_equal(found.text, np.zeros((len(x), len(texts))))


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_classifiers_are_log_densities_and_texts_in_their_metric(kind: str, shrinkage: float) -> None:
    x, labels, texts, others = drawn(kind)
    fit = GaussianFit(x, labels, len(texts), shrinkage)
    means, precision = fit_plainly(x, labels, len(texts), ridge_of_all(x, labels, len(texts), shrinkage), shrinkage)
    np.testing.assert_allclose(fit.precision, precision, rtol=1e-9, atol=1e-9 * np.abs(precision).max())
    np.testing.assert_allclose(fit.means + fit.mean, means, atol=1e-12)
    densities = np.array([[-0.5 * (row - mean) @ precision @ (row - mean) for mean in means] for row in others])
    found = fit.classifier().logits(others)
    densities += allow_plainly(x, labels, len(texts), shrinkage)
    np.testing.assert_allclose(found - found[:, :1], densities - densities[:, :1], rtol=1e-8, atol=1e-8)
    named = fit.text_classifier(texts).logits(others)
    wanted = (others - means.mean(axis=0)) @ precision @ (texts - texts.mean(axis=0)).T
    np.testing.assert_allclose(named, wanted, rtol=1e-8, atol=1e-8)


def test_one_image_a_class_is_judged_by_the_spread_between_classes() -> None:
    """All singletons: the nearest other class, in units of the spread of the class means."""
    x, labels = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]]), np.array([1, 0, 2])
    fit = GaussianFit(x, labels, 3)
    variance = x.var(axis=0).mean()
    np.testing.assert_allclose(fit.precision, np.eye(2) / variance)
    found = fit.leave_out(np.arange(3), np.eye(3, 2))
    np.testing.assert_allclose(found.distances, np.array([2, 4, 2]) / np.sqrt(variance))
    assert np.isneginf(found.logits[np.arange(3), labels]).all()
    assert found.logits.argmax(axis=1).tolist() == [2, 1, 1]
    assert np.isfinite(found.text).all()


def test_equal_images_within_each_class() -> None:
    """No spread within the classes: that between them takes its place, also for left-out images."""
    labels = np.array([0, 0, 1, 1, 1, 2])
    x = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])[labels]
    fit = GaussianFit(x, labels, 3)
    found = fit.leave_out(np.arange(6), x[[0, 2, 5]])
    assert found.logits[:5].argmax(axis=1).tolist() == [0, 0, 1, 1, 1]
    variance = x[[0, 2, 5]].var(axis=0).mean()
    assert (found.distances[:5] <= 1.01e-3 / np.sqrt(variance)).all()  # 0, but for what float32 cannot tell from it
    np.testing.assert_allclose(found.logits[0, 1], -0.5 * 2 / variance)
    assert found.distances[5] == pytest.approx(np.sqrt(2 / variance))
    assert fit.classifier().logits(x).argmax(axis=1).tolist() == labels.tolist()


def test_one_image_that_is_everywhere() -> None:
    """All images the same: nothing is known, and every number is finite."""
    x, labels = np.full((6, 3), 0.5), np.repeat([0, 1], 3)
    fit = GaussianFit(x, labels, 2)
    found = fit.leave_out(np.arange(6), np.eye(2, 3))
    assert np.isfinite(found.logits).all()
    assert np.isfinite(found.distances).all()
    assert np.isfinite(fit.classifier().logits(x)).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_features_of_any_type_are_counted_in_float64(kind: type) -> None:
    x, labels, texts, _ = drawn("more images")
    x, texts = x.astype(kind), texts.astype(kind)
    found = GaussianFit(x, labels, len(texts)).leave_out(np.arange(len(x)), texts)
    assert found.logits.dtype == found.text.dtype == found.distances.dtype == np.float64
    x, texts = x.astype(np.float64), texts.astype(np.float64)
    wanted = leave_out_plainly(x, labels, texts, x, 1.0)
    assert_same(found, wanted)


def test_a_class_without_an_image_is_refused() -> None:
    with pytest.raises(AssertionError, match="each class needs an image"):
        GaussianFit(np.eye(4), np.array([0, 0, 2, 2]), 3)


def test_nearly_collinear_features_stay_finite() -> None:
    """A left-out image that alone spans a direction: its leverage is near 1 with hardly any shrinkage."""
    rng = np.random.default_rng(0)
    x, labels = 1e-3 * rng.normal(size=(12, 5)), np.repeat(np.arange(3), 4)
    x[0] += 10 * np.eye(5)[0]
    found = GaussianFit(x, labels, 3, 1e-6).leave_out(np.arange(12))
    assert np.isfinite(found.logits).all()
    assert found.distances[0] > 10 * np.median(found.distances)


def test_another_shrinkage_of_the_same_images_is_fitting_anew() -> None:
    x, labels, texts, judged = drawn("more dimensions")
    rows, fit = np.arange(len(x)), GaussianFit(x, labels, len(texts), judged=judged)
    before = fit.leave_out(rows, texts)
    for shrinkage in SHRINKAGES:
        other, anew = fit.with_shrinkage(shrinkage), GaussianFit(x, labels, len(texts), shrinkage, judged=judged)
        assert_same(other.leave_out(rows, texts), anew.leave_out(rows, texts), 1e-12)
        np.testing.assert_allclose(other.root @ other.root.T, other.precision)
        np.testing.assert_allclose(other.precision, anew.precision)
    assert_same(fit.leave_out(rows, texts), before, 1e-15)
