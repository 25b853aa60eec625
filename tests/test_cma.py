"""CMA-ES against the package `cma`, against plain numpy, and on functions with a known optimum.

`cma` computes in float64 and we in float32: over 50 generations the mean agrees to 2e-5 of sigma, and sigma, the
paths and C to 2e-5 of their size (largest seen: 1.5e-6, with cma 4.5.0).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers import cma
from sharpzo_mlx.optimisers.params import Covariance
from sharpzo_mlx.rng import key_for

TOLERANCE = 2e-5


def _ellipsoid(x: np.ndarray) -> np.ndarray:
    scale = np.logspace(0, 3, x.shape[-1])
    return np.asarray(np.sum(scale * (x - 1) ** 2, axis=-1))


def _rosenbrock(x: mx.array) -> mx.array:
    return mx.sum(100 * mx.square(x[:, 1:] - mx.square(x[:, :-1])) + mx.square(1 - x[:, :-1]), axis=1)


def _oracle(d: int, population: int, covariance: str, active: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma as package

        es = package.CMAEvolutionStrategy(
            np.linspace(-1, 1, d),
            0.4,
            {
                "popsize": population,
                "CMA_mirrors": 0,
                "AdaptSigma": package.sigma_adaptation.CMAAdaptSigmaCSA,
                "CMA_active": active,
                "CMA_diagonal": covariance == "diagonal",
                "CMA_on": covariance != "identity",
                "seed": 7,
                "verbose": -9,
            },
        )
    if covariance != "diagonal":  # cma starts C off the identity by up to 1e-4, to tell its eigenvalues apart
        es.sm.C, es.sm.B, es.sm.D = np.eye(d), np.eye(d), np.ones(d)
    return es


def _relative(ours: mx.array, theirs: Any) -> float:
    expected = np.asarray(theirs, np.float64)
    return float(np.max(np.abs(np.array(ours) - expected)) / max(1e-30, float(np.max(np.abs(expected)))))


def _compare(state: cma.CMAState, es: Any, covariance: str) -> None:
    assert np.max(np.abs(np.array(state.mean) - es.mean)) <= TOLERANCE * es.sigma
    assert float(state.sigma.item()) == pytest.approx(es.sigma, rel=TOLERANCE)  # type: ignore[arg-type]
    assert _relative(state.path_sigma, es.adapt_sigma.ps) <= TOLERANCE
    assert _relative(state.path_c, es.pc) <= TOLERANCE
    if covariance == "full":
        assert _relative(state.covariance, es.sm.C) <= TOLERANCE
    elif covariance == "diagonal":
        assert _relative(state.covariance, es.sigma_vec.scaling**2) <= TOLERANCE


@pytest.mark.parametrize(
    ("d", "population", "covariance", "active"),
    [
        (10, 10, "full", True),
        (10, 10, "full", False),
        (64, 40, "full", True),
        (64, 40, "full", False),
        (320, 40, "full", True),
        (10, 40, "diagonal", False),
        (64, 40, "diagonal", True),
        (320, 40, "diagonal", True),
        (64, 40, "identity", True),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_equals_cma_over_50_generations(d: int, population: int, covariance: Covariance, active: bool) -> None:
    es = _oracle(d, population, covariance, active)
    params = cma.make_params(d, population, covariance, active=active)
    state = cma.init(params, mx.array(es.mean.astype(np.float32)), 0.4)
    for generation in range(50):
        x = np.array(es.ask())
        # a slope without end after a bowl: the path grows long while path_c is not zero, and h_sigma stalls it
        fitness = _ellipsoid(x) if generation < 25 else -np.sum(x, axis=1)
        es.tell(list(x), list(fitness))
        # ranks are what matters: equal to the last bit on both sides
        order = np.argsort(np.argsort(fitness)).astype(np.float32)
        state = cma.tell(params, state, mx.array(x.astype(np.float32)), mx.array(order))
        _compare(state, es, covariance)
    assert _has_learned(state, covariance)


def _has_learned(state: cma.CMAState, covariance: str) -> bool:
    """The comparison means something only where C has left the identity."""
    c = np.array(state.covariance)
    change = np.abs(c - (np.eye(len(c)) if covariance == "full" else 1)).max()
    return bool(change == 0) if covariance == "identity" else bool(change > 1e-3)


def test_identity_equals_plain_csa_es_in_numpy() -> None:
    d, population = 20, 12
    params = cma.make_params(d, population, "identity")
    weights = np.maximum(np.array(params.weights), 0)
    rng = np.random.default_rng(0)
    mean, sigma, path = np.ones(d), 0.3, np.zeros(d)
    state = cma.init(params, mx.array(mean.astype(np.float32)), sigma)
    for _ in range(40):
        z = rng.standard_normal((population, d))
        x = mean + sigma * z
        fitness = _ellipsoid(x)
        state = cma.tell(params, state, mx.array(x.astype(np.float32)), mx.array(fitness.astype(np.float32)))
        step = weights @ z[np.argsort(fitness)]
        c, damping = params.c_sigma, params.d_sigma
        path = (1 - c) * path + math.sqrt(c * (2 - c) * params.mueff) * step
        mean = mean + sigma * step
        sigma *= math.exp(c / damping * (np.linalg.norm(path) / params.chi - 1))
    np.testing.assert_allclose(np.array(state.mean), mean, atol=1e-5)
    assert float(np.array(state.sigma)) == pytest.approx(sigma, rel=1e-4)


def test_ask_has_the_covariance_of_the_state() -> None:
    params = cma.make_params(3, 20_000, "full")
    root = np.array([[2.0, 0, 0], [1, 1, 0], [0.5, -0.5, 0.3]], np.float32)
    c = root @ root.T
    values, vectors = np.linalg.eigh(c)
    state = dataclasses.replace(
        cma.init(params, mx.array([1.0, 2.0, 3.0]), 0.5),
        basis=mx.array(vectors),
        scales=mx.array(np.sqrt(values)),
    )
    x = np.array(cma.ask(params, state, key_for(0, "ask")))
    np.testing.assert_allclose(x.mean(axis=0), [1, 2, 3], atol=0.03)
    np.testing.assert_allclose(np.cov(x.T) / 0.25, c, atol=0.15)


@pytest.mark.parametrize(("covariance", "generations"), [("full", 260), ("diagonal", 150)])
def test_reaches_the_optimum_of_an_ellipsoid(covariance: Covariance, generations: int) -> None:
    d = 12
    params = cma.make_params(d, 20, covariance)
    state = cma.init(params, mx.zeros(d), 0.5)
    scale = mx.array(np.logspace(0, 4, d).astype(np.float32))
    for g in range(generations):
        x = cma.ask(params, state, key_for(1, g))
        state = cma.tell(params, state, x, mx.sum(scale * mx.square(x - 1), axis=1))
    np.testing.assert_allclose(np.array(state.mean), 1, atol=2e-3)


def test_reaches_the_optimum_of_rosenbrock() -> None:
    params = cma.make_params(6, 16)
    state = cma.init(params, mx.zeros(6), 0.3)
    for g in range(450):
        x = cma.ask(params, state, key_for(2, g))
        state = cma.tell(params, state, x, _rosenbrock(x))
        if g % 50 == 0:
            mx.eval(state.mean)
    np.testing.assert_allclose(np.array(state.mean), 1, atol=1e-2)


def test_a_lost_candidate_is_ranked_last_and_never_pulls_the_mean() -> None:
    params = cma.make_params(4, 8)
    state = cma.init(params, mx.zeros(4), 1.0)
    x = cma.ask(params, state, key_for(0, "x"))
    fitness = np.arange(8, dtype=np.float32)
    lost, worst = fitness.copy(), fitness.copy()
    lost[2], worst[2] = np.nan, 1e9
    after_lost = cma.tell(params, state, x, mx.array(lost))
    after_worst = cma.tell(params, state, x, mx.array(worst))
    for field in dataclasses.fields(cma.CMAState):
        np.testing.assert_array_equal(
            np.array(getattr(after_lost, field.name)), np.array(getattr(after_worst, field.name))
        )
    minus_infinity = fitness.copy()
    minus_infinity[2] = -np.inf
    np.testing.assert_array_equal(
        np.array(cma.tell(params, state, x, mx.array(minus_infinity)).mean), np.array(after_worst.mean)
    )


@pytest.mark.parametrize("covariance", cma.COVARIANCES)
def test_only_lost_candidates_leave_the_mean_and_nothing_turns_nan(covariance: Covariance) -> None:
    params = cma.make_params(4, 8, covariance)
    start = mx.array([1.0, 2.0, 3.0, 4.0])
    state = cma.init(params, start, 1.0)
    for g in range(30):
        x = cma.ask(params, state, key_for(0, g))
        state = cma.tell(params, state, x, mx.full(8, math.nan))
    np.testing.assert_array_equal(np.array(state.mean), np.array(start))
    for field in dataclasses.fields(cma.CMAState):
        assert np.isfinite(np.array(getattr(state, field.name))).all(), field.name
    x = cma.ask(params, state, key_for(0, "again"))  # and the search can continue
    moved = cma.tell(params, state, x, mx.sum(mx.square(x), axis=1))
    assert not np.array_equal(np.array(moved.mean), np.array(start))


def test_a_converged_search_stays_finite() -> None:
    params = cma.make_params(3, 8)
    state = cma.init(params, mx.zeros(3), 1e-3)
    for g in range(400):
        x = cma.ask(params, state, key_for(3, g))
        state = cma.tell(params, state, x, mx.sum(mx.square(x - 1), axis=1))
        if g % 100 == 99:
            mx.eval(state.mean, state.covariance)
    assert all(np.isfinite(np.array(getattr(state, f.name))).all() for f in dataclasses.fields(state))
    np.testing.assert_allclose(np.array(state.mean), 1, atol=1e-3)


def test_a_state_goes_through_a_dictionary_of_arrays_and_goes_on_alike() -> None:
    params = cma.make_params(5, 8)

    def run(state: cma.CMAState, first: int, last: int) -> cma.CMAState:
        for g in range(first, last):
            x = cma.ask(params, state, key_for(4, g))
            state = cma.tell(params, state, x, _rosenbrock(x))
        return state

    start = cma.init(params, mx.zeros(5), 0.5)
    through = run(start, 0, 20)
    saved = {f.name: np.array(getattr(run(start, 0, 9), f.name)) for f in dataclasses.fields(cma.CMAState)}
    resumed = run(cma.CMAState(**{name: mx.array(value) for name, value in saved.items()}), 9, 20)
    for field in dataclasses.fields(cma.CMAState):
        np.testing.assert_array_equal(np.array(getattr(through, field.name)), np.array(getattr(resumed, field.name)))
    assert int(np.array(resumed.count)) == 20


def test_inputs_are_not_changed() -> None:
    params = cma.make_params(5, 8)
    state = cma.init(params, mx.zeros(5), 0.5)
    x = cma.ask(params, state, key_for(0))
    before = np.array(x)
    after = cma.tell(params, state, x, mx.arange(8).astype(mx.float32))
    mx.eval(after.mean)
    np.testing.assert_array_equal(np.array(x), before)
    assert int(np.array(state.count)) == 0
    assert not np.array(state.mean).any()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(UserError, match="must be a positive number"):
        cma.init(cma.make_params(4, 8), mx.zeros(4), sigma)
