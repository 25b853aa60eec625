"""The measured time of a step: the first pass warms up, unless it is too long to be repeated."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import pytest
from bowl_search import Bowl, accuracy_of, config

from sharpzo_mlx.tuning import timing
from sharpzo_mlx.tuning.problem import TuningProblem
from sharpzo_mlx.tuning.search import Search


class Slow(Bowl):
    """A bowl whose first pass takes two seconds of a clock, and each other one a tenth."""

    chunk = 100
    clock = 0.0

    def losses(self, w: mx.array) -> mx.array:
        self.clock += 0.1 if self.told else 2.0
        return super().losses(w)


@pytest.mark.parametrize(("on_cpu", "seconds"), [(False, 0.1), (True, 2.0)])
def test_the_first_pass_on_a_gpu_is_not_taken_for_the_price_of_a_query(
    on_cpu: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles kernels there; on the CPU a long pass is not repeated."""
    loss, settings = Slow(), config()
    problem: Any = type("Problem", (), {"config": settings, "objective": loss})()
    monkeypatch.setattr("sharpzo_mlx.tuning.timing.on_cpu", lambda: on_cpu)
    monkeypatch.setattr("sharpzo_mlx.tuning.timing.time.monotonic", lambda: loss.clock)
    found = timing.measure_seconds(cast(TuningProblem, problem), Search(settings, loss, accuracy_of))
    assert found.query == pytest.approx(seconds / settings.stage1.population)
    assert loss.queries == 0  # the passes are not counted
