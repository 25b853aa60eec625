"""The linearised loss in both backends: its derivatives, its slopes, kept or not, and the plan of its memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from linear_features import SCALE, Linear
from small_objective import BACKENDS

from sharpzo_mlx.objective.backend import BackendName, choose_backend
from sharpzo_mlx.objective.chunks import Sizes, keeps_slopes, step_bytes
from sharpzo_mlx.objective.linearised import LinearisedLoss
from sharpzo_mlx.objective.logit_slopes import GraphLogitSlopes, LogitSlopes, NumPyLogitSlopes
from sharpzo_mlx.objective.loss import LabelledImages
from sharpzo_mlx.optimisers import trust_region

KINDS: dict[BackendName, Any] = {"graph": GraphLogitSlopes, "numpy": NumPyLogitSlopes}


def sizes(classes: int, images: int, features: int = 512) -> Sizes:
    """Sizes of which the linearised loss uses the first three."""
    return Sizes(classes, images, features, tokens=1, width=1, context=1)


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
        monkeypatch.setattr("sharpzo_mlx.objective.chunks.SLOPES_AT_ONCE", block)
        found = LinearisedLoss(base, slopes, problem.images, backend=backend)(a)
        assert found[0] == pytest.approx(plain(a), rel=1e-6)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[2], hessian, rtol=1e-3, atol=1e-4)


def test_the_curvature_in_numpy_is_the_graphs() -> None:
    problem = Linear()
    _, slopes = problem.feature_slopes(mx.zeros(12), mx.eye(12))
    rows, roots = slice(0, 20), mx.sqrt(mx.softmax(mx.random.normal((3, 20), key=mx.random.key(0)), axis=0))
    graph, in_numpy = (
        np.array(kind(slopes, problem.images, keep=False).sum_curvatures(rows, roots))
        for kind in (GraphLogitSlopes, NumPyLogitSlopes)
    )
    np.testing.assert_allclose(in_numpy, graph, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", [1 << 22, 12 * 3 * 7])
def test_slopes_that_are_kept_change_nothing(backend: BackendName, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, at a point after another; and they are computed once."""
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.SLOPES_AT_ONCE", block)
    problem, draw = Linear(), np.random.default_rng(5)
    given = (*problem.feature_slopes(mx.zeros(12), mx.eye(12)), problem.images)
    plain, keeping = (LinearisedLoss(*given, backend=backend, keep=keep) for keep in (False, True))
    kind, products = KINDS[backend], []
    compute = kind.compute

    def watched(slopes: LogitSlopes, rows: slice) -> Any:
        if slopes is keeping.logit_slopes:
            products.append(rows)
        return compute(slopes, rows)

    monkeypatch.setattr(kind, "compute", watched)
    for a in 0.3 * draw.standard_normal((3, 12)):
        for one, other in zip(plain(a), keeping(a), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(products) == (1 if block > 1000 else 3)


def test_slopes_are_kept_where_the_budget_allows_it() -> None:
    assert keeps_slopes(sizes(100, 1600), 32, 1 << 30)
    assert not keeps_slopes(sizes(100, 1600), 32, 60 << 20)  # 20 MB, a quarter of 80
    assert not keeps_slopes(sizes(1000, 16000), 32, 1 << 40)


@pytest.mark.parametrize(("classes", "images"), [(50, 400), (200, 3200)])
def test_the_plan_of_the_memory_covers_a_step(classes: int, images: int) -> None:
    q, width = 32, 64
    kept = keeps_slopes(sizes(classes, images, width), q, 1 << 30)
    assert kept == (classes == 50)
    planned = step_bytes(sizes(classes, images, width), q, kept=kept)
    embeddings, labels = mx.random.normal((images, width)), mx.zeros(images, mx.int32)
    mx.eval(embeddings, labels)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    features = mx.random.normal((q + 1, classes, width))
    base, slopes = features[0], (features[1:] - features[0]) / 0.5
    given = LabelledImages(embeddings, labels, SCALE)
    model = LinearisedLoss(base, slopes, given, backend=choose_backend(), keep=kept)
    trust_region.minima(model, model(np.zeros(q)), (0.5, 1.0, 2.0))
    peak = tracemalloc.get_traced_memory()[1] + mx.get_peak_memory() - before
    tracemalloc.stop()
    assert planned / 4 < peak < 1.1 * planned
