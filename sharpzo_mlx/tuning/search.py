"""The search through both stages on an objective and a validation: vectors and numbers, no files, no images.

Stage 1 is sharpness-aware CMA-ES from w = 0 (exactly zero-shot); when the validation accuracy at its mean has not
improved for a while, stage 2 goes on from the mean with sparse zeroth-order steps (SharpZO, arXiv 2506.20990,
section 3 and 5). The best prompt is the one with the best validation accuracy, ties by validation loss; accuracies
within a standard error of the best are ties. All state is arrays and plain facts, so that a search can be stopped
after any step and go on with the same numbers.

    search = Search(config, objective, validate)
    for step in search.steps():
        print(step.stage, step.step, step.val_accuracy)
    search.best_w
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import mlx.core as mx

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.objective import Score
from sharpzo_mlx.optimisers import cma, gradients, sharpness, zo_sgd
from sharpzo_mlx.rng import stream
from sharpzo_mlx.runs.step_log import StepRecord
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.runtime.threads import small_products
from sharpzo_mlx.tuning.selection import ROUNDING, Selection

State: TypeAlias = cma.CMAState | sharpness.SharpnessState | zo_sgd.ZOState
STAGE_TWO = tuple(  # what stage 2's constants take from the configuration: what has the same name there
    item.name for item in dataclasses.fields(zo_sgd.ZOParams) if hasattr(TuneConfig, item.name)
)
S = TypeVar("S", cma.CMAState, sharpness.SharpnessState, zo_sgd.ZOState)


class CountedLoss(gradients.Loss, Protocol):
    """A loss that counts its queries."""

    queries: int

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        ...


TuneStep: TypeAlias = StepRecord  # one generation of stage 1 or one step of stage 2


@dataclass(frozen=True)
class _Unmeasured:
    """What is known of a loss before there are images: its dimension."""

    dimension: int
    queries: int = 0

    def losses(self, w: mx.array) -> mx.array:
        raise AssertionError("nothing is computed before there are images")


def check_budget(config: TuneConfig) -> None:
    """Refuse a query budget that buys neither a generation nor a step, before there is anything to search.

    Raises:
        UserError: with the least that does.
    """
    if config.query_budget:
        loss = _Unmeasured(config.dimension)
        Search(config, cast(CountedLoss, loss), lambda w: Score(0.0, math.inf)).check_budget()


class Search:
    """Both stages on one objective.

    Args:
        config: the options.
        loss: the training loss; counts its queries.
        validate: w [d] -> Score on the validation images.
        step_seconds: time of a step of stage 2, measured before; a time budget's stage 2 is as long as it allows.
    """

    def __init__(
        self,
        config: TuneConfig,
        loss: CountedLoss,
        validate: Callable[[mx.array], Score],
        *,
        step_seconds: float | None = None,
    ) -> None:
        self.config, self.loss, self._validate, self.step_seconds = config, loss, validate, step_seconds
        d = loss.dimension
        self.cma_params = cma.cma_params(d, config.population, cast(cma.Covariance, config.covariance))
        self.sharp_params = sharpness.SharpnessParams(
            rho=config.rho,
            estimator=cast(sharpness.SharpnessEstimator, config.sharpness),
            mu=config.sharpness_mu,
            directions=config.sharpness_directions,
            smoothing=config.sharpness_smoothing,
        )
        self.stage, self.step, self.total_steps = 1, 0, 0
        self.cma = cma.init(self.cma_params, mx.zeros(d), config.sigma)
        self.sharp = sharpness.init(d)
        self.zo = zo_sgd.init(self.zo_params, mx.zeros(d))
        self.val_queries, self.elapsed = 0, 0.0
        self.best_w = mx.zeros(d)
        self.selection = Selection(config.selection_slack)
        self.mark, self.stale = 0.0, 0  # the accuracy to improve on, and generations since
        self.validated = 0  # the step of stage 2 that was validated last

    @property
    def zo_params(self) -> zo_sgd.ZOParams:
        """Stage 2's constants; its length is known once stage 1 has ended."""
        given = {name: getattr(self.config, name) for name in STAGE_TWO}
        return zo_sgd.ZOParams(total_steps=max(1, self.total_steps), **given)

    @property
    def generations(self) -> int:
        """Generations of stage 1 at most, under the query budget."""
        c = self.config
        affordable = self._stage_one_share * (c.query_budget or math.inf) / self.generation_cost
        return int(min(c.generations, affordable))

    @property
    def _stage_one_share(self) -> float:
        """Of a budget; all of it where there is no stage 2, or where the rest would not buy it a mask and a step."""
        c = self.config
        rest = (1 - c.warmup_share) * (c.query_budget or math.inf)
        return c.warmup_share if c.most_steps and rest >= self.mask_cost() + self.step_cost else 1.0

    @property
    def generation_cost(self) -> int:
        """Queries of one generation: the population, and what the sharpness direction costs."""
        c = self.config
        if c.rho == 0 or c.sharpness == "population":
            return c.population
        return c.population + self._estimate_cost(c.sharpness, c.sharpness_directions)

    @property
    def step_cost(self) -> int:
        """Queries of one step of stage 2."""
        return zo_sgd.step_cost(self.zo_params, self.loss.dimension)

    def mask_cost(self) -> int:
        """Queries of one new mask."""
        c = self.config
        if zo_sgd.sees_gradient(self.zo_params) or c.keep == 1 or c.metric in ("magnitude", "random", "none"):
            return 0
        return self._estimate_cost("cge" if c.metric == "zscore-fisher" else c.mask_estimator, c.mask_directions)

    def _estimate_cost(self, kind: str, directions: int | None) -> int:
        """Queries of one gradient estimate, see `gradients.estimate`."""
        d = self.loss.dimension
        if kind == "cge" or (kind == "forward" and directions is None):
            return 2 * d
        return 2 * (directions or max(1, d // 10))

    def planned_queries(self) -> int:
        """Queries at most, by the configuration, and by what a step takes where time is short."""
        c, steps = self.config, self.config.most_steps
        if c.time_budget and self.step_seconds:
            steps = min(steps, int(c.time_budget / self.step_seconds))
        masks = -(-steps // c.mask_interval)
        total = c.generations * self.generation_cost + steps * self.step_cost + masks * self.mask_cost()
        return min(total, c.query_budget or total)

    def check_budget(self) -> None:
        """Refuse a query budget that buys neither a generation nor a step.

        Raises:
            UserError: with the least that does.
        """
        c = self.config
        choices = [self.step_cost + self.mask_cost()] if c.most_steps else []
        choices += [self.generation_cost] if c.generations else []
        if c.query_budget and choices and c.query_budget < min(choices):
            raise UserError(
                f"query-budget {c.query_budget}: the search needs at least {min(choices)}; raise it to that"
            )

    def steps(self) -> Iterator[TuneStep]:
        """Go on from the present state to the end, a record a step; state may be saved at every record."""
        started = time.monotonic() - self.elapsed
        self.begin()
        while self.stage == 1 and not self._stage_one_is_over():
            yield self._record(*self._generation(), started)
        if self.stage == 1:
            self._switch()
        while self.step < self.total_steps and not self._out_of_budget():
            yield self._record(*self._descent(), started)
        if self.step > self.validated:  # a budget ended the stage between two validations
            self._validate_descent()

    def begin(self) -> None:
        """Validate w = 0, zero-shot: the first candidate for the best."""
        if self.selection.empty:
            self._consider(mx.zeros(self.loss.dimension))
            self.mark = self.best_score.accuracy

    @property
    def best_score(self) -> Score:
        """The validation score of the best prompt so far."""
        return self.selection.best

    def _generation(self) -> tuple[float, Score | None]:
        seed, number = self.config.seed, self.step
        key = stream(seed, "sharpness", number)
        eps, sharp = sharpness.shift(self.sharp_params, self.sharp, self.loss, self.cma.mean, key)
        candidates = cma.ask(self.cma_params, self.cma, stream(seed, "cma", number))
        fitness = self.loss.losses(candidates + eps)  # [S], eq. 3
        self.sharp = sharpness.observe(
            self.sharp_params, sharp, candidates, fitness, mean=self.cma.mean, sigma=self.cma.sigma
        )
        self.cma = cma.tell(self.cma_params, self.cma, candidates, fitness)
        lowest = mx.min(mx.where(mx.isfinite(fitness), fitness, mx.inf))
        mx.eval(_arrays(self.cma), _arrays(self.sharp), lowest)
        self.step += 1
        score = self._consider(self.cma.mean)
        gain = score.accuracy - self.mark if math.isfinite(score.loss) else 0.0
        improved = gain > 0 and gain >= self.config.min_improvement - ROUNDING
        self.mark = score.accuracy if improved else self.mark
        self.stale = 0 if improved else self.stale + 1
        return cast(float, lowest.item()), score

    def _descent(self) -> tuple[float, Score | None]:
        params, seed = self.zo_params, self.config.seed
        if zo_sgd.due(params, self.zo) and self._buys(self.mask_cost() + self.step_cost):
            self.zo = zo_sgd.renew(params, self.zo, self.loss, stream(seed, "mask", self.step))
        with small_products():
            self.zo, value = zo_sgd.step(params, self.zo, self.loss, stream(seed, "step", self.step))
            mx.eval(_arrays(self.zo), value)
        self.step += 1
        last = self.step == self.total_steps
        due = last or self.step % self.config.validate_every == 0
        return cast(float, value.item()), self._validate_descent() if due else None

    def try_step(self) -> mx.array:
        """A step of stage 2 from the present point, for its time; nothing is kept but the count of queries."""
        with small_products():
            return zo_sgd.step(self.zo_params, self.zo, self.loss, stream(self.config.seed, "trial"))[0].w

    def _validate_descent(self) -> Score:
        self.validated = self.step
        return self._consider(self.zo.average)

    def _consider(self, w: mx.array) -> Score:
        """Validate w, and keep it where it is the best so far."""
        score = self._validate(w)
        self.val_queries += 1
        if self.selection.consider(score):
            self.best_w = w
        return score

    def _stage_one_is_over(self) -> bool:
        c = self.config
        if self.step >= self.generations or self.stale >= c.patience:
            return True
        return bool(c.time_budget) and self.elapsed >= self._stage_one_share * cast(float, c.time_budget)

    def _switch(self) -> None:
        """Begin stage 2 at the mean, with as many steps as the budgets leave."""
        c = self.config
        self.total_steps = c.most_steps
        if c.query_budget:
            self.total_steps = min(c.most_steps, self._affordable_steps(c.query_budget - self.loss.queries))
        if c.time_budget and self.step_seconds:
            left_seconds = c.time_budget - self.elapsed
            self.total_steps = max(0, min(self.total_steps, int(left_seconds / self.step_seconds)))
        self.stage, self.step = 2, 0
        self.zo = zo_sgd.init(self.zo_params, self.cma.mean)

    def _affordable_steps(self, queries: int) -> int:
        """Steps of stage 2 that so many queries buy; the last ones do without a new mask where it is too dear."""
        step, mask, interval = self.step_cost, self.mask_cost(), self.config.mask_interval
        whole, rest = divmod(max(0, queries), mask + interval * step)
        return whole * interval + (rest - mask if rest >= mask + step else rest) // step

    def _buys(self, queries: int) -> bool:
        """Whether the query budget has so many left."""
        budget = self.config.query_budget
        return not budget or self.loss.queries + queries <= budget

    def _out_of_budget(self) -> bool:
        c = self.config
        if not self._buys(self.step_cost):
            return True
        return bool(c.time_budget) and self.elapsed >= cast(float, c.time_budget)

    def _record(self, loss: float, score: Score | None, started: float) -> TuneStep:
        self.elapsed = time.monotonic() - started
        return TuneStep(
            stage=self.stage,
            step=self.step,
            of=self.generations if self.stage == 1 else self.total_steps,
            loss=loss,
            val_accuracy=score.accuracy if score else None,
            val_loss=score.loss if score else None,
            best_val=self.best_score.accuracy,
            queries=self.loss.queries,
            val_queries=self.val_queries,
            sigma=cast(float, self.cma.sigma.item()) if self.stage == 1 else None,
            seconds=self.elapsed,
            peak_memory_mb=memory.mlx_peak() / 2**20,
        )

    def arrays(self) -> dict[str, mx.array]:
        """All arrays of the state, by name."""
        states: dict[str, State] = {"cma": self.cma, "sharp": self.sharp, "zo": self.zo}
        named = {f"{room}.{name}": x for room, s in states.items() for name, x in _arrays(s).items()}
        return {**named, "best_w": self.best_w}

    def facts(self) -> dict[str, Any]:
        """All plain numbers of the state."""
        return {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "queries": self.loss.queries,
            "val_queries": self.val_queries,
            "elapsed": self.elapsed,
            **self.selection.facts(),
            "mark": self.mark,
            "stale": self.stale,
            "validated": self.validated,
        }

    def restore(self, arrays: Mapping[str, mx.array], facts: Mapping[str, Any]) -> None:
        """Take on the state that `arrays` and `facts` gave."""
        self.cma = _restored(self.cma, arrays, "cma")
        self.sharp = _restored(self.sharp, arrays, "sharp")
        self.zo = _restored(self.zo, arrays, "zo")
        self.best_w = arrays["best_w"]
        self.selection.restore(facts)
        self.loss.queries = facts["queries"]
        for name in ("stage", "step", "total_steps", "val_queries", "elapsed", "mark", "stale", "validated"):
            setattr(self, name, facts[name])


def _arrays(state: State) -> dict[str, mx.array]:
    return {item.name: getattr(state, item.name) for item in dataclasses.fields(state)}


def _restored(state: S, arrays: Mapping[str, mx.array], room: str) -> S:
    """The state with the arrays of a checkpoint.

    Raises:
        UserError: one is not there: another version made them, and its numbers could not be repeated.
    """
    if missing := [name for name in _arrays(state) if f"{room}.{name}" not in arrays]:
        raise UserError(f"the checkpoint has no {room}.{missing[0]}: another version made it; tune anew")
    return replace(state, **{name: arrays[f"{room}.{name}"] for name in _arrays(state)})
