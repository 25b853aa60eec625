"""Gauss-Newton in a subspace: its directions, the ball's minimum, and a step of stage 2 by it."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from linear_features import Linear

from sharpzo_mlx.optimisers import gauss_newton, trust_region
from sharpzo_mlx.optimisers.averaging import average, average_on_host
from sharpzo_mlx.optimisers.gauss_newton import GaussNewton, GNState
from sharpzo_mlx.optimisers.params import GaussNewtonParams, PruningParams


def optimiser(
    *, keep: float = 1.0, mask_interval: int = 10, total_steps: int = 40, metric: Any = "zscore-squared", **steps: Any
) -> GaussNewton:
    """An optimiser with few directions that never explores, some settings changed."""
    params = GaussNewtonParams(**{"radius": 1.0, "least_probe": 1e-3, "draws": 5, "exploration": 0.0, **steps})
    pruning = PruningParams(keep=keep, metric=metric, interval=mask_interval)
    return GaussNewton(params, pruning, total_steps)


def test_directions_are_orthonormal_inside_the_mask_and_begin_with_the_last_step() -> None:
    mask = mx.array([1.0, 0, 1, 1, 0, 1, 1, 1])
    first = mx.array([1.0, 5, 2, 0, 5, 0, 0, 0])
    u = gauss_newton.directions(mx.random.key(0), 4, mask, first)
    np.testing.assert_allclose(u @ u.T, np.eye(4), atol=1e-6)
    assert np.all(u[:, np.array(mask) == 0] == 0)
    np.testing.assert_allclose(np.abs(u[0]), np.array([1, 0, 2, 0, 0, 0, 0, 0]) / np.sqrt(5), atol=1e-6)
    few = gauss_newton.directions(mx.random.key(0), 9, mask, mx.zeros(8))
    assert few.shape == (6, 8)  # no more than the mask has


@pytest.mark.parametrize("radius", [0.05, 0.7, 100.0])
def test_the_balls_minimum_is_the_lowest_of_many_points(radius: float) -> None:
    draw = np.random.default_rng(1)
    half = draw.standard_normal((4, 6))
    hessian, slope = half.T @ half, half.T @ draw.standard_normal(4)  # of rank 4: flat in two directions
    x = trust_region.in_ball(slope, hessian, radius)
    assert np.linalg.norm(x) <= radius * (1 + 1e-6)

    def value(point: np.ndarray) -> float:
        return float(slope @ point + point @ hessian @ point / 2)

    inside = draw.standard_normal((4000, 6))
    inside *= radius * draw.uniform(0, 1, (4000, 1)) / np.linalg.norm(inside, axis=1, keepdims=True)
    near = x + 1e-2 * radius * draw.standard_normal((4000, 6))
    near *= np.minimum(1, radius / np.linalg.norm(near, axis=1, keepdims=True))
    lowest = min(value(point) for point in [*inside, *near])
    assert value(x) <= lowest + 1e-6 * abs(lowest)


def test_a_zero_slope_and_a_model_that_is_not_finite_move_nothing() -> None:
    assert np.all(trust_region.in_ball(np.zeros(3), np.eye(3), 1.0) == 0)
    problem = Linear()
    lost = problem.linearised(*problem.feature_slopes(mx.zeros(12), mx.array(np.full((3, 12), np.nan, np.float32))))
    assert np.all(trust_region.minima(lost, lost.at_zero(), (1.0, 2.0)) == np.zeros((2, 3)))


def test_trial_radii_surround_the_last_one_and_stay_near_the_first() -> None:
    assert gauss_newton.trial_radii(1.0, first_radius=4.0) == (0.5, 1.0, 2.0)
    assert gauss_newton.trial_radii(32.0, first_radius=4.0) == (16.0, 32.0, 32.0)
    assert gauss_newton.after_rejection(1.0, first_radius=4.0) == 0.25
    assert gauss_newton.after_rejection(0.1, first_radius=4.0) == 4 / 64


def test_minima_in_rising_balls_are_those_of_each_ball_alone() -> None:
    problem = Linear()
    model = problem.linearised(*problem.feature_slopes(mx.zeros(12), mx.eye(12)))
    radii = (0.3, 0.6, 1.2)
    found = trust_region.minima(model, model.at_zero(), radii)
    for a, radius in zip(found, radii, strict=True):
        assert np.linalg.norm(a) == pytest.approx(radius, rel=1e-3)  # the loss falls to the rim of each
        np.testing.assert_allclose(a, trust_region.minima(model, model.at_zero(), (radius,))[0], atol=2e-2 * radius)


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("estimator", ["rge", "forward"])
def test_with_all_directions_one_step_finds_the_minimum_of_the_ball(offsets: bool, estimator: str) -> None:
    problem = Linear(offsets=offsets)
    options = optimiser(draws=12, radius=0.4, estimator=estimator)  # the trial of twice that is the lowest
    state, value = options.step(options.init(mx.zeros(12)), problem, mx.random.key(0))
    w = np.array(state.w, np.float64)
    assert np.linalg.norm(w) == pytest.approx(0.8, rel=1e-3)
    assert value.item() == pytest.approx(problem.plain(np.zeros(12)), rel=1e-6)
    draw = np.random.default_rng(4)
    others = w + 0.05 * draw.standard_normal((500, 12))
    others *= 0.8 / np.linalg.norm(others, axis=1, keepdims=True)
    assert problem.plain(w) <= min(map(problem.plain, others)) + 1e-6


def test_a_step_costs_a_query_a_direction_one_and_three_trials() -> None:
    for estimator, cost in (("rge", 9), ("forward", 14)):
        problem, options = Linear(), optimiser(estimator=estimator)
        options.step(options.init(mx.zeros(12)), problem, mx.random.key(0))
        assert problem.queries == cost == options.step_cost(12)
    assert optimiser(draws=32, keep=0.5).step_cost(12) == 10  # a mask of six coordinates


def test_differences_and_derivatives_agree_where_features_are_linear() -> None:
    ends = []
    for estimator in ("rge", "forward"):
        problem, options = Linear(), optimiser(estimator=estimator)
        state = options.init(mx.zeros(12))
        for t in range(6):
            state, _ = options.step(state, problem, mx.random.key(t))
        ends.append(np.array(state.w))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-4)


def test_it_descends_with_half_the_coordinates_and_chooses_them_without_a_query() -> None:
    problem, options = Linear(), optimiser(keep=0.5, mask_interval=5)
    state = options.init(mx.zeros(12))
    assert not options.mask_is_due(state)  # nothing has been seen of the gradient yet
    for t in range(20):
        if options.mask_is_due(state):
            before = problem.queries
            state = options.renew_mask(state, problem, mx.random.key(100 + t))
            assert problem.queries == before
            assert mx.sum(state.mask).item() == 6
        held = state
        state, _ = options.step(state, problem, mx.random.key(t))
        assert mx.all((state.w - held.w) * (1 - held.mask) == 0).item()
    assert problem.plain(np.array(state.w)) < 0.7 * problem.plain(np.zeros(12))


def test_minima_in_wide_balls_are_not_above_those_in_narrow_ones() -> None:
    """The curvature at the start says nothing about far away: steps that overshoot are halved."""
    problem = Linear()
    model = problem.linearised(*problem.feature_slopes(mx.zeros(12), 8 * mx.eye(12)))
    radii = (0.5, 4.0, 8.0, 16.0)
    values = [model(a)[0] for a in trust_region.minima(model, model.at_zero(), radii)]
    assert np.all(np.diff(values) < 1e-5)
    assert values[0] < model(np.zeros(12))[0]
    for radius, value in zip(radii, values, strict=True):
        alone = trust_region.minima(model, model.at_zero(), (radius,))[0]
        assert model(alone)[0] == pytest.approx(value, rel=0.05)


def test_a_step_that_moves_nowhere_is_none() -> None:
    problem, options = Broken(), optimiser(exploration=1.0)
    problem.everything = True
    start = options.init(mx.zeros(12))
    start = dataclasses.replace(start, last_move=mx.ones(12))
    after, _ = options.step(start, problem, mx.random.key(0))
    assert mx.array_equal(after.last_move, start.last_move).item()
    assert after.radius.item() == 0.25


class Bent(Linear):
    """Features as the model sees them near w, but every loss away from it is higher, or lost."""

    far = 100.0

    def losses(self, w: mx.array) -> mx.array:
        return super().losses(w) + self.far


@pytest.mark.parametrize("far", [100.0, np.nan])
def test_a_step_without_a_lower_loss_stays_and_shrinks_its_radius(far: float) -> None:
    problem, options = Bent(), optimiser()
    problem.far = far
    start = options.init(mx.ones(12))
    after, value = options.step(start, problem, mx.random.key(0))
    assert mx.array_equal(after.w, start.w).item()
    assert after.radius.item() == 0.25 == 0.25 * start.radius.item()
    assert value.item() == pytest.approx(problem.plain(np.ones(12)), rel=1e-6)
    assert mx.array_equal(after.last_move, start.last_move).item()
    assert after.step.item() == 1


def test_exploring_steps_are_taken_whatever_the_loss_and_begin_with_the_first_radius() -> None:
    problem, options = Bent(), optimiser(exploration=0.05)  # two steps of forty
    state = options.init(mx.zeros(12))
    for t, (moved, radius) in enumerate([(True, 2.0), (True, 2.0), (False, 0.5)]):
        after, _ = options.step(state, problem, mx.random.key(t))
        assert bool(mx.any(after.w != state.w).item()) == moved
        assert after.radius.item() == radius
        state = after
    for problem.far in (np.nan, np.inf):  # but not to where there is no loss
        lost, _ = options.step(options.init(mx.zeros(12)), problem, mx.random.key(0))
        assert not mx.any(lost.w).item()


def steps_that_move(problem: Bent, options: GaussNewton, *, free: int | None = None) -> list[int]:
    """The steps that moved w; in the one that is `free` a lower loss is found."""
    state, moved = options.init(mx.zeros(12)), []
    for t in range(options.total_steps):
        problem.far = 0.0 if t == free else 100.0
        after, _ = options.step(state, problem, mx.random.key(t))
        moved += [t] if mx.any(after.w != state.w).item() else []
        state = after
    return moved


@pytest.mark.parametrize(("steps", "again"), [(35, []), (36, [30, 31])])
def test_a_search_at_rest_explores_again_where_steps_are_left_to_descend_from_there(
    steps: int, again: list[int]
) -> None:
    """Two steps explore, three quarter the radius to its least, 1/64 of the first, six end there: two explore again.

    The third quartering is the first of the six. At step 30 it is done only where twice as many would be left after.
    """
    options = optimiser(exploration=0.05, exploration_steps=2, total_steps=steps, radius=4.0)
    assert steps_that_move(Bent(), options) == [0, 1, 10, 11, 20, 21, *again]


def test_only_steps_in_a_row_are_rest() -> None:
    """Six end at the least radius from step 4 on, but for a move at step 8: the six begin anew behind it."""
    options = optimiser(exploration=0.05, exploration_steps=2, total_steps=30, radius=4.0)
    assert steps_that_move(Bent(), options, free=8)[:5] == [0, 1, 8, 15, 16]


@pytest.mark.parametrize("cut", [5, 9, 10, 11, 13])
def test_a_search_that_was_roused_goes_on_from_a_file_alike(cut: int, tmp_path: Path) -> None:
    options, problem = optimiser(exploration=0.05, exploration_steps=2, radius=4.0), Bent()
    state = options.init(mx.zeros(12))
    for t in range(30):
        if t == cut:
            mx.save_safetensors(
                str(tmp_path / "state.safetensors"), {f.name: getattr(state, f.name) for f in fields(state)}
            )
        state, _ = options.step(state, problem, mx.random.key(t))
    again = GNState(**cast("dict[str, mx.array]", mx.load(str(tmp_path / "state.safetensors"))))
    for t in range(cut, 30):
        again, _ = options.step(again, problem, mx.random.key(t))
    for field in fields(state):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(state, field.name), err_msg=field.name)


def test_a_search_that_never_explores_stays_at_rest() -> None:
    assert steps_that_move(Bent(), optimiser(exploration=0.0, exploration_steps=2)) == []


def test_the_distance_of_the_probes_is_a_share_of_the_radius() -> None:
    class Seen(Linear):
        def features(self, w: mx.array) -> mx.array:
            self.distance = float(np.linalg.norm(np.array(w[1] - w[0])))
            return super().features(w)

    for share, distance in ((0.3, 0.3), (1e-4, 1e-3)):  # mu at least
        problem, options = Seen(), optimiser(probe_share=share)
        options.step(options.init(mx.zeros(12)), problem, mx.random.key(0))
        assert problem.distance == pytest.approx(distance, rel=1e-4)


class Narrow(Linear):
    """Losses that rise steeply beyond a distance from the start."""

    def losses(self, w: mx.array) -> mx.array:
        return super().losses(w) + mx.where(mx.linalg.norm(w, axis=1) > 0.6, 10.0, 0.0)


def test_the_radius_of_the_lowest_trial_is_the_next_one() -> None:
    for problem, radius in ((Linear(), 2.0), (Narrow(), 0.5)):
        options = optimiser(draws=12)
        state, _ = options.step(options.init(mx.zeros(12)), problem, mx.random.key(0))
        assert state.radius.item() == radius
        assert np.linalg.norm(np.array(state.w)) == pytest.approx(radius, rel=1e-3)


class Broken(Linear):
    """The second probe of every step is lost, or all are."""

    everything = False

    def features(self, w: mx.array) -> mx.array:
        lost = mx.ones(w.shape[0], mx.bool_) if self.everything else mx.arange(w.shape[0]) == 2
        return mx.where(lost[:, None, None], mx.nan, super().features(w))


def test_a_lost_probe_costs_its_direction_alone() -> None:
    problem, options = Broken(), optimiser()
    state = options.init(mx.zeros(12))
    after, _ = options.step(state, problem, mx.random.key(0))
    u = gauss_newton.directions(mx.random.key(0), 5, state.mask, state.last_move)
    along = u @ np.array(after.w)
    assert abs(along[1]) < 1e-6
    assert np.all(np.abs(np.delete(along, 1)) > 1e-6)
    problem.everything = True
    stayed, value = options.step(after, problem, mx.random.key(1))
    assert mx.array_equal(stayed.w, after.w).item()
    assert np.isnan(value.item())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 7, 90, 5000])
def test_an_average_on_the_host_has_the_same_bits(share: float, count: int) -> None:
    past, w = np.random.default_rng(count).standard_normal((2, 512)).astype(np.float32)
    found = average_on_host(past, w, count=count, share=share)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, average(mx.array(past), mx.array(w), count=mx.array(count), share=share))
