"""Black-Box Tuning as its authors carry it out: the package `cma` asks for candidates and is told their losses.

The published row of `bbt` is this search: a full covariance and `cma`'s default settings, from w = 0 (Sun et al., ICML
2022, arXiv 2201.03514, and its code). The compared row is our own CMA-ES. Ours: the mean is validated after every
generation, no stopping criterion of `cma` ends the search before the budget does, and the random numbers are those of
the seed, whatever NumPy's global generator has been used for.

>>> for progress in start(task, options):  # doctest: +SKIP
...     print(progress.queries, progress.best.accuracy)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Progress, Steps, Task
from sharpzo_mlx.optimisers.gradients import Values
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.budget import check_budget
from sharpzo_mlx.tuning.selection import Selection

LARGEST_LOSS = 1e30  # stands for a loss that is not finite: `cma` would take the median for a NaN


class ReferenceCMA:
    """The package's CMA-ES on a loss, silent and without files.

    Args:
        dimension: d; the search starts at w = 0.
        population: candidates in a generation.
        sigma: first step size, in units of w.
        seed: makes the random numbers, with the name of the method.

    Attributes:
        strategy: the package's own object.
    """

    def __init__(self, dimension: int, population: int, sigma: float, seed: int) -> None:
        generator = generator_for(seed, "bbt")

        def draw(count: int, width: int) -> np.ndarray:
            return generator.standard_normal((count, width))

        options: dict[str, object] = {
            "popsize": population,
            "randn": draw,
            "seed": math.nan,  # leaves NumPy's global generator alone
            "verbose": -9,
            "verb_log": 0,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about options and plots
            import cma  # here, because it takes half a second to load

            self.strategy: Any = cma.CMAEvolutionStrategy(dimension * [0.0], sigma, options)

    def advance(self, loss: Values) -> None:
        """Carry out one generation; as many queries as the population has candidates."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidates: Sequence[np.ndarray] = self.strategy.ask()
            losses = np.array(loss.losses(mx.array(np.stack(candidates).astype(np.float32))), np.float64)
            ranked = np.where(np.isfinite(losses), losses, LARGEST_LOSS)
            self.strategy.tell(candidates, ranked.tolist())

    @property
    def mean(self) -> mx.array:
        """The mean of the distribution [d], float32; `cma` calls it xfavorite."""
        return mx.array(np.asarray(self.strategy.mean, np.float32))


def start(task: Task, options: Mapping[str, Any]) -> Steps:
    """Search to the end of the query budget; yield a record for zero-shot and after every generation.

    Args:
        task: data, budget and shared settings.
        options: settings by name; `stage1.population`, `stage1.sigma` and the space of w are used.

    Raises:
        UserError: the budget does not buy a generation.
    """
    budget = task.query_budget
    problem = task.problem({**options, "generations": budget, "steps": 0, "query_budget": budget})
    config, loss = problem.config, problem.objective
    check_budget(config)
    selection = Selection(config.selection.slack)
    best = mx.zeros(loss.dimension)
    score = problem.validate(best)
    selection.consider(score)
    yield Progress(0, score, selection.best, partial(CosineClassifier.at, problem, best))
    search = ReferenceCMA(loss.dimension, config.stage1.population, config.stage1.sigma, config.seed)
    while loss.queries + config.stage1.population <= budget:
        search.advance(loss)
        mean = search.mean
        score = problem.validate(mean)
        if selection.consider(score):
            best = mean
        yield Progress(loss.queries, score, selection.best, partial(CosineClassifier.at, problem, best))
    return CosineClassifier.at(problem, best)
