"""Run SharpZO's two stages, or one of them, as a method of `compare`.

`search` runs the search of `tune` with some settings and yields a record at each validation; its part `follow` serves
other methods too. The functions after them return the settings that turn the search into one of its parts: stage 1
alone or stage 2 alone, as long as the query budget, so that every method may spend all of it.

    steps = search(task, {"stage1.sigma": 1.0}, stages=choose_plain_stage1)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import mlx.core as mx

from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Predictor, Progress, Steps, Task
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.tuning.budget import check_budget
from sharpzo_mlx.tuning.problem import TuningProblem
from sharpzo_mlx.tuning.search import Search

Options: TypeAlias = Mapping[str, Any]  # settings of TuneConfig by name


def check_search(config: TuneConfig, options: Options, *, stages: Callable[[int], Options]) -> None:
    """Raise a UserError if the query budget of `config` buys no step of `search` with these options and stages."""
    check_budget(config.with_settings({**options, **stages(cast(int, config.query_budget))}))


def search(task: Task, options: Options, *, stages: Callable[[int], Options]) -> Steps:
    """Run the search; yield a record whenever a candidate was validated.

    Args:
        task: data, budget and shared settings.
        options: settings that the method changes.
        stages: returns, for the query budget, the settings that choose the stages; they override `options`.

    Raises:
        UserError: the budget does not buy a step.
    """
    problem = task.problem({**options, **stages(task.query_budget), "query_budget": task.query_budget})
    w = yield from follow(problem, partial(CosineClassifier.at, problem))
    return CosineClassifier.at(problem, w)


def follow(
    problem: TuningProblem, classify: Callable[[mx.array], Predictor], *, image_passes: int = 0
) -> Generator[Progress, None, mx.array]:
    """Run the search of a problem to its end; yield a record whenever a candidate was validated, and return the best.

    Args:
        problem: with its configuration.
        classify: returns what w [d] stands for.
        image_passes: images that were passed through the image tower before.

    Raises:
        UserError: the budget does not buy a step.
    """
    scores: list[Score] = []

    def validate(w: mx.array) -> Score:
        scores.append(problem.validate(w))
        return scores[-1]

    def record(queries: int) -> Progress:
        kept = partial(classify, running.best_w)
        return Progress(queries, scores[-1], running.best_score, kept, image_passes=image_passes)

    running = Search(problem.config, problem.objective, validate)
    check_budget(problem.config)
    running.begin()
    yield record(0)
    seen = len(scores)
    for step in running.steps():
        if len(scores) > seen:
            seen = len(scores)
            yield record(step.queries)
    if len(scores) > seen:  # the budget ended between two validations
        yield record(problem.objective.queries)
    return running.best_w


def choose_stage1(budget: int) -> Options:
    """Return the settings of stage 1 alone, to the end of the budget."""
    return {"generations": budget, "stage1.patience": budget, "steps": 0}


def choose_plain_stage1(budget: int) -> Options:
    """Return the settings of stage 1 alone without the sharpness term, which is plain CMA-ES."""
    return {**choose_stage1(budget), "sharpness.rho": 0.0}


def choose_stage2(budget: int) -> Options:
    """Return the settings of stage 2 alone, from w = 0 to the end of the budget."""
    return {"generations": 0, "steps": budget}


def choose_dense_stage2(budget: int) -> Options:
    """Return the settings of stage 2 alone on every coordinate."""
    return {**choose_stage2(budget), "pruning.keep": 1.0, "pruning.metric": "none"}


def choose_pruned_stage2(budget: int, metric: str) -> Options:
    """Return the settings of stage 2 alone on the coordinates that a metric ranks highest."""
    return {**choose_stage2(budget), "pruning.metric": metric}


def keep_settings(_: int) -> Options:
    """Return no settings: both stages run as they are configured, and the search cuts them to the budget."""
    return {}
