"""The methods that search the vector w: zero-shot, and one setting each of SharpZO's two stages.

Zero-shot makes no query. Plain CMA-ES on w is Black-Box Tuning (Sun et al., ICML 2022, arXiv 2201.03514), whose
published variant is the package `cma` itself (`reference_bbt`). Dense and sparse zeroth-order SGD begin at w = 0.
Sharpness-aware CMA-ES is stage 1 alone; SharpZO is both stages (arXiv 2506.20990). The space of w and the rule of
choice are those of the task.

>>> [method.name for method in METHODS][:3]
['zero-shot', 'bbt', 'zo']
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from sharpzo_mlx.comparison.methods import reference_bbt
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import AVERAGING, Method, Progress, Steps, Task
from sharpzo_mlx.comparison.methods.staged_search import (
    Options,
    check_search,
    choose_dense_stage2,
    choose_plain_stage1,
    choose_pruned_stage2,
    choose_stage1,
    keep_settings,
    search,
)
from sharpzo_mlx.presets import preset

SHARPZO = "Yang et al., NeurIPS 2025, arXiv 2506.20990"
SHARED = ("space.relative_scale", "space.projection_std", "selection.slack")
AVERAGED: Options = {"stage2.averaging": AVERAGING, "selection.every": 20}
ZO: Options = {"stage2.optimiser": "zo-sgd"}


def keep_zero_shot(task: Task, options: Options) -> Steps:
    """Validate and return the classifier at w = 0, which is zero-shot."""
    problem = task.problem(options)
    w = mx.zeros(problem.objective.dimension)
    score, kept = problem.validate(w), partial(CosineClassifier.at, problem, w)
    yield Progress(0, score, score, kept)
    return kept()


def _without(options: Options, names: tuple[str, ...]) -> Options:
    """Return the options but for some names."""
    return {name: value for name, value in options.items() if name not in names}


DATA = (
    *("seed", "shots", "template", "templates", "head"),
    *("space.dimension", "query_budget", "time_budget", "memory_budget"),
)
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
BBT_PUBLISHED: Options = {
    "stage1.population": 20,
    "stage1.sigma": 1.0,
    "space.dimension": 500,
    "space.projection_std": (3 * 500) ** -0.5,  # the spread of entries that are uniform within 1 / sqrt(d)
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
RATES = (0.1, 0.3, 1.0, 3.0)  # trials of zeroth-order SGD; with our scale of A its steps are about 0.07 to 2 long
PAPER_HERE: Options = {**_without(PAPER, SHARED), **AVERAGED, "pruning.mu": 1e-3}  # at 1e-5 float32 has rounding alone
SAM: Options = {
    "stage1.population": 20,
    "stage1.covariance": "diagonal",
    "stage1.sigma": 0.4,
    "sharpness.estimator": "population",
}


def _search(*, stages: Callable[[int], Options], **details: Any) -> Method:
    """Return a method that runs `search` with some stages."""
    return Method(start=partial(search, stages=stages), check=partial(check_search, stages=stages), **details)


def _pruned(metric: str, title: str, option: str, *, rate: float) -> Method:
    """Return the method of zeroth-order SGD on the coordinates that a metric ranks highest."""
    return _search(
        name=f"szo-{metric}",
        title=f"Sparse ZO, {title}",
        source=f"{SHARPZO}, section 3.2 alone",
        stages=partial(choose_pruned_stage2, metric=option),
        published=PAPER_STAGE_TWO,
        tuned={**SPARSE, "stage2.learning_rate": rate},
        trials=tuple({**SPARSE, "stage2.learning_rate": trial} for trial in RATES),
    )


METHODS: tuple[Method, ...] = (
    Method("zero-shot", "Zero-shot", "Radford et al., ICML 2021, arXiv 2103.00020", keep_zero_shot),
    _search(
        name="bbt",
        title="BBT (CMA-ES)",
        source="Sun et al., ICML 2022, arXiv 2201.03514",
        stages=choose_plain_stage1,
        published=BBT_PUBLISHED,
        published_start=reference_bbt.start,
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
        stages=choose_dense_stage2,
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
        stages=choose_stage1,
        published=PAPER_STAGE_ONE,
        tuned={**SAM, "sharpness.rho": 0.1},
        trials=tuple({**SAM, "sharpness.rho": rho} for rho in (0.1, 0.5, 2.0, 5.0)),
    ),
    _search(
        name="sharpzo",
        title="SharpZO",
        source=f"{SHARPZO}, with the defaults of `tune`",
        stages=keep_settings,
        trials=tuple({"stage2.draws": draws} for draws in (16, 24, 32, 48)),
    ),
    _search(
        name="sharpzo-sgd",
        title="SharpZO, the paper's steps",
        source=f"{SHARPZO}, stage 1 with the defaults of `tune`, stage 2 by section 3.2",
        stages=keep_settings,
        tuned={**SPARSE, "stage2.learning_rate": 0.3},
        trials=tuple({**SPARSE, "stage2.learning_rate": rate} for rate in RATES),
    ),
    _search(
        name="sharpzo-paper",
        title="SharpZO, the paper's schedule",
        source=f"{SHARPZO}, Table 8, with CGE and our scale of A",
        stages=keep_settings,
        published=PAPER,
        tuned={**PAPER_HERE, "stage2.learning_rate": 0.3},
        trials=tuple({**PAPER_HERE, "stage2.learning_rate": rate} for rate in (1e-3, *RATES[:3])),
    ),
)
