"""The methods that search the vector w: each is one setting of SharpZO's own two stages.

Zero-shot spends nothing. Plain CMA-ES on the projected prompt is Black-Box Tuning (Sun et al., ICML 2022, arXiv
2201.03514); dense and sparse ZO-SGD begin at w = 0; sharpness-aware CMA-ES is stage 1 alone; SharpZO is both stages
(arXiv 2506.20990). What is no method's own is the task's: d, the scale of A, the rule of choice. Schedules are as
long as the query budget, so every method may spend all of it.

>>> [method.name for method in METHODS][:3]
['zero-shot', 'bbt', 'zo']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import mlx.core as mx

from sharpzo_mlx.comparison.methods.method import AVERAGING, CosineClassifier, Method, Progress, Steps, Task
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.presets import preset
from sharpzo_mlx.tuning.budget import check_budget
from sharpzo_mlx.tuning.search import Search

Options: TypeAlias = Mapping[str, Any]
SHARPZO = "Yang et al., NeurIPS 2025, arXiv 2506.20990"
SHARED = ("space.relative_scale", "space.projection_std", "selection.slack")
AVERAGED: Options = {"stage2.averaging": AVERAGING, "selection.every": 20}
ZO: Options = {"stage2.optimiser": "zo-sgd"}


def zero_shot(task: Task, options: Options) -> Steps:
    """The checkpoint as it is: w = 0."""
    problem = task.problem(options)
    w = mx.zeros(problem.objective.dimension)
    score, kept = problem.validate(w), partial(CosineClassifier.at, problem, w)
    yield Progress(0, score, score, kept)
    return kept()


def check_searched(config: TuneConfig, options: Options, *, stages: Callable[[int], Options]) -> None:
    """Refuse a query budget that buys no step; the arguments are those of `searched`."""
    check_budget(config.with_settings({**options, **stages(cast(int, config.query_budget))}))


def searched(task: Task, options: Options, *, stages: Callable[[int], Options]) -> Steps:
    """Run the search with some options; a record whenever a candidate is validated.

    Args:
        task: data, budget and the shared options.
        options: of TuneConfig.
        stages: from the query budget to the options that make the method what it is; they overrule `options`.
    """
    problem = task.problem({**options, **stages(task.query_budget), "query_budget": task.query_budget})
    scores: list[Score] = []

    def validate(w: mx.array) -> Score:
        scores.append(problem.validate(w))
        return scores[-1]

    def record(queries: int) -> Progress:
        return Progress(queries, scores[-1], search.best_score, partial(CosineClassifier.at, problem, search.best_w))

    search = Search(problem.config, problem.objective, validate)
    check_budget(problem.config)
    search.begin()
    yield record(0)
    told = len(scores)
    for step in search.steps():
        if len(scores) > told:
            told = len(scores)
            yield record(step.queries)
    if len(scores) > told:  # the budget ended between two validations
        yield record(problem.objective.queries)
    return CosineClassifier.at(problem, search.best_w)


def stage_one(budget: int) -> Options:
    """CMA-ES alone, to the end of the budget."""
    return {"generations": budget, "stage1.patience": budget, "steps": 0}


def plain_stage_one(budget: int) -> Options:
    """CMA-ES without the sharpness shift."""
    return {**stage_one(budget), "sharpness.rho": 0.0}


def stage_two(budget: int) -> Options:
    """Zeroth-order descent from w = 0, to the end of the budget."""
    return {"generations": 0, "steps": budget}


def dense_stage_two(budget: int) -> Options:
    """The same, with every coordinate."""
    return {**stage_two(budget), "pruning.keep": 1.0, "pruning.metric": "none"}


def pruned_stage_two(budget: int, metric: str) -> Options:
    """The same, with the coordinates that a metric picks."""
    return {**stage_two(budget), "pruning.metric": metric}


def as_configured(_: int) -> Options:
    """The schedule of the options, which the search itself cuts to the budget."""
    return {}


def _without(options: Options, names: tuple[str, ...]) -> Options:
    return {name: value for name, value in options.items() if name not in names}


DATA = ("seed", "shots", "template", "head", "space.dimension", "query_budget", "time_budget", "memory_budget")
PAPER = _without(preset("paper").settings(), DATA)
PAPER_STAGE_ONE = {
    name: PAPER[name]
    for name in (
        *("stage1.population", "stage1.covariance", "stage1.sigma"),
        *("sharpness.rho", "sharpness.estimator", "sharpness.mu", "sharpness.smoothing"),
    )
}
PAPER_MASK = ("pruning.keep", "pruning.interval", "pruning.estimator", "pruning.mu")
PAPER_STAGE_TWO = {
    name: value
    for name, value in PAPER.items()
    if name.startswith("stage2.") or name in PAPER_MASK or name == "selection.every"
}
BBT: Options = {"stage1.population": 20, "stage1.covariance": "full", "stage1.sigma": 1.0}
BBT_SPACE: Options = {  # A uniform within 1 / sqrt(d)
    "space.dimension": 500,
    "space.projection_std": (3 * 500) ** -0.5,
}
SGD: Options = {
    **ZO,
    **AVERAGED,
    "stage2.rule": "sgd",
    "stage2.schedule": "cosine",
    "stage2.estimator": "rge",
    "stage2.draws": 1,
    "stage2.mu": 1e-2,
}
SPARSE: Options = {
    **SGD,
    "pruning.keep": 0.5,
    "pruning.interval": 200,
    "pruning.estimator": "rge",
    "pruning.directions": 32,
}
RATES = (0.1, 0.3, 1.0, 3.0)  # the trials of the descents: with our scale of A, steps of about 0.07 to 2
PAPER_HERE: Options = {**_without(PAPER, SHARED), **AVERAGED, "pruning.mu": 1e-3}  # 1e-5 is rounding noise in float32
SAM: Options = {
    "stage1.population": 20,
    "stage1.covariance": "diagonal",
    "stage1.sigma": 0.4,
    "sharpness.estimator": "population",
}


def _search(*, stages: Callable[[int], Options], **details: Any) -> Method:
    return Method(start=partial(searched, stages=stages), check=partial(check_searched, stages=stages), **details)


def _pruned(metric: str, title: str, option: str, *, rate: float) -> Method:
    return _search(
        name=f"szo-{metric}",
        title=f"Sparse ZO, {title}",
        source=f"{SHARPZO}, section 3.2 alone",
        stages=partial(pruned_stage_two, metric=option),
        published=PAPER_STAGE_TWO,
        tuned={**SPARSE, "stage2.learning_rate": rate},
        trials=tuple({**SPARSE, "stage2.learning_rate": trial} for trial in RATES),
    )


METHODS: tuple[Method, ...] = (
    Method("zero-shot", "Zero-shot", "Radford et al., ICML 2021, arXiv 2103.00020", zero_shot),
    _search(
        name="bbt",
        title="BBT (CMA-ES)",
        source="Sun et al., ICML 2022, arXiv 2201.03514",
        stages=plain_stage_one,
        published={**BBT, **BBT_SPACE},
        tuned={**BBT, "stage1.covariance": "diagonal"},
        trials=(
            {**BBT, "stage1.sigma": 0.4},
            BBT,
            {**BBT, "stage1.sigma": 0.4, "stage1.covariance": "diagonal"},
            {**BBT, "stage1.covariance": "diagonal"},
        ),
    ),
    _search(
        name="zo",
        title="ZO-SGD",
        source="Malladi et al., NeurIPS 2023, arXiv 2305.17333",
        stages=dense_stage_two,
        published=_without(PAPER_STAGE_TWO, ("pruning.keep",)),
        tuned={**SGD, "stage2.learning_rate": 0.3},
        trials=tuple({**SGD, "stage2.learning_rate": rate} for rate in RATES),
    ),
    _pruned("magnitude", "magnitude", "magnitude", rate=0.3),
    _pruned("gradient", "gradient", "gradient", rate=3.0),
    _pruned("random", "random", "random", rate=3.0),
    _pruned("zscore", "Z-score", "zscore-squared", rate=0.1),
    _search(
        name="sam-cma",
        title="Sharpness-aware CMA-ES",
        source=f"{SHARPZO}, section 3.1 alone",
        stages=stage_one,
        published=PAPER_STAGE_ONE,
        tuned={**SAM, "sharpness.rho": 0.1},
        trials=tuple({**SAM, "sharpness.rho": rho} for rho in (0.1, 0.5, 2.0, 5.0)),
    ),
    _search(
        name="sharpzo",
        title="SharpZO",
        source=f"{SHARPZO}, with the defaults of `tune`",
        stages=as_configured,
        trials=tuple({"stage2.draws": draws} for draws in (16, 24, 32, 48)),
    ),
    _search(
        name="sharpzo-sgd",
        title="SharpZO, the paper's steps",
        source=f"{SHARPZO}, stage 1 with the defaults of `tune`, stage 2 by section 3.2",
        stages=as_configured,
        tuned={**SPARSE, "stage2.learning_rate": 0.3},
        trials=tuple({**SPARSE, "stage2.learning_rate": rate} for rate in RATES),
    ),
    _search(
        name="sharpzo-paper",
        title="SharpZO, the paper's schedule",
        source=f"{SHARPZO}, Table 8, with CGE and our scale of A",
        stages=as_configured,
        published=PAPER,
        tuned={**PAPER_HERE, "stage2.learning_rate": 0.3},
        trials=tuple({**PAPER_HERE, "stage2.learning_rate": rate} for rate in (1e-3, *RATES[:3])),
    ),
)
