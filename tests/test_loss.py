"""Cross-entropies, scores and right predictions against formulas written out by hand."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.objective.loss import (
    LabelledImages,
    cross_entropies,
    image_losses,
    image_losses_numpy,
    mark_right,
    score_logits,
)


def test_losses_are_float32_whatever_comes_in() -> None:
    class_features = mx.random.normal((2, 3, 8), key=mx.random.key(0))
    embeddings = mx.random.normal((5, 8), key=mx.random.key(1))
    losses = cross_entropies(class_features, embeddings, mx.array([0, 1, 2, 0, 1]), 100.0)
    assert losses.dtype == mx.float32
    assert losses.shape == (2, 5)


def test_score_by_hand() -> None:
    logits = mx.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    result = score_logits(logits, mx.array([0, 1, 0, 0]))
    assert result.accuracy == 0.75
    gaps = np.array([1.0, 1.0, -0.2, 0.2])  # right logit minus wrong one
    assert result.loss == pytest.approx(np.log1p(np.exp(-gaps)).mean(), rel=1e-6)


def test_both_libraries_compute_the_same_losses() -> None:
    class_features, embeddings = (mx.random.normal(shape, key=mx.random.key(2)) for shape in ((2, 3, 8), (5, 8)))
    labels = mx.array([0, 1, 2, 0, 1])
    expected = cross_entropies(class_features, embeddings, labels, 3.0)
    found = image_losses_numpy(np.array(class_features), np.array(embeddings), np.array(labels), 3.0)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-5)


def test_offsets_are_added_to_the_logits_in_both_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64, all images at once and two at a time."""
    draw = np.random.default_rng(4)
    class_features, embeddings, offsets = (
        draw.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 8), (5, 8), (5, 3))
    )
    labels = np.array([0, 1, 2, 0, 1])
    logits = 3.0 * np.einsum("nd,pkd->pnk", embeddings, class_features, dtype=np.float64) + 4.0 * offsets
    own = np.take_along_axis(logits, labels[None, :, None], axis=-1).squeeze(-1)
    expected = np.log(np.exp(logits).sum(axis=-1)) - own
    images = LabelledImages(mx.array(embeddings), mx.array(labels), 3.0, mx.array(4.0 * offsets))
    for block in (1 << 20, 2 * 3):
        monkeypatch.setattr("sharpzo_mlx.objective.chunks.LOGITS_AT_ONCE", 2 * block)
        monkeypatch.setattr("sharpzo_mlx.objective.chunks.CPU_LOGITS_AT_ONCE", block)
        found = (
            image_losses(mx.array(class_features), images),
            image_losses_numpy(class_features, embeddings, labels, 3.0, 4.0 * offsets),
        )
        for losses in found:
            np.testing.assert_allclose(np.array(losses), expected, rtol=1e-5, atol=1e-5)


def test_without_offsets_the_logits_stay_to_the_last_bit() -> None:
    class_features, embeddings = (mx.random.normal(shape, key=mx.random.key(2)) for shape in ((2, 3, 8), (5, 8)))
    plain = 3.0 * (embeddings @ class_features.swapaxes(-1, -2))
    images = LabelledImages(embeddings, mx.array([0, 1, 2, 0, 1]), 3.0)
    np.testing.assert_array_equal(np.array(images.logits(class_features)), np.array(plain))
    np.testing.assert_array_equal(np.array(images.logits(class_features[0])), np.array(plain[0]))


def test_right_predictions_in_both_libraries() -> None:
    """The first of equal logits counts, and a column may stand for another label than its own number."""
    logits, labels = np.array([[1.0, 3.0, 2.0], [4.0, 4.0, 0.0], [0.0, 1.0, 2.0]]), np.array([1, 1, 0])
    stands_for = np.array([1, 1, 0])
    assert mark_right(logits, labels).tolist() == [True, False, False]
    assert mark_right(logits, labels, stands_for).tolist() == [True, True, True]
    assert mark_right(mx.array(logits), mx.array(labels)).tolist() == [True, False, False]
    assert mark_right(mx.array(logits), mx.array(labels), mx.array(stands_for)).tolist() == [True, True, True]
