"""Measure peak memory: of tuning from a filled feature cache, of encoding images, and under a memory budget.

Sizes are ViT-B/16's with random weights. Every figure is taken in a process of its own. "MLX" is what its allocator
held at most from the loading of the text tower on; "process" is the peak of resident memory, with Python, NumPy,
memory-mapped weights and the image files' bookkeeping. Tuning computes in float32, whatever the weights are stored in:
on the CPU through NumPy; `--graph` makes it run what a GPU runs, MLX's graph, which is slow there, and lets go of
arrays sooner than a GPU does.

usage: python benchmarks/memory.py [--parts tune encode budget] [--classes 10 1000] [--graph] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
from cost import DTYPES, config_of, image_encoder, tower
from mlx.utils import tree_flatten
from PIL import Image
from queries import objective_of, prompts

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import clip_vocabulary
from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import FeatureCache, digest
from sharpzo_mlx.features.extract import cache_name
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.objective import objective
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.tuning.pipeline import tune

SIZE = "ViT-B/16"
SHOTS, VALIDATION = 16, 4
PARTS = ("tune", "encode", "budget")
IMAGES = 64
# classes, images, candidates of a batch
BUDGET_CASES = ((10, 160, 40), (10, 5000, 40), (100, 1600, 12), (397, 6352, 4))
FACTORS = (1, 1.5, 4)  # of the least budget that works


def random_model(folder: Path, dtype: mx.Dtype) -> Path:
    """Make a model folder of that size, with random weights and CLIP's vocabulary."""
    config = config_of(SIZE)
    weights = {name: x.astype(dtype) for name, x in tree_flatten(CLIPModel(config).parameters())}
    save_model(folder, config, weights, Tokenizer(clip_vocabulary()).to_json(), "Random weights, for a benchmark.")
    return folder


def stand_ins(folder: Path, classes: int) -> Path:
    """Make class folders of different files that are never decoded, because the cache has their features."""
    known = imagenet.classes()
    for number, wnid in enumerate(known.ids[:classes]):
        place = folder / (wnid if classes == 1000 else known.names[wnid])
        place.mkdir(parents=True)
        for image in range(SHOTS + VALIDATION):
            (place / f"{image}.jpg").write_text(f"{number} {image}")
    return folder


def fill_cache(clip: sz.Clip, folder: Path) -> None:
    """Put random features of unit length into the cache for every file."""
    width, draw = clip.config.projection_dim, np.random.default_rng(0)
    found = [digest(path) for path in sorted(folder.glob("*/*.jpg"))]
    rows = draw.standard_normal((len(found), width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with FeatureCache(cache_name(clip), width=width) as cache:
        cache.put(dict(zip(found, rows, strict=True)))


def as_on_a_gpu() -> None:
    """Make `tune` run MLX's graph, as it does on a GPU."""
    setattr(objective, "choose_backend", lambda: "graph")  # noqa: B010


def tune_peak(dtype: str, graph: bool, population: int, steps: int) -> dict[str, float]:
    """Run two generations and some steps on a filled cache, in a process that has not made the model."""
    model, data = Path(os.environ["BENCHMARK_MODEL"]), Path(os.environ["BENCHMARK_DATA"])
    if graph:
        as_on_a_gpu()
    # few queries, in batches of the usual size: memory does not depend on how often
    few = {"selection.every": 20, "stage2.draws": 1, "pruning.directions": 4, "stage1.population": population}
    config = sz.TuneConfig(shots=SHOTS, generations=2, steps=steps).with_settings(few)
    with tempfile.TemporaryDirectory() as scratch:
        run = tune(sz.load(model), data, config, output=Path(scratch) / "run")
    return {"mlx_mb": memory.mlx_peak() / 1e6, "process_mb": memory.process_peak() / 1e6, **_cost(run)}


def _cost(run: sz.Run) -> dict[str, float]:
    return {"queries": run.results.queries, "seconds": run.results.seconds}


def measure_tune(classes: int, **given: Any) -> dict[str, float]:
    """Prepare model, files and cache here, and tune in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"SHARPZO_MLX_CACHE": f"{scratch}/cache"}
        model = random_model(Path(scratch) / "m", DTYPES[given["dtype"]])
        data = stand_ins(Path(scratch) / "photos", classes)
        fill_cache(sz.load(model), data)
        os.environ |= {"BENCHMARK_MODEL": str(model), "BENCHMARK_DATA": str(data)}
        return alone("tune_peak", **given)


def encode_peak(images: int, batch: int) -> dict[str, float]:
    """Decode, preprocess and encode photographs of 500 x 375 in float32."""
    encode = image_encoder(tower(SIZE, "vision", mx.float32))
    with tempfile.TemporaryDirectory() as scratch:
        paths = photographs(Path(scratch), images)
        memory.reset_mlx_peak()
        for part in stream(paths, config_of(SIZE).preprocessor, batch_size=batch):
            encode(part.pixels)
    return {"mlx_mb": memory.mlx_peak() / 1e6, "process_mb": memory.process_peak() / 1e6}


def photographs(folder: Path, count: int) -> list[Path]:
    """Make JPEG files of 500 x 375 with some of a photograph's detail: smooth shapes and noise."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + draw.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


def budget_peak(classes: int, images: int, population: int, budget: int, graph: bool) -> dict[str, float]:
    """Measure the bytes that a batch of losses and one of derivatives take beyond the weights, by MLX and by NumPy."""
    model, tokens = tower(SIZE, "text", mx.float32), prompts(classes)
    backend: BackendName = "graph" if graph else "numpy"
    loss = objective_of(model, tokens, shots=images // classes, backend=backend, memory_budget=budget)
    del model
    mx.clear_cache()
    w = mx.random.normal((population, loss.dimension), key=mx.random.key(0))
    mx.eval(w)
    found = {"chunk": loss.chunk, "budget_mb": budget / 1e6, "losses": _taken(lambda: loss.losses(w))}
    try:
        found["jvp"] = _taken(lambda: mx.concatenate(list(loss.jvp(w[:2], w[:2]))))
    except UserError:  # a derivative needs more than a forward pass, and says so
        found["jvp"] = 0.0
    return {**found, "share": max(found["losses"], found["jvp"]) / budget * 1e6}


def _taken(work: Callable[[], mx.array]) -> float:
    mx.eval(work())  # pools and BLAS buffers are made once
    mx.clear_cache()
    before = mx.get_active_memory()
    memory.reset_mlx_peak()
    tracemalloc.start()
    mx.eval(work())
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (memory.mlx_peak() - before + numpy_peak) / 1e6


def least_budget(classes: int, images: int, graph: bool) -> int:
    """Return the bytes that the error of a too small budget asks for."""
    try:
        budget_peak(classes, images, 1, 1, graph)
    except UserError as error:
        return int(re.findall(r"needs (\d+)MB", str(error))[0]) * 10**6
    raise RuntimeError("a budget of one byte was accepted")


ALONE: dict[str, Callable[..., Any]] = {
    "tune_peak": tune_peak,
    "encode_peak": encode_peak,
    "budget_peak": budget_peak,
    "least_budget": least_budget,
}


def alone(function: str, **arguments: Any) -> Any:
    """Return the result of one of these functions from a process of its own."""
    command = [sys.executable, __file__, "--one", function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tune_rows(classes: list[int], dtypes: list[str], *, graph: bool, **given: int) -> list[dict[str, Any]]:
    """Measure the peaks of tuning, with the given population and steps."""
    print("\n| tune: K | weights | MLX MB | process MB | queries | seconds |\n|---|---|---|---|---|---|")
    rows = []
    for dtype in dtypes:
        for count in classes:
            row = measure_tune(count, dtype=dtype, graph=graph, **given)
            figures = f"{row['mlx_mb']:.0f} | {row['process_mb']:.0f} | {row['queries']} | {row['seconds']:.1f}"
            print(f"| {count} | {dtype}{', graph' if graph else ''} | {figures} |", flush=True)
            rows.append({"part": "tune", "classes": count, "dtype": dtype, "graph": graph, **row})
    return rows


def encode_rows() -> list[dict[str, Any]]:
    """Measure the peaks of encoding: 64 images, and four times as many to see that memory does not grow."""
    print("\n| encode: images | batch | MLX MB | process MB |\n|---|---|---|---|")
    rows = []
    for images in (IMAGES, 4 * IMAGES):
        row = alone("encode_peak", images=images, batch=32)
        print(f"| {images} | 32 | {row['mlx_mb']:.0f} | {row['process_mb']:.0f} |", flush=True)
        rows.append({"part": "encode", "images": images, **row})
    return rows


def budget_rows(graph: bool) -> list[dict[str, Any]]:
    """Measure the memory taken under budgets, from the smallest that works upwards."""
    print("\n| budget: K | N | population | budget MB | chunk | losses MB | derivatives MB | most of the budget |")
    print("|" + 8 * "---|")
    rows = []
    for classes, images, population in BUDGET_CASES:
        least = alone("least_budget", classes=classes, images=images, graph=graph)
        for factor in FACTORS:
            given = {"classes": classes, "images": images, "population": population, "graph": graph}
            row = alone("budget_peak", **given, budget=int(factor * least))
            print(
                f"| {classes} | {images} | {population} | {row['budget_mb']:.0f} | {row['chunk']} "
                f"| {row['losses']:.1f} | {row['jvp'] or '-'} | {row['share']:.2f} |",
                flush=True,
            )
            rows.append({"part": "budget", **given, **row})
    return rows


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16", "float32"])
    parser.add_argument("--population", type=int, default=sz.TuneConfig().population)
    parser.add_argument("--steps", type=int, default=20, help="of stage 2")
    parser.add_argument("--graph", action="store_true", help="run what a GPU runs")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ALONE[given.one[0]](**json.loads(given.one[1]))))
        return
    rows: list[dict[str, Any]] = []
    if "tune" in given.parts:
        rows += tune_rows(
            given.classes, given.dtypes, graph=given.graph, population=given.population, steps=given.steps
        )
    if "encode" in given.parts:
        rows += encode_rows()
    if "budget" in given.parts:
        rows += budget_rows(given.graph)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=4) + "\n")


if __name__ == "__main__":
    main()
