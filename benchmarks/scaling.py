"""Measure how time and memory of a query grow with classes, images, candidates and d, and plot them with bounds.

One of the four varies while the others stay at ViT-B/16's text tower, K = 10, N = 160, 40 candidates, d = 512.
The bound of the time is the number of operations divided by the matrix speed measured in the same minute; the bound of
the memory is the size of weights, A, image features, each candidate's context and class features, and the buffers of
the pieces that run at once. Both bounds are arithmetic; nothing is fitted.

usage: python benchmarks/scaling.py [--output scaling.json] [--plot docs/results/scaling.svg]
"""

from __future__ import annotations

import argparse
import json
import tracemalloc
from pathlib import Path
from typing import Any

import matplotlib
from cost import make_config, make_tower
from matplotlib.figure import Figure
from mlx.utils import tree_flatten
from queries import make_prompts, make_query_objective, matrix_speed, our_gflop, timed

import mlx.core as mx  # isort: skip

from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.objective.chunks import pieces_bytes
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.report.plots import AFTER, BEFORE, STYLE, as_svg
from sharpzo_mlx.runtime import memory

SIZE = "ViT-B/16"
BASE = {"classes": 10, "images": 160, "candidates": 40, "dimension": 512}
VARIED = {
    "classes": (2, 5, 10, 30, 100, 300, 1000),
    "images": (160, 500, 1600, 5000, 16000, 50000),
    "candidates": (1, 2, 4, 10, 40, 100),
    "dimension": (32, 128, 512, 2048, 8192),
}
LABELS = {"classes": "K", "images": "N", "candidates": "candidates of a batch", "dimension": "d"}
PROMPTS = 1000  # largest number of prompts in a timed batch


def measure(model: CLIPModel, classes: int, images: int, candidates: int, dimension: int) -> dict[str, float]:
    """Measure milliseconds per query and megabytes of one batch, and compute the arithmetic bound of both."""
    config = make_config(SIZE)
    width, layers, joint = config.text.hidden_size, config.text.num_hidden_layers, config.projection_dim
    objective = make_query_objective(model, make_prompts(classes), shots=max(1, images // classes), dimension=dimension)
    candidates = min(candidates, max(1, PROMPTS // classes))
    w = mx.random.normal((candidates, dimension), key=mx.random.key(0))
    mx.eval(objective.losses(w))
    seconds = min(timed(lambda: mx.eval(objective.losses(w)))[0] for _ in range(2)) / candidates
    memory.reset_mlx_peak()
    tracemalloc.start()
    mx.eval(objective.losses(w))
    # tuning frees the token table after it has taken the needed rows
    held = (
        memory.mlx_peak()
        - int(model.text_model.embeddings.token_embedding.weight.nbytes)
        + tracemalloc.get_traced_memory()[1]
    )
    tracemalloc.stop()
    return {
        "candidates": candidates,
        "ms": 1e3 * seconds,
        "ms_bound": 1e3 * our_gflop(objective, layers, width, joint) / matrix_speed(width),
        "mb": held / 1e6,
        "mb_bound": (count_fixed_bytes(objective, model.text_model.encoder) + count_batch_bytes(objective, candidates))
        / 1e6,
    }


def count_fixed_bytes(objective: Objective, layers: Any) -> int:
    """Return the bytes that stay allocated between batches: weights, A, image features."""
    weights = sum(int(x.nbytes) for _, x in tree_flatten(layers.parameters()))
    return weights + int(objective.space.projection.nbytes) + int(objective.embeddings.nbytes)


def count_batch_bytes(objective: Objective, candidates: int) -> int:
    """Return the bytes of a batch: contexts and class features of its candidates, and buffers of running pieces."""
    features = objective.text.classes * int(objective.embeddings.shape[1])
    each = 4 * (features + int(objective.space.initial.size) + int(objective.embeddings.shape[0]))
    piece = objective.backend.piece_sizes
    pieces = pieces_bytes(piece) if piece else 0
    return pieces + min(candidates, objective.chunk) * each


def draw_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw a column per varied quantity, with rows for milliseconds and megabytes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.subplots(2, len(VARIED), sharex="col")
        for column, name in enumerate(VARIED):
            chosen = [row for row in rows if row["varied"] == name]
            x = [row[name] for row in chosen]
            for axis, kind, words in zip(axes[:, column], ("ms", "mb"), ("ms a query", "MB held"), strict=True):
                axis.plot(x, [row[f"{kind}_bound"] for row in chosen], color=BEFORE, label="arithmetic")
                axis.plot(x, [row[kind] for row in chosen], "o-", color=AFTER, markersize=3, label="measured")
                axis.set_xscale("log")
                axis.set_yscale("log")
                axis.minorticks_off()
                axis.set_ylabel(words if column == 0 else "")
            axes[0, column].set_ylim(1, 5000)
            axes[1, column].set_ylim(50, 2000)
            axes[1, column].set_xlabel(LABELS[name])
        axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Measure every point, print it, and draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--varied", nargs="*", choices=VARIED, default=list(VARIED))
    parser.add_argument("--output", type=Path, help="JSON; its rows stay unless they are measured again")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    known = json.loads(given.output.read_text()) if given.output and given.output.is_file() else []
    rows = [row for row in known if row["varied"] not in given.varied]
    model = make_tower(SIZE, "text", mx.float32) if given.varied else None
    print("| varied | value | ms a query | bound | MB | arithmetic |\n|---|---|---|---|---|---|")
    for name in given.varied:
        for value in VARIED[name]:
            point = {**BASE, name: value}
            if name == "classes":
                point["images"] = 16 * value
            rows.append(row := {"varied": name, **point, **measure(model, **point), name: value})
            figures = " | ".join(f"{row[key]:.1f}" for key in ("ms", "ms_bound", "mb", "mb_bound"))
            print(f"| {LABELS[name]} | {value} | {figures} |", flush=True)
            if given.output:  # after every point, so that an interruption loses no measurement
                given.output.write_text(json.dumps(rows, indent=4) + "\n")
    if given.plot:
        given.plot.write_text(as_svg(draw_figure(rows)))


if __name__ == "__main__":
    main()
