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
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

import mlx.core as mx

from sharpzo_mlx.comparison.methods.method import AVERAGING, CosineClassifier, Method, Progress, Steps, Task
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.objective import Score
from sharpzo_mlx.presets import preset
from sharpzo_mlx.tuning.search import Search, check_budget

Options: TypeAlias = Mapping[str, Any]
SHARPZO = "Yang et al., NeurIPS 2025, arXiv 2506.20990"
SHARED = ("relative_scale", "projection_std", "selection_slack")
AVERAGED: Options = {"averaging": AVERAGING, "validate_every": 20}


def zero_shot(task: Task, options: Options) -> Steps:
    """The checkpoint as it is: w = 0."""
    problem = task.problem(**options)
    w = mx.zeros(problem.objective.dimension)
    score, kept = problem.validate(w), partial(CosineClassifier.at, problem, w)
    yield Progress(0, score, score, kept)
    return kept()


def check_searched(config: TuneConfig, options: Options, *, stages: Callable[[int], Options]) -> None:
    """Refuse a query budget that buys no step; the arguments are those of `searched`."""
    check_budget(replace(config, **{**options, **stages(cast(int, config.query_budget))}))


def searched(task: Task, options: Options, *, stages: Callable[[int], Options]) -> Steps:
    """Run the search with some options; a record whenever a candidate is validated.

    Args:
        task: data, budget and the shared options.
        options: of TuneConfig.
        stages: from the query budget to the options that make the method what it is; they overrule `options`.
    """
    problem = task.problem(**{**options, **stages(task.query_budget), "query_budget": task.query_budget})
    scores: list[Score] = []

    def validate(w: mx.array) -> Score:
        scores.append(problem.validate(w))
        return scores[-1]

    def record(queries: int) -> Progress:
        return Progress(queries, scores[-1], search.best_score, partial(CosineClassifier.at, problem, search.best_w))

    search = Search(problem.config, problem.objective, validate)
    search.check_budget()
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
    return {"generations": budget, "patience": budget, "steps": 0}


def plain_stage_one(budget: int) -> Options:
    """CMA-ES without the sharpness shift."""
    return {**stage_one(budget), "rho": 0.0}


def stage_two(budget: int) -> Options:
    """Zeroth-order descent from w = 0, to the end of the budget."""
    return {"generations": 0, "steps": budget}


def dense_stage_two(budget: int) -> Options:
    """The same, with every coordinate."""
    return {**stage_two(budget), "keep": 1.0, "metric": "none"}


def pruned_stage_two(budget: int, metric: str) -> Options:
    """The same, with the coordinates that a metric picks."""
    return {**stage_two(budget), "metric": metric}


def as_configured(_: int) -> Options:
    """The schedule of the options, which the search itself cuts to the budget."""
    return {}


def _without(options: Options, names: tuple[str, ...]) -> Options:
    return {name: value for name, value in options.items() if name not in names}


DATA = ("seed", "shots", "template", "preset", "dimension", "query_budget", "time_budget", "memory_budget")
PAPER = _without(preset("paper").to_dict(), DATA)
PAPER_STAGE_ONE = {
    name: PAPER[name]
    for name in ("population", "covariance", "sigma", "rho", "sharpness", "sharpness_mu", "sharpness_smoothing")
}
PAPER_STAGE_TWO = {
    **{
        name: PAPER[name]
        for name in (
            "learning_rate",
            "rule",
            "schedule",
            "estimator",
            "draws",
            "mu",
            "keep",
            "mask_interval",
            "mask_estimator",
            "mask_mu",
        )
    },
    "averaging": 0.0,
    "validate_every": PAPER["validate_every"],
}
BBT: Options = {"population": 20, "covariance": "full", "sigma": 1.0}
BBT_SPACE: Options = {"dimension": 500, "projection_std": (3 * 500) ** -0.5}  # A uniform within 1 / sqrt(d)
SGD: Options = {**AVERAGED, "rule": "sgd", "schedule": "cosine", "estimator": "rge", "draws": 1, "mu": 1e-2}
SPARSE: Options = {**SGD, "keep": 0.5, "mask_interval": 200, "mask_estimator": "rge", "mask_directions": 32}
RATES = (0.1, 0.3, 1.0, 3.0)  # the trials of the descents: with our scale of A, steps of about 0.07 to 2
PAPER_HERE: Options = {**_without(PAPER, SHARED), **AVERAGED, "mask_mu": 1e-3}  # 1e-5 is rounding noise in float32
SAM: Options = {"population": 20, "covariance": "diagonal", "sigma": 0.4, "sharpness": "population"}


def _search(*, stages: Callable[[int], Options], **details: Any) -> Method:
    return Method(start=partial(searched, stages=stages), check=partial(check_searched, stages=stages), **details)


def _pruned(metric: str, title: str, option: str, *, rate: float) -> Method:
    return _search(
        name=f"szo-{metric}",
        title=f"Sparse ZO, {title}",
        source=f"{SHARPZO}, section 3.2 alone",
        stages=partial(pruned_stage_two, metric=option),
        published=PAPER_STAGE_TWO,
        tuned={**SPARSE, "learning_rate": rate},
        trials=tuple({**SPARSE, "learning_rate": trial} for trial in RATES),
    )


METHODS: tuple[Method, ...] = (
    Method("zero-shot", "Zero-shot", "Radford et al., ICML 2021, arXiv 2103.00020", zero_shot),
    _search(
        name="bbt",
        title="BBT (CMA-ES)",
        source="Sun et al., ICML 2022, arXiv 2201.03514",
        stages=plain_stage_one,
        published={**BBT, **BBT_SPACE},
        tuned={**BBT, "covariance": "diagonal"},
        trials=(
            {**BBT, "sigma": 0.4},
            BBT,
            {**BBT, "sigma": 0.4, "covariance": "diagonal"},
            {**BBT, "covariance": "diagonal"},
        ),
    ),
    _search(
        name="zo",
        title="ZO-SGD",
        source="Malladi et al., NeurIPS 2023, arXiv 2305.17333",
        stages=dense_stage_two,
        published=_without(PAPER_STAGE_TWO, ("keep",)),
        tuned={**SGD, "learning_rate": 0.3},
        trials=tuple({**SGD, "learning_rate": rate} for rate in RATES),
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
        tuned={**SAM, "rho": 0.1},
        trials=tuple({**SAM, "rho": rho} for rho in (0.1, 0.5, 2.0, 5.0)),
    ),
    _search(
        name="sharpzo",
        title="SharpZO",
        source=f"{SHARPZO}, with the defaults of `tune`",
        stages=as_configured,
        trials=tuple({"draws": draws} for draws in (16, 24, 32, 48)),
    ),
    _search(
        name="sharpzo-sgd",
        title="SharpZO, the paper's steps",
        source=f"{SHARPZO}, stage 1 with the defaults of `tune`, stage 2 by section 3.2",
        stages=as_configured,
        tuned={**SPARSE, "learning_rate": 0.3},
        trials=tuple({**SPARSE, "learning_rate": rate} for rate in RATES),
    ),
    _search(
        name="sharpzo-paper",
        title="SharpZO, the paper's schedule",
        source=f"{SHARPZO}, Table 8, with CGE and our scale of A",
        stages=as_configured,
        published=PAPER,
        tuned={**PAPER_HERE, "learning_rate": 0.3},
        trials=tuple({**PAPER_HERE, "learning_rate": rate} for rate in (1e-3, *RATES[:3])),
    ),
)
