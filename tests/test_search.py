"""The search on a known landscape: reductions that must be exact, the switch, the selection, and continuing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from bowl_search import TARGET, Bowl, D, accuracy_of, config, finish

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.optimisers import cma
from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.tuning.search import Search


def next_of(scores: Iterator[Score], w: mx.array) -> Score:
    """The next of some scores, whatever w is."""
    return next(scores)


def test_both_stages_descend_and_the_best_is_kept() -> None:
    search = Search(config(generations=30, steps=300), Bowl(), accuracy_of)
    steps = finish(search)
    assert [s.stage for s in steps] == [1] * 30 + [2] * 300
    start, end = float(mx.sum(mx.square(TARGET))), float(mx.sum(mx.square(search.best_w - TARGET)))
    assert end < 0.2 * start
    assert search.best_score.accuracy == max(s.val_accuracy for s in steps if s.val_accuracy is not None)
    assert steps[-1].best_val == search.best_score.accuracy


def test_stage_one_without_rho_is_plain_cma_exactly() -> None:
    search = Search(config(steps=0, generations=5), Bowl(), accuracy_of)
    finish(search)
    params = cma.make_params(D, 8, "full")
    state, loss = cma.init(params, mx.zeros(D), 0.3), Bowl()
    for generation in range(5):
        x = cma.ask(params, state, key_for(0, "cma", generation))
        state = cma.tell(params, state, x, loss.losses(x))
    np.testing.assert_array_equal(search.cma.mean, state.mean)
    np.testing.assert_array_equal(search.cma.sigma, state.sigma)


def test_fitness_is_read_at_the_shifted_points_and_told_for_the_unshifted() -> None:
    loss = Bowl()
    search = Search(
        config(steps=0, generations=1, sharpness__rho=0.7, sharpness__estimator="cge", sharpness__mu=1e-3),
        loss,
        accuracy_of,
    )
    finish(search)
    params = cma.make_params(D, 8, "full")
    state = cma.init(params, mx.zeros(D), 0.3)
    x = cma.ask(params, state, key_for(0, "cma", 0))
    away = -TARGET / mx.linalg.norm(TARGET)  # the gradient of the bowl at zero
    np.testing.assert_allclose(loss.told[-1] - x, mx.broadcast_to(0.7 * away, x.shape), atol=2e-3)
    np.testing.assert_allclose(
        search.cma.mean, cma.tell(params, state, x, Bowl().losses(x + 0.7 * away)).mean, atol=1e-5
    )


def test_dense_stage_two_is_plain_zo_sgd() -> None:
    search = Search(config(generations=0, steps=20, pruning__keep=1.0, stage2__mu=0.1), Bowl(), accuracy_of)
    finish(search)
    w = np.zeros(D)
    target = np.array(TARGET, np.float64)
    for t in range(20):
        u = np.array(mx.random.normal((1, D), key=key_for(0, "step", t)), np.float64)[0]
        up, down = (np.sum((w + s * 0.1 * u - target) ** 2) for s in (1, -1))
        w = w - 0.05 * (up - down) / 0.2 * u
    np.testing.assert_allclose(search.descent.w, w, rtol=1e-4, atol=1e-5)


def test_what_stage_two_validates_is_the_average_of_the_iterates() -> None:
    """Of w = 0, zero-shot, and the iterates of every step; with a share of 0 it is the iterate."""
    for share in (0.9, 0.0):
        seen: list[mx.array] = []

        def watched(w: mx.array, seen: list[mx.array] = seen) -> Score:
            seen.append(w)
            return accuracy_of(w)

        search = Search(config(generations=0, steps=4, selection__every=1, stage2__averaging=share), Bowl(), watched)
        expected = [mx.zeros(D)]
        for number, _ in enumerate(search.steps(), 1):
            expected.append(average(expected[-1], search.descent.w, count=mx.array(number), share=share))
        np.testing.assert_array_equal(mx.stack(seen), mx.stack(expected))
        assert np.array_equal(seen[-1], search.descent.w) == (share == 0)


def test_the_switch_waits_for_patience_and_stage_two_starts_at_the_mean() -> None:
    search = Search(config(stage1__patience=3, generations=50, steps=1), Bowl(), lambda w: Score(0.5, 1.0))
    steps = finish(search)
    assert [s.stage for s in steps] == [1, 1, 1, 2]
    moved = search.descent.w - search.cma.mean
    assert 0 < float(mx.max(mx.abs(moved))) < 1.0


def test_small_gains_do_not_count_as_improvement() -> None:
    accuracies = iter([0.5, *(0.5 + 0.004 * n for n in range(1, 100))])
    search = Search(
        config(stage1__patience=4, generations=50, steps=0, stage1__min_improvement=0.01),
        Bowl(),
        lambda w: Score(next(accuracies), 1.0),
    )
    # 0.012 at the third generation counts, so does 0.024 at the sixth: patience never runs out by itself
    assert len(finish(search)) == 50


def test_zero_shot_is_always_a_candidate() -> None:
    def worse(w: mx.array) -> Score:
        return Score(0.9, 0.1) if float(mx.max(mx.abs(w))) == 0 else Score(0.2, 3.0)

    search = Search(config(), Bowl(), worse)
    finish(search)
    assert float(mx.max(mx.abs(search.best_w))) == 0
    assert search.best_score.accuracy == 0.9


def best_of(*scores: Score, **changes: Any) -> Score:
    """What a search keeps that is validated with these scores, zero-shot first."""
    given = iter(scores)
    search = Search(config(generations=len(scores) - 1, steps=0, **changes), Bowl(), lambda w: next(given))
    finish(search)
    return search.best_score


def test_ties_go_to_the_lower_validation_loss() -> None:
    assert best_of(Score(0.5, 1.0), Score(0.5, 0.8), Score(0.5, 0.9)) == Score(0.5, 0.8)
    assert best_of(Score(0.5, 1.0), Score(0.6, 2.0), Score(0.5, 0.1)) == Score(0.6, 2.0)


def test_a_loss_that_is_not_a_number_never_wins() -> None:
    assert best_of(Score(0.5, 1.0), Score(0.9, float("nan")), Score(0.9, float("inf"))) == Score(0.5, 1.0)
    assert best_of(Score(0.5, float("nan")), Score(0.5, 3.0)) == Score(0.5, 3.0)


def test_accuracies_within_a_standard_error_are_ties() -> None:
    # of 30 images at 0.5 the standard error is 0.09
    zero_shot, high = Score(0.2, 3.0, 30), Score(0.5, 1.0, 30)
    near, far = Score(0.45, 0.5, 30), Score(0.3, 0.1, 30)
    assert best_of(zero_shot, high, near, far) == near
    assert best_of(zero_shot, high, near, far, selection__slack=0.0) == high
    assert best_of(zero_shot, high, near, far, selection__slack=3.0) == far
    # a new highest accuracy puts what was kept by its loss out of reach
    assert best_of(zero_shot, high, near, Score(0.9, 2.0, 30)) == Score(0.9, 2.0, 30)
    # more images, a smaller error: the same gap counts
    one, other = Score(0.5, 1.0, 3000), Score(0.45, 0.5, 3000)
    assert best_of(Score(0.2, 3.0, 3000), one, other) == one


def test_nothing_below_zero_shot_is_kept() -> None:
    """Within a standard error its loss would decide; a candidate that is kept may fall to zero-shot's accuracy."""
    zero_shot, below, equal = Score(0.5, 1.0, 30), Score(0.45, 0.1, 30), Score(0.5, 0.3, 30)
    assert best_of(zero_shot, below, selection__slack=3.0) == zero_shot
    assert best_of(zero_shot, Score(0.55, 0.5, 30), below, equal, below) == equal


def test_an_exact_gain_counts_whatever_the_fractions() -> None:
    for n in (100, 200, 400):
        for right in range(0, n - n // 100, 7):
            scores = iter([Score(right / n, 1.0, n), Score((right + n // 100) / n, 1.0, n)])
            options = config(generations=1, steps=0, stage1__min_improvement=0.01)
            search = Search(options, Bowl(), partial(next_of, scores))
            finish(search)
            assert search.now.stale == 0, (right, n)


@pytest.mark.parametrize("cut", [1, 4, 6, 7, 11, 25, 36])
@pytest.mark.parametrize("optimiser", ["zo-sgd", "gauss-newton"])  # gauss-newton explores up to the 14th record
def test_a_search_that_is_cut_goes_on_to_the_same_numbers(cut: int, optimiser: str) -> None:
    own = {"stage2__rule": "adam"} if optimiser == "zo-sgd" else {"stage2__radius": 0.05, "stage2__draws": 1}
    options = config(
        sharpness__rho=0.2, sharpness__smoothing=0.5, stage2__optimiser=optimiser, stage2__averaging=0.9, **own
    )
    whole = Search(options, Bowl(), accuracy_of)
    undisturbed = finish(whole)
    first = Search(options, Bowl(), accuracy_of)
    steps = first.steps()
    for _ in range(cut):
        next(steps)
    second = Search(options, Bowl(), accuracy_of)
    second.restore(first.state().arrays(), first.state().to_json())
    rest = finish(second)
    assert [s.queries for s in rest] == [s.queries for s in undisturbed[cut:]]
    assert [s.loss for s in rest] == [s.loss for s in undisturbed[cut:]]
    for name, array in whole.state().arrays().items():
        np.testing.assert_array_equal(second.state().arrays()[name], array, err_msg=name)


def test_every_setting_reaches_its_optimiser() -> None:
    """Every setting of stage 2, away from its default, for either optimiser."""
    own = {
        "gauss-newton": {
            "draws": 5, "radius": 0.7, "probe_share": 0.3, "least_probe": 0.03, "estimator": "forward",
            "exploration": 0.6, "exploration_steps": 11, "averaging": 0.4,
        },
        "zo-sgd": {
            "learning_rate": 0.7, "rule": "momentum", "schedule": "linear", "draws": 5, "mu": 0.03,
            "estimator": "forward", "beta1": 0.5, "beta2": 0.6, "averaging": 0.4,
        },
    }  # fmt: skip
    masks = {"keep": 0.4, "metric": "gradient", "interval": 7, "estimator": "cge", "directions": 9, "mu": 0.07}
    for name, settings in own.items():
        given = {f"stage2.{key}": value for key, value in settings.items()}
        given |= {"stage2.optimiser": name, **{f"pruning.{key}": value for key, value in masks.items()}}
        optimiser: Any = Search(TuneConfig().with_settings(given), Bowl(), accuracy_of).optimiser
        assert asdict(optimiser.params) == settings
        assert asdict(optimiser.pruning) == masks


def test_a_checkpoint_of_another_version_is_refused_in_a_line() -> None:
    search = Search(config(), Bowl(), accuracy_of)
    steps = search.steps()
    next(steps)
    arrays = {name: array for name, array in search.state().arrays().items() if name != "stage2.mask"}
    with pytest.raises(UserError, match=r"no stage2\.mask: another version"):
        Search(config(), Bowl(), accuracy_of).restore(arrays, search.state().to_json())
