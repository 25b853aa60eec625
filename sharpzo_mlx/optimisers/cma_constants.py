"""The strategy constants of CMA-ES: weights, learning rates and damping for a dimension and a population.

Equation numbers are those of Hansen's tutorial (arXiv 1604.00772, Table 1 and appendix B). The constants equal those
of the package `cma` (4.5, default settings, cumulative step-size adaptation, no mirrored samples): to the last bit,
but for E||N(0, I)|| up to 100 dimensions, which differs by a few units of the last place. `cma` is the maintained
reference, so where it departs from the tutorial we follow it, and a comment says so.

>>> params = make_params(512, 40, "diagonal")
>>> len(params.weights), round(params.mueff, 2)
(40, 11.31)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import Covariance

COVARIANCES: tuple[Covariance, ...] = get_args(Covariance)

LARGEST_TABULATED = 100  # dimensions up to which `cma` has exact values of E||N(0, I)||


@dataclass(frozen=True)
class CMAParams:
    """The strategy constants, named as in the tutorial.

    Attributes:
        dimension: n of the tutorial, d here.
        population: lambda of the tutorial, S here.
        covariance: which entries of C are learned.
        weights: one per rank, from the best candidate to the worst; those above zero sum to one.
        mueff: variance-effective number of the candidates with a weight above zero.
        c_sigma: learning rate of the path of sigma.
        d_sigma: damping of sigma.
        c_c: learning rate of the path of C.
        c_1: learning rate of the rank-one update of C; 0 where C is the identity.
        c_mu: learning rate of the rank-mu update of C; 0 where C is the identity.
        chi: E||N(0, I)||, the expected length of a standard normal vector.
        eigen_gap: generations between two eigendecompositions of a full C; 0 where none is needed.
    """

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
    chi: float
    eigen_gap: float


@dataclass(frozen=True)
class _Rates:
    """The learning rates of C: of its path, of the rank-one and of the rank-mu update."""

    c_c: float
    c_1: float
    c_mu: float


def make_params(dimension: int, population: int, covariance: Covariance = "full", *, active: bool = True) -> CMAParams:
    """Return the strategy constants for a problem size.

    Args:
        dimension: d, at least 2.
        population: S, candidates in a generation, at least 4.
        covariance: which entries of C are learned. A diagonal C learns about (d + 2) / 3 times faster than a full one.
        active: whether the worse half of a generation gets negative weights.

    Raises:
        UserError: a size is too small, or the covariance is unknown.

    Source: Hansen, arXiv 1604.00772, Table 1; for a diagonal C Ros and Hansen, PPSN 2008, as `cma` carries it out.
    """
    if dimension < 2 or population < 4:
        raise UserError(f"CMA-ES in {dimension} dimensions with {population} candidates: it needs at least 2 and 4")
    if covariance not in COVARIANCES:
        raise UserError(f"unknown covariance {covariance!r}: choose one of {', '.join(COVARIANCES)}")
    weights = _base_weights(population)
    mueff = 1 / sum(weight**2 for weight in weights if weight > 0)  # eq. 8, the weights above zero sum to one
    c_sigma = _path_rate(dimension, mueff)
    rates = _rates(dimension, population, mueff, covariance)
    if active and covariance != "identity":
        weights = _scale_negative_twice(weights, dimension, mueff, rates, covariance=covariance)
    else:
        weights = [max(weight, 0.0) for weight in weights]
    return CMAParams(
        dimension=dimension,
        population=population,
        covariance=covariance,
        weights=tuple(weights),
        mueff=mueff,
        c_sigma=c_sigma,
        d_sigma=_damping(dimension, mueff, c_sigma),
        c_c=rates.c_c,
        c_1=rates.c_1,
        c_mu=rates.c_mu,
        chi=_expected_length(dimension),
        eigen_gap=_eigen_gap(dimension, population, mueff) if covariance == "full" else 0.0,
    )


def _base_weights(population: int) -> list[float]:
    """Return weights by rank whose positive part sums to 1 and whose negative part sums to -1."""
    raw = [math.log((population + 1) / 2) - math.log(rank) for rank in range(1, population + 1)]  # eq. 49
    positive = sum(weight for weight in raw if weight > 0)
    weights = [weight / positive for weight in raw]
    negative = -sum(weight for weight in weights if weight <= 0)
    return [weight if weight > 0 else weight / negative for weight in weights]


def _path_rate(dimension: int, mueff: float) -> float:
    """Return c_sigma."""
    # eq. 55 has n + mueff + 5 below; `cma` has 3 in place of 5, and at most 1/2
    return min(0.5, (mueff + 2) / (dimension + (mueff + 3)))


def _damping(dimension: int, mueff: float, c_sigma: float) -> float:
    """Return d_sigma."""
    # eq. 55 has inner = 1; `cma` damps more where mueff is large beside n, the less so the fewer dimensions there are
    inner = max(1, 3 * (1 - 0.5 ** (dimension / 9)))
    excess: float = inner * ((mueff - 1) / (dimension + 1)) ** 0.5 - 1
    return 1 + 2 * max(0, excess) + c_sigma


def _rates(dimension: int, population: int, mueff: float, covariance: Covariance) -> _Rates:
    """Return the learning rates of C."""
    d = dimension
    if covariance == "diagonal":
        # not in the tutorial; Ros and Hansen take the full rates times (d + 2) / 3, `cma` has forms of its own
        c_1 = 1 / (d + 2 * d**0.5 + mueff / d)
        c_mu = min(1 - c_1, (0.25 + mueff + 1 / mueff - 2) / (d + 4 * d**0.5 + mueff / 2))
        return _Rates((1 + 1 / d + mueff / d) / (d**0.5 + 1 / d + 2 * mueff / d), c_1, c_mu)
    c_c = (4 + mueff / d) / (d + (4 + 2 * mueff / d))  # eq. 56
    if covariance == "identity":
        return _Rates(c_c, 0.0, 0.0)
    c_1 = _rank_one_rate(d, population, mueff)
    return _Rates(c_c, c_1, _rank_mu_rate(d, mueff, c_1, 0.25 + mueff - 2 + 1 / mueff))


def _rank_one_rate(dimension: int, population: int, mueff: float) -> float:
    """Return c_1 of a full C."""
    # eq. 57 with alpha_cov = 2; `cma` makes it smaller for populations of less than 6
    return min(1, population / 6) * 2 / ((dimension + 1.3) ** 2 + mueff)


def _rank_mu_rate(dimension: int, mueff: float, c_1: float, gain: float) -> float:
    """Return c_mu of a full C; `gain` is mueff + 1/mueff - 2 + 1/4."""
    return min(1 - c_1, 2 * gain / ((dimension + 2) ** 2 + mueff))  # eq. 58 with alpha_cov = 2


def _first_rates(dimension: int, population: int, mueff: float) -> tuple[float, float]:
    """Return c_1 and c_mu of a full C as `cma` has them before it knows of the covariance.

    Its sum for `gain` runs in another order there, which changes the last bit.
    """
    c_1 = _rank_one_rate(dimension, population, mueff)
    return c_1, _rank_mu_rate(dimension, mueff, c_1, 0.25 + mueff + 1 / mueff - 2)


def _scale_negative_twice(
    weights: list[float], dimension: int, mueff: float, rates: _Rates, *, covariance: Covariance
) -> list[float]:
    """Return the weights with their final negative part.

    `cma` scales it for the rates of a full C first and then for those in use. The second time decides; the first has
    an effect in the last bits, and where it leaves nothing (a large population in few dimensions).
    """
    first = _first_rates(dimension, len(weights), mueff)
    weights = _scale_negative(weights, dimension, mueff, *first)
    # a diagonal C is updated in its logarithm, which keeps it positive: no limit of eq. 52
    return _scale_negative(weights, dimension, mueff, rates.c_1, rates.c_mu, definite=covariance == "full")


def _scale_negative(
    weights: list[float], dimension: int, mueff: float, c_1: float, c_mu: float, *, definite: bool = True
) -> list[float]:
    """Return the weights with the negative part that the rates of C allow (eqs. 50 to 53).

    Args:
        weights: one per rank.
        dimension: d.
        mueff: of the weights above zero.
        c_1: learning rate of the rank-one update.
        c_mu: learning rate of the rank-mu update.
        definite: whether the sum is limited so far that C stays positive definite.
    """
    if not weights[-1] < 0:
        return weights
    weights = _multiply_negative(weights, 1 + c_1 / c_mu)  # eq. 50: C as a whole does not decay
    if definite:
        weights = _limit_negative(weights, (1 - c_1 - c_mu) / c_mu / dimension)  # eq. 52
    negative = [weight for weight in weights if weight <= 0]
    total = sum(negative)
    mueff_negative = total**2 / sum(weight**2 for weight in negative) if total else 0.0
    return _limit_negative(weights, 1 + 2 * mueff_negative / (mueff + 2))  # eq. 51


def _limit_negative(weights: list[float], total: float) -> list[float]:
    """Return the weights with a negative part whose sum is -total at least."""
    if sum(weight for weight in weights if weight <= 0) >= -total:
        return weights
    return _multiply_negative(weights, total)


def _multiply_negative(weights: list[float], total: float) -> list[float]:
    """Return the weights with the negative part multiplied so that its sum is -total (eq. 53)."""
    factor = -total / sum(weight for weight in weights if weight <= 0)
    return [weight if weight > 0 else weight * factor for weight in weights]


def _expected_length(dimension: int) -> float:
    """Return E||N(0, I)||."""
    d = dimension
    if d <= LARGEST_TABULATED:
        return 2**0.5 * math.gamma((d + 1) / 2) / math.gamma(d / 2)
    # the tutorial has 21 in place of 32; `cma` found 32 to be nearer where there are many dimensions
    root: float = d**0.5
    return root * (1 - 1 / (4 * d) + 1 / (32 * d**2))


def _eigen_gap(dimension: int, population: int, mueff: float) -> float:
    """Return the generations between two eigendecompositions of a full C (tutorial, B.2)."""
    c_1, c_mu = _first_rates(dimension, population, mueff)
    return 1 / (c_1 + c_mu) / dimension / 10  # the tutorial takes the whole part, `cma` does not
