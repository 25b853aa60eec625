"""Sparse ZO-SGD: the paper's step written out in NumPy, keep = 1 is dense, lost probes, continuing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest
from descents import Bowl, Cliff, continue_from, optimiser, run

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import Rule, Schedule
from sharpzo_mlx.optimisers.zo_sgd import ZOState
from sharpzo_mlx.rng import key_for


@pytest.mark.parametrize("draws", [1, 3])
def test_keep_one_is_dense_zo_sgd_written_out_in_numpy(draws: int) -> None:
    params = optimiser(learning_rate=0.02, mu=1e-2, draws=draws, keep=1.0)
    loss, w = Bowl(6), np.full(6, -0.5)
    scale = np.array(loss.scale, np.float64)

    def value(x: np.ndarray) -> float:
        return float(scale @ (x - 1) ** 2 / 2)

    state = params.init(mx.array(w.astype(np.float32)))
    for t in range(40):
        key = key_for(0, "step", t)
        u = np.array(mx.random.normal((draws, 6), key=key), np.float64)
        slopes = [(value(w + 1e-2 * d) - value(w - 1e-2 * d)) / 2e-2 for d in u]
        pair_mean = np.mean([(value(w + 1e-2 * d) + value(w - 1e-2 * d)) / 2 for d in u])
        w = w - 0.02 * np.mean([s * d for s, d in zip(slopes, u, strict=True)], axis=0)
        assert not params.mask_is_due(state)
        state, estimate = params.step(state, loss, key)
        assert float(np.array(estimate)) == pytest.approx(pair_mean, rel=1e-3)
    np.testing.assert_allclose(np.array(state.w), w, atol=3e-3)
    np.testing.assert_array_equal(np.array(state.average), np.array(state.w))
    assert loss.batches == [2 * draws] * 40  # all forwards of a step in one batch


def test_the_mask_is_the_paper_s_and_the_rest_of_w_stands_still() -> None:
    params = optimiser(learning_rate=0.02, mu=1e-2, keep=0.5, mask_interval=10)
    loss = Bowl(8, steepest=100.0)
    start = mx.array(np.array([0.5, -0.4, 0.3, 0.2, -0.3, 0.6, 0.1, 0.9], np.float32))
    state = params.init(start)
    assert params.mask_is_due(state)
    state = params.renew_mask(state, loss, key_for(0))
    assert loss.batches == [16]
    w = np.array(start, np.float64)
    squared = (np.array(loss.scale) * (w - 1)) ** 2
    score = w**2 * (squared - squared.mean()) / squared.std()
    expected = np.zeros(8)
    expected[np.argsort(-score)[:4]] = 1
    np.testing.assert_array_equal(np.array(state.mask), expected)
    for t in range(10):
        assert params.mask_is_due(state) == (t == 0)
        state, _ = params.step(state, loss, key_for(0, t))
    assert params.mask_is_due(state)
    moved = np.array(state.w) != np.array(start)
    np.testing.assert_array_equal(moved, expected == 1)


@pytest.mark.parametrize(
    ("metric", "estimator", "queries"),
    [
        ("zscore-squared", "cge", [40]),
        ("zscore-squared", "rge", [4]),
        ("zscore-fisher", "rge", [40]),
        ("gradient", "forward", [20]),
        ("magnitude", "cge", []),
        ("random", "cge", []),
        ("none", "cge", []),
    ],
)
def test_what_a_mask_costs_and_keeps(metric: Any, estimator: Any, queries: list[int]) -> None:
    params = optimiser(metric=metric, mask_estimator=estimator, keep=0.3, mu=1e-2)
    loss = Bowl(20)
    w = mx.array(np.random.default_rng(0).standard_normal(20).astype(np.float32))
    state = params.renew_mask(params.init(w), loss, key_for(0))
    mask = np.array(state.mask)
    assert loss.batches == queries
    assert mask.sum() == (20 if metric == "none" else 6)
    if metric == "magnitude":
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(np.argsort(-abs(np.array(w)))[:6]))
    if metric == "gradient":
        gradient = np.array(loss.scale * (w - 1))
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(np.argsort(-abs(gradient))[:6]))


def test_normalised_steps_have_the_length_of_the_learning_rate() -> None:
    params = optimiser(learning_rate=0.25, mu=1e-2, keep=1.0, rule="normalised", beta1=0.0)
    state, _ = params.step(params.init(mx.zeros(8)), Bowl(8), key_for(0))
    assert float(np.linalg.norm(np.array(state.w))) == pytest.approx(0.25, rel=1e-5)


def test_adam_equals_adam_in_numpy() -> None:
    params = optimiser(learning_rate=0.1, keep=1.0, rule="adam", estimator="forward", beta1=0.8, beta2=0.95)
    loss, w, m, v = Bowl(5), np.zeros(5), np.zeros(5), np.zeros(5)
    state = params.init(mx.zeros(5))
    for t in range(1, 15):
        u = np.array(mx.random.normal((1, 5), key=key_for(3, t)), np.float64)[0]
        g = (np.array(loss.scale) * (w - 1)) @ u * u
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        w = w - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-12)
        state, _ = params.step(state, loss, key_for(3, t))
    np.testing.assert_allclose(np.array(state.w), w, atol=1e-4)


def test_a_moment_does_not_move_what_the_mask_has_left() -> None:
    params, dense = (optimiser(learning_rate=0.1, mu=1e-2, keep=keep, rule="momentum") for keep in (0.5, 1.0))
    state = run(dense, Bowl(4), mx.zeros(4), 5)
    state = dataclasses.replace(state, mask=mx.array([1.0, 1.0, 0.0, 0.0]))
    after, _ = params.step(state, Bowl(4), key_for(1))
    moved = np.array(after.w) != np.array(state.w)
    np.testing.assert_array_equal(moved, [True, True, False, False])


def test_the_schedules() -> None:
    at = {
        name: [
            float(np.array(optimiser(learning_rate=2.0, total_steps=100, schedule=name).learning_rate(mx.array(t))))
            for t in (0, 50, 100, 150)
        ]
        for name in get_args(Schedule)
    }
    assert at["constant"] == [2, 2, 2, 2]
    np.testing.assert_allclose(at["cosine"], [2, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(at["linear"], [2, 1, 0, 0], atol=1e-6)


def test_a_lost_pair_does_not_move_w_and_is_left_out_of_the_estimate() -> None:
    params = optimiser(learning_rate=0.1, mu=1e-2, keep=1.0)
    state = params.init(mx.zeros(4))
    after, estimate = params.step(state, Cliff(4), key_for(0))  # every pair has a side over the edge
    np.testing.assert_array_equal(np.array(after.w), np.zeros(4))
    assert math.isnan(float(np.array(estimate)))
    assert int(np.array(after.step)) == 1
    masked = dataclasses.replace(state, mask=mx.array([0.0, 1.0, 1.0, 1.0]))
    after, estimate = params.step(masked, Cliff(4), key_for(0))
    assert np.isfinite(np.array(after.w)).all()
    assert math.isfinite(float(np.array(estimate)))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_state_goes_through_a_dictionary_of_arrays_and_goes_on_alike(rule: Any) -> None:
    params = optimiser(
        learning_rate=0.02, mu=1e-2, keep=0.5, mask_interval=7, rule=rule, averaging=0.9, metric="gradient"
    )
    loss = Bowl(6)
    through = run(params, loss, mx.full(6, 0.2), 20)
    half = run(params, loss, mx.full(6, 0.2), 9)
    saved = {f.name: np.array(getattr(half, f.name)) for f in dataclasses.fields(ZOState)}
    resumed = continue_from(params, loss, ZOState(**{k: mx.array(v) for k, v in saved.items()}), 9, 20)
    for field in dataclasses.fields(ZOState):
        np.testing.assert_array_equal(np.array(getattr(through, field.name)), np.array(getattr(resumed, field.name)))


def test_another_seed_goes_another_way_and_inputs_are_not_changed() -> None:
    params = optimiser(learning_rate=0.02, mu=1e-2, keep=1.0)
    w = mx.zeros(6)
    one, two = run(params, Bowl(6), w, 5, seed=1), run(params, Bowl(6), w, 5, seed=2)
    assert np.abs(np.array(one.w) - np.array(two.w)).max() > 1e-4
    assert not np.array(w).any()


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 0.0},
        {"metric": "best"},
        {"estimator": "cge"},
        {"rule": "lion"},
        {"schedule": "step"},
        {"mu": 0.0},
        {"mask_mu": -1.0},
        {"draws": 0},
        {"mask_interval": 0},
        {"beta1": 1.0},
        {"averaging": 1.0},
    ],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        optimiser(**settings)
