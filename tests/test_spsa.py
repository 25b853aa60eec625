"""SPSA: its estimate is unbiased with the stated variance, its steps are the formulas', its clipping is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.comparison.methods.method import Task
from sharpzo_mlx.comparison.methods.spsa_search import Descent, descend
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.optimisers.spsa import SPSAParams, clip, draw_perturbations, init, step
from sharpzo_mlx.rng import key_for

D = 6
PLAIN = SPSAParams(learning_rate=1.0, mu=0.1, decay=0.0, mu_decay=0.0, draws=3)


@dataclass
class Quadratic:
    """L(w) = w^T H w / 2 + b w."""

    curvature: mx.array
    slope: mx.array

    def losses(self, w: mx.array) -> mx.array:
        return mx.sum((w @ self.curvature) * w, axis=1) / 2 + w @ self.slope

    def gradient(self, w: mx.array) -> np.ndarray:
        return np.array(self.curvature @ w + self.slope, np.float64)


@pytest.fixture
def quadratic() -> Quadratic:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(D, D))
    return Quadratic(mx.array(np.eye(D) + root @ root.T / D, mx.float32), mx.array(rng.normal(size=D), mx.float32))


def estimate(loss: Quadratic, w: np.ndarray, delta: np.ndarray, mu: float) -> np.ndarray:
    """ghat by its definition, a draw and a coordinate at a time."""
    draws = []
    for row in delta:
        upper, lower = (float(loss.losses(mx.array(w + sign * mu * row, mx.float32)[None])[0]) for sign in (1, -1))
        draws.append([(upper - lower) / (2 * mu * entry) for entry in row])
    mean: np.ndarray = np.mean(draws, axis=0)
    return mean


def test_perturbations_keep_away_from_zero() -> None:
    delta = np.array(draw_perturbations(mx.random.key(0), 4000, 3))
    assert np.abs(delta).min() >= 0.5
    assert np.abs(delta).max() <= 1
    assert abs(np.abs(delta).mean() - 0.75) < 0.01
    assert np.abs(np.sign(delta).mean(axis=0)).max() < 4 / math.sqrt(4000)
    assert np.abs(np.corrcoef(delta.T) - np.eye(3)).max() < 0.08


def test_the_estimate_is_unbiased_and_its_variance_is_known(quadratic: Quadratic) -> None:
    draws, w = 200_000, mx.array(np.linspace(-1, 1, D), mx.float32)
    params = replace(PLAIN, draws=draws, mu=0.5)
    after, _ = step(params, init(w), quadratic, mx.random.key(1))
    found, true = np.array(w - after.w, np.float64), quadratic.gradient(w)
    # E[Delta^2] = 7/12 and E[1 / Delta^2] = 2: what the other coordinates add, with a random sign
    variance = 7 / 6 * (np.sum(true**2) - true**2)
    assert np.abs(found - true).max() < 4.5 * np.sqrt(variance / draws).max()
    few = replace(params, draws=1)
    samples = [np.array(w - step(few, init(w), quadratic, mx.random.key(n))[0].w, np.float64) for n in range(3000)]
    np.testing.assert_allclose(np.var(samples, axis=0), variance, rtol=0.15)


def test_gradient_correction_is_the_formula(quadratic: Quadratic) -> None:
    """With the gains of both papers' code, the defaults: a / (t + 1)^0.4 and c / t^0.1."""

    class Bent(Quadratic):  # of a quadratic alone the estimate is the same at every distance of the probes
        def losses(self, w: mx.array) -> mx.array:
            return super().losses(w) + mx.sum(w**3, axis=1)

    loss = Bent(quadratic.curvature, quadratic.slope)
    params = SPSAParams(learning_rate=0.05, mu=0.5, draws=2, momentum=0.9)
    state = init(mx.array(np.linspace(0.5, 1.5, D), mx.float32))
    w, velocity = np.array(state.w, np.float64), np.zeros(D)
    for t in (1, 2, 3):
        key = mx.random.key(t)
        ahead = w + 0.9 * velocity
        ghat = estimate(loss, ahead, np.array(draw_perturbations(key, 2, D), np.float64), 0.5 / t**0.1)
        velocity = 0.9 * velocity - 0.05 / (t + 1.0) ** 0.4 * ghat
        w = w + velocity
        state, _ = step(params, state, loss, key)
        np.testing.assert_allclose(state.w, w, rtol=1e-4)
        np.testing.assert_allclose(state.velocity, velocity, rtol=1e-3, atol=1e-5)
    assert state.step.item() == 3


def test_without_momentum_it_is_plain_spsa(quadratic: Quadratic) -> None:
    w = mx.ones(D)
    moving = replace(init(w), velocity=mx.ones(D))
    still, _ = step(PLAIN, init(w), quadratic, mx.random.key(0))
    after, value = step(PLAIN, moving, quadratic, mx.random.key(0))
    np.testing.assert_array_equal(after.w, still.w)
    delta = np.array(draw_perturbations(mx.random.key(0), 3, D), np.float64)
    np.testing.assert_allclose(still.w, 1 - estimate(quadratic, np.ones(D), delta, 0.1), rtol=1e-4, atol=1e-5)
    probes = np.concatenate([1 + 0.1 * delta, 1 - 0.1 * delta])
    assert float(value) == pytest.approx(float(mx.mean(quadratic.losses(mx.array(probes, mx.float32)))), rel=1e-5)


def test_clipping_caps_the_length_exactly_and_spares_what_is_shorter() -> None:
    long, short = mx.array([30.0, 40.0]), mx.array([0.3, 0.4])
    assert float(mx.linalg.norm(clip(long, 2.0))) == pytest.approx(2.0, rel=1e-6)
    np.testing.assert_allclose(clip(long, 2.0), [1.2, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(clip(short, 2.0), short)
    np.testing.assert_array_equal(clip(mx.zeros(2), 2.0), mx.zeros(2))


def test_the_threshold_is_the_root_of_the_dimension(quadratic: Quadratic) -> None:
    steep = Quadratic(quadratic.curvature, 1e4 * quadratic.slope)
    params = replace(PLAIN, clipped=True, draws=5)
    after, _ = step(params, init(mx.zeros(D)), steep, mx.random.key(3))
    assert float(mx.linalg.norm(after.w)) == pytest.approx(math.sqrt(D), rel=1e-5)
    free, _ = step(replace(params, clipped=False), init(mx.zeros(D)), steep, mx.random.key(3))
    np.testing.assert_allclose(after.w / math.sqrt(D), free.w / mx.linalg.norm(free.w), rtol=1e-4)


def test_a_lost_pair_counts_for_nothing(quadratic: Quadratic) -> None:
    class Broken(Quadratic):
        def losses(self, w: mx.array) -> mx.array:
            values = super().losses(w)
            return mx.where(mx.arange(values.shape[0]) == 1, mx.nan, values)

    loss = Broken(quadratic.curvature, quadratic.slope)
    after, value = step(PLAIN, init(mx.ones(D)), loss, mx.random.key(0))
    kept = np.array(draw_perturbations(mx.random.key(0), 3, D), np.float64)[[0, 2]]
    np.testing.assert_allclose(after.w, 1 - estimate(quadratic, np.ones(D), kept, 0.1), rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(value))


def test_the_average_follows_the_iterates(quadratic: Quadratic) -> None:
    params = replace(PLAIN, learning_rate=0.01, averaging=0.9)
    state, expected = init(mx.ones(D)), mx.ones(D)
    for t in range(1, 4):
        state, _ = step(params, state, quadratic, mx.random.key(t))
        kept = min(0.9, t / (t + 9))
        expected = kept * expected + (1 - kept) * state.w
    np.testing.assert_allclose(state.average, expected, rtol=1e-5)
    np.testing.assert_array_equal(average(mx.zeros(2), mx.ones(2), count=mx.array(50), share=0.0), mx.ones(2))


def test_it_finds_the_minimum(quadratic: Quadratic) -> None:
    params = SPSAParams(learning_rate=0.02, mu=0.05, draws=4, momentum=0.5)
    state = init(2 * mx.ones(D))
    start = float(quadratic.losses(state.w[None])[0])
    for t in range(600):
        state, _ = step(params, state, quadratic, mx.random.key(t))
    minimum = mx.array(-np.linalg.solve(np.array(quadratic.curvature), np.array(quadratic.slope)), mx.float32)
    lowest = float(quadratic.losses(minimum[None])[0])
    assert float(quadratic.losses(state.w[None])[0]) - lowest < 0.02 * (start - lowest)


def test_a_search_validates_the_average_and_keeps_the_best(quadratic: Quadratic) -> None:
    """Against the steps made by hand: three of six queries each, a validation every two and at the end."""
    config = TuneConfig(seed=3)
    task = cast(Task, SimpleNamespace(config=config, query_budget=20))
    params = replace(PLAIN, learning_rate=0.05, averaging=0.9)
    seen: list[mx.array] = []

    def validate(w: mx.array) -> Score:
        seen.append(w)
        return Score(0.5, float(quadratic.losses(w[None])[0]), 10)

    start = mx.ones(D)
    search = Descent(params, start, (start, validate(start)), lambda _: quadratic, validate, cast(Any, lambda w: w), 2)
    steps, records = descend(task, search), []
    while True:
        try:
            records.append(next(steps))
        except StopIteration as end:
            best = cast(Any, end.value)
            break
    state, expected = init(start), [start]
    for number in range(3):
        state, _ = step(params, state, quadratic, key_for(3, "spsa", number))
        expected += [state.average] if number else []
    np.testing.assert_array_equal(mx.stack(seen), mx.stack(expected))
    assert [record.queries for record in records] == [0, 12, 18]
    lowest = min(range(3), key=lambda place: records[place].score.loss)
    np.testing.assert_array_equal(best, expected[lowest])
    with pytest.raises(UserError, match="query-budget 5: the search needs at least 6"):
        next(descend(cast(Task, SimpleNamespace(config=config, query_budget=5)), search))
