"""The search through both stages on an objective and a validation: vectors and numbers, no files, no images.

Stage 1 is sharpness-aware CMA-ES from w = 0 (exactly zero-shot). When the validation accuracy at its mean has not
improved for a while, stage 2 continues from the mean (SharpZO, arXiv 2506.20990, sections 3 and 5). The best prompt is
the one with the best validation accuracy, ties by validation loss; see `selection`. A search can be stopped after any
step and continued from its SearchState with the same numbers.

    search = Search(config, objective, validate)
    for step in search.steps():
        print(step.stage, step.step, step.val_accuracy)
    search.best_w
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, cast

import mlx.core as mx

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.optimisers import cma, gradients, sharpness
from sharpzo_mlx.optimisers.stage2 import Optimiser, make_optimiser
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.runs.step_log import StepRecord
from sharpzo_mlx.runtime import limits, memory
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.runtime.threads import small_products
from sharpzo_mlx.tuning import budget
from sharpzo_mlx.tuning.search_state import Counters, SearchState, arrays_of
from sharpzo_mlx.tuning.selection import ROUNDING, Selection

PACE_STEPS = 10  # after so many steps of stage 2 its length under a time budget follows the pace seen

TuneStep: TypeAlias = StepRecord  # one generation of stage 1 or one step of stage 2


class CountedLoss(gradients.Loss, Protocol):
    """A loss that counts its queries."""

    queries: int

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        ...


class Search:
    """Both stages on one objective.

    Args:
        config: the settings.
        loss: the training loss; counts its queries.
        validate: w [d] -> Score on the validation images.
        step_seconds: measured time of a step of stage 2; a time budget makes stage 2 as long as it allows.

    Attributes:
        best_w: the best vector so far [d].
        cma, sharp, descent: the optimisers' states; `descent` is stage 2's.
        now: counters of the search.
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
        self.cma_params = cma.make_params(d, config.stage1.population, config.stage1.covariance)
        self.cma = cma.init(self.cma_params, mx.zeros(d), config.stage1.sigma)
        self.sharp = sharpness.init(d)
        self.now = Counters()
        self.optimiser = self._optimiser()
        self.descent: Any = self.optimiser.init(mx.zeros(d))
        self.best_w = mx.zeros(d)
        self.selection = Selection(config.selection.slack)
        mx.eval(self.state().arrays())  # between two steps all state is evaluated: each step may have its own thread

    @property
    def best_score(self) -> Score:
        """The validation score of the best vector so far."""
        return self.selection.best

    def steps(self) -> Iterator[StepRecord]:
        """Continue from the present state to the end; yields a record a step, at which the state may be saved."""
        steps = self._steps()
        while True:
            with limits.bounded(allowed_memory(self.config.memory_budget)):
                record = next(steps, None)
            if record is None:
                return
            yield record

    def _steps(self) -> Iterator[StepRecord]:
        started = time.monotonic() - self.now.elapsed
        self.begin()
        while self.now.stage == 1 and not self._stage1_is_over():
            yield self._record(*self._generation(), started)
        if self.now.stage == 1:
            self._begin_stage2()
        begun = (self.now.step, self.now.elapsed)
        while self.now.step < self.now.total_steps and not self._is_out_of_patience() and not self._is_out_of_budget():
            record = self._record(*self._step(), started)
            self._keep_pace(*begun)
            yield record
        if self.now.step > self.now.validated:  # a budget ended the stage between two validations
            self._validate_descent()

    def begin(self) -> None:
        """Validate w = 0, zero-shot, as the first candidate."""
        if self.selection.empty:
            self._consider(self.best_w)
            self.now.mark = self.best_score.accuracy

    def try_step(self) -> mx.array:
        """Take a step of stage 2 to measure its time; nothing is kept but the count of queries."""
        with small_products(), host_products():
            state, _ = self.optimiser.step(self.descent, self.loss, key_for(self.config.seed, "trial"))
        return cast(mx.array, state.w)

    def state(self) -> SearchState:
        """Return all state; arrays never change, so it costs nothing to keep."""
        counters = replace(self.now, queries=self.loss.queries)
        return SearchState(self.cma, self.sharp, self.descent, self.best_w, counters, self.selection.state())

    def restore(self, arrays: dict[str, mx.array], facts: dict[str, Any]) -> None:
        """Take on the state of a checkpoint.

        Args:
            arrays: those of a SearchState.
            facts: its `to_json`.

        Raises:
            UserError: something is missing: another version made the checkpoint.
            ValueError: something is damaged; the message names it.
        """
        saved = SearchState.from_checkpoint(self.state(), arrays, facts)
        if saved.counters.total_steps > self.config.most_steps:
            raise ValueError(f"total_steps is {saved.counters.total_steps}, of {self.config.most_steps} at most")
        self.cma, self.sharp, self.descent, self.best_w = saved.cma, saved.sharp, saved.descent, saved.best_w
        self.now, self.loss.queries = saved.counters, saved.counters.queries
        self.selection.restore(saved.selection)
        self.optimiser = self._optimiser()

    def _optimiser(self) -> Optimiser[Any]:
        return make_optimiser(self.config.stage2, self.config.pruning, total_steps=max(1, self.now.total_steps))

    def _generation(self) -> tuple[float, Score | None]:
        """Carry out one generation of stage 1; return its lowest loss and the score at the mean."""
        seed, number = self.config.seed, self.now.step
        key = key_for(seed, "sharpness", number)
        params = self.config.sharpness
        eps, sharp = sharpness.perturb(params, self.sharp, self.loss, self.cma.mean, key)
        candidates = cma.ask(self.cma_params, self.cma, key_for(seed, "cma", number))
        fitness = self.loss.losses(candidates + eps)  # [S], eq. 3
        self.sharp = sharpness.observe(params, sharp, candidates, fitness, mean=self.cma.mean, sigma=self.cma.sigma)
        self.cma = cma.tell(self.cma_params, self.cma, candidates, fitness)
        lowest = mx.min(mx.where(mx.isfinite(fitness), fitness, mx.inf))
        mx.eval(arrays_of(self.cma), arrays_of(self.sharp), lowest)
        self.now.step += 1
        score = self._consider(self.cma.mean)
        gain = score.accuracy - self.now.mark if math.isfinite(score.loss) else 0.0
        improved = gain > 0 and gain >= self.config.stage1.min_improvement - ROUNDING
        self.now.mark = score.accuracy if improved else self.now.mark
        self.now.stale = 0 if improved else self.now.stale + 1
        return cast(float, lowest.item()), score

    def _step(self) -> tuple[float, Score | None]:
        """Carry out one step of stage 2; return the loss around it and the score if it was validated."""
        seed, now = self.config.seed, self.now
        dimension = self.loss.dimension
        costs = self.optimiser.mask_cost(dimension) + self.optimiser.step_cost(dimension)
        if self.optimiser.mask_is_due(self.descent) and self._buys(costs):
            self.descent = self.optimiser.renew_mask(self.descent, self.loss, key_for(seed, "mask", now.step))
        with small_products(), host_products():
            self.descent, value = self.optimiser.step(self.descent, self.loss, key_for(seed, "step", now.step))
            mx.eval(arrays_of(self.descent), value)
        now.step += 1
        due = now.step == now.total_steps or now.step % self.config.selection.every == 0
        return cast(float, value.item()), self._validate_descent() if due else None

    def _validate_descent(self) -> Score:
        self.now.validated = self.now.step
        return self._consider(self.descent.average)

    def _consider(self, w: mx.array) -> Score:
        """Validate w, and keep it if it is the best so far."""
        score = self._validate(w)
        self.now.val_queries += 1
        if self.selection.consider(score):
            self.best_w = w
            self.now.kept = self.now.step if self.now.stage == 2 else 0
        return score

    def _stage1_is_over(self) -> bool:
        c = self.config
        if self.now.step >= budget.affordable_generations(c) or self.now.stale >= c.stage1.patience:
            return True
        return bool(c.time_budget) and self.now.elapsed >= budget.stage1_share(c) * cast(float, c.time_budget)

    def _begin_stage2(self) -> None:
        """Begin stage 2 at the mean, with as many steps as the budgets leave."""
        self.now.stage, self.now.step = 2, 0
        self._plan_steps(self.step_seconds)
        self.descent = self.optimiser.init(self.cma.mean)

    def _plan_steps(self, step_seconds: float | None) -> None:
        """Make stage 2 as long as the budgets allow, if a step takes so many seconds."""
        c, now = self.config, self.now
        now.total_steps = c.most_steps
        if c.query_budget:
            affordable = budget.affordable_steps(c, c.query_budget - self.loss.queries)
            now.total_steps = min(c.most_steps, now.step + affordable)
        if c.time_budget and step_seconds:
            steps = int((c.time_budget - now.elapsed) / step_seconds)
            now.total_steps = min(now.total_steps, now.step + max(0, steps))
        self.optimiser = self._optimiser()

    def _keep_pace(self, step: int, elapsed: float) -> None:
        """Correct stage 2's length from the pace since a step, where it would end or after the first steps.

        What was measured before may be far off, as when a GPU still compiled.
        """
        now = self.now
        taken = now.step - step
        if self.config.time_budget and self.step_seconds and taken == min(PACE_STEPS, now.total_steps - step):
            self._plan_steps(max(1e-9, now.elapsed - elapsed) / taken)

    def _buys(self, queries: int) -> bool:
        """Whether the query budget has so many left."""
        return not self.config.query_budget or self.loss.queries + queries <= self.config.query_budget

    def _is_out_of_patience(self) -> bool:
        return self.config.patience is not None and self.now.step - self.now.kept >= self.config.patience

    def _is_out_of_budget(self) -> bool:
        if not self._buys(self.optimiser.step_cost(self.loss.dimension)):
            return True
        return bool(self.config.time_budget) and self.now.elapsed >= cast(float, self.config.time_budget)

    def _record(self, loss: float, score: Score | None, started: float) -> StepRecord:
        now = self.now
        now.elapsed = time.monotonic() - started
        return StepRecord(
            stage=now.stage,
            step=now.step,
            of=budget.affordable_generations(self.config) if now.stage == 1 else now.total_steps,
            loss=loss,
            val_accuracy=score.accuracy if score else None,
            val_loss=score.loss if score else None,
            best_val=self.best_score.accuracy,
            queries=self.loss.queries,
            val_queries=now.val_queries,
            sigma=cast(float, self.cma.sigma.item()) if now.stage == 1 else None,
            seconds=now.elapsed,
            peak_memory_mb=memory.mlx_peak() / 2**20,
        )
