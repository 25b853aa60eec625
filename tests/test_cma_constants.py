"""The strategy constants of CMA-ES against the package `cma`, the oracle: over sizes, covariances and weights.

With cma 4.5.0 all of them are equal to the last bit, but for `chi` up to 100 dimensions (a few units of the last place:
`cma` has a table there). A newer `cma` may compute in another order, hence the tolerance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers import cma
from sharpzo_mlx.optimisers.cma_constants import CMAParams, make_params

TOLERANCE = 1e-12
POPULATIONS = (4, 5, 6, 20, 41, 300)


def make_strategy(dimension: int, population: int, covariance: cma.Covariance, active: bool) -> Any:
    """Build the package's own strategy; seed=nan leaves numpy's global stream alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma as package

        options = {
            "popsize": population,
            "CMA_mirrors": 0,
            "AdaptSigma": package.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_active": active,
            "CMA_diagonal": covariance == "diagonal",
            "CMA_on": covariance != "identity",
            "seed": math.nan,
            "verbose": -9,
        }
        strategy = package.CMAEvolutionStrategy(dimension * [0.0], 1.0, options)
        strategy.adapt_sigma.initialize(strategy)
    return strategy


def read_constants(strategy: Any, covariance: cma.Covariance) -> Mapping[str, Any]:
    """Return the package's constants under our names."""
    from cma.utilities.math import Mh

    sp = strategy.sp
    found = {
        "weights": tuple(sp.weights),
        "mueff": sp.weights.mueff,
        "c_sigma": strategy.adapt_sigma.cs,
        "d_sigma": strategy.adapt_sigma.damps,
        "chi": Mh.chiN(strategy.N),
    }
    if covariance == "diagonal":
        return {**found, "c_c": sp.cc_sep, "c_1": sp.c1_sep, "c_mu": sp.cmu_sep}
    if covariance == "identity":
        return {**found, "c_c": sp.cc, "c_1": 0.0, "c_mu": 0.0}
    learned = strategy.sm.parameters(mueff=sp.weights.mueff, lam=sp.popsize)
    rates = {"c_c": sp.cc, "c_1": learned["c1"], "c_mu": learned["cmu"]}
    return {**found, **rates, "eigen_gap": strategy.sm.lazy_update_gap}


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("covariance", cma.COVARIANCES)
@pytest.mark.parametrize("dimension", [2, 3, 9, 16, 100, 101, 512])
def test_the_constants_equal_the_packages(dimension: int, covariance: cma.Covariance, active: bool) -> None:
    for population in POPULATIONS:
        ours = make_params(dimension, population, covariance, active=active)
        theirs = read_constants(make_strategy(dimension, population, covariance, active), covariance)
        assert (ours.dimension, ours.population, ours.covariance) == (dimension, population, covariance)
        for name, value in theirs.items():
            np.testing.assert_allclose(getattr(ours, name), value, rtol=TOLERANCE, err_msg=f"{name}, {population}")


def test_in_float32_the_expected_length_is_the_packages() -> None:
    """The search computes in float32, so that its numbers do not depend on the last bits of `chi`."""
    from cma.utilities.math import Mh

    for dimension in range(2, 104):
        assert np.float32(make_params(dimension, 4).chi) == np.float32(Mh.chiN(dimension)), dimension


def test_the_expected_length_is_that_of_normal_vectors() -> None:
    for dimension in (2, 50, 300):
        drawn = np.linalg.norm(np.random.default_rng(0).standard_normal((20_000, dimension)), axis=1)
        expected = make_params(dimension, 4).chi
        assert drawn.mean() == pytest.approx(expected, abs=5 * drawn.std() / math.sqrt(20_000))


def test_the_weights_are_those_of_the_tutorial() -> None:
    """Table 1 for n = 10 and lambda = 10, its default population: eqs. 8, 49 and 53 written out."""
    params = make_params(10, 10)
    raw = np.log(5.5) - np.log(np.arange(1, 11))
    positive, negative = raw[:5], raw[5:]
    np.testing.assert_allclose(params.weights[:5], positive / positive.sum(), rtol=1e-12)
    assert params.mueff == pytest.approx(positive.sum() ** 2 / (positive**2).sum(), rel=1e-12)
    share = negative.sum() ** 2 / (negative**2).sum()
    limits = (
        1 + params.c_1 / params.c_mu,
        1 + 2 * share / (params.mueff + 2),
        (1 - params.c_1 - params.c_mu) / (10 * params.c_mu),
    )
    np.testing.assert_allclose(params.weights[5:], min(limits) * negative / -negative.sum(), rtol=1e-12)


def test_without_negative_weights_the_worse_half_has_none() -> None:
    for params in (make_params(8, 9, active=False), make_params(8, 9, "identity")):
        assert params.weights[4:] == (0.0,) * 5
        assert sum(params.weights) == pytest.approx(1)


def test_making_the_constants_leaves_numpys_stream_alone() -> None:
    np.random.seed(5)
    expected = np.random.RandomState(5).rand(3)
    make_params(6, 8)
    np.testing.assert_array_equal(np.random.rand(3), expected)


def test_a_diagonal_learns_faster_than_a_full_covariance() -> None:
    full, diagonal = make_params(512, 40, "full"), make_params(512, 40, "diagonal")
    assert 150 < diagonal.c_1 / full.c_1 < 300
    assert full.c_1 == pytest.approx(7.6e-6, rel=0.02)


def test_only_a_full_covariance_is_decomposed() -> None:
    gaps = {covariance: make_params(512, 20, covariance).eigen_gap for covariance in cma.COVARIANCES}
    assert gaps["full"] > 2
    assert gaps["diagonal"] == gaps["identity"] == 0


@pytest.mark.parametrize(("d", "population", "covariance"), [(1, 10, "full"), (10, 3, "full"), (10, 10, "round")])
def test_sizes_and_names_are_checked(d: int, population: int, covariance: Any) -> None:
    with pytest.raises(UserError, match=r"needs at least|choose one of"):
        make_params(d, population, covariance)


def test_the_optimiser_offers_the_same_constants() -> None:
    assert cma.make_params is make_params
    assert cma.CMAParams is CMAParams
