"""The methods of a comparison that search w: what defines each, and that the budget is spent and never passed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from method_runs import SMALL, run_method, small_task

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import registry, searches, staged_search
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Progress, Task
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import score_calibrated
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.optimisers import cma, masks, sharpness
from sharpzo_mlx.optimisers.params import ZOSGDParams
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.tuning.budget import affordable_generations, generation_cost, planned_queries
from sharpzo_mlx.tuning.search import Search

SEARCHES = tuple(method.name for method in searches.METHODS if method.name != "zero-shot")
VARIANTS = ("tuned", "published")
# the published variant of BBT is the package `cma` itself, see test_reference_bbt
RUNS = [(name, variant) for name in SEARCHES for variant in VARIANTS if (name, variant) != ("bbt", "published")]


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    """Four shots of three classes; d = 16."""
    return small_task(tiny_model, photos, query_budget=300, config=sz.TuneConfig().with_settings(SMALL))


@dataclass
class Trace:
    """A method that has run: its records, its classifier, and the search that it set up."""

    records: list[Progress]
    classifier: CosineClassifier
    search: Search


@pytest.fixture(scope="module")
def traces(task: Task) -> dict[tuple[str, str], Trace]:
    """Every method over w, with its tuned and its published options."""
    searched: list[Search] = []

    class Watched(Search):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            searched.append(self)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged_search, "Search", Watched)
        for name, variant in RUNS:
            method = registry.method(name)
            records, classifier = run_method(method, task, getattr(method, variant))
            found[name, variant] = Trace(records, classifier, searched[-1])
    return found


Traces = dict[tuple[str, str], Trace]


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_the_budget_is_spent_and_never_passed(name: str, variant: str, task: Task, traces: Traces) -> None:
    records, classifier = traces[name, variant].records, traces[name, variant].classifier
    assert 0.9 * task.query_budget <= records[-1].queries <= task.query_budget
    counts = [progress.queries for progress in records]
    assert counts == sorted(counts)
    assert counts[0] == 0
    # what is returned is what was said to be kept
    kept = score_calibrated(classifier.logits(task.val), mx.array(task.val.labels))
    assert kept == records[-1].best


def test_bbt_is_plain_cma_es(task: Task, traces: Traces) -> None:
    """To the end of the budget of 15 generations, and no step of stage 2."""
    search = traces["bbt", "tuned"].search
    loss = task.problem().objective
    params = cma.make_params(16, 20, "diagonal")
    state = cma.init(params, mx.zeros(16), 1.0)
    for generation in range(15):
        candidates = cma.ask(params, state, key_for(task.config.seed, "cma", generation))
        state = cma.tell(params, state, candidates, loss.losses(candidates))
    np.testing.assert_array_equal(search.cma.mean, state.mean)
    np.testing.assert_array_equal(search.cma.sigma, state.sigma)
    assert (search.now.stage, search.now.step) == (2, 0)


def descended(search: Search, mask: mx.array) -> np.ndarray:
    """Plain SGD along one random pair a step, from zero-shot, by its formula (SharpZO eq. 5)."""
    config, steps = search.config, search.now.total_steps
    settings = config.stage2
    assert isinstance(settings, ZOSGDParams)
    w = mx.zeros(16)
    for t in range(steps):
        u = mask * mx.random.normal((1, 16), key=key_for(config.seed, "step", t))[0]
        up, down = search.loss.losses(mx.stack([w + settings.mu * u, w - settings.mu * u]))
        rate = settings.learning_rate * ((1 + np.cos(np.pi * t / steps)) / 2 if settings.schedule == "cosine" else 1)
        w = w - rate * (up - down) / (2 * settings.mu) * u
    return np.array(w)


def tolerance(variant: str) -> float:
    """Of w's largest entry: published probes lie so near that float32 rounds their differences to three digits."""
    return 1e-2 if variant == "published" else 1e-3


@pytest.mark.parametrize(("variant", "rate", "schedule"), [("tuned", 0.3, "cosine"), ("published", 1e-3, "constant")])
def test_dense_zo_is_sgd_from_zero_shot(variant: str, rate: float, schedule: str, traces: Traces) -> None:
    search = traces["zo", variant].search
    np.testing.assert_array_equal(search.cma.mean, np.zeros(16))  # no generation
    settings = search.config.stage2
    assert isinstance(settings, ZOSGDParams)
    assert (settings.learning_rate, settings.schedule, search.now.total_steps) == (rate, schedule, 150)
    w = np.array(search.descent.w)
    assert np.all(w != 0)
    np.testing.assert_allclose(w, descended(search, mx.ones(16)), atol=tolerance(variant) * np.abs(w).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("metric", ["magnitude", "gradient", "random", "zscore-squared"])
def test_sparse_zo_is_sgd_on_half_of_the_coordinates(metric: str, variant: str, traces: Traces) -> None:
    search = traces[f"szo-{metric.removesuffix('-squared')}", variant].search
    assert search.config.pruning.metric == metric
    np.testing.assert_array_equal(search.cma.mean, np.zeros(16))
    mask, w = search.descent.mask, np.array(search.descent.w)
    assert float(mx.sum(mask)) == 8
    assert np.count_nonzero(w) == 8  # one mask only at this budget
    np.testing.assert_allclose(w, descended(search, mask), atol=tolerance(variant) * np.abs(w).max())


@pytest.mark.parametrize("name", registry.HOMES["pruning"])
def test_masks_change_but_for_magnitude(name: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """From w = 0 magnitude keeps its first coordinates always, because those that never move stay smallest."""
    chosen: list[tuple[float, ...]] = []
    choose = masks.choose

    def watched(*given: Any, **named: Any) -> mx.array:
        mask = choose(*given, **named)
        chosen.append(tuple(np.array(mask).tolist()))
        return mask

    monkeypatch.setattr(masks, "choose", watched)
    run_method(registry.method(name), task, {**registry.method(name).tuned, "pruning.interval": 20})
    assert len(chosen) >= 3
    assert (len(set(chosen)) == 1) == (name == "szo-magnitude")


@pytest.mark.parametrize("variant", VARIANTS)
def test_sharpness_alone_is_cma_es_on_shifted_losses(variant: str, task: Task, traces: Traces) -> None:
    """Every candidate is evaluated at w + eps*, and CMA-ES gets that loss as the fitness of w (eqs. 3 and 9)."""
    search = traces["sam-cma", variant].search
    assert search.config.sharpness.rho > 0
    assert (search.now.stage, search.now.step) == (2, 0)
    loss, sharp = task.problem().objective, sharpness.init(16)
    state = cma.init(search.cma_params, mx.zeros(16), search.config.stage1.sigma)
    moved = 0.0
    for generation in range(task.query_budget // generation_cost(search.config)):
        key = key_for(task.config.seed, "sharpness", generation)
        eps, updated = sharpness.perturb(search.config.sharpness, sharp, loss, state.mean, key)
        candidates = cma.ask(search.cma_params, state, key_for(task.config.seed, "cma", generation))
        values = loss.losses(candidates + eps)
        sharp = sharpness.observe(
            search.config.sharpness, updated, candidates, values, mean=state.mean, sigma=state.sigma
        )
        state = cma.tell(search.cma_params, state, candidates, values)
        moved = max(moved, float(mx.linalg.norm(eps)))
    assert moved == pytest.approx(search.config.sharpness.rho, rel=1e-5)
    np.testing.assert_array_equal(search.cma.mean, state.mean)


def test_sharpzo_is_the_default_configuration(task: Task, traces: Traces) -> None:
    trace = traces["sharpzo", "tuned"]
    budget = task.query_budget
    assert trace.search.config == task.config.with_settings({"query_budget": budget})
    assert {step.queries <= budget / 2 for step in trace.records} == {True, False}  # both stages had their share


def test_the_papers_steps_follow_the_default_stage_one(task: Task, traces: Traces) -> None:
    """The same generations as the default's, then plain SGD on the coordinates of a mask."""
    own, default = traces["sharpzo-sgd", "tuned"].search, traces["sharpzo", "tuned"].search
    np.testing.assert_array_equal(own.cma.mean, default.cma.mean)
    assert (own.now.stage, own.config.stage2.optimiser, own.config.pruning.metric) == (2, "zo-sgd", "zscore-squared")
    assert float(mx.sum(own.descent.mask)) == 8
    assert np.count_nonzero(np.array(own.descent.w - own.cma.mean)) == 8


def test_the_papers_schedule_has_our_scale_of_a(task: Task, traces: Traces) -> None:
    paper, given = sz.preset("paper"), traces["sharpzo-paper", "tuned"].search.config
    assert given.space.projection_std is None
    assert given.space.relative_scale == task.config.space.relative_scale
    own = ("stage1.population", "stage1.covariance", "stage1.sigma", "sharpness.rho", "sharpness.estimator")
    for name in (*own, "stage2.optimiser", "stage2.rule", "stage2.draws", "pruning.keep"):
        assert given.settings()[name] == paper.settings()[name]
    assert traces["sharpzo-paper", "published"].search.config.space.projection_std == paper.space.projection_std


def test_the_papers_schedule_is_whole_where_the_budget_buys_it(task: Task) -> None:
    """500 generations of 40 candidates and 512 coordinates, 20 000 steps with a mask by CGE every 200."""
    for options in (registry.method("sharpzo-paper").tuned, registry.method("sharpzo-paper").published):
        config = task.config.with_settings({**options, "space.dimension": 512, "query_budget": 700_000})
        assert affordable_generations(config) == 500
        assert planned_queries(config) == 500 * (40 + 1024) + 20_000 * 2 + 100 * 1024


def test_every_method_searches_the_same_space(traces: Traces) -> None:
    spaces = [cast(Objective, traces[name, "tuned"].search.loss).space.projection for name in SEARCHES]
    for space in spaces[1:]:
        np.testing.assert_array_equal(space, spaces[0])


def test_a_budget_below_one_step_is_refused(task: Task) -> None:
    small = Task(task.clip, task.train, task.val, task.config, 1)
    for name in SEARCHES:
        with pytest.raises(UserError, match="query-budget 1: the search needs at least"):
            run_method(registry.method(name), small, registry.method(name).tuned)


def test_zero_shot_is_the_plain_classifier(task: Task) -> None:
    records, classifier = run_method(registry.method("zero-shot"), task, {})
    texts = task.clip.encode_texts([f"a photo of a {name}." for name in task.train.class_names])
    np.testing.assert_allclose(classifier.class_features, texts, atol=1e-5)
    assert [progress.queries for progress in records] == [0]
