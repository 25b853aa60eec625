"""Perturb the candidates of stage 1 towards higher loss, so that CMA-ES prefers flat minima.

Every candidate w_i is evaluated at w_i + eps*, where eps* = rho g / ||g|| is SAM's worst case in a ball of radius rho,
and CMA-ES gets that loss as the fitness of w_i (SharpZO, arXiv 2506.20990, section 3.1, eq. 3). The gradient g comes
from CGE as in the paper, or from a cheaper estimate: random directions, exact forward-mode derivatives, or the
population's own losses, which costs no query. Gradients may be averaged over generations. With rho = 0 no query is
made and the search is plain CMA-ES.

>>> eps, sharp = perturb(params, sharp, loss, state.mean, key)  # doctest: +SKIP
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
    """The running average of gradients.

    Attributes:
        gradient: the average [d], which starts at zero and is not corrected for that.
        count: number of gradients in it, int32 and 0-d.
    """

    gradient: mx.array
    count: mx.array


def init(dimension: int) -> SharpnessState:
    """Return the state before the first gradient, whose perturbation is zero."""
    return SharpnessState(gradient=mx.zeros(dimension), count=mx.array(0, mx.int32))


def perturb(
    params: SharpnessParams, state: SharpnessState, loss: Loss, mean: mx.array, key: mx.array
) -> tuple[mx.array, SharpnessState]:
    """Compute the perturbation eps* of a generation.

    Args:
        params: the constants.
        state: the average so far; it is not changed.
        loss: the objective; only "cge", "rge" and "forward" make queries.
        mean: mean of CMA-ES [d], where the gradient is estimated.
        key: random key of the directions.

    Returns:
        eps* [d], zero where there is no gradient yet, and the next state.

    Source: SharpZO section 3.1, eq. 3; Foret et al. 2021, arXiv 2010.01412, eq. 2.
    """
    kind = _probing(params)
    if kind is not None:
        gradient = estimate(kind, loss, mean, key, mu=params.mu, directions=params.directions)
        state = _add(params, state, gradient.vector)
    if params.rho == 0 or params.estimator == "none":
        return mx.zeros_like(mean), state
    return scale_to_length(average_gradient(params, state), params.rho), state


def observe(
    params: SharpnessParams,
    state: SharpnessState,
    candidates: mx.array,
    fitness: mx.array,
    *,
    mean: mx.array,
    sigma: mx.array | float,
) -> SharpnessState:
    """Add the gradient that a generation's losses imply to the average; only "population" does so.

    Args:
        params: the constants.
        state: the average so far; it is not changed.
        candidates: [S, d], without eps*.
        fitness: their losses [S], as CMA-ES gets them; those that are not finite are left out.
        mean: the mean [d] that the candidates were drawn around.
        sigma: the step size that they were drawn with.

    Returns:
        The next state.
    """
    if params.estimator != "population" or params.rho == 0:
        return state
    return _add(params, state, estimate_from_population(candidates, fitness, mean=mean, sigma=sigma))


def estimate_from_population(
    candidates: mx.array, fitness: mx.array, *, mean: mx.array, sigma: mx.array | float
) -> mx.array:
    """Estimate the gradient [d] as sum_i (f_i - mean f)(x_i - m) / ((n - 1) sigma^2) over the n finite losses.

    By Stein's lemma its expectation is C times the gradient of the loss smoothed by N(0, sigma^2 C): the gradient of
    the smoothed loss where C = I, otherwise the steepest direction in the ellipsoid of C. Its cosine to the true
    gradient is about sqrt(n / (n + d)) for one generation, so it should be averaged over generations.

    Args:
        candidates: [S, d].
        fitness: their losses [S].
        mean: the mean [d] that they were drawn around.
        sigma: the step size that they were drawn with.
    """
    finite = mx.isfinite(fitness)
    n = mx.sum(finite)
    safe = mx.where(finite, fitness, 0.0)
    centred = mx.where(finite, safe - mx.sum(safe) / mx.maximum(n, 1), 0.0)  # [S]
    steps = (candidates - mean) / sigma
    return (centred @ steps) / (mx.maximum(n - 1, 1) * sigma)


def average_gradient(params: SharpnessParams, state: SharpnessState) -> mx.array:
    """Return the averaged gradient [d], corrected for the average's start at zero."""
    weight = 1 - mx.power(params.smoothing, state.count.astype(mx.float32))
    return mx.where(state.count > 0, state.gradient / mx.maximum(weight, 1e-12), 0.0)


def scale_to_length(gradient: mx.array, rho: float) -> mx.array:
    """Return rho g / ||g|| [d] (eq. 3), and zero for a gradient of zero."""
    largest = mx.max(mx.abs(gradient))
    scaled = gradient / mx.where(largest > 0, largest, 1.0)  # no square under- or overflows
    norm = mx.linalg.norm(scaled)
    return rho * scaled / mx.where(norm > 0, norm, 1.0)


def _add(params: SharpnessParams, state: SharpnessState, gradient: mx.array) -> SharpnessState:
    """Return the state with one more gradient in the average."""
    kept = params.smoothing
    return SharpnessState(
        gradient=kept * state.gradient + (1 - kept) * gradient,
        count=state.count + 1,
    )


def _probing(params: SharpnessParams) -> Estimator | None:
    """Return the estimator if it makes queries, else None."""
    if params.rho == 0 or params.estimator == "none" or params.estimator == "population":
        return None
    return params.estimator
