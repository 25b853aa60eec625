"""The linearised loss in both backends: its derivatives, the images of its curvature, and the plan of its memory."""

from __future__ import annotations

import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from linear_features import SCALE, Linear
from small_objective import BACKENDS

from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.chunks import Sizes, curvature_images, spaced, step_bytes
from sharpzo_mlx.objective.linearised import linearise
from sharpzo_mlx.objective.loss import LabelledImages
from sharpzo_mlx.optimisers import trust_region


def sizes(classes: int, images: int, features: int = 512) -> Sizes:
    """Sizes of which the linearised loss uses the first three."""
    return Sizes(classes, images, features, tokens=1, width=1, context=1)


def random_problem(classes: int, images: int, *, offsets: bool = False) -> tuple[mx.array, mx.array, LabelledImages]:
    """Class features [K, 16], slopes [6, K, 16] and images near their classes, as many of each class."""
    draw = np.random.default_rng(7)
    rows = draw.standard_normal((classes, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.arange(images) * classes // images
    embeddings = (rows[labels] + 0.3 * draw.standard_normal((images, 16))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    slopes = 0.05 * draw.standard_normal((6, classes, 16)).astype(np.float32)
    added = mx.array(draw.standard_normal((images, classes)).astype(np.float32)) if offsets else None
    return mx.array(rows), mx.array(slopes), LabelledImages(mx.array(embeddings), mx.array(labels), 30.0, added)


def in_float64(a: np.ndarray, features: mx.array, slopes: mx.array, images: LabelledImages) -> tuple[float, np.ndarray]:
    """The value and the gradient at a, from the slopes of all logits."""
    f, s, x = (np.array(part, np.float64) for part in (features, slopes, images.embeddings))
    logits = images.logit_scale * x @ (f + np.tensordot(a, s, 1)).T
    logits += 0 if images.offsets is None else np.array(images.offsets, np.float64)
    powers, own = np.exp(logits - logits.max(axis=1, keepdims=True)), np.array(images.labels)
    chances, rows = powers / powers.sum(axis=1, keepdims=True), np.arange(len(x))
    moves = images.logit_scale * np.einsum("nd,qkd->qnk", x, s)
    gradient = np.einsum("nk,qnk->q", chances, moves) - moves[:, rows, own].sum(axis=1)
    return float(-np.log(chances[rows, own]).mean()), gradient / len(x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [False, True])
def test_the_linearised_loss_has_the_derivatives_of_the_plain_one(
    backend: BackendName, offsets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Linear(offsets=offsets)
    u = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)
    a, small = 0.3 * np.random.default_rng(3).standard_normal(5), 1e-4
    base, slopes = problem.feature_slopes(mx.zeros(12), mx.array(u))

    def plain(x: np.ndarray) -> float:
        return problem.plain(x @ u)

    steps = small * np.eye(5)
    gradient = [(plain(a + e) - plain(a - e)) / (2 * small) for e in steps]
    hessian = [
        [(plain(a + e + f) - plain(a + e - f) - plain(a - e + f) + plain(a - e - f)) / (4 * small**2) for f in steps]
        for e in steps
    ]
    for block in (1 << 22, 5 * 3 * 7):  # all images at once, and seven at a time
        for name in ("SLOPES_AT_ONCE", "CPU_SLOPES_AT_ONCE"):
            monkeypatch.setattr(f"sharpzo_mlx.objective.chunks.{name}", block)
        moved = base + mx.tensordot(mx.array(a.astype(np.float32)), slopes, axes=1)
        found = linearise(moved, slopes, problem.images, backend=backend).at_zero()
        assert found[0] == pytest.approx(plain(a), rel=1e-6)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[2], hessian, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("on_host", [False, True])
def test_value_and_gradient_are_exact(
    backend: BackendName, offsets: bool, blocks: bool, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5 of the gradient's length, at a = 0 and elsewhere, in blocks and on all cores as well as at once."""
    if blocks:
        for name in ("LOGITS_AT_ONCE", "CPU_LOGITS_AT_ONCE"):
            monkeypatch.setattr(f"sharpzo_mlx.objective.chunks.{name}", 50 * 30)
    if not on_host:
        monkeypatch.setattr("sharpzo_mlx.objective.linearised.HOST_PRODUCT", 0)
    given = random_problem(50, 400, offsets=offsets)
    model = linearise(*given, backend=backend)
    draws = np.random.default_rng(1).standard_normal((3, 6))
    found = [model.at_zero()[:2], *(model(a) for a in draws)]
    for (value, gradient), a in zip(found, [np.zeros(6), *draws], strict=True):
        expected, slope = in_float64(a, *given)
        assert value == pytest.approx(expected, rel=1e-6)
        assert np.linalg.norm(gradient - slope) < 1e-5 * np.linalg.norm(slope)


@pytest.mark.parametrize("offsets", [False, True])
def test_the_curvature_of_some_images_is_nearly_that_of_all(offsets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_problem(50, 800, offsets=offsets)
    every, some = {}, {}
    for backend in BACKENDS:
        with monkeypatch.context() as patch:
            every[backend] = linearise(*given, backend=backend).at_zero()[2]
            patch.setattr("sharpzo_mlx.objective.chunks.CURVATURE_SLOPES", 0)
            some[backend] = linearise(*given, backend=backend).at_zero()[2]
        assert 1e-3 < np.linalg.norm(some[backend] - every[backend]) / np.linalg.norm(every[backend]) < 0.2
    for one in (every, some):
        np.testing.assert_allclose(one["graph"], one["numpy"], rtol=1e-4, atol=1e-5 * np.abs(one["numpy"]).max())


def test_the_images_of_the_curvature_are_all_of_few_and_spaced_through_many() -> None:
    assert curvature_images(160, 10, 32) == 160
    assert 256 <= curvature_images(1600, 100, 32) < 1600
    assert curvature_images(16000, 1000, 32) == 256
    assert spaced(10, 10).tolist() == list(range(10))
    assert len(set(spaced(3200, 327).tolist())) == 327
    assert set((spaced(3200, 327) // 16).tolist()) == set(range(200))  # sorted by class: each has one or two


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rough_curvature_leaves_the_minima_where_they_are(
    backend: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a hundredth of the radius, of 48 images of 800, and of none (an identity)."""
    given = random_problem(50, 800)
    radii = (0.5, 1.0, 2.0)
    monkeypatch.setattr(trust_region, "CONVERGED", 1e-4)
    model = linearise(*given, backend=backend)
    exact = trust_region.minima(model, model.at_zero(), radii)
    monkeypatch.undo()
    for rough in (True, False):
        model = linearise(*given, backend=backend)
        value, gradient, curvature = model.at_zero()
        if rough:
            monkeypatch.setattr("sharpzo_mlx.objective.chunks.CURVATURE_IMAGES", 48)
            monkeypatch.setattr("sharpzo_mlx.objective.chunks.CURVATURE_SLOPES", 0)
            curvature = linearise(*given, backend=backend).at_zero()[2]
        else:
            curvature = np.trace(curvature) / 6 * np.eye(6)
        found = trust_region.minima(model, (value, gradient, curvature), radii)
        for a, expected, radius in zip(found, exact, radii, strict=True):
            assert np.linalg.norm(a) <= radius * (1 + 1e-6)
            assert np.linalg.norm(a - expected) < 1e-2 * radius


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("classes", "images"), [(50, 400), (200, 3200), (600, 3000)])
def test_the_plan_of_the_memory_covers_a_step(classes: int, images: int, backend: BackendName) -> None:
    q, width = 32, 64
    planned = step_bytes(sizes(classes, images, width), q, in_numpy=backend == "numpy")
    embeddings, labels = mx.random.normal((images, width)), mx.zeros(images, mx.int32)
    mx.eval(embeddings, labels)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    features = mx.random.normal((q + 1, classes, width))
    base, slopes = features[0], (features[1:] - features[0]) / 0.5
    given = LabelledImages(embeddings, labels, SCALE)
    model = linearise(base, slopes, given, backend=backend)
    trust_region.minima(model, model.at_zero(), (0.5, 1.0, 2.0))
    peak = tracemalloc.get_traced_memory()[1] + mx.get_peak_memory() - before
    tracemalloc.stop()
    assert planned / 4 < peak < 1.1 * planned
