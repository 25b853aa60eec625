"""Measure what a query costs on this machine, in about two seconds, and what the default tuning asks for.

One query is L(w) of ten classes with sixteen images each: a pass of a text tower of ViT-B/16's size, whose weights are
random because the cost does not depend on them (SharpZO, arXiv 2506.20990, section 3).

>>> measure_query(make_usual_objective()).seconds  # doctest: +SKIP
0.0021
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.doctor.networks import make_objective
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.limits import bounded
from sharpzo_mlx.tuning import budget

USUAL, CLASSES = "ViT-B/16", 10
SECONDS = 2.0  # of a measurement, with the passes that warm up
_BATCH_SECONDS = 0.5  # of one batch at most, so that a slow machine can take several
_LONG_SECONDS = 1.5  # a first pass on a CPU that takes so long is the measurement


@dataclass(frozen=True)
class QueryCost:
    """The measured cost of a query.

    Attributes:
        seconds: of one query in a batch.
        batch: queries of a batch.
        batches: measured batches; 0: the first pass alone was measured.
        first: seconds of the first pass of one query, in which a GPU compiles its kernels.
    """

    seconds: float
    batch: int
    batches: int
    first: float

    def describe(self) -> str:
        """Return in words what was measured."""
        how = f"{self.batches} batches of {self.batch}, warmed up" if self.batches else "one pass, not warmed up"
        return f"measured on a random text tower of {USUAL}'s size, {CLASSES} classes, {how}"


def make_usual_objective() -> Objective:
    """Return the objective that is measured."""
    return make_objective(USUAL, classes=CLASSES)


def measure_query(objective: Objective, *, population: int | None = None, seconds: float | None = None) -> QueryCost:
    """Measure a query in batches of a generation, smaller on a slow machine.

    Args:
        objective: the loss.
        population: queries of a batch at most; None: those of a default generation.
        seconds: the time that passes and warming up take together, None: SECONDS; a batch that has begun is
            finished.
    """
    begun = time.perf_counter()
    first = _seconds_of(objective, 1)
    if first > _LONG_SECONDS and on_cpu():
        return QueryCost(first, 1, 0, first)
    most = population or TuneConfig().stage1.population
    batch = max(1, min(most, int(_BATCH_SECONDS / max(_seconds_of(objective, 1), 1e-9))))
    _seconds_of(objective, batch)  # other sizes have other kernels
    spent, batches = 0.0, 0
    seconds = SECONDS if seconds is None else seconds
    while not batches or time.perf_counter() - begun < seconds:
        spent += _seconds_of(objective, batch)
        batches += 1
    return QueryCost(spent / (batch * batches), batch, batches, first)


def default_queries() -> int:
    """Return the queries of the default tuning at most."""
    return budget.planned_queries(TuneConfig())


def _seconds_of(objective: Objective, count: int) -> float:
    w = 0.4 * mx.random.normal((count, objective.dimension), key=mx.random.key(0))
    mx.eval(w)
    start = time.perf_counter()
    with bounded(allowed_memory(objective.budget)):  # as in a search
        mx.eval(objective.losses(w))
    return time.perf_counter() - start
