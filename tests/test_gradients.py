"""Bias and variance of the gradient estimators on losses whose gradient is known."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.gradients import (
    cge,
    check_estimator,
    difference_slopes,
    estimate,
    forward_mode,
    random_directions,
    rge,
)
from sharpzo_mlx.rng import key_for


class Images:
    """A loss of N images, L_n(w) = (a_n . w - b_n)^2 / 2 + c sum w^3, as the optimisers see an objective."""

    def __init__(self, images: int, dimension: int, cubic: float = 0.0) -> None:
        rng = np.random.default_rng(3)
        self.a = mx.array(rng.standard_normal((images, dimension)).astype(np.float32))
        self.b = mx.array(rng.standard_normal(images).astype(np.float32))
        self.cubic = cubic
        self.batches: list[int] = []

    def image_losses(self, w: mx.array) -> mx.array:
        self.batches.append(w.shape[0])
        residual = w @ self.a.T - self.b  # [P, N]
        return mx.square(residual) / 2 + self.cubic * mx.sum(w**3, axis=1, keepdims=True)

    def losses(self, w: mx.array) -> mx.array:
        return mx.mean(self.image_losses(w), axis=1)

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        (values,), (derivatives,) = mx.jvp(self.losses, [w], [u])
        return values, derivatives

    def per_image_gradients(self, w: mx.array) -> np.ndarray:
        a, b, x = (np.array(v, np.float64) for v in (self.a, self.b, w))
        return np.asarray((a @ x - b)[:, None] * a + 3 * self.cubic * x**2)  # [N, d]


class Lossy(Images):
    """The same, but not a number on one side of some coordinates."""

    def image_losses(self, w: mx.array) -> mx.array:
        losses = super().image_losses(w)
        return mx.where((w[:, :1] > 1.0) | (w[:, 2:3] < -1.0), mx.nan, losses)


def _point(dimension: int) -> mx.array:
    return mx.array(np.linspace(-0.9, 0.9, dimension).astype(np.float32))


def test_cge_is_the_gradient_of_a_quadratic_in_one_batch_of_2d() -> None:
    loss, w = Images(5, 7), _point(7)
    gradient = cge(loss, w, mu=0.1)
    assert loss.batches == [14]
    np.testing.assert_allclose(np.array(gradient.vector), loss.per_image_gradients(w).mean(0), atol=2e-5)
    assert gradient.fisher is None


@pytest.mark.parametrize("mu", [0.1, 0.2, 0.4])
def test_cge_is_off_by_mu_squared_times_the_third_derivative(mu: float) -> None:
    loss, w = Images(5, 7, cubic=0.5), _point(7)
    error = np.array(cge(loss, w, mu=mu).vector) - loss.per_image_gradients(w).mean(0)
    np.testing.assert_allclose(error, mu**2 / 6 * 3.0, rtol=0.05)  # L''' = 6 c = 3


def test_fisher_is_the_mean_over_images_of_squared_gradients() -> None:
    loss, w = Images(5, 7), _point(7)
    gradient = cge(loss, w, mu=0.1, fisher=True)
    assert gradient.fisher is not None
    expected = (loss.per_image_gradients(w) ** 2).mean(0)
    np.testing.assert_allclose(np.array(gradient.fisher), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.array(gradient.vector), np.array(cge(loss, w, mu=0.1).vector), atol=1e-6)
    assert loss.batches == [14, 14]


def test_rge_is_unbiased_with_the_variance_it_states() -> None:
    loss, w, q, runs = Images(4, 6), _point(6), 3, 1500
    gradient = loss.per_image_gradients(w).mean(0)
    estimates = np.array(mx.stack([rge(loss, w, key_for(0, i), mu=1e-2, directions=q).vector for i in range(runs)]))
    variance = (gradient @ gradient + gradient**2) / q
    np.testing.assert_array_less(np.abs(estimates.mean(0) - gradient), 4 * np.sqrt(variance / runs))
    np.testing.assert_allclose(estimates.var(0), variance, rtol=0.25)
    assert set(loss.batches) == {2 * q}


def test_rge_equals_the_sum_written_out() -> None:
    loss, w, mu = Images(4, 6), _point(6), 0.05
    mask = mx.array([1.0, 0, 1, 1, 0, 1])
    u = np.array(random_directions(key_for(1), 5, 6, mask))
    assert not u[:, [1, 4]].any()
    assert u[:, [0, 2, 3, 5]].all()
    expected = np.zeros(6)
    for direction in u:
        pair = [float(np.array(loss.losses((w + s * mu * mx.array(direction))[None]))[0]) for s in (1, -1)]
        expected += (pair[0] - pair[1]) / (2 * mu) * direction / 5
    ours = rge(loss, w, key_for(1), mu=mu, directions=5, mask=mask)
    np.testing.assert_allclose(np.array(ours.vector), expected, atol=1e-4)


def test_forward_mode_over_all_coordinates_is_exact() -> None:
    loss, w = Images(5, 7, cubic=0.5), _point(7)
    expected = loss.per_image_gradients(w).mean(0)
    np.testing.assert_allclose(np.array(forward_mode(loss, w).vector), expected, rtol=1e-5, atol=1e-6)
    mask = mx.array([1.0, 0, 1, 1, 0, 1, 1])
    np.testing.assert_allclose(
        np.array(forward_mode(loss, w, mask=mask).vector), expected * np.array(mask), rtol=1e-5, atol=1e-6
    )


def test_forward_mode_along_random_directions_is_the_limit_of_rge() -> None:
    loss, w = Images(5, 7, cubic=0.5), _point(7)
    forward = np.array(forward_mode(loss, w, key_for(2), directions=4).vector)
    np.testing.assert_allclose(
        np.array(rge(loss, w, key_for(2), mu=1e-2, directions=4).vector), forward, rtol=2e-3, atol=2e-3
    )


def test_a_lost_pair_contributes_nothing() -> None:
    loss, sound = Lossy(5, 7), Images(5, 7)
    w = mx.array([0.99, 0.0, -0.99, 0.2, 0.3, 0.4, 0.5])  # beyond the edge on one side of coordinates 0 and 2
    gradient = cge(loss, w, mu=0.1, fisher=True)
    expected = np.array(cge(sound, w, mu=0.1, fisher=True).vector)
    expected[[0, 2]] = 0
    np.testing.assert_array_equal(np.array(gradient.vector), expected)
    assert gradient.fisher is not None
    assert np.isfinite(np.array(gradient.fisher)).all()
    assert not np.array(gradient.fisher)[[0, 2]].any()


def test_rge_averages_over_the_pairs_that_are_left() -> None:
    loss, w = Lossy(5, 7), mx.array([0.99, 0.0, 0.0, 0.2, 0.3, 0.4, 0.5])
    u = random_directions(key_for(5), 8, 7)
    slopes = difference_slopes(loss, w, u, 0.02)
    kept = np.array(slopes.finite)
    assert 0 < kept.sum() < 8
    expected = (np.array(slopes.values)[kept, None] * np.array(u)[kept]).mean(0)
    ours = rge(loss, w, key_for(5), mu=0.02, directions=8).vector
    np.testing.assert_allclose(np.array(ours), expected, rtol=1e-5, atol=1e-6)


def test_nothing_but_lost_pairs_is_a_zero_gradient() -> None:
    w = mx.array([5.0, 0, 0, 0, 0, 0, 0])
    loss = Lossy(5, 7)
    for kind in ("cge", "rge", "forward"):
        vector = np.array(estimate(kind, loss, w, key_for(0), mu=0.1).vector)
        np.testing.assert_array_equal(vector, np.zeros(7))


def test_estimate_calls_the_estimator_it_names() -> None:
    loss, w, key = Images(5, 20), _point(20), key_for(9)
    pairs = [
        (estimate("cge", loss, w, key, mu=0.1, fisher=True), cge(loss, w, mu=0.1, fisher=True)),
        (estimate("rge", loss, w, key, mu=0.1), rge(loss, w, key, mu=0.1, directions=2)),
        (estimate("forward", loss, w, key, mu=0.1), forward_mode(loss, w)),
        (estimate("forward", loss, w, key, mu=0.1, directions=3), forward_mode(loss, w, key, directions=3)),
    ]
    for ours, expected in pairs:
        np.testing.assert_array_equal(np.array(ours.vector), np.array(expected.vector))


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    loss, w = Images(5, 7), _point(7)
    first, again, other = (np.array(rge(loss, w, key_for(0, step), mu=0.1, directions=2).vector) for step in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(("kind", "mu", "directions"), [("spsa", 1e-3, None), ("cge", 0.0, None), ("rge", 1e-3, 0)])
def test_settings_are_checked(kind: Any, mu: float, directions: int | None) -> None:
    with pytest.raises(UserError):
        check_estimator(kind, mu=mu, directions=directions)
    assert check_estimator("forward", mu=0.0, directions=None) == "forward"


def test_only_cge_sees_single_images() -> None:
    with pytest.raises(UserError, match="use 'cge'"):
        estimate("rge", Images(5, 7), _point(7), key_for(0), mu=0.1, fisher=True)
