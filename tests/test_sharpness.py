"""The sharpness shift: its length and direction, that rho = 0 is plain CMA-ES, and that it finds flat minima."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers import cma, sharpness
from sharpzo_mlx.optimisers.params import SharpnessParams
from sharpzo_mlx.rng import key_for


def settings(**changes: Any) -> SharpnessParams:
    """The paper's settings, some changed."""
    paper: dict[str, Any] = {"rho": 0.1, "estimator": "cge", "mu": 1e-3, "smoothing": 0.0}
    return SharpnessParams(**{**paper, **changes})


class Bowl:
    """L(w) = sum scale (w - 1)^2, counting how many points it was asked for."""

    def __init__(self, dimension: int) -> None:
        self.scale = mx.array(np.linspace(1, 3, dimension).astype(np.float32))
        self.queries = 0

    def losses(self, w: mx.array) -> mx.array:
        self.queries += w.shape[0]
        return mx.sum(self.scale * mx.square(w - 1), axis=-1)

    def image_losses(self, w: mx.array) -> mx.array:
        return self.losses(w)[:, None]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        (values,), (derivatives,) = mx.jvp(self.losses, [w], [u])
        return values, derivatives

    def gradient(self, w: mx.array) -> np.ndarray:
        return np.array(2 * self.scale * (w - 1))


def _cosine(a: Any, b: Any) -> float:
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(("estimator", "queries"), [("cge", 20), ("forward", 10)])
def test_the_shift_is_rho_long_and_uphill(estimator: Any, queries: int) -> None:
    loss, mean = Bowl(10), mx.array(np.linspace(-1, 2, 10).astype(np.float32))
    params = settings(rho=0.3, estimator=estimator, mu=1e-2)
    eps, state = sharpness.perturb(params, sharpness.init(10), loss, mean, key_for(0))
    expected = 0.3 * loss.gradient(mean) / np.linalg.norm(loss.gradient(mean))
    np.testing.assert_allclose(np.array(eps), expected, atol=1e-4)
    assert loss.queries == queries
    assert int(np.array(state.count)) == 1


def test_random_directions_find_the_direction_when_averaged() -> None:
    loss, mean = Bowl(10), mx.zeros(10)
    rough = settings(rho=1.0, estimator="rge", mu=1e-2, directions=4)
    smooth = dataclasses.replace(rough, smoothing=0.95)
    cosines = {}
    for name, params in (("rough", rough), ("smooth", smooth)):
        state = sharpness.init(10)
        for generation in range(60):
            eps, state = sharpness.perturb(params, state, loss, mean, key_for(1, generation))
        assert float(np.linalg.norm(np.array(eps))) == pytest.approx(1.0, abs=1e-5)
        cosines[name] = _cosine(eps, loss.gradient(mean))
    assert cosines["smooth"] > 0.95 > cosines["rough"]


def test_the_average_is_corrected_for_its_start() -> None:
    params = settings(rho=1.0, estimator="cge", mu=1e-2, smoothing=0.9)
    loss, state, gradients = Bowl(4), sharpness.init(4), []
    for generation in range(3):
        mean = mx.full(4, float(generation))
        gradients.append(loss.gradient(mean))
        _, state = sharpness.perturb(params, state, loss, mean, key_for(0))
    weights = 0.1 * 0.9 ** np.array([2, 1, 0])
    expected = weights @ np.array(gradients) / weights.sum()
    np.testing.assert_allclose(np.array(sharpness.average_gradient(params, state)), expected, atol=2e-3)


def test_a_zero_gradient_gives_no_shift() -> None:
    params = settings(rho=0.5, mu=2.0**-7)  # a power of two: both sides of the bottom round alike
    eps, _ = sharpness.perturb(params, sharpness.init(6), Bowl(6), mx.ones(6), key_for(0))
    np.testing.assert_array_equal(np.array(eps), np.zeros(6))
    tiny = np.array(sharpness.scale_to_length(mx.array([3e-30, -4e-30]), 0.5))
    np.testing.assert_allclose(tiny, [0.3, -0.4], rtol=1e-5)


def _search(params: SharpnessParams | None, loss: Bowl, generations: int = 25) -> cma.CMAState:
    """CMA-ES with the shift as a tuning loop would call it, or without a word of it where params is None."""
    strategy = cma.make_params(6, 10)
    state, sharp = cma.init(strategy, mx.zeros(6), 0.3), sharpness.init(6)
    for g in range(generations):
        candidates = cma.ask(strategy, state, key_for(8, "ask", g))
        if params is None:
            state = cma.tell(strategy, state, candidates, loss.losses(candidates))
            continue
        eps, sharp = sharpness.perturb(params, sharp, loss, state.mean, key_for(8, "shift", g))
        fitness = loss.losses(candidates + eps)
        sharp = sharpness.observe(params, sharp, candidates, fitness, mean=state.mean, sigma=state.sigma)
        state = cma.tell(strategy, state, candidates, fitness)
    return state


@pytest.mark.parametrize("estimator", ["cge", "rge", "forward", "population"])
def test_rho_zero_is_plain_cma_es_to_the_last_bit_and_costs_nothing(estimator: Any) -> None:
    plain, shifted = Bowl(6), Bowl(6)
    expected = _search(None, plain)
    ours = _search(settings(rho=0.0, estimator=estimator), shifted)
    for field in dataclasses.fields(cma.CMAState):
        np.testing.assert_array_equal(np.array(getattr(ours, field.name)), np.array(getattr(expected, field.name)))
    assert shifted.queries == plain.queries == 250


def test_no_estimator_is_plain_cma_es_too() -> None:
    ours = _search(settings(rho=0.4, estimator="none"), Bowl(6))
    np.testing.assert_array_equal(np.array(ours.mean), np.array(_search(None, Bowl(6)).mean))


@pytest.mark.parametrize("estimator", ["cge", "forward", "population"])
def test_a_shift_changes_the_search_and_still_finds_the_bowl(estimator: Any) -> None:
    ours = _search(settings(rho=0.05, estimator=estimator, mu=1e-2), Bowl(6), generations=70)
    assert not np.array_equal(np.array(ours.mean), np.array(_search(None, Bowl(6), generations=70).mean))
    np.testing.assert_allclose(np.array(ours.mean), 1, atol=0.1)


def test_the_population_is_told_nothing_more_than_it_has_paid() -> None:
    loss = Bowl(6)
    _search(settings(rho=0.1, estimator="population"), loss)
    assert loss.queries == 250


def test_the_populations_gradient_is_unbiased() -> None:
    loss, mean, sigma = Bowl(5), mx.zeros(5), 0.2
    estimates = []
    for i in range(600):
        x = mean + sigma * mx.random.normal((12, 5), key=key_for(2, i))
        estimates.append(sharpness.estimate_from_population(x, loss.losses(x), mean=mean, sigma=sigma))
    found = np.array(mx.stack(estimates))
    error = np.abs(found.mean(0) - loss.gradient(mean))  # a quadratic, smoothed, has the same gradient
    np.testing.assert_array_less(error, 4 * found.std(0) / math.sqrt(len(found)))
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(loss.gradient(mean))


def test_the_populations_gradient_equals_the_sum_written_out_over_the_finite() -> None:
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    fitness = np.array([1, 2, np.nan, 5, np.inf, 0.5, -1], np.float32)
    kept = np.isfinite(fitness)
    mean, sigma = np.array([0.1, 0.2, 0.3], np.float32), 0.5
    f = fitness[kept].astype(np.float64)
    expected = (f - f.mean()) @ (x[kept] - mean) / (kept.sum() - 1) / sigma**2
    ours = sharpness.estimate_from_population(mx.array(x), mx.array(fitness), mean=mx.array(mean), sigma=sigma)
    np.testing.assert_allclose(np.array(ours), expected, rtol=1e-5)
    lost = sharpness.estimate_from_population(mx.array(x), mx.full(7, mx.nan), mean=mx.array(mean), sigma=sigma)
    np.testing.assert_array_equal(np.array(lost), np.zeros(3))


def test_only_the_population_estimator_observes() -> None:
    state = sharpness.init(3)
    x, fitness = mx.random.normal((4, 3), key=key_for(0)), mx.arange(4).astype(mx.float32)
    for estimator, count in (("cge", 0), ("none", 0), ("population", 1)):
        params = settings(rho=0.1, estimator=estimator)
        after = sharpness.observe(params, state, x, fitness, mean=mx.zeros(3), sigma=1.0)
        assert int(np.array(after.count)) == count


class Valleys:
    """In the first coordinate a narrow deep hole at -1 and a wide one, a little less deep, at 1."""

    def losses(self, w: mx.array) -> mx.array:
        x = w[:, 0]
        narrow = 1.2 * mx.exp(-mx.square(x + 1) / (2 * 0.02**2))
        wide = mx.exp(-mx.square(x - 1) / (2 * 0.5**2))
        return mx.sum(mx.square(w[:, 1:]), axis=1) - narrow - wide

    def image_losses(self, w: mx.array) -> mx.array:
        return self.losses(w)[:, None]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        (values,), (derivatives,) = mx.jvp(self.losses, [w], [u])
        return values, derivatives


def test_the_shifted_loss_prefers_the_flat_minimum() -> None:
    loss, params = Valleys(), settings(rho=0.1, estimator="cge", mu=1e-3)
    shifted = {}
    for x in (-0.999, 0.999):  # just off the two minima, where a gradient is left
        w = mx.array([x, 0.0, 0.0])
        eps, _ = sharpness.perturb(params, sharpness.init(3), loss, w, key_for(0))
        shifted[x] = float(np.array(loss.losses((w + eps)[None]))[0])
    narrow, wide = (float(np.array(loss.losses(mx.array([[x, 0.0, 0.0]])))[0]) for x in (-1.0, 1.0))
    assert narrow < wide
    assert shifted[0.999] < shifted[-0.999]


@pytest.mark.parametrize(
    "changes",
    [
        {"rho": -0.1},
        {"rho": math.nan},
        {"estimator": "guess"},
        {"smoothing": 1.0},
        {"mu": 0.0},
        {"estimator": "rge", "directions": 0},
    ],
)
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        settings(**changes)
