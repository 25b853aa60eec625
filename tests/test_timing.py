"""What a step takes is measured after the device is warm. The clock and the work are pretended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.runtime.helpers import Helpers, helped_by
from sharpzo_mlx.tuning import timing


class Machine:
    """A device on which the first pass of each kind takes `first` seconds, and every other one `later`."""

    def __init__(self, first: float, later: float) -> None:
        self.first, self.later, self.now = first, later, 0.0
        self.seen: list[object] = []
        self.queries, self.chunk, self.dimension = 0, 100, 4

    def monotonic(self) -> float:
        return self.now

    def run(self, kind: object, queries: int) -> mx.array:
        self.now += self.later if kind in self.seen else self.first
        self.seen.append(kind)
        self.queries += queries
        return mx.zeros(1)

    def losses(self, w: mx.array) -> mx.array:
        return self.run(tuple(w.shape), w.shape[0])

    def try_step(self) -> mx.array:
        return self.run("step", 36)


def measure(machine: Machine, monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> timing.Seconds:
    monkeypatch.setattr(timing, "time", machine)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu if gpu else mx.cpu))
    config = sz.TuneConfig().with_settings({"head": "none", "selection.every": 10, "stage1.population": 20})
    problem: Any = SimpleNamespace(config=config, objective=machine)
    return timing.measure_seconds(problem, machine)  # type: ignore[arg-type]


@pytest.mark.parametrize("compiling", [0.3, 4.0])
def test_a_gpu_compiles_in_a_pass_that_is_not_timed(compiling: float, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(compiling, 0.02)
    seconds = measure(machine, monkeypatch, gpu=True)
    assert seconds.query == pytest.approx(0.02 / 20)
    assert 0.02 < seconds.step < 0.05
    assert machine.queries == 0  # nothing of it is counted


def test_a_cpu_does_not_repeat_a_long_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2.0, 2.0)
    seconds = measure(machine, monkeypatch, gpu=False)
    assert seconds.query == pytest.approx(0.1)
    assert machine.seen == [(20, 4), (1, 4), "step"]


def test_what_helpers_take_to_begin_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, helpers = Machine(20.0, 0.02), cast("Helpers", SimpleNamespace(count=2))
    with helped_by(helpers):
        seconds = measure(machine, monkeypatch, gpu=False)
    assert seconds.query == pytest.approx(0.02 / 20)
    assert 0.02 < seconds.step < 0.05
