"""Measure what a Gauss-Newton step costs beside its forward passes: seconds of both, gradients, and waits for a GPU.

The rest of a step is its linearised loss, the search for the minima of that, and vectors. It depends on the sizes and
on how images lie to their classes, not on the network: class features are random and linear in w here, with the width
and the logit scale of ViT-B/16, and images lie around their class. The forward passes are those of a text tower of that
size with random weights, timed in a small batch. `--graph` computes as on a GPU, in MLX's graph, and counts the
evaluations at which the host waits for a result.

usage: python benchmarks/step_cost.py [--classes 7 200 1000] [--steps 3] [--graph] [--no-forwards]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from cost import SHOTS, make_objective, measure_query_seconds

import mlx.core as mx  # isort: skip
import numpy as np

from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.linearised import GraphLinearisedLoss, LinearisedLoss, linearise
from sharpzo_mlx.objective.linearised_numpy import NumPyLinearisedLoss
from sharpzo_mlx.objective.loss import LabelledImages, mean_losses
from sharpzo_mlx.optimisers.gauss_newton import GaussNewton, GNState
from sharpzo_mlx.optimisers.params import GaussNewtonParams, PruningParams
from sharpzo_mlx.runtime.threads import small_products

MODEL, WIDTH, SCALE, DIMENSION = "ViT-B/16", 512, 100.0, 512
SPREAD = 8.0  # distance of an image from its class, in units of that of a class from their mean
SLOPE = 1e-3  # change of the class features with w


class RandomFeatures:
    """Class features that are linear in w, and the loss of images around them; times its own forward passes.

    Attributes:
        seconds: of the forward passes, which are no part of the rest of a step.
    """

    def __init__(self, classes: int, backend: BackendName) -> None:
        draw = np.random.default_rng(0)
        self.backend, self.seconds = backend, 0.0
        self.start = _unit(_unit(draw.standard_normal(WIDTH)) + _unit(draw.standard_normal((classes, WIDTH))))
        labels = np.repeat(np.arange(classes), SHOTS)
        noise = SPREAD * _unit(draw.standard_normal((len(labels), WIDTH)))
        images = mx.array(_unit(_unit(self.start[labels] - self.start.mean(axis=0)) + noise))
        self.images = LabelledImages(images, mx.array(labels.astype(np.int32)), SCALE)
        # of low rank, because the slopes of one context change the classes together
        self.inner = mx.array((SLOPE * draw.standard_normal((DIMENSION, 32))).astype(np.float32))
        self.outer = mx.array(_unit(draw.standard_normal((32, classes * WIDTH))) * np.float32(classes**0.5))

    def features(self, w: mx.array) -> mx.array:
        """Return the class features [P, K, D]."""
        return self._time(lambda: self._features(w))

    def losses(self, w: mx.array) -> mx.array:
        """Return the mean losses [P], one candidate at a time."""
        return self._time(lambda: mx.concatenate([mean_losses(self._features(row[None]), self.images) for row in w]))

    def linearised(self, features: mx.array, slopes: mx.array) -> LinearisedLoss:
        """Return the linearised loss."""
        return linearise(features, slopes, self.images, backend=self.backend)

    def _features(self, w: mx.array) -> mx.array:
        return mx.array(self.start) + ((w @ self.inner) @ self.outer).reshape(len(w), *self.start.shape)

    def _time(self, work: Callable[[], mx.array]) -> mx.array:
        if self.backend == "graph":  # lazy, as on a GPU
            return work()
        start = time.perf_counter()
        result = work()
        mx.eval(result)
        self.seconds += time.perf_counter() - start
        return result


class Waits:
    """Counts the evaluations at which the host waits for a GPU: of arrays that have not been computed yet.

    Random numbers that are drawn on the CPU's stream by name do not wait for a GPU.
    """

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside the block."""
        evaluate, array, asarray = mx.eval, np.array, np.asarray

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **options: Any) -> Any:
                self.count += any(_is_pending(x) for x in _arrays(given))
                return function(*given, **options)

            return call

        def draw(*given: Any, **options: Any) -> mx.array:
            drawn = normal(*given, **options)
            if options.get("stream") is not None:
                evaluate(drawn)
            return drawn

        normal = mx.random.normal
        with (
            mock.patch.object(mx.random, "normal", draw),
            mock.patch.object(mx, "eval", watched(evaluate)),
            mock.patch.object(np, "array", watched(array)),
            mock.patch.object(np, "asarray", watched(asarray)),
        ):
            yield


class Calls:
    """Counts the calls of a method."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counting(self, owner: type, name: str) -> Iterator[None]:
        """Count inside the block."""
        plain = getattr(owner, name)

        def call(*given: Any) -> Any:
            self.count += 1
            return plain(*given)

        with mock.patch.object(owner, name, call):
            yield


def measure_step(classes: int, backend: BackendName, steps: int) -> tuple[float, float, float]:
    """Return of a step, after one to warm up: its seconds beside the forward passes, its gradients, its waits."""
    loss, optimiser = RandomFeatures(classes, backend), GaussNewton(GaussNewtonParams(), PruningParams(), 120)
    state = _advance(optimiser, optimiser.init(mx.zeros(DIMENSION)), loss, 0)
    waits, gradients, seconds = Waits(), Calls(), 0.0
    loss.seconds = 0.0
    with gradients.counting(NumPyLinearisedLoss, "_expand"), gradients.counting(GraphLinearisedLoss, "_expand"):
        for number in range(1, steps + 1):
            with waits.counting() if backend == "graph" else nullcontext():
                start = time.perf_counter()
                state = _advance(optimiser, state, loss, number)
                seconds += time.perf_counter() - start
    return (seconds - loss.seconds) / steps, gradients.count / steps, waits.count / steps


def _advance(optimiser: GaussNewton, state: GNState, loss: RandomFeatures, number: int) -> GNState:
    with small_products():
        state, value = optimiser.step(state, loss, mx.random.key(number))  # type: ignore[arg-type]
        mx.eval(*vars(state).values(), value)
    return state


def _arrays(given: Any) -> Iterator[mx.array]:
    for part in given:
        if isinstance(part, mx.array):
            yield part
        elif isinstance(part, (list, tuple)):
            yield from _arrays(part)


def _is_pending(x: mx.array) -> bool:
    graph = io.StringIO()
    mx.export_to_dot(graph, x)
    return "label" in graph.getvalue()


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def main() -> None:
    """Print one row for each number of classes."""
    parser = argparse.ArgumentParser(description="Measure what a Gauss-Newton step costs beside its forward passes.")
    parser.add_argument("--classes", type=int, nargs="+", default=[7, 200, 1000])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--graph", action="store_true", help="compute as on a GPU, and count waits")
    parser.add_argument("--no-forwards", action="store_true", help="leave the passes of the network out")
    given = parser.parse_args()
    print("| classes | images | s of forwards | s of the rest | share of the rest | values and gradients | waits |")
    print("|---|---|---|---|---|---|---|")
    queries = GaussNewton(GaussNewtonParams(), PruningParams(), 120).step_cost(DIMENSION)
    for classes in given.classes:
        rest, gradients, waits = measure_step(classes, "graph" if given.graph else "numpy", given.steps)
        cells = [str(classes), str(SHOTS * classes), "-", "-" if given.graph else f"{rest:.4f}", "-"]
        if not given.no_forwards:
            forwards = queries * measure_query_seconds(make_objective(MODEL, classes), 4)
            cells[2], cells[4] = f"{forwards:.3f}", "-" if given.graph else f"{rest / (forwards + rest):.1%}"
        cells += [f"{gradients:.1f}", f"{waits:.1f}" if given.graph else "-"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
