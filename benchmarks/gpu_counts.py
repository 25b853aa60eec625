"""Count what a GPU has to do for a query: kernels, bytes of memory read and written, and waits of the host for it.

No GPU is needed: the graph that a GPU would evaluate is made on any device, with MLX made to believe that its default
device is a GPU, and read. An operation that only looks at an array in another way (a transposed, sliced, reshaped or
broadcast view) is no kernel; every other one reads its operands and writes its result. The towers are of the published
sizes with random weights, and a batch is a generation of 20 candidates. Waits are evaluations of arrays that are not
there yet, counted in a generation of stage 1 and in a step of stage 2, which are carried out on the CPU.

usage: python benchmarks/gpu_counts.py [--classes 10 100] [--no-waits]
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from cost import SHOTS, make_objective
from step_cost import Waits

import mlx.core as mx  # isort: skip
import numpy as np

from sharpzo_mlx.clip import activations
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective.build import Problem
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.tuning.search import Search

MODEL, POPULATION = "ViT-B/16", 20
VIEWS = {"Transpose", "Reshape", "Broadcast", "ExpandDims", "Squeeze", "Flatten", "Unflatten", "Slice", "Split"}
VIEWS |= {"StopGradient", "AsStrided"}


@dataclass(frozen=True)
class Counts:
    """Kernels of one graph, and the bytes that they read and write, by the name of the operation."""

    kernels: Counter[str]
    bytes: Counter[str]


def count_graph(function: Callable[[mx.array], mx.array], x: mx.array) -> Counts:
    """Count what a GPU does to compute a function of an array.

    Args:
        function: makes a lazy graph; it is not evaluated.
        x: an example of its argument.
    """
    sizes: dict[str, int] = {}
    transposed: set[str] = set()
    counts = Counts(Counter(), Counter())
    for node in _primitives(function, x, sizes):
        outputs = [_size(one) for one in node["outputs"]]
        inputs = [sizes.get(one[0], _size(one)) for one in node["inputs"]]
        names = [one[0] for one in node["outputs"]]
        if node["name"] in VIEWS and not (node["name"] == "Reshape" and node["inputs"][0][0] in transposed):
            sizes.update((name, min(size, *inputs)) for name, size in zip(names, outputs, strict=True))
            transposed.update(names if node["name"] == "Transpose" else ())
            continue
        counts.kernels[node["name"]] += 1
        # an operation on few rows of a large array reads no more than it writes
        gathers = node["name"] in ("Gather", "GatherAxis")
        read = sum(min(size, outputs[0]) for size in inputs) if gathers else sum(inputs)
        counts.bytes[node["name"]] += sum(outputs) + read
    return counts


def _primitives(
    function: Callable[[mx.array], mx.array], x: mx.array, sizes: dict[str, int]
) -> Iterator[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    # a fused activation and a layer norm are one kernel on a GPU, which reads and writes once
    with (
        mock.patch.multiple(mx, eval=_nothing, async_eval=_nothing),
        mock.patch.object(mx.fast, "layer_norm", lambda x, weight, *_: x * weight),
        _activations(lambda _: mx.abs),
    ):
        mx.export_function(nodes.append, function, x)
    for node in nodes:
        sizes.update((name, value.nbytes) for name, value in node.get("constants", ()))
    return (node for node in nodes if node["type"] == "primitive")


def _size(described: tuple[str, tuple[int, ...], mx.Dtype]) -> int:
    return math.prod(described[1]) * described[2].size


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let MLX say that its default device is a GPU; it computes where it did, and compiles nothing."""
    with (
        mock.patch.object(mx, "default_device", return_value=mx.Device(mx.gpu)),
        _activations(lambda function: function),
    ):
        yield


def _activations(fuse: Callable[[Any], Any]) -> Any:
    return mock.patch.object(activations, "fuse", fuse) if hasattr(activations, "fuse") else nullcontext()


def _nothing(*_: object) -> None:
    pass


def count_query(objective: Objective) -> Counts:
    """Return the kernels of a generation of POPULATION candidates, and the bytes that each of these moves."""
    rows = min(POPULATION, objective.chunk)
    w = mx.zeros((rows, objective.dimension))
    found = count_graph(lambda x: objective.backend.losses(objective.space.contexts(x)), w)
    chunks = -(-POPULATION // objective.chunk)
    kernels = Counter({name: count * chunks for name, count in found.kernels.items()})
    return Counts(kernels, Counter({name: moved // rows for name, moved in found.bytes.items()}))


def count_waits(objective: Objective, classes: int, *, generations: int) -> float:
    """Return the waits of a generation of stage 1 (the second), or else of a step of stage 2."""
    settings: dict[str, object] = {"generations": generations, "steps": 0 if generations else 2}
    config = TuneConfig(head="none", **settings)  # type: ignore[arg-type]
    search = Search(config, objective, _problem(objective, classes).validate)
    waits, steps = Waits(), search.steps()
    next(steps)  # makes what the first alone needs
    with waits.counting():
        next(steps)
    return waits.count


def _problem(objective: Objective, classes: int) -> Problem:
    labels = np.arange(SHOTS * classes) // SHOTS
    names = tuple(map(str, range(classes)))
    val = Features(objective.embeddings, labels, tuple(names[k] for k in labels), names, names)
    return Problem(objective, val, None, 100.0, names, names, "a photo of a {}.", None, None)


def main() -> None:
    """Print one row for each number of classes."""
    parser = argparse.ArgumentParser(description="Count what a GPU has to do for a query.")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--no-waits", action="store_true", help="leave out what has to be computed")
    given = parser.parse_args()
    print("| classes | candidates at once | kernels a generation | MB a query | waits a generation | waits a step |")
    print("|---|---|---|---|---|---|")
    for classes in given.classes:
        with pretended_gpu():
            objective = make_objective(MODEL, classes)
            counts = count_query(objective)
            cells = [str(classes), str(objective.chunk), str(counts.kernels.total())]
            cells += [f"{counts.bytes.total() / 1e6:.0f}"]
            for generations in (2, 0):
                cells.append("-" if given.no_waits else str(count_waits(objective, classes, generations=generations)))
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
