"""BBT as published: the package `cma` searches, every query is counted, and a seed makes one result."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from method_runs import SMALL, finished, small_task

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import reference_bbt, registry
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import PUBLISHED, Progress, Task
from sharpzo_mlx.comparison.methods.reference_bbt import ReferenceCMA
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import score_calibrated
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.optimisers import cma
from sharpzo_mlx.rng import generator_for

OPTIONS = {"stage1.population": 20, "stage1.sigma": 0.5, "space.relative_scale": 40.0}


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    """Four shots of three classes; d = 16; 315 queries buy 15 generations of 20."""
    return small_task(tiny_model, photos, query_budget=315, config=sz.TuneConfig().with_settings(SMALL))


def run(task: Task) -> tuple[list[Progress], CosineClassifier]:
    records, predictor = finished(reference_bbt.start(task, OPTIONS))
    assert isinstance(predictor, CosineClassifier)
    return records, predictor


class Bowl:
    """sum_j (j + 1) (w_j - 1)^2, whose candidates are kept; not a number where w_0 is above a limit."""

    def __init__(self, limit: float = np.inf) -> None:
        self.limit = limit
        self.asked: list[np.ndarray] = []

    def losses(self, w: mx.array) -> mx.array:
        self.asked.append(np.array(w, np.float64))
        values = mx.sum(mx.arange(1, w.shape[1] + 1) * mx.square(w - 1), axis=1)
        return mx.where(w[:, 0] > self.limit, mx.nan, values)


def test_every_query_is_counted_and_every_generation_validated(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    losses = Objective.losses

    def counted(objective: Objective, w: mx.array) -> mx.array:
        asked.append(int(w.shape[0]))
        return losses(objective, w)

    monkeypatch.setattr(Objective, "losses", counted)
    records, predictor = run(task)
    assert asked == [20] * 15
    assert [record.queries for record in records] == list(range(0, 301, 20))
    assert all(record.image_passes == record.backward_passes == 0 for record in records)
    kept = score_calibrated(predictor.logits(task.val), mx.array(task.val.labels))
    assert kept == records[-1].best


def test_it_begins_at_zero_shot_and_lowers_the_loss(task: Task) -> None:
    records, _ = run(replace(task, query_budget=1200))
    assert records[0].score == task.problem().validate(mx.zeros(16))
    assert records[-1].best.loss < records[0].score.loss - 0.02


def test_a_seed_makes_one_result_whatever_numpys_generator_does(task: Task) -> None:
    np.random.seed(1)
    expected = np.random.RandomState(1).rand(3)
    records, predictor = run(task)
    np.testing.assert_array_equal(np.random.rand(3), expected)  # and it is left alone
    again, same = run(task)
    assert again == records
    np.testing.assert_array_equal(predictor.class_features, same.class_features)
    other = replace(task, config=task.config.with_settings({"seed": 1}))
    assert run(other)[0][1:] != records[1:]


def test_it_is_silent_and_writes_no_file(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(task)
    assert caught == []
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_it_is_the_packages_search_with_its_own_defaults() -> None:
    """Against its own ask and tell with the same random numbers: only population and sigma are set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma as package

        generator = generator_for(3, "bbt")
        options = {"popsize": 20, "randn": lambda *shape: generator.standard_normal(shape), "seed": np.nan}
        theirs = package.CMAEvolutionStrategy(500 * [0.0], 1.0, {**options, "verbose": -9})
        bowl, ours = Bowl(), ReferenceCMA(500, 20, 1.0, seed=3)
        for _ in range(4):
            candidates = theirs.ask()
            theirs.tell(candidates, np.array(bowl.losses(mx.array(np.array(candidates, np.float32)))).tolist())
    for _ in range(4):
        ours.advance(Bowl())
    np.testing.assert_array_equal(ours.mean, np.float32(theirs.result.xfavorite))
    assert ours.strategy.sigma == theirs.sigma


def test_it_finds_the_bottom_of_a_bowl() -> None:
    search, bowl = ReferenceCMA(6, 10, 0.5, seed=0), Bowl()
    for _ in range(120):
        search.advance(bowl)
    np.testing.assert_allclose(search.mean, 1, atol=1e-3)


def test_our_cma_es_fed_its_candidates_has_its_mean() -> None:
    """`cma` begins with C off the identity by up to 1e-4, so the first generations agree to that."""
    search, bowl = ReferenceCMA(40, 20, 0.5, seed=1), Bowl()
    params = cma.make_params(40, 20, "full")
    state = cma.init(params, mx.zeros(40), 0.5)
    for _ in range(10):
        search.advance(bowl)
        candidates = mx.array(bowl.asked[-1].astype(np.float32))
        state = cma.tell(params, state, candidates, Bowl().losses(candidates))
        np.testing.assert_allclose(state.mean, search.mean, atol=1e-3)
    assert float(mx.linalg.norm(state.mean)) > 0.1


def test_a_loss_that_is_not_finite_is_ranked_last() -> None:
    lossy, search = Bowl(limit=0.3), ReferenceCMA(6, 10, 0.5, seed=0)
    for _ in range(80):
        search.advance(lossy)
    mean = np.array(search.mean)
    assert 0.2 < mean[0] <= 0.31  # the best that has a loss
    np.testing.assert_allclose(mean[1:], 1, atol=0.05)


def test_the_published_variant_is_carried_out_by_it(task: Task) -> None:
    """Population 20, sigma 1 and d = 500, A with the spread of entries that are uniform within 1 / sqrt(d)."""
    bbt = registry.method("bbt")
    assert bbt.published == {
        "stage1.population": 20,
        "stage1.sigma": 1.0,
        "space.dimension": 500,
        "space.projection_std": pytest.approx(1500**-0.5),
    }
    small = replace(task, query_budget=60)
    records, _ = finished(bbt.begin(small, bbt.published, PUBLISHED))
    expected, _ = finished(reference_bbt.start(small, bbt.published))
    assert records == expected
    ours, _ = finished(bbt.begin(small, bbt.published))
    assert [record.queries for record in ours] == [record.queries for record in records]
    assert ours[1:] != records[1:]


def test_a_variant_without_an_implementation_of_its_own_is_the_methods(task: Task) -> None:
    ncm = registry.method("ncm")
    assert finished(ncm.begin(task, {}, PUBLISHED))[0] == finished(ncm.start(task, {}))[0]


def test_a_budget_below_one_generation_is_refused(task: Task) -> None:
    small = replace(task, query_budget=19)
    with pytest.raises(UserError, match="query-budget 19: the search needs at least 20"):
        finished(reference_bbt.start(small, OPTIONS))
    bbt = registry.method("bbt")
    with pytest.raises(UserError, match="query-budget 19: the search needs at least 20"):
        bbt.check(task.config.with_settings({"query_budget": 19}), bbt.published)
