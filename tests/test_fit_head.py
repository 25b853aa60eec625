"""The head of all labelled images: what it adds up to, whom it is judged by, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from labelled_features import World, as_features, normalise

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.fit import FittedHead, fit_head
from sharpzo_mlx.heads.gaussians import GaussianFit

SCALE = 100.0
CLASSES = 6


@pytest.fixture(scope="module")
def world() -> World:
    return World.draw(CLASSES, 20, apart=0.5)


@pytest.fixture(scope="module")
def words(world: World) -> mx.array:
    return world.words(0.6)


@pytest.fixture(scope="module")
def fitted(world: World, words: mx.array) -> FittedHead:
    return fit_head(words, SCALE, world.features(5, seed=1), world.features(2, seed=2))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def test_the_head_is_the_sum_of_its_parts(fitted: FittedHead, world: World, words: mx.array) -> None:
    """The words, Gaussians of all images, and the words in their metric, each times its share."""
    head, x = fitted.head, world.images(9, seed=3)[0]
    assert (head.kind, len(fitted.images.labels)) == ("gda", 7 * CLASSES)
    wholes = []
    for shrinkage in (0.25, 0.5, 1.0, 2.0, 4.0):
        fit = GaussianFit(fitted.images.embeddings, fitted.images.labels, CLASSES, shrinkage)
        text = np.array(words, np.float64)
        learned = head.text_share * SCALE * x @ text.T + head.image_share * fit.classifier().logits(x)
        wholes.append(learned + head.named_share * fit.text_classifier(text).logits(x))
    found = x @ np.array(head.weight, np.float64).T + np.array(head.bias)
    assert min(np.abs(whole - found).max() for whole in wholes) < 1e-3
    rest = fitted.rest.logits(x) + head.text_share * SCALE * x @ np.array(words, np.float64).T
    np.testing.assert_allclose(found, rest, atol=1e-3)
    embeddings = mx.array(x.astype(np.float32))
    plain = SCALE * embeddings @ words.T
    opening = np.array(head.opening(embeddings))[:, None]
    joined = (1 - opening) * np.array(plain) + opening * found
    np.testing.assert_allclose(head.join(plain, embeddings), joined, atol=1e-3)


def test_the_stored_figures_are_those_of_left_out_images(fitted: FittedHead, words: mx.array) -> None:
    head, x, labels = fitted.head, fitted.images.embeddings, fitted.images.labels
    plain = SCALE * x.astype(np.float64) @ np.array(words, np.float64).T
    opening = 1 / (1 + np.exp(-(2 - (fitted.distances - head.guard.centre) / head.guard.spread) / 0.5))[:, None]
    summed = (1 - opening) * plain + opening * (head.text_share * plain + fitted.left_out)
    assert fitted.accuracy == pytest.approx((summed.argmax(axis=1) == labels).mean())
    assert fitted.zero_shot_accuracy == pytest.approx((plain.argmax(axis=1) == labels).mean())
    own = softmax(summed)[np.arange(len(x)), labels]
    np.testing.assert_allclose(head.scores, np.sort(own), atol=1e-6)
    np.testing.assert_allclose(head.distances, np.sort(fitted.distances), rtol=1e-6)


def test_offsets_have_mean_zero(fitted: FittedHead) -> None:
    offsets = fitted.offsets
    assert offsets.dtype == np.float32
    assert offsets.shape == (len(fitted.images.labels), CLASSES)
    np.testing.assert_allclose(offsets.mean(axis=1), 0, atol=1e-4)
    moved = fitted.left_out - offsets
    np.testing.assert_allclose(moved - moved[:, :1], 0, atol=1e-4)


def test_offsets_of_a_lone_image_are_zero(world: World, words: mx.array) -> None:
    train = world.features(4, seed=1).take(np.r_[0:CLASSES, CLASSES + 1 : 2 * CLASSES])  # class 0 has one image
    fitted = fit_head(words, SCALE, train, train.take([]))
    assert np.flatnonzero(~fitted.offsets.any(axis=1)).tolist() == [0]
    assert np.isfinite(fitted.offsets).all()


def test_words_that_did_not_change_leave_the_classifier_as_it_is(
    fitted: FittedHead, world: World, words: mx.array
) -> None:
    same = fitted.with_words(mx.zeros_like(words))
    x = world.features(5, seed=4).embeddings
    plain = SCALE * x @ words.T
    np.testing.assert_array_equal(same.head.join(plain, x), fitted.head.join(plain, x))
    assert same.judged.tolist() == list(range(5 * CLASSES, 7 * CLASSES))  # the validation images
    assert same.head.scores.shape == (2 * CLASSES,)


def test_changed_words_count_by_their_share(fitted: FittedHead, world: World, words: mx.array) -> None:
    change = 0.05 * mx.random.normal(words.shape, key=mx.random.key(0))
    tuned = fitted.with_words(change)
    x = world.features(5, seed=4).embeddings
    plain = SCALE * x @ words.T
    added = np.array(fitted.head.opening(x))[:, None] * fitted.head.text_share * SCALE * np.array(x @ change.T)
    difference = np.array(tuned.head.join(plain, x)) - np.array(fitted.head.join(plain, x))
    np.testing.assert_allclose(difference, added, atol=2e-3)
    rows = tuned.judged
    labels = fitted.images.labels[rows]
    own = SCALE * fitted.images.embeddings[rows] @ np.array(words).T
    learned = fitted.head.text_share * (own + SCALE * fitted.images.embeddings[rows] @ np.array(change).T)
    distances, guard = fitted.distances[rows], fitted.head.guard
    opening = 1 / (1 + np.exp(-(2 - (distances - guard.centre) / guard.spread) / 0.5))[:, None]
    summed = (1 - opening) * own + opening * (learned + fitted.left_out[rows])
    assert tuned.accuracy == pytest.approx((summed.argmax(axis=1) == labels).mean())
    assert tuned.zero_shot_accuracy == pytest.approx((own.argmax(axis=1) == labels).mean())


def test_one_image_a_class_is_judged_by_its_words(world: World, words: mx.array) -> None:
    """Nothing else can name it when it is left out; the head still learns from it."""
    train = world.features(1, seed=1)
    fitted = fit_head(words, SCALE, train, train.take([]))
    assert fitted.accuracy == fitted.zero_shot_accuracy > 0
    assert not fitted.offsets.any()
    assert 0 < fitted.head.image_share < 0.05
    assert np.isfinite(np.array(fitted.head.weight)).all()
    assert np.isfinite(np.array(fitted.head.scores)).all()


def averaged(world: World, each: int, seed: int, *, calm: float) -> Features:
    """Images with less noise, as averages over views are."""
    return replace(world, noise=world.noise * calm).features(each, seed)


def test_images_are_judged_by_those_like_them(world: World, words: mx.array) -> None:
    """Training rows that are averages lie closer to the means than plain images: validation images count alone."""
    val = world.features(10, seed=2)
    smooth = fit_head(words, SCALE, averaged(world, 10, 1, calm=0.4), val)
    assert smooth.judged.tolist() == list(range(60, 120))
    assert smooth.head.distances.shape == (60,)
    plain = fit_head(words, SCALE, averaged(world, 10, 1, calm=1.0), val)
    assert plain.judged.tolist() == list(range(120))
    few = fit_head(words, SCALE, averaged(world, 10, 1, calm=0.4), val.take(np.arange(30)))
    assert few.judged.tolist() == list(range(90))  # too few to tell
    fresh = world.features(100, seed=3)
    opening = [float((np.array(one.head.opening(fresh.embeddings)) > 0.5).mean()) for one in (smooth, plain)]
    assert min(opening) > 0.9


def test_views_are_learned_from_and_plain_images_are_judged(world: World, words: mx.array) -> None:
    train, val = world.features(4, seed=1), world.features(2, seed=2)
    x = np.concatenate([np.array(train.embeddings), np.array(val.embeddings)])
    labels = np.concatenate([train.labels, val.labels])
    views = normalise(x + 0.3 * np.random.default_rng(0).normal(size=x.shape) / np.sqrt(x.shape[1]))
    fitted = fit_head(words, SCALE, train, val, views=mx.array(views.astype(np.float32)))
    averages = normalise(x + views.astype(np.float32))
    wanted = [
        GaussianFit(averages, labels, CLASSES, shrinkage, judged=x).leave_out(np.arange(len(x))).distances
        for shrinkage in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    assert min(np.abs(fitted.distances - one).max() for one in wanted) < 1e-3
    assert len(fitted.judged) == len(x)
    same = fit_head(words, SCALE, train, val, views=mx.array(x))
    bare = fit_head(words, SCALE, train, val)
    np.testing.assert_allclose(same.head.weight, bare.head.weight, rtol=1e-3, atol=1e-2)


def test_where_all_are_right_the_published_shrinkage_stays(words: mx.array) -> None:
    """Losses that differ by rounding alone choose nothing."""
    world = World.draw(CLASSES, 20, apart=3.0, noise=0.05)
    fitted = fit_head(world.words(0.0), SCALE, world.features(20, seed=1), world.features(4, seed=2))
    fit = GaussianFit(fitted.images.embeddings, fitted.images.labels, CLASSES, 1.0)
    np.testing.assert_allclose(fitted.distances, fit.leave_out(np.arange(24 * CLASSES)).distances, rtol=1e-9)
    assert fitted.accuracy == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_name(world: World, words: mx.array, value: float) -> None:
    x, labels = world.images(3, seed=1)
    train = as_features(x, labels, CLASSES)
    x[7, 2] = value
    broken = as_features(x, labels, CLASSES)
    for one, other in ((broken, train), (train, broken)):
        with pytest.raises(UserError, match=r"^7\.png: .*not finite; remove it"):
            fit_head(words, SCALE, one, other)


def test_a_class_without_an_image_is_refused(world: World, words: mx.array) -> None:
    train = world.features(4, seed=1)
    some = train.take(np.flatnonzero(train.labels != 2))
    with pytest.raises(AssertionError, match="each class needs an image"):
        fit_head(words, SCALE, some, train.take([]))
