"""The arithmetic of queries: what a generation, a mask and a step cost, and what a budget buys.

Pure functions of the configuration; nothing is loaded or constructed to check a budget.

>>> generation_cost(TuneConfig()), step_cost(TuneConfig())
(20, 36)
"""

from __future__ import annotations

import math

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.masks import estimate_cost
from sharpzo_mlx.optimisers.stage2 import make_optimiser


def generation_cost(config: TuneConfig) -> int:
    """Return the queries of one generation of stage 1: the population, and the estimate of the sharpness direction."""
    population, sharpness = config.stage1.population, config.sharpness
    if sharpness.rho == 0 or sharpness.estimator in ("population", "none"):
        return population
    return population + estimate_cost(sharpness.estimator, sharpness.directions, config.space.dimension)


def step_cost(config: TuneConfig) -> int:
    """Return the queries of one step of stage 2."""
    return make_optimiser(config.stage2, config.pruning, total_steps=1).step_cost(config.space.dimension)


def mask_cost(config: TuneConfig) -> int:
    """Return the queries of one mask of stage 2."""
    return make_optimiser(config.stage2, config.pruning, total_steps=1).mask_cost(config.space.dimension)


def stage1_share(config: TuneConfig) -> float:
    """Return stage 1's share of a budget: all of it if there is no stage 2 or the rest would not buy it one step."""
    if not config.most_steps:
        return 1.0
    share = config.stage1.budget_share
    rest = (1 - share) * (config.query_budget or math.inf)
    return share if rest >= mask_cost(config) + step_cost(config) else 1.0


def affordable_generations(config: TuneConfig) -> int:
    """Return the generations of stage 1 at most, under the query budget."""
    affordable = stage1_share(config) * (config.query_budget or math.inf) / generation_cost(config)
    return int(min(config.most_generations, affordable))


def affordable_steps(config: TuneConfig, queries: int) -> int:
    """Return the steps of stage 2 that some queries buy; the last steps go without a mask they cannot pay for."""
    step, mask, interval = step_cost(config), mask_cost(config), config.pruning.interval
    whole, rest = divmod(max(0, queries), mask + interval * step)
    return whole * interval + (rest - mask if rest >= mask + step else rest) // step


def planned_queries(config: TuneConfig, step_seconds: float | None = None) -> int:
    """Return the queries of a whole search at most.

    Args:
        config: the settings.
        step_seconds: measured time of a step of stage 2, for a time budget.
    """
    steps = config.most_steps
    if config.time_budget and step_seconds:
        steps = min(steps, int(config.time_budget / step_seconds))
    new_masks = -(-steps // config.pruning.interval)
    total = (
        config.most_generations * generation_cost(config) + steps * step_cost(config) + new_masks * mask_cost(config)
    )
    return min(total, config.query_budget or total)


def check_budget(config: TuneConfig) -> None:
    """Refuse a query budget that buys neither a generation nor a step.

    Raises:
        UserError: with the least budget that does.
    """
    choices = [step_cost(config) + mask_cost(config)] if config.most_steps else []
    choices += [generation_cost(config)] if config.most_generations else []
    if config.query_budget and choices and config.query_budget < min(choices):
        raise UserError(
            f"query-budget {config.query_budget}: the search needs at least {min(choices)}; raise it to that"
        )
