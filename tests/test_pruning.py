"""Scores and masks against numpy, ties, and the cases where a score says nothing."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers import pruning
from sharpzo_mlx.optimisers.gradients import Gradient
from sharpzo_mlx.optimisers.ranking import rank
from sharpzo_mlx.rng import key_for


def _vectors(seed: int = 0, d: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(d), rng.standard_normal(d), rng.random(d)


def _score(metric: Any, w: np.ndarray, g: np.ndarray, fisher: np.ndarray) -> np.ndarray:
    gradient = Gradient(mx.array(g.astype(np.float32)), mx.array(fisher.astype(np.float32)))
    return np.array(pruning.scores(metric, mx.array(w.astype(np.float32)), key_for(0), gradient))


def test_scores_equal_the_formulas_in_numpy() -> None:
    w, g, fisher = _vectors()
    squared = g**2
    z_squared = (squared - squared.mean()) / squared.std()
    z_fisher = (fisher - fisher.mean()) / fisher.std()
    expected = {
        "zscore-squared": w**2 * z_squared,
        "zscore-fisher": w**2 * z_fisher,
        "magnitude": abs(w),
        "gradient": abs(g),
        "none": 0 * w,
    }
    for metric, score in expected.items():
        np.testing.assert_allclose(_score(metric, w, g, fisher), score, rtol=2e-4, atol=2e-5, err_msg=metric)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_the_zscore_does_not_depend_on_the_size_of_the_gradient(size: float) -> None:
    w, g, fisher = _vectors()
    ours = _score("zscore-squared", w, size * g, fisher)
    np.testing.assert_allclose(ours, _score("zscore-squared", w, g, fisher), rtol=1e-3, atol=1e-5)


def test_where_w_is_zero_everywhere_the_gradient_alone_decides() -> None:
    w, g, fisher = _vectors()
    for metric, importance in (("zscore-squared", g**2), ("zscore-fisher", fisher)):
        mask = np.array(pruning.mask(mx.array(_score(metric, 0 * w, g, fisher)), 0.3))
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(np.argsort(-importance)[:15]))


def test_standardise_has_mean_zero_and_spread_one_and_survives_equal_values() -> None:
    z = np.array(pruning.standardise(mx.array(_vectors()[2].astype(np.float32))))
    assert abs(z.mean()) < 1e-6
    assert z.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(np.array(pruning.standardise(mx.full(5, 3.0))), np.zeros(5))


@given(
    score=st.lists(st.sampled_from([0.0, 1.0, -2.0, 3.5, float("inf"), float("nan")]), min_size=1, max_size=40),
    keep=st.floats(0.01, 1.0),
)
@settings(deadline=None, max_examples=60)
def test_the_mask_keeps_the_highest_with_ties_by_index(score: list[float], keep: float) -> None:
    mask = np.array(pruning.mask(mx.array(score), keep))
    usable = [value if np.isfinite(value) else -np.inf for value in score]
    best_first = sorted(range(len(score)), key=lambda i: (-usable[i], i))
    kept = best_first[: max(1, round(keep * len(score)))]
    np.testing.assert_array_equal(np.flatnonzero(mask), sorted(kept))
    assert mask.dtype == np.float32
    assert set(mask) <= {0.0, 1.0}


def test_keep_one_is_all_ones_whatever_the_score() -> None:
    np.testing.assert_array_equal(np.array(pruning.mask(mx.full(9, mx.nan), 1.0)), np.ones(9))


def test_random_scores_follow_the_key() -> None:
    w = mx.zeros(64)
    first, again, other = (
        np.array(pruning.mask(pruning.scores("random", w, key_for(0, step)), 0.5)) for step in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.sum() == other.sum() == 32
    assert (first != other).any()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60))
@settings(deadline=None, max_examples=60)
def test_ranks_are_those_of_a_stable_sort(values: list[int]) -> None:
    expected = np.argsort(np.argsort(np.array(values), kind="stable"), kind="stable")
    np.testing.assert_array_equal(np.array(rank(mx.array(values).astype(mx.float32))), expected)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_keep_must_be_a_share(keep: float) -> None:
    with pytest.raises(UserError, match="choose the share"):
        pruning.mask(mx.zeros(4), keep)


def test_what_a_metric_needs_is_asked_for() -> None:
    needs = {m: (pruning.needs_gradient(m), pruning.needs_fisher(m)) for m in pruning.METRICS}
    assert needs == {
        "zscore-squared": (True, False),
        "zscore-fisher": (True, True),
        "magnitude": (False, False),
        "gradient": (True, False),
        "random": (False, False),
        "none": (False, False),
    }
    for metric in ("zscore-squared", "zscore-fisher", "gradient"):
        with pytest.raises(ValueError, match="needs a gradient"):
            pruning.scores(metric, mx.zeros(4), key_for(0))
    with pytest.raises(ValueError, match="Fisher"):
        pruning.scores("zscore-fisher", mx.zeros(4), key_for(0), Gradient(mx.zeros(4)))
    with pytest.raises(UserError, match="choose one of"):
        pruning.scores("best", mx.zeros(4), key_for(0))  # type: ignore[arg-type]
