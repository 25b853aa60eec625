"""CoOp: its gradient is that of the objective, its minibatches, epochs and optimiser are the authors'."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from method_runs import SMALL, run_method, small_task

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import coop, registry
from sharpzo_mlx.comparison.methods.method import AVERAGING, Task
from sharpzo_mlx.objective.loss import score_features


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    """Four shots of three classes; d = 16."""
    return small_task(tiny_model, photos, query_budget=300, config=sz.TuneConfig().with_settings(SMALL))


def test_the_gradient_of_coop_is_that_of_the_objective(task: Task) -> None:
    """Against central differences of the losses that all other methods see, along random directions of w."""
    objective = task.problem({"space.dimension": 16, "space.relative_scale": 20.0}).objective
    w = 0.3 * mx.random.normal((16,), key=mx.random.key(1))
    context = objective.space.contexts(w[None])[0]
    slope = mx.grad(lambda x: coop.compute_loss(objective, x))(context)
    by_w = np.array(slope.reshape(1, -1) @ objective.space.projection)[0]
    step = 1e-2
    for key in range(4):
        u = mx.random.normal((16,), key=mx.random.key(key))
        up, down = np.array(objective.losses(mx.stack([w + step * u, w - step * u])), np.float64)
        assert (up - down) / (2 * step) == pytest.approx(float(by_w @ np.array(u)), rel=2e-2, abs=1e-3)
    np.testing.assert_allclose(coop.compute_loss(objective, context), objective.losses(w[None])[0], rtol=1e-4)


def test_coop_lowers_the_training_loss_and_makes_no_query(task: Task) -> None:
    method = registry.method("coop")
    records, classifier = run_method(method, task, {**method.tuned, "steps": 40})
    before = score_features(run_method(registry.method("zero-shot"), task, {})[1].class_features, task.train, 1.0)
    after = score_features(classifier.class_features, task.train, 1.0)
    assert after.accuracy >= before.accuracy
    assert records[-1].best.loss < 0.7 * records[0].best.loss
    assert {progress.queries for progress in records} == {0}
    assert records[-1].backward_passes == 40


def test_published_coop_takes_minibatches_for_its_epochs(task: Task) -> None:
    method = registry.method("coop")
    records, _ = run_method(method, task, {**method.published, "epochs": 3, "batch": 5})
    assert records[-1].backward_passes == 3 * (12 // 5)
    assert [coop.count_epochs(None, shots) for shots in (1, 2, 4, 8, 16, None)] == [50, 100, 100, 200, 200, 200]
    given = coop.draw_batches(12, 5, seed=0)
    rows = [np.array(next(given)).tolist() for _ in range(4)]
    for first, second in (rows[:2], rows[2:]):  # an epoch: no image twice
        assert len({*first, *second}) == 10
    assert rows[:2] != rows[2:]


def test_published_coop_is_sgd_with_momentum_and_weight_decay() -> None:
    """By hand, at a rate at which the decay can be seen; the rate is 1e-5 in the first epoch, then on the cosine."""
    published = registry.method("coop").published
    assert published == {"optimiser": "sgd", "learning_rate": 2e-3, "epochs": None, "batch": 32, "averaging": 0.0}
    optimiser = coop.make_optimiser({**published, "learning_rate": 10.0}, total=8, epoch=2)
    slopes = 1e-3 * np.random.default_rng(0).normal(size=(4, 3))
    w, velocity = np.array([2.0, -1.0, 0.5]), np.zeros(3)
    context = mx.array(w, mx.float32)
    rates = [1e-5, 1e-5, *(5 * (1 + np.cos(np.pi * step / 8)) for step in (2, 3))]
    for rate, slope in zip(rates, slopes, strict=True):
        velocity = 0.9 * velocity + slope + 5e-4 * w
        w = w - rate * velocity
        context = optimiser.apply_gradients({"x": mx.array(slope, mx.float32)}, {"x": context})["x"]
        np.testing.assert_allclose(context, w, rtol=1e-5)


def test_what_coop_validates_is_the_average_of_the_iterates(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def unmoved(past: mx.array, w: mx.array, *, count: mx.array, share: float) -> mx.array:
        assert float(mx.abs(w - past).max()) > 0
        asked.append((np.array(count).item(), share))
        return past

    monkeypatch.setattr(coop, "average", unmoved)
    records, _ = run_method(registry.method("coop"), task, {**registry.method("coop").tuned, "steps": 3})
    assert [progress.score for progress in records] == [records[0].score] * 4
    assert asked == [(1, AVERAGING), (2, AVERAGING), (3, AVERAGING)]
