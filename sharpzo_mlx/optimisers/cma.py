"""CMA-ES on MLX arrays: draw candidates around a mean, rank their losses, and adapt the mean, sigma and C.

A generation draws x_i = m + sigma N(0, C) and updates m, sigma, C and two paths from the ranks of the losses (Hansen,
arXiv 1604.00772, whose equation numbers stand on the lines); SharpZO uses it for stage 1 (section 3.1). The updates
equal those of the package `cma`, for a full covariance (with or without negative weights), a diagonal one (sep-CMA,
Ros and Hansen, PPSN 2008, with `cma`'s exponential update) and the identity (CSA-ES).

>>> params = make_params(8, 10)
>>> state = init(params, mx.zeros(8), 0.5)
>>> for generation in range(3):
...     x = ask(params, state, mx.random.key(generation))
...     state = tell(params, state, x, mx.sum(mx.square(x - 1), axis=1))
>>> state.mean.shape, int(state.count.item())
((8,), 3)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.cma_constants import COVARIANCES, CMAParams, make_params
from sharpzo_mlx.optimisers.params import Covariance
from sharpzo_mlx.optimisers.ranking import rank

__all__ = ["COVARIANCES", "CMAParams", "CMAState", "Covariance", "ask", "init", "make_params", "tell"]

SMALLEST_SIGMA = 1e-30  # float32 holds 1e-38, so that steps and their squares stay finite
SMALLEST_EIGENVALUE = 1e-7  # share of the largest one; smaller ones are rounding, and no axis may collapse


@dataclass(frozen=True)
class CMAState:
    """The state of a search between two generations.

    Attributes:
        mean: m, [d].
        sigma: the step size, 0-d.
        covariance: C: [d, d] if full, the variances [d] if diagonal, [1] if the identity.
        basis: B of C = B D^2 B^T, [d, d]; [1, 1] and unused unless C is full.
        scales: D, [d]; [1] if C is the identity.
        path_sigma: evolution path of sigma, [d].
        path_c: evolution path of C, [d]; divided by D where C is diagonal, as in `cma`.
        count: generations so far, int32 and 0-d.
        decomposed: the count at which B and D were last computed from C, int32 and 0-d.
    """

    mean: mx.array
    sigma: mx.array
    covariance: mx.array
    basis: mx.array
    scales: mx.array
    path_sigma: mx.array
    path_c: mx.array
    count: mx.array
    decomposed: mx.array


def init(params: CMAParams, mean: mx.array, sigma: float) -> CMAState:
    """Return the state before the first generation, with C = I and paths of zero.

    Args:
        params: the strategy constants.
        mean: the first mean [d].
        sigma: the first step size, in units of w.

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
    """Draw the candidates [S, d] of a generation: x_i = m + sigma B D z_i with z_i ~ N(0, I) (eqs. 38 to 40)."""
    z = mx.random.normal((params.population, params.dimension), key=key)
    steps = z * state.scales
    if params.covariance == "full":
        steps = steps @ state.basis.T
    return state.mean + state.sigma * steps


def tell(params: CMAParams, state: CMAState, candidates: mx.array, fitness: mx.array) -> CMAState:
    """Return the state after a generation.

    Args:
        params: the strategy constants.
        state: the state that the candidates were drawn from; it is not changed.
        candidates: what `ask` returned, [S, d].
        fitness: their losses [S]; smaller is better. A candidate whose loss is NaN or infinite is ranked last and
            has no weight in the mean.

    Returns:
        The next state, lazily evaluated. A full C is decomposed again when `cma` would do so, after `eigen_gap`
        generations.
    """
    if candidates.shape != (params.population, params.dimension) or fitness.shape != (params.population,):
        given = f"candidates of shape {candidates.shape} and losses of shape {fitness.shape}"
        raise ValueError(f"{given}: expected {params.population} of each, in {params.dimension} dimensions")
    steps = (candidates - state.mean) / state.sigma  # y_i  [S, d]
    weights = _rank_weights(params, fitness)  # [S]
    step = mx.maximum(weights, 0) @ steps  # <y>_w, eq. 41
    path_sigma = _update_path_sigma(params, state, step)
    stalled = _is_stalled(params, path_sigma, state.count + 1)
    path_c = _update_path_c(params, state, step, stalled)
    moved = replace(
        state,
        mean=state.mean + state.sigma * step,  # eq. 42
        sigma=_update_sigma(params, state.sigma, path_sigma),
        path_sigma=path_sigma,
        path_c=path_c,
        count=mx.array(cast(int, state.count.item()) + 1, mx.int32),
    )
    if params.covariance == "full":
        c = _update_full(params, state, weights, steps, path_c=path_c, stalled=stalled)
        return _decompose_when_due(params, replace(moved, covariance=c))
    if params.covariance == "diagonal":
        scales = _update_diagonal(params, state, weights, steps, path_c=path_c, stalled=stalled)
        return replace(moved, covariance=mx.square(scales), scales=scales)
    return moved


def _rank_weights(params: CMAParams, fitness: mx.array) -> mx.array:
    """Return the weight [S] of each candidate by the rank of its loss."""
    lost = ~mx.isfinite(fitness)
    weights = mx.array(params.weights)[rank(mx.where(lost, mx.inf, fitness))]
    return mx.where(lost, mx.minimum(weights, 0), weights)


def _whiten(params: CMAParams, state: CMAState, steps: mx.array) -> mx.array:
    """Multiply vectors (along the last axis) by C^(-1/2), with the B and D that the candidates were drawn from."""
    if params.covariance == "full":
        return ((steps @ state.basis) / state.scales) @ state.basis.T
    return steps / state.scales


def _update_path_sigma(params: CMAParams, state: CMAState, step: mx.array) -> mx.array:
    """Return the path of sigma after the mean has moved by sigma * step (eq. 43)."""
    c = params.c_sigma
    pull = math.sqrt(c * (2 - c) * params.mueff)
    return (1 - c) * state.path_sigma + pull * _whiten(params, state, step)  # eq. 43


def _is_stalled(params: CMAParams, path_sigma: mx.array, count: mx.array) -> mx.array:
    """Return 1 - h_sigma as float32: 1 where the path is so long that sigma has to grow before C does.

    The condition is `cma`'s, on the squared length; the tutorial compares the length with (1.4 + 2 / (n + 1)) chi.
    """
    settled = 1 - mx.power(1 - params.c_sigma, 2 * count.astype(mx.float32))
    d = params.dimension
    return (mx.sum(mx.square(path_sigma)) / settled / d >= 2 + 4 / (d + 1)).astype(mx.float32)


def _update_path_c(params: CMAParams, state: CMAState, step: mx.array, stalled: mx.array) -> mx.array:
    """Return the path of C after the mean has moved by sigma * step (eq. 45)."""
    c = params.c_c
    pull = math.sqrt(c * (2 - c) * params.mueff)
    scaled = step if params.covariance == "full" else step / state.scales
    return (1 - c) * state.path_c + (1 - stalled) * pull * scaled  # eq. 45


def _update_sigma(params: CMAParams, sigma: mx.array, path_sigma: mx.array) -> mx.array:
    """Return the step size after the length of its path was compared with chi (eq. 44)."""
    log_change = params.c_sigma / params.d_sigma * (mx.linalg.norm(path_sigma) / params.chi - 1)
    return mx.maximum(sigma * mx.exp(mx.clip(log_change, -1.0, 1.0)), SMALLEST_SIGMA)  # eq. 44


def _rate_one(params: CMAParams, stalled: mx.array) -> mx.array:
    """Return c_1 in the decay of C, smaller where a stalled path adds less variance (delta(h_sigma) of eq. 47)."""
    return params.c_1 * (1 - stalled * params.c_c * (2 - params.c_c))


def _update_full(
    params: CMAParams,
    state: CMAState,
    weights: mx.array,
    steps: mx.array,
    *,
    path_c: mx.array,
    stalled: mx.array,
) -> mx.array:
    """Return the next full C (eqs. 46 and 47)."""
    lengths = mx.linalg.norm(_whiten(params, state, steps), axis=1) + 1e-9  # [S]
    # a step with a negative weight counts as if it had its expected length, so that C stays positive definite (eq. 46)
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
    """Return the next D of a diagonal C: D exp(log 2 / 2 * sum of rate * (z^2 - 1)).

    The tutorial has no diagonal C, and sep-CMA adds as eq. 47 does; `cma` multiplies, which keeps D positive whatever
    the weights are.
    """
    rate_one = _rate_one(params, stalled)
    rates = params.c_mu * weights  # [S]
    squares = rate_one * mx.square(path_c) + rates @ mx.square(steps / state.scales)
    return state.scales * mx.exp(math.log(2) / 2 * (squares - rate_one - mx.sum(rates)))


def _decompose_when_due(params: CMAParams, state: CMAState) -> CMAState:
    """Return the state with B and D computed from C, once in `eigen_gap` generations."""
    if cast(int, state.count.item()) < cast(int, state.decomposed.item()) + params.eigen_gap:
        return state
    c = (state.covariance + state.covariance.T) / 2
    eigenvalues, basis = mx.linalg.eigh(c, stream=mx.cpu)
    floor = SMALLEST_EIGENVALUE * mx.max(eigenvalues)
    scales = mx.sqrt(mx.maximum(eigenvalues, floor))
    return replace(state, covariance=c, basis=basis, scales=scales, decomposed=state.count)
