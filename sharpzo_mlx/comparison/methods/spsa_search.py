"""Search with SPSA as a method of `compare`: make steps until the budget is spent, validate, and keep the best.

As with every method, the average of the iterates is validated, the rule of `selection` chooses, and zero-shot is the
first candidate. The loss may differ from step to step, as with minibatches.

    return (yield from descend(task, Descent(params, start, zero_shot, loss_at, validate, predictor, 20)))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from sharpzo_mlx.comparison.methods.method import Predictor, Progress, Steps, Task
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.optimisers.gradients import Values
from sharpzo_mlx.optimisers.spsa import SPSAParams, init, step
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.tuning.selection import Selection


@dataclass(frozen=True)
class Descent:
    """What a method sets of its search.

    Attributes:
        params: the constants of SPSA.
        start: the first iterate [d].
        zero_shot: a point [d] that is exactly zero-shot, and its score: the first candidate.
        loss_at: returns the loss of a step, counted from 0.
        validate: returns the score of a point [d].
        predictor: returns the predictor of a point [d].
        validate_every: steps between two validations.
        image_passes: returns the image passes so far.
    """

    params: SPSAParams
    start: mx.array
    zero_shot: tuple[mx.array, Score]
    loss_at: Callable[[int], Values]
    validate: Callable[[mx.array], Score]
    predictor: Callable[[mx.array], Predictor]
    validate_every: int
    image_passes: Callable[[], int] = lambda: 0


def check_draws(budget: int | None, draws: int) -> None:
    """Raise a UserError if the query budget does not buy a step of some draws; it names the least that does."""
    if budget and budget < 2 * draws:
        raise UserError(f"query-budget {budget}: the search needs at least {2 * draws}; raise it to that")


def descend(task: Task, search: Descent) -> Steps:
    """Search until the next step would exceed the budget of the task.

    Yields:
        A record for zero-shot and for each validation; the last step is validated.

    Returns:
        The predictor of the candidate that is kept.

    Raises:
        UserError: the budget does not buy a step.
    """
    params = search.params
    cost = 2 * params.draws
    check_draws(task.query_budget, params.draws)
    steps = task.query_budget // cost
    selection = Selection(task.config.selection.slack)
    best, score = search.zero_shot
    selection.consider(score)
    yield Progress(0, score, selection.best, partial(search.predictor, best), search.image_passes())
    state = init(search.start)
    for number in range(steps):
        state, value = step(params, state, search.loss_at(number), key_for(task.config.seed, "spsa", number))
        mx.eval(state.w, state.velocity, state.average, value)
        if (number + 1) % search.validate_every and number + 1 < steps:
            continue
        score = search.validate(state.average)
        if selection.consider(score):
            best = state.average
        kept = partial(search.predictor, best)
        yield Progress((number + 1) * cost, score, selection.best, kept, search.image_passes())
    return search.predictor(best)
