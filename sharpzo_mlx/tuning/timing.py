"""Measure what a query and a step take on this machine, and plan a search's time from it.

seconds = measure_seconds(problem, search)
plan_seconds(problem.config, search, seconds)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.helpers import current
from sharpzo_mlx.runtime.limits import bounded
from sharpzo_mlx.tuning import budget
from sharpzo_mlx.tuning.problem import TuningProblem
from sharpzo_mlx.tuning.search import Search

LONG_SECONDS = 0.5  # a pass that takes longer needs no warming up
GPU_LONG_SECONDS = 10.0  # the same on a GPU, whose first pass compiles its kernels: up to seconds


@dataclass(frozen=True)
class Seconds:
    """Measured times.

    Attributes:
        query: of one query in a generation of stage 1.
        step: of one step of stage 2, its share of validations and masks included.
    """

    query: float
    step: float


def measure_seconds(problem: TuningProblem, search: Search) -> Seconds:
    """Measure by trying; the passes inform nothing and are not counted as queries."""
    config, loss = problem.config, problem.objective
    population = min(config.stage1.population, loss.chunk)
    with bounded(allowed_memory(config.memory_budget)):
        query = _seconds_of(loss, lambda: loss.losses(mx.zeros((population, loss.dimension)))) / population
        validation = _seconds_of(loss, lambda: loss.losses(mx.zeros((1, loss.dimension)))) / config.selection.every
        step = _seconds_of(loss, search.try_step)
    return Seconds(query, step + validation + query * budget.mask_cost(config) / config.pruning.interval)


def plan_queries(problem: TuningProblem, search: Search) -> int:
    """Return the queries that are left at most."""
    return max(0, budget.planned_queries(problem.config, search.step_seconds) - problem.objective.queries)


def plan_seconds(problem: TuningProblem, search: Search, seconds: Seconds) -> float:
    """Return the time that is left at most, from the measured times and the time budget."""
    config, left = problem.config, plan_queries(problem, search)
    generations = budget.affordable_generations(config) - search.now.step if search.now.stage == 1 else 0
    stage1 = min(left, generations * budget.generation_cost(config))
    estimate = stage1 * seconds.query + (left - stage1) / budget.step_cost(config) * seconds.step
    return min(estimate, max(0.0, (config.time_budget or math.inf) - search.now.elapsed))


def _seconds_of(loss: Objective, work: Callable[[], mx.array]) -> float:
    """Time one batch of candidates; the second of two passes.

    A GPU compiles its kernels in the first one, and helpers build their objectives, however long that takes.
    """
    counted, spent = loss.queries, 0.0
    long = math.inf if current() is not None else LONG_SECONDS if on_cpu() else GPU_LONG_SECONDS
    for _ in range(2):
        started = time.monotonic()
        mx.eval(work())
        spent = time.monotonic() - started
        if spent > long:
            break
    loss.queries = counted
    return spent
