"""The budgets of a search: queries and seconds are spent to their end, and never passed."""

from __future__ import annotations

import pytest
from bowl_search import Bowl, accuracy_of, config, finish

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.tuning.budget import check_budget, planned_queries
from sharpzo_mlx.tuning.search import Search


@pytest.mark.parametrize("budget", [20, 100, 137])
def test_a_query_budget_is_never_passed(budget: int) -> None:
    loss = Bowl()
    search = Search(config(query_budget=budget, generations=50, steps=500), loss, accuracy_of)
    steps = finish(search)
    assert loss.queries <= budget
    assert loss.queries > 0.75 * budget - 10
    for stage in (1, 2):  # what a bar is told is what comes
        own = [s for s in steps if s.stage == stage]
        assert [s.step for s in own] == list(range(1, len(own) + 1))
        assert len(own) <= (own[-1].of if own else 0) <= len(own) + 1
    assert sum(s.queries for s in steps if s.stage == 1 and s.queries > 0.5 * budget) == 0


@pytest.mark.parametrize("budget", [20, 37, 100, 137, 250, 500, 1000])
@pytest.mark.parametrize("patience", [2, 100])
def test_a_query_budget_is_spent_though_masks_are_dear(budget: int, patience: int) -> None:
    """A mask costs 120 queries here: what cannot pay for one goes to stage 1, or to steps without a new one."""
    loss = Bowl()
    options = config(query_budget=budget, generations=50, steps=500, pruning__directions=60, stage1__patience=patience)
    search = Search(options, loss, accuracy_of if patience > 2 else lambda w: Score(0.5, 1.0))
    finish(search)
    assert budget - 2 < loss.queries <= budget
    assert (
        search.now.step == search.now.total_steps == search.now.validated
    )  # what was planned is what came, and was looked at


def test_queries_are_those_of_the_loss() -> None:
    loss = Bowl()
    search = Search(config(sharpness__rho=0.1, sharpness__estimator="rge", sharpness__directions=3), loss, accuracy_of)
    finish(search)
    # 6 generations of 8 + 6, 30 steps of 2, and three masks of 2 x 4 random directions
    assert loss.queries == 6 * 14 + 30 * 2 + 3 * 8 == planned_queries(search.config)


def test_a_time_budget_ends_the_search_and_sizes_stage_two() -> None:
    search = Search(config(time_budget=0.5, generations=10**6, steps=10**6), Bowl(), accuracy_of, step_seconds=0.001)
    steps = finish(search)
    assert 0 < len(steps) < 10**5
    assert steps[-1].seconds < 5
    assert 0 < next(step.of for step in steps if step.stage == 2) <= 500
    assert search.now.validated == search.now.step  # however it ended, where it ended was validated


class Clock:
    """Time that passes in steps of stage 2 alone; stands in for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("measured", "taken", "expected"),
    [
        (0.1, 0.1, 200),  # 20 s for steps of 0.1 s
        (2.0, 0.1, 200),  # measured while a GPU compiled: ten steps were planned
        (8.0, 0.1, 200),  # only two were
        (0.01, 0.1, 200),  # 2000 were
    ],
)
def test_stage_two_follows_the_pace_that_is_seen(
    measured: float, taken: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("sharpzo_mlx.tuning.search.time", clock)
    settings = config(time_budget=20.0, generations=0, steps=10**6)
    search = Search(settings, Bowl(), accuracy_of, step_seconds=measured)
    lengths = []
    for step in search.steps():
        lengths.append(step.of)
        clock.now = taken * (step.step + 1)  # when the next step will have been taken
    assert lengths[0] == int(20 / measured)
    assert len(lengths) == pytest.approx(expected, abs=2)
    assert lengths[-1] == pytest.approx(len(lengths), abs=2)
    assert search.now.validated == search.now.step


def test_a_longer_time_budget_prolongs_a_resumed_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("sharpzo_mlx.tuning.search.time", clock)
    first = Search(config(time_budget=2.0, generations=0, steps=10**6), Bowl(), accuracy_of, step_seconds=0.1)
    for step in first.steps():
        clock.now = 0.1 * (step.step + 1)
    state = first.state()
    again = Search(config(time_budget=20.0, generations=0, steps=10**6), Bowl(), accuracy_of, step_seconds=0.1)
    again.restore(state.arrays(), state.to_json())
    again.now.total_steps = first.now.total_steps + 1  # as a checkpoint from the middle has it
    for step in again.steps():
        clock.now = 0.1 * (step.step + 1)
    assert again.now.step == pytest.approx(200, abs=3)


@pytest.mark.parametrize("changes", [{"generations": 0}, {"steps": 0}, {}])
def test_a_budget_that_buys_nothing_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="query-budget 1: the search needs at least"):
        check_budget(config(query_budget=1, **changes))
    check_budget(config(query_budget=10, **changes))
