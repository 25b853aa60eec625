"""Steps that measure time: a query under two memory budgets, a wait for the device, a generation and a step.

>>> measure_waits(workspace).numbers["wait_ms"]  # doctest: +SKIP
0.35
"""

from __future__ import annotations

import time
from dataclasses import replace

import mlx.core as mx
import numpy as np

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.doctor.networks import make_objective
from sharpzo_mlx.doctor.query_cost import CLASSES, default_queries, measure_query
from sharpzo_mlx.doctor.steps import Answer
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.tuning.search import Search

LARGE_BUDGET = 2 * 10**9
CLOSE = 1e-5  # relative difference of losses under two budgets that is still rounding
CHAIN = 200  # products that follow one another
GENERATIONS, STEPS = 4, 4  # of which the first of each kind warms up


def measure_queries(workspace: Workspace) -> Answer:
    """Measure a query with the default memory budget and with 2 GB; the losses have to be the same."""
    sizes, numbers, losses = workspace.sizes, {}, []
    for name, budget in (("default", None), ("2gb", LARGE_BUDGET)):
        objective = make_objective(sizes.text, classes=CLASSES, memory_budget=budget)
        memory.reset_mlx_peak()
        cost = measure_query(objective, seconds=sizes.seconds)
        numbers[f"query_ms_{name}"] = 1000 * cost.seconds
        numbers[f"first_pass_ms_{name}"] = 1000 * cost.first
        numbers[f"batch_{name}"] = cost.batch
        numbers[f"mlx_peak_mb_{name}"] = memory.mlx_peak() / 2**20
        losses.append(
            np.array(objective.losses(0.4 * mx.random.normal((5, objective.dimension), key=mx.random.key(0))))
        )
    numbers["loss_difference"] = float(np.abs(losses[0] / losses[1] - 1).max())
    numbers["default_queries"] = default_queries()
    words = f"{numbers['query_ms_default']:.3g} ms, with 2 GB {numbers['query_ms_2gb']:.3g} ms, {CLASSES} classes"
    return Answer(words, dict(numbers), numbers["loss_difference"] <= CLOSE)


def measure_waits(workspace: Workspace) -> Answer:
    """Measure the price of one wait for the device: a chain of small products, evaluated one by one and at once."""
    together, each = (min(_chain_seconds(every) for _ in range(3)) for every in (CHAIN, 1))
    numbers = {"wait_ms": 1000 * (each - together) / CHAIN, "product_us": 1e6 * together / CHAIN}
    return Answer(f"{numbers['wait_ms']:.3g} ms a wait, {numbers['product_us']:.3g} µs a small product", dict(numbers))


def measure_search(workspace: Workspace) -> Answer:
    """Measure a generation of stage 1 and a step of stage 2 on random images."""
    config = replace(TuneConfig(head="none"), generations=GENERATIONS, steps=STEPS)
    objective = make_objective(workspace.sizes.text, classes=CLASSES, directions=config.stage2.linear_directions)
    search = Search(config, objective, lambda w: _validate(objective.class_features(w)))
    times: dict[int, list[tuple[float, int]]] = {1: [], 2: []}
    started, queries, losses = time.perf_counter(), 0, []
    for step in search.steps():
        now = time.perf_counter()
        times[step.stage].append((now - started, step.queries - queries))
        started, queries = now, step.queries
        losses.append(step.loss)
    numbers: dict[str, float] = {}
    for stage, name in ((1, "generation"), (2, "step")):
        seconds, counts = zip(*times[stage][1:], strict=True)
        numbers |= {f"{name}_ms": 1000 * min(seconds), f"{name}_queries": min(counts)}
    words = f"a generation {numbers['generation_ms']:.3g} ms, a step {numbers['step_ms']:.3g} ms"
    return Answer(words, dict(numbers), bool(np.isfinite(losses).all()))


def _validate(features: mx.array) -> Score:
    """Return a score that improves on nothing; only its pass of the tower counts here."""
    mx.eval(features)
    return Score(0.5, 1.0, 100)


def _chain_seconds(every: int) -> float:
    """Return the seconds of CHAIN products that follow one another, evaluated after `every` of them."""
    x, matrix = mx.ones((32, 32)), mx.eye(32)
    mx.eval(x, matrix, x @ matrix)
    start = time.perf_counter()
    for number in range(1, CHAIN + 1):
        x = x @ matrix
        if number % every == 0:
            mx.eval(x)
    return time.perf_counter() - start
