"""The paper's theory on functions whose constants are known; docs/how/theory.md says what holds and what does not.

SharpZO, arXiv 2506.20990, sections 2.1, 3.1 and 4, appendix D: assumptions A1 (Polyak-Lojasiewicz, mu) and A2 (smooth,
L), Lemma 1 (stage 1), Lemma 2 (stage 2, eta <= 1 / (2 L (d + 4)))."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.optimisers import cma, gradients, sharpness
from sharpzo_mlx.optimisers.params import PruningParams, SharpnessParams, ZOSGDParams
from sharpzo_mlx.optimisers.zo_sgd import ZOSGD
from sharpzo_mlx.rng import key_for


@dataclass(frozen=True)
class Polynomial:
    """L(w) = sum over j of h_j w_j^2 / 2 + b_j w_j^3 + c_j w_j: third derivatives are 6 b."""

    h: tuple[float, ...]
    b: tuple[float, ...] = (0.0,)
    c: tuple[float, ...] = (0.0,)
    scale: float = 1.0

    def losses(self, w: mx.array) -> mx.array:
        h, b, c = map(mx.array, (self.h, self.b, self.c))
        return self.scale * mx.sum(h * w**2 / 2 + b * w**3 + c * w, axis=-1)

    def image_losses(self, w: mx.array) -> mx.array:
        return self.losses(w)[:, None]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        return self.losses(w), mx.sum(mx.array(self.gradient(w)) * u, axis=-1)

    def gradient(self, w: mx.array) -> np.ndarray:
        point = np.array(w, np.float64)
        result: np.ndarray = self.scale * (np.array(self.h) * point + 3 * np.array(self.b) * point**2 + self.c)
        return result


D = 6
POINT = mx.array([0.5, -1.0, 0.25, 2.0, -0.75, 1.5])
BOWL = Polynomial(tuple(np.linspace(1, 4, D).tolist()))  # mu = 1, L = 4, minimum 0
CUBIC = Polynomial(BOWL.h, b=(0.3, -0.2, 0.5, 0.1, -0.4, 0.6))
LINEAR = Polynomial((0.0,) * D, c=(1.0, -2.0, 0.5, 0.0, 3.0, -1.0))


# --- the estimators: sections 2.1 and 3.2 ---


@pytest.mark.parametrize("mu", [0.1, 0.2, 0.4])
def test_central_differences_err_by_a_sixth_of_mu_squared_times_the_third_derivative(mu: float) -> None:
    error = np.array(gradients.cge(CUBIC, POINT, mu=mu).vector) - CUBIC.gradient(POINT)
    np.testing.assert_allclose(error / mu**2, CUBIC.b, atol=0.01)
    exact = gradients.cge(BOWL, POINT, mu=mu).vector  # no third derivative, no error
    np.testing.assert_allclose(exact, BOWL.gradient(POINT), atol=1e-4)


def test_rounding_and_not_mu_sets_the_error_of_small_probes() -> None:
    """The bias falls with mu^2, rounding grows as 1/mu: in float32 there is a best mu, far above the smallest."""
    errors = {}
    for mu in (0.4, 1e-2, 1e-5):
        found = np.array(gradients.cge(CUBIC, POINT, mu=mu).vector)
        errors[mu] = float(np.abs(found - CUBIC.gradient(POINT)).max())
    assert errors[1e-2] < errors[0.4] / 50
    assert errors[1e-2] < errors[1e-5] / 50


def test_random_directions_see_the_smoothed_loss() -> None:
    """RGE is unbiased for the gradient of E L(w + mu u), which here lies 3 mu^2 b away: thrice the bias of CGE."""
    mu = 0.7
    found = gradients.rge(CUBIC, POINT, mx.random.key(0), mu=mu, directions=400_000).vector
    np.testing.assert_allclose((np.array(found) - CUBIC.gradient(POINT)) / (3 * mu**2), CUBIC.b, atol=0.06)


@pytest.mark.parametrize(
    ("kind", "directions", "kept"), [("rge", 1, D), ("rge", 4, 3), ("forward", 1, 3), ("forward", 4, D)]
)
def test_variance_of_random_directions(kind: str, directions: int, kept: int) -> None:
    """(||g||^2 + g_j^2) / q in coordinate j, (k + 1) / q ||g||^2 in all, k coordinates being kept by the mask."""
    mask = (mx.arange(D) < kept).astype(mx.float32)
    found = []
    for key in mx.random.split(mx.random.key(7), 800):
        if kind == "rge":
            one = gradients.rge(LINEAR, POINT, key, mu=0.5, directions=directions, mask=mask)
        else:
            one = gradients.forward_mode(LINEAR, POINT, key, directions=directions, mask=mask)
        found.append(one.vector)
    estimates = np.array(mx.stack(found), np.float64)
    g = LINEAR.gradient(POINT) * np.array(mask)
    wanted = (g @ g + g**2) / directions * np.array(mask)
    np.testing.assert_allclose(estimates.mean(axis=0), g, atol=5 * np.sqrt(wanted.max() / 800))
    assert estimates.var(axis=0).sum() == pytest.approx((kept + 1) / directions * (g @ g), rel=0.2)
    np.testing.assert_allclose(estimates.var(axis=0), wanted, rtol=0.4)


# --- stage 2: Lemma 2 ---


def expected_step(loss: Polynomial, eta: float) -> tuple[float, float]:
    """The mean loss after one step of ZO-SGD from POINT, drawn and in closed form for a quadratic."""
    u = gradients.random_directions(mx.random.key(3), 60_000, D)
    estimates = gradients.difference_slopes(loss, POINT, u, 0.1).values[:, None] * u
    drawn = float(mx.mean(loss.losses(POINT - eta * estimates)))
    g, h = loss.gradient(POINT), np.array(loss.h)
    closed = float(loss.losses(POINT)) - eta * (g @ g) + eta**2 / 2 * ((g @ g) * h.sum() + 2 * g @ (h * g))
    return drawn, closed


@pytest.mark.parametrize("loss", [BOWL, Polynomial((4.0,) * D)])
def test_the_stated_learning_rate_descends_in_expectation(loss: Polynomial) -> None:
    """eta = 1 / (2 L (d + 4)) gains at least eta / 2 ||g||^2 a step, as the lemma says; exactly, 7/8 eta and more."""
    eta = 1 / (2 * max(loss.h) * (D + 4))
    before, g = float(loss.losses(POINT)), loss.gradient(POINT)
    drawn, closed = expected_step(loss, eta)
    assert drawn == pytest.approx(closed, rel=0.01)
    assert drawn <= before - eta / 2 * (g @ g)


def test_the_limit_is_of_the_right_order() -> None:
    """Where all curvatures are L the true limit is 2 / (L (d + 2)): four times the stated rate, and d is needed."""
    loss = Polynomial((4.0,) * D)
    before = float(loss.losses(POINT))
    assert expected_step(loss, 1.8 / (4 * (D + 2)))[0] < before
    assert expected_step(loss, 2.3 / (4 * (D + 2)))[0] > before
    assert expected_step(loss, 1 / (2 * 4))[0] > before  # 1 / (2 L), without the dimension, ascends


def test_steps_of_that_rate_contract_as_the_polyak_lojasiewicz_constant_says() -> None:
    """Mean gap after T steps <= (1 - eta mu)^T of the first: the recursion in the proof of Theorem 1."""
    steps, eta = 60, 1 / (2 * max(BOWL.h) * (D + 4))
    params = ZOSGDParams(learning_rate=eta, mu=0.1, draws=1, rule="sgd", schedule="constant")
    optimiser = ZOSGD(params, PruningParams(keep=1.0), steps)
    gaps = []
    for seed in range(12):
        state = optimiser.init(POINT)
        for t in range(steps):
            state, _ = optimiser.step(state, BOWL, key_for(seed, "step", t))
        gaps.append(float(BOWL.losses(state.w)))
    assert np.mean(gaps) <= (1 - eta * min(BOWL.h)) ** steps * float(BOWL.losses(POINT))


# --- stage 1: Lemma 1 ---


def stage_one(
    loss: gradients.Loss,
    start: mx.array,
    *,
    rho: float,
    sigma: float,
    generations: int,
    seed: int = 0,
    adapted: bool = True,
) -> mx.array:
    """The means [generations + 1, d] of sharpness-aware CMA-ES; sigma is held where it is not `adapted`."""
    params = cma.make_params(start.shape[0], 12, "identity")
    sharp_params = SharpnessParams(rho=rho, estimator="cge", mu=1e-2, smoothing=0.0)
    state, sharp = cma.init(params, start, sigma), sharpness.init(start.shape[0])
    means = [state.mean]
    for t in range(generations):
        eps, sharp = sharpness.perturb(sharp_params, sharp, loss, state.mean, key_for(seed, "sharpness", t))
        candidates = cma.ask(params, state, key_for(seed, "cma", t))
        state = cma.tell(params, state, candidates, loss.losses(candidates + eps))
        state = state if adapted else replace(state, sigma=mx.array(sigma))
        mx.eval(state.mean, state.sigma, state.path_sigma, state.path_c)
        means.append(state.mean)
    return mx.stack(means)


@cache
def gaps(rho: float, sigma: float, generations: int, *, away: float, seed: int = 0, adapted: bool = True) -> np.ndarray:
    """L - L* of every mean on the bowl, beginning `away` from its bottom in every coordinate."""
    means = stage_one(BOWL, mx.full(D, away), rho=rho, sigma=sigma, generations=generations, seed=seed, adapted=adapted)
    return np.array(BOWL.losses(means), np.float64)


def test_stage_one_contracts_geometrically_while_it_adapts_its_step() -> None:
    found = np.log(gaps(0.0, 0.5, 90, away=3.0)[10:])
    slope, start = np.polyfit(np.arange(len(found)), found, 1)
    assert slope < -0.1
    assert np.abs(found - (start + slope * np.arange(len(found)))).max() < 0.2 * abs(slope) * len(found)  # a line


def test_the_rate_cannot_be_the_lemmas() -> None:
    """Lemma 1's factor 1 - mu (1 - 2 L sigma^2) depends on the loss's unit, ranks do not: the same path, scaled."""
    start, scaled = mx.full(D, 3.0), replace(BOWL, scale=1024.0)  # a power of two: no rounding differs
    paths = [stage_one(one, start, rho=0.0, sigma=0.2, generations=25) for one in (BOWL, scaled)]
    np.testing.assert_array_equal(paths[0], paths[1])
    factors = [1 - one.scale * (1 - 2 * one.scale * max(one.h) * 0.2**2) for one in (BOWL, scaled)]
    assert 0 <= factors[0] < 1  # a contraction is promised
    assert factors[1] > 1  # and here none is


def test_with_a_fixed_step_the_way_is_linear_and_as_long_as_sigma() -> None:
    """A rank-based step is as long as sigma, however far the minimum: no factor, and none that stays as sigma -> 0."""
    away = np.sqrt(gaps(0.0, 0.02, 60, away=3.0, adapted=False))
    half = np.sqrt(gaps(0.0, 0.01, 60, away=3.0, adapted=False))
    first, second = away[0] - away[30], away[30] - away[60]
    assert second == pytest.approx(first, rel=0.15)
    assert half[0] - half[60] == pytest.approx((away[0] - away[60]) / 2, rel=0.15)
    factor = 1 - min(BOWL.h) * (1 - 2 * max(BOWL.h) * 0.02**2)  # the lemma's: 0.003, and no floor where rho = 0
    assert away[60] ** 2 > 1e6 * factor**60 * away[0] ** 2


def test_the_floor_grows_with_sigma_though_rho_is_zero() -> None:
    """By sigma^2, from the scatter of the mean; the lemma's floor, C / xi with C = L^2 rho^2 (1 + L sigma^2), is 0."""
    floors = [gaps(0.0, sigma, 80, away=0.0, adapted=False)[20:].mean() for sigma in (0.05, 0.1, 0.2)]
    for one, other in itertools.pairwise(floors):
        assert other == pytest.approx(4 * one, rel=0.5)


def test_the_floor_grows_with_rho() -> None:
    """With a fixed step a little, since no step is longer than sigma; with an adapted one by orders of magnitude."""
    fixed = [
        np.mean([gaps(rho, 0.05, 80, away=0.0, seed=seed, adapted=False)[20:].mean() for seed in range(2)])
        for rho in (0.0, 1.0)
    ]
    assert fixed[1] > 1.2 * fixed[0]
    ends = [np.mean([np.log10(gaps(rho, 0.5, 90, away=3.0, seed=seed)[-20:]).mean() for seed in range(2)])
            for rho in (0.0, 0.1, 1.0)]  # fmt: skip
    assert ends[1] > ends[0] + 1
    assert ends[2] > ends[1] + 0.5


@dataclass(frozen=True)
class TwoBasins:
    """Equal depth at -1.5 (curvature 40) and at 1.5 (curvature 2) along the first axis, smoothly joined."""

    def losses(self, w: mx.array) -> mx.array:
        place = mx.array([1.5, *[0.0] * (D - 1)])
        sharp, flat = 20 * mx.sum((w + place) ** 2, axis=-1), mx.sum((w - place) ** 2, axis=-1)
        return -0.2 * mx.logsumexp(mx.stack([-sharp, -flat]) / 0.2, axis=0)

    def image_losses(self, w: mx.array) -> mx.array:
        return self.losses(w)[:, None]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        losses, slopes = mx.jvp(self.losses, [w], [u])
        return losses[0], slopes[0]


def ends_in_flat(rho: float, start: float, sigma: float, seeds: int) -> int:
    """How many of some searches end in the flat basin."""
    begin = mx.array([start, *[0.0] * (D - 1)])
    ends = [stage_one(TwoBasins(), begin, rho=rho, sigma=sigma, generations=30, seed=seed)[-1] for seed in range(seeds)]
    return sum(float(end[0]) > 0 for end in ends)


def test_the_sharpness_term_leaves_the_sharp_basin_and_stays_in_the_flat_one() -> None:
    """Begun at the bottom of the sharp one, plain CMA-ES stays there."""
    assert ends_in_flat(0.0, -1.5, 0.3, 8) <= 2
    assert ends_in_flat(1.0, -1.5, 0.3, 8) >= 5
    assert ends_in_flat(1.0, 1.5, 0.3, 4) == 4


def test_the_sharpness_term_leaves_no_basin_wider_than_its_steps() -> None:
    """Without a wide population rho alone moves nothing: the shift's direction turns from generation to generation."""
    assert ends_in_flat(0.3, -1.5, 0.05, 4) == 0
