"""The sharpness shift of stage 1: eps* = rho g / ||g||, SAM's worst case in the ball of radius rho.

Candidates are judged at w_i + eps* and CMA-ES is told the unshifted w_i with that fitness (SharpZO section
3.1, eq. 3). The gradient g comes from CGE as in the paper, or from cheaper estimates: random directions,
exact forward-mode derivatives, or the population's own fitness-weighted steps, which cost no query; any of
them may be averaged over generations. With rho = 0 no query is spent, no shift made, and what is left is
plain CMA-ES.

>>> eps, sharp = shift(params, sharp, loss, state.mean, key)  # doctest: +SKIP
>>> fitness = loss.losses(candidates + eps)  # doctest: +SKIP
>>> sharp = observe(params, sharp, candidates, fitness, mean=state.mean, sigma=state.sigma)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.optimisers.gradients import Loss, estimate
from sharpzo_mlx.optimisers.params import Estimator, SharpnessParams


@dataclass(frozen=True)
class SharpnessState:
    """The running average of gradients [d] before bias correction, and how many went into it (int32, 0-d)."""

    gradient: mx.array
    count: mx.array


def init(dimension: int) -> SharpnessState:
    """The state before any gradient: its shift is zero."""
    return SharpnessState(gradient=mx.zeros(dimension), count=mx.array(0, mx.int32))


def shift(
    params: SharpnessParams, state: SharpnessState, loss: Loss, mean: mx.array, key: mx.array
) -> tuple[mx.array, SharpnessState]:
    """The shift of this generation.

    Args:
        params: the constants.
        state: the average so far; it is not changed.
        loss: the objective; asked for the gradient at the mean by "cge", "rge" and "forward" only.
        mean: CMA-ES's mean [d].
        key: random key for the directions.

    Returns:
        eps* [d], zero where there is no gradient yet; and the next state.

    Source: SharpZO section 3.1, eq. 3; Foret et al. 2021, arXiv 2010.01412, eq. 2.
    """
    kind = _probing(params)
    if kind is not None:
        gradient = estimate(kind, loss, mean, key, mu=params.mu, directions=params.directions)
        state = _average(params, state, gradient.vector)
    if params.rho == 0 or params.estimator == "none":
        return mx.zeros_like(mean), state
    return worst_case(direction(params, state), params.rho), state


def observe(
    params: SharpnessParams,
    state: SharpnessState,
    candidates: mx.array,
    fitness: mx.array,
    *,
    mean: mx.array,
    sigma: mx.array | float,
) -> SharpnessState:
    """Take a told generation into the average; only the estimator "population" learns from it.

    Args:
        params: the constants.
        state: the average so far; it is not changed.
        candidates: [S, d], unshifted.
        fitness: [S], as told to CMA-ES; lost ones count for nothing.
        mean: the mean [d] that the candidates were drawn around.
        sigma: their step size.
    """
    if params.estimator != "population" or params.rho == 0:
        return state
    return _average(params, state, population_gradient(candidates, fitness, mean=mean, sigma=sigma))


def population_gradient(
    candidates: mx.array, fitness: mx.array, *, mean: mx.array, sigma: mx.array | float
) -> mx.array:
    """Fitness-weighted mean step [d]: sum_i (f_i - mean f)(x_i - m) / ((n - 1) sigma^2), n finite ones.

    By Stein's lemma its expectation is C times the gradient of the loss smoothed by N(0, sigma^2 C): the
    gradient itself where C = I, else the worst direction in the ellipsoid that C describes. Its cosine to the
    truth is about sqrt(n / (n + d)) for one generation, hence the averaging.
    """
    finite = mx.isfinite(fitness)
    n = mx.sum(finite)
    safe = mx.where(finite, fitness, 0.0)
    centred = mx.where(finite, safe - mx.sum(safe) / mx.maximum(n, 1), 0.0)  # [S]
    steps = (candidates - mean) / sigma
    return (centred @ steps) / (mx.maximum(n - 1, 1) * sigma)


def direction(params: SharpnessParams, state: SharpnessState) -> mx.array:
    """The averaged gradient [d], corrected for the average's start at zero."""
    weight = 1 - mx.power(params.smoothing, state.count.astype(mx.float32))
    return mx.where(state.count > 0, state.gradient / mx.maximum(weight, 1e-12), 0.0)


def worst_case(gradient: mx.array, rho: float) -> mx.array:
    """rho g / ||g||, and zero for a gradient of zero (eq. 3)."""
    largest = mx.max(mx.abs(gradient))
    scaled = gradient / mx.where(largest > 0, largest, 1.0)  # so that no square under- or overflows
    norm = mx.linalg.norm(scaled)
    return rho * scaled / mx.where(norm > 0, norm, 1.0)


def _average(params: SharpnessParams, state: SharpnessState, gradient: mx.array) -> SharpnessState:
    kept = params.smoothing
    return SharpnessState(
        gradient=kept * state.gradient + (1 - kept) * gradient,
        count=state.count + 1,
    )


def _probing(params: SharpnessParams) -> Estimator | None:
    """The gradient estimator that spends queries, None where none does."""
    if params.rho == 0 or params.estimator == "none" or params.estimator == "population":
        return None
    return params.estimator
