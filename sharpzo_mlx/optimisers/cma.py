"""CMA-ES on mlx arrays: weighted recombination, step-size adaptation, rank-one and rank-mu updates.

A generation samples x_i = m + sigma N(0, C), ranks the fitness, and moves m, sigma, C and the two paths
(Hansen 2016, arXiv 1604.00772, equation numbers below); SharpZO section 3.1 uses it for stage 1. The strategy
constants are read from the package `cma`, and the updates equal its own, for a full covariance (with or
without negative weights), a diagonal one (sep-CMA, Ros and Hansen 2008, with `cma`'s exponential update) and
the identity (CSA-ES).

>>> params = cma_params(8, 10)
>>> state = init(params, mx.zeros(8), 0.5)
>>> for generation in range(3):
...     x = ask(params, state, mx.random.key(generation))
...     state = tell(params, state, x, mx.sum(mx.square(x - 1), axis=1))
>>> state.mean.shape, int(state.count.item())
((8,), 3)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import Covariance
from sharpzo_mlx.optimisers.ranking import ranks

COVARIANCES: tuple[Covariance, ...] = get_args(Covariance)

SMALLEST_SIGMA = 1e-30  # float32 reaches 1e-38: steps and their squares stay finite
SMALLEST_EIGENVALUE = 1e-7  # of the largest: below that float32 sees only rounding, and no axis may collapse


@dataclass(frozen=True)
class CMAParams:
    """The strategy constants, named as in the tutorial; `weights` run from the best rank to the worst."""

    dimension: int
    population: int
    covariance: Covariance
    weights: tuple[float, ...]
    mueff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # E||N(0, I)||
    eigen_gap: float  # generations between two eigendecompositions


@dataclass(frozen=True)
class CMAState:
    """All that changes: arrays only; `count` and `decomposed` are int32 and 0-d, `sigma` is 0-d."""

    mean: mx.array  # [d]
    sigma: mx.array
    covariance: mx.array  # C: [d, d], diagonal: variances [d], identity: [1]
    basis: mx.array  # B of C = B D^2 B^T: [d, d]; unused and [1, 1] unless C is full
    scales: mx.array  # D: [d], identity: [1]
    path_sigma: mx.array  # [d]
    path_c: mx.array  # [d]; in units of D where C is diagonal, as `cma` keeps it
    count: mx.array  # generations told
    decomposed: mx.array  # the count at which B and D were last made from C


def cma_params(dimension: int, population: int, covariance: Covariance = "full", *, active: bool = True) -> CMAParams:
    """The constants of `cma` (default settings, CSA, no mirrored samples) for a problem size.

    Args:
        dimension: d, at least 2 (`cma` has no rules below).
        population: S, candidates in a generation, at least 4.
        covariance: what is learned of C. A diagonal C learns about (d + 2) / 3 times faster than a full one.
        active: negative weights for the worse half.

    Raises:
        UserError: a size too small or an unknown covariance.
    """
    if dimension < 2 or population < 4:
        raise UserError(f"CMA-ES in {dimension} dimensions with {population} candidates: it needs at least 2 and 4")
    if covariance not in COVARIANCES:
        raise UserError(f"unknown covariance {covariance!r}: choose one of {', '.join(COVARIANCES)}")
    return _read_constants(_strategy(dimension, population, covariance, active), covariance)


def init(params: CMAParams, mean: mx.array, sigma: float) -> CMAState:
    """The state before the first generation: C = I, empty paths.

    Args:
        params: made by `cma_params`.
        mean: the starting point [d].
        sigma: the starting step size, in units of w.

    Raises:
        UserError: sigma is not a positive number.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise UserError(f"sigma is {sigma}: the step size of CMA-ES must be a positive number")
    if mean.shape != (params.dimension,):
        raise ValueError(f"the mean has shape {mean.shape}, the parameters are for {params.dimension}")
    full = params.covariance == "full"
    scales = mx.ones(1 if params.covariance == "identity" else params.dimension)
    return CMAState(
        mean=mean.astype(mx.float32),
        sigma=mx.array(sigma, mx.float32),
        covariance=mx.eye(params.dimension) if full else scales,
        basis=mx.eye(params.dimension if full else 1),
        scales=scales,
        path_sigma=mx.zeros(params.dimension),
        path_c=mx.zeros(params.dimension),
        count=mx.array(0, mx.int32),
        decomposed=mx.array(0, mx.int32),
    )


def ask(params: CMAParams, state: CMAState, key: mx.array) -> mx.array:
    """Candidates [S, d]: x_i = m + sigma B D z_i, z_i ~ N(0, I) (eqs. 38 to 40), all S in one product."""
    z = mx.random.normal((params.population, params.dimension), key=key)
    steps = z * state.scales
    if params.covariance == "full":
        steps = steps @ state.basis.T
    return state.mean + state.sigma * steps


def tell(params: CMAParams, state: CMAState, candidates: mx.array, fitness: mx.array) -> CMAState:
    """The state after a generation.

    Args:
        params: the constants.
        state: the state that `candidates` were asked from; it is not changed.
        candidates: [S, d].
        fitness: [S], smaller is better. A NaN or infinite one is lost: ranked last, it never pulls the mean.

    Returns:
        The next state, lazily evaluated. C is decomposed anew when `cma` would (about every d/200
        generations).
    """
    if candidates.shape != (params.population, params.dimension) or fitness.shape != (params.population,):
        raise ValueError(f"told {candidates.shape} candidates and {fitness.shape} losses, not {params.population}")
    steps = (candidates - state.mean) / state.sigma  # y_i  [S, d]
    weights = _rank_weights(params, fitness)  # [S]
    shift = mx.maximum(weights, 0) @ steps  # <y>_w, eq. 41
    path_sigma = _update_path_sigma(params, state, shift)
    stalled = _is_stalled(params, path_sigma, state.count + 1)
    path_c = _update_path_c(params, state, shift, stalled)
    moved = replace(
        state,
        mean=state.mean + state.sigma * shift,  # eq. 42
        sigma=_update_sigma(params, state.sigma, path_sigma),
        path_sigma=path_sigma,
        path_c=path_c,
        count=state.count + 1,
    )
    if params.covariance == "full":
        c = _update_full(params, state, weights, steps, path_c=path_c, stalled=stalled)
        return _decompose_when_due(params, replace(moved, covariance=c))
    if params.covariance == "diagonal":
        scales = _update_diagonal(params, state, weights, steps, path_c=path_c, stalled=stalled)
        return replace(moved, covariance=mx.square(scales), scales=scales)
    return moved


def _rank_weights(params: CMAParams, fitness: mx.array) -> mx.array:
    lost = ~mx.isfinite(fitness)
    weights = mx.array(params.weights)[ranks(mx.where(lost, mx.inf, fitness))]
    return mx.where(lost, mx.minimum(weights, 0), weights)


def _whiten(params: CMAParams, state: CMAState, steps: mx.array) -> mx.array:
    """C^(-1/2) applied to the last axis, with the B and D that the candidates were drawn from."""
    if params.covariance == "full":
        return ((steps @ state.basis) / state.scales) @ state.basis.T
    return steps / state.scales


def _update_path_sigma(params: CMAParams, state: CMAState, shift: mx.array) -> mx.array:
    c = params.c_sigma
    pull = math.sqrt(c * (2 - c) * params.mueff)
    return (1 - c) * state.path_sigma + pull * _whiten(params, state, shift)  # eq. 43


def _is_stalled(params: CMAParams, path_sigma: mx.array, count: mx.array) -> mx.array:
    """1 - h_sigma: the path is so long that sigma, not C, has to learn its length (tested as `cma` does)."""
    settled = 1 - mx.power(1 - params.c_sigma, 2 * count.astype(mx.float32))
    d = params.dimension
    return (mx.sum(mx.square(path_sigma)) / settled / d >= 2 + 4 / (d + 1)).astype(mx.float32)


def _update_path_c(params: CMAParams, state: CMAState, shift: mx.array, stalled: mx.array) -> mx.array:
    c = params.c_c
    pull = math.sqrt(c * (2 - c) * params.mueff)
    step = shift if params.covariance == "full" else shift / state.scales
    return (1 - c) * state.path_c + (1 - stalled) * pull * step  # eq. 45


def _update_sigma(params: CMAParams, sigma: mx.array, path_sigma: mx.array) -> mx.array:
    log_change = params.c_sigma / params.d_sigma * (mx.linalg.norm(path_sigma) / params.chi - 1)
    return mx.maximum(sigma * mx.exp(mx.clip(log_change, -1.0, 1.0)), SMALLEST_SIGMA)  # eq. 44


def _rate_one(params: CMAParams, stalled: mx.array) -> mx.array:
    return params.c_1 * (1 - stalled * params.c_c * (2 - params.c_c))  # c_1a: the variance a stalled path lacks


def _update_full(
    params: CMAParams,
    state: CMAState,
    weights: mx.array,
    steps: mx.array,
    *,
    path_c: mx.array,
    stalled: mx.array,
) -> mx.array:
    lengths = mx.linalg.norm(_whiten(params, state, steps), axis=1) + 1e-9  # [S]
    # a negative weight acts on a step of its expected length, so that C stays positive definite (eq. 46)
    bounded = mx.where(weights < 0, weights * params.dimension / mx.square(lengths), weights)
    decay = 1 - _rate_one(params, stalled) - params.c_mu * mx.sum(weights)
    rank_one = params.c_1 * mx.outer(path_c, path_c)
    rank_mu = params.c_mu * (steps.T * bounded) @ steps
    return decay * state.covariance + rank_one + rank_mu  # eq. 47


def _update_diagonal(
    params: CMAParams,
    state: CMAState,
    weights: mx.array,
    steps: mx.array,
    *,
    path_c: mx.array,
    stalled: mx.array,
) -> mx.array:
    """D <- D exp(log 2 / 2 sum of rates times (z^2 - 1)): positive whatever the weights are."""
    rate_one = _rate_one(params, stalled)
    rates = params.c_mu * weights  # [S]
    squares = rate_one * mx.square(path_c) + rates @ mx.square(steps / state.scales)
    return state.scales * mx.exp(math.log(2) / 2 * (squares - rate_one - mx.sum(rates)))


def _decompose_when_due(params: CMAParams, state: CMAState) -> CMAState:
    # a host decision, but on the counters alone: their graph is a few integers, C stays lazy
    if cast(int, state.count.item()) < cast(int, state.decomposed.item()) + params.eigen_gap:
        return state
    c = (state.covariance + state.covariance.T) / 2
    eigenvalues, basis = mx.linalg.eigh(c, stream=mx.cpu)
    floor = SMALLEST_EIGENVALUE * mx.max(eigenvalues)
    scales = mx.sqrt(mx.maximum(eigenvalues, floor))
    return replace(state, covariance=c, basis=basis, scales=scales, decomposed=state.count)


def _strategy(dimension: int, population: int, covariance: Covariance, active: bool) -> Any:
    """`cma`'s own strategy object, built for its constants; seed=nan leaves numpy's global stream alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks are about options and plotting, not for our user
        import cma  # here: it takes half a second, and only stage 1 needs it

        options: dict[str, object] = {
            "popsize": population,
            "CMA_mirrors": 0,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_active": active,
            "CMA_diagonal": covariance == "diagonal",
            "CMA_on": covariance != "identity",
            "seed": math.nan,
            "verbose": -9,
        }
        strategy = cma.CMAEvolutionStrategy(dimension * [0.0], 1.0, options)
        strategy.adapt_sigma.initialize(strategy)
    return strategy


def _read_constants(strategy: Any, covariance: Covariance) -> CMAParams:
    from cma.utilities.math import Mh

    sp = strategy.sp
    dimension, mueff = int(strategy.N), float(sp.weights.mueff)
    rates = {"c_c": sp.cc_sep, "c_1": sp.c1_sep, "c_mu": sp.cmu_sep}
    if covariance == "full":
        learned = strategy.sm.parameters(mueff=mueff, lam=sp.popsize)
        rates = {"c_c": sp.cc, "c_1": learned["c1"], "c_mu": learned["cmu"]}
    elif covariance == "identity":
        rates = {"c_c": sp.cc, "c_1": 0.0, "c_mu": 0.0}
    return CMAParams(
        dimension=dimension,
        population=int(sp.popsize),
        covariance=covariance,
        weights=tuple(float(weight) for weight in sp.weights),
        mueff=mueff,
        c_sigma=float(strategy.adapt_sigma.cs),
        d_sigma=float(strategy.adapt_sigma.damps),
        chi=float(Mh.chiN(dimension)),
        eigen_gap=float(getattr(strategy.sm, "lazy_update_gap", 0.0)),
        **{name: float(value) for name, value in rates.items()},
    )
