"""Zeroth-order SGD reaches known optima: every rule, pruned or dense, with and without an average."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from descents import Bowl, optimiser, run


@pytest.mark.parametrize(
    ("rule", "rate", "schedule", "estimator"),
    [
        ("sgd", 0.05, "constant", "rge"),
        ("momentum", 0.05, "linear", "rge"),
        ("adam", 0.1, "cosine", "rge"),
        ("normalised", 0.2, "cosine", "rge"),
        ("sgd", 0.05, "cosine", "forward"),
        ("adam", 0.1, "linear", "forward"),
    ],
)
def test_every_rule_reaches_the_bottom(rule: Any, rate: float, schedule: Any, estimator: Any) -> None:
    params = optimiser(
        learning_rate=rate,
        mu=1e-2,
        draws=4,
        keep=1.0,
        rule=rule,
        schedule=schedule,
        estimator=estimator,
        total_steps=250,
    )
    state = run(params, Bowl(8), mx.zeros(8), 250)
    np.testing.assert_allclose(np.array(state.w), 1, atol=0.06)


def test_pruned_search_reaches_the_bottom_when_masks_take_turns() -> None:
    params = optimiser(
        learning_rate=0.05, mu=1e-2, draws=2, keep=0.5, mask_interval=20, metric="gradient", total_steps=800
    )
    state = run(params, Bowl(8), mx.zeros(8), 800)
    np.testing.assert_allclose(np.array(state.w), 1, atol=0.05)


def test_rosenbrock_goes_down_its_valley() -> None:
    class Rosenbrock(Bowl):
        def image_losses(self, w: mx.array) -> mx.array:
            valley = 10 * mx.square(w[:, 1:] - mx.square(w[:, :-1])) + mx.square(1 - w[:, :-1])
            return mx.sum(valley, axis=1, keepdims=True)

    params = optimiser(
        learning_rate=0.03, draws=8, keep=1.0, rule="adam", estimator="forward", schedule="cosine",
        total_steps=900, beta2=0.99,
    )  # fmt: skip
    loss = Rosenbrock(3)
    state = run(params, loss, mx.zeros(3), 900)
    assert float(np.array(loss.losses(state.w[None]))[0]) < 5e-3  # from 2.0


def test_the_average_is_nearer_than_the_iterates_of_a_noisy_search() -> None:
    params = optimiser(learning_rate=0.1, mu=1e-2, keep=1.0, averaging=0.98, rule="normalised", beta1=0.0)
    state = run(params, Bowl(8), mx.zeros(8), 400)
    distance = [float(np.linalg.norm(np.array(x) - 1)) for x in (state.average, state.w)]
    assert distance[0] < 0.7 * distance[1]
