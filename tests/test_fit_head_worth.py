"""What a head is worth on images that nobody has seen: honest figures, useless parts, real CLIP features."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from labelled_features import World, as_features, normalise, random_words

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.fit import FittedHead, fit_head
from sharpzo_mlx.heads.gaussians import GaussianFit

SCALE = 100.0
CLASSES = 12


def accuracy(fitted: FittedHead, words: mx.array, images: Features) -> float:
    """Return the accuracy of the whole classifier."""
    plain = SCALE * images.embeddings @ words.T
    logits = np.array(fitted.head.join(plain, images.embeddings))
    return float((logits.argmax(axis=1) == images.labels).mean())


def zero_shot(words: mx.array, images: Features) -> float:
    return float((np.array(images.embeddings @ words.T).argmax(axis=1) == images.labels).mean())


@pytest.mark.parametrize(("train", "val", "dimension"), [(2, 0, 32), (4, 0, 32), (1, 4, 32), (4, 4, 32), (4, 4, 128)])
def test_the_figure_of_left_out_images_is_that_of_new_ones(train: int, val: int, dimension: int) -> None:
    """The mean over worlds; the shares are chosen on the same images, which may flatter by a point or two."""
    told, found, plain = [], [], []
    for seed in range(40):
        world = World.draw(CLASSES, dimension, seed=seed, apart=0.5 if dimension == 32 else 0.3)
        words = world.words(0.6, seed)
        fitted = fit_head(words, SCALE, world.features(train, 10 + seed), world.features(val, 1000 + seed))
        fresh = world.features(40, 5000 + seed)
        told.append(fitted.accuracy)
        found.append(accuracy(fitted, words, fresh))
        plain.append(zero_shot(words, fresh))
    assert np.mean(told) == pytest.approx(np.mean(found), abs=0.045)
    assert np.mean(found) > np.mean(plain) + 0.02


@pytest.mark.parametrize("train", [4, 8, 16])
def test_useless_words_do_not_hurt_the_gaussians(train: int) -> None:
    """What is learned, before the guard gives a few images to the words, which say nothing here."""
    learned, alone, whole = [], [], []
    for seed in range(12):
        world = World.draw(CLASSES, 128, seed=seed, apart=0.3)
        words = random_words(CLASSES, 128, seed)
        images, fresh = world.features(train, 10 + seed), world.features(40, 5000 + seed)
        fitted = fit_head(words, SCALE, images, images.take([]))
        x = np.array(fresh.embeddings, np.float64)
        joint = x @ np.array(fitted.head.weight).T + np.array(fitted.head.bias)
        learned.append((joint.argmax(axis=1) == fresh.labels).mean())
        plain = GaussianFit(np.array(images.embeddings), images.labels, CLASSES).classifier().logits(x)
        alone.append((plain.argmax(axis=1) == fresh.labels).mean())
        whole.append(accuracy(fitted, words, fresh))
    assert np.mean(learned) > np.mean(alone) - 0.03
    assert np.mean(whole) > 0.85 * np.mean(learned)


@pytest.mark.parametrize(("train", "val"), [(1, 2), (4, 0), (8, 4)])
def test_random_features_promise_nothing(train: int, val: int) -> None:
    """Labelled images that are nothing but noise: the figure of left-out images is that of guessing."""
    told = []
    for seed in range(24):
        nothing = World(np.zeros((CLASSES, 64)), 1.0)
        words = World.draw(CLASSES, 64, seed=seed, apart=0.5).words(0.3, seed)
        fitted = fit_head(words, SCALE, nothing.features(train, 10 + seed), nothing.features(val, 1000 + seed))
        told.append(fitted.accuracy)
    assert np.mean(told) == pytest.approx(1 / CLASSES, abs=0.03)


@pytest.mark.parametrize(("train", "val"), [(1, 0), (2, 0), (1, 2), (4, 0)])
def test_few_noisy_images_do_not_hurt_good_words(train: int, val: int) -> None:
    """The words know the classes; the Gaussians of a few images know little of them."""
    joined, plain, alone = [], [], []
    for seed in range(12):
        world = World.draw(CLASSES, 128, seed=seed, apart=0.3, noise=1.2)
        words, fresh = world.words(0.1, seed), world.features(40, 5000 + seed)
        fitted = fit_head(words, SCALE, world.features(train, 10 + seed), world.features(val, 1000 + seed))
        joined.append(accuracy(fitted, words, fresh))
        plain.append(zero_shot(words, fresh))
        fit = GaussianFit(fitted.images.embeddings, fitted.images.labels, CLASSES)
        found = fit.classifier().logits(np.array(fresh.embeddings)).argmax(axis=1)
        alone.append((found == fresh.labels).mean())
    assert np.mean(alone) < np.mean(plain) - 0.1
    assert np.mean(joined) > np.mean(plain) - 0.01


def test_a_large_problem_takes_seconds_and_little_memory() -> None:
    """200 classes, 4000 images: a few seconds on two cores, with room for slow and busy machines."""
    world = World.draw(200, 64, noise=0.8)
    words, train, val = world.words(0.5), world.features(16, 1), world.features(4, 2)
    start = time.process_time()
    tracemalloc.start()
    fitted = fit_head(words, SCALE, train, val)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 60
    assert peak < 25 * 8 * 4000 * 200  # so many float64 arrays of logits; three are those of the shares
    assert fitted.left_out.shape == (4000, 200)
    assert fitted.accuracy > fitted.zero_shot_accuracy


@pytest.fixture(scope="module")
def real(testbed: Path) -> dict[str, Any]:
    """Features of real images by a real CLIP, by the name of the set."""
    folder = testbed / "real-clip"
    if not folder.is_dir():
        pytest.skip("no features of a real CLIP in the testbed")
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npz"))}


def rows_of(arrays: Any, split: str, each: int | None = None) -> Features:
    """Return a split, or so many images of each class of it, drawn once."""
    x, labels = arrays[f"{split}_x"].astype(np.float64), arrays[f"{split}_y"]
    classes = int(arrays["test_y"].max()) + 1
    features = as_features(normalise(x), labels, classes)
    if each is None:
        return features
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:each] for k in range(classes)]
    return features.take(np.concatenate(drawn))


FLOORS = {1: 95.8, 2: 95.8, 4: 97.0, 8: 96.2, 16: 96.7}


@pytest.mark.parametrize("shots", FLOORS)
def test_caltech_with_words(real: dict[str, Any], shots: int) -> None:
    arrays = real["caltech61"]
    words = mx.array(normalise(arrays["text"].astype(np.float64)).astype(np.float32))
    test = rows_of(arrays, "test")
    assert 100 * zero_shot(words, test) == pytest.approx(91.6, abs=0.1)
    fitted = fit_head(words, SCALE, rows_of(arrays, f"train{shots}"), rows_of(arrays, "val", each=4))
    found = accuracy(fitted, words, test)
    assert 100 * found >= FLOORS[shots]
    assert fitted.accuracy == pytest.approx(found, abs=0.03)


@pytest.mark.parametrize("shots", [4, 16])
@pytest.mark.parametrize("name", ["oxford_pets", "fgvc"])
def test_the_guard_on_real_features(real: dict[str, Any], name: str, shots: int) -> None:
    """Open on images of its own set, shut on those of others; the training rows are averages of views."""
    arrays = real[name]
    train, val = rows_of(arrays, f"train{shots}"), rows_of(arrays, "val", each=4)
    words = random_words(len(train.class_names), train.embeddings.shape[1])
    guard = fit_head(words, SCALE, train, val).head.guard
    own = rows_of(arrays, "test").embeddings
    assert float((np.array(guard.opening(own)) > 0.5).mean()) >= 0.93
    near = np.array(guard.distances(own))
    for other in set(real) - {name}:
        foreign = rows_of(real[other], "test").embeddings
        far = np.array(guard.distances(foreign))
        ranks = np.concatenate([near, far]).argsort().argsort()[len(near) :]
        auroc = (ranks.sum() - len(far) * (len(far) - 1) / 2) / (len(near) * len(far))
        assert auroc >= 0.985, other
        assert float((np.array(guard.opening(foreign)) > 0.5).mean()) < 0.1, other
