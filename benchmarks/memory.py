"""Measure peak memory: of tuning with cached features, of encoding images, and under a memory budget.

The model has the size of ViT-B/16 and random weights. Each figure comes from a separate process. "MLX" is the peak of
MLX's allocator after the text tower is loaded; "process" is the peak of resident memory, which includes Python, NumPy,
memory-mapped weights and the lists of image files. Tuning always computes in float32, on the CPU with NumPy. `--graph`
runs MLX's graph as a GPU does; on the CPU it is slow, and frees arrays earlier than on a GPU.

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
from cost import DTYPES, choose_image_encoder, make_config, make_tower
from mlx.utils import tree_flatten
from PIL import Image
from queries import make_prompts, make_query_objective

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
FACTORS = (1, 1.5, 4)  # times the smallest budget that works


def write_random_model(folder: Path, dtype: mx.Dtype) -> Path:
    """Write a model folder with random weights and CLIP's vocabulary, and return it."""
    config = make_config(SIZE)
    weights = {name: x.astype(dtype) for name, x in tree_flatten(CLIPModel(config).parameters())}
    save_model(folder, config, weights, Tokenizer(clip_vocabulary()).to_json(), "Random weights, for a benchmark.")
    return folder


def write_stand_ins(folder: Path, classes: int) -> Path:
    """Write class folders of files with distinct contents, which stay undecoded because their features are cached."""
    known = imagenet.classes()
    for number, wnid in enumerate(known.ids[:classes]):
        place = folder / (wnid if classes == 1000 else known.names[wnid])
        place.mkdir(parents=True)
        for image in range(SHOTS + VALIDATION):
            (place / f"{image}.jpg").write_text(f"{number} {image}")
    return folder


def fill_cache(clip: sz.Clip, folder: Path) -> None:
    """Store random features of unit norm for every file."""
    width, draw = clip.config.projection_dim, np.random.default_rng(0)
    found = [digest(path) for path in sorted(folder.glob("*/*.jpg"))]
    rows = draw.standard_normal((len(found), width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with FeatureCache(cache_name(clip), width=width) as cache:
        cache.put(dict(zip(found, rows, strict=True)))


def use_graph() -> None:
    """Let `tune` run MLX's graph, as it does by itself on a GPU."""
    setattr(objective, "choose_backend", lambda: "graph")  # noqa: B010


def measure_tune_peak(dtype: str, graph: bool, population: int, steps: int) -> dict[str, float]:
    """Tune for two generations and some steps with a filled cache, in a process that has not made the model."""
    model, data = Path(os.environ["BENCHMARK_MODEL"]), Path(os.environ["BENCHMARK_DATA"])
    if graph:
        use_graph()
    # few queries in batches of the usual size: memory does not depend on the number of batches
    few = {"selection.every": 20, "stage2.draws": 1, "pruning.directions": 4, "stage1.population": population}
    config = sz.TuneConfig(shots=SHOTS, head="none", generations=2, steps=steps).with_settings(few)
    with tempfile.TemporaryDirectory() as scratch:
        run = tune(sz.load(model), data, config, output=Path(scratch) / "run")
    return {"mlx_mb": memory.mlx_peak() / 1e6, "process_mb": memory.process_peak() / 1e6, **_read_cost(run)}


def _read_cost(run: sz.Run) -> dict[str, float]:
    return {"queries": run.results.queries, "seconds": run.results.seconds}


def measure_tune(classes: int, **given: Any) -> dict[str, float]:
    """Prepare model, files and cache here, and tune in a separate process."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"SHARPZO_MLX_CACHE": f"{scratch}/cache"}
        model = write_random_model(Path(scratch) / "m", DTYPES[given["dtype"]])
        data = write_stand_ins(Path(scratch) / "photos", classes)
        fill_cache(sz.load(model), data)
        os.environ |= {"BENCHMARK_MODEL": str(model), "BENCHMARK_DATA": str(data)}
        return run_alone("measure_tune_peak", **given)


def measure_encode_peak(images: int, batch: int) -> dict[str, float]:
    """Decode, preprocess and encode photographs of 500 x 375, float32."""
    encode = choose_image_encoder(make_tower(SIZE, "vision", mx.float32))
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_photographs(Path(scratch), images)
        memory.reset_mlx_peak()
        for part in stream(paths, make_config(SIZE).preprocessor, batch_size=batch):
            encode(part.pictures)
    return {"mlx_mb": memory.mlx_peak() / 1e6, "process_mb": memory.process_peak() / 1e6}


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of 500 x 375 with smooth shapes and some noise, and return their paths."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + draw.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


def measure_budget_peak(classes: int, images: int, population: int, budget: int, graph: bool) -> dict[str, float]:
    """Measure the bytes that a batch of losses and a batch of derivatives allocate in MLX and NumPy."""
    model, tokens = make_tower(SIZE, "text", mx.float32), make_prompts(classes)
    backend: BackendName = "graph" if graph else "numpy"
    loss = make_query_objective(model, tokens, shots=images // classes, backend=backend, memory_budget=budget)
    del model
    mx.clear_cache()
    w = mx.random.normal((population, loss.dimension), key=mx.random.key(0))
    mx.eval(w)
    found = {"chunk": loss.chunk, "budget_mb": budget / 1e6, "losses": _measure_bytes(lambda: loss.losses(w))}
    try:
        found["jvp"] = _measure_bytes(lambda: mx.concatenate(list(loss.jvp(w[:2], w[:2]))))
    except UserError:  # a derivative needs more memory than a forward pass
        found["jvp"] = 0.0
    return {**found, "share": max(found["losses"], found["jvp"]) / budget * 1e6}


def _measure_bytes(work: Callable[[], mx.array]) -> float:
    mx.eval(work())  # pools and BLAS buffers are made once
    mx.clear_cache()
    before = mx.get_active_memory()
    memory.reset_mlx_peak()
    tracemalloc.start()
    mx.eval(work())
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (memory.mlx_peak() - before + numpy_peak) / 1e6


def find_least_budget(classes: int, images: int, graph: bool) -> int:
    """Return the smallest budget in bytes, as named by the error about a budget that is too small."""
    try:
        measure_budget_peak(classes, images, 1, 1, graph)
    except UserError as error:
        return int(re.findall(r"needs (\d+)MB", str(error))[0]) * 10**6
    raise RuntimeError("a budget of one byte was accepted")


ALONE: dict[str, Callable[..., Any]] = {
    "measure_tune_peak": measure_tune_peak,
    "measure_encode_peak": measure_encode_peak,
    "measure_budget_peak": measure_budget_peak,
    "find_least_budget": find_least_budget,
}


def run_alone(function: str, **arguments: Any) -> Any:
    """Run one of these functions in a separate process and return its result."""
    command = [sys.executable, __file__, "--one", function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_tuning(classes: list[int], dtypes: list[str], *, graph: bool, **given: int) -> list[dict[str, Any]]:
    """Measure and print the memory peaks of tuning with the given population and steps."""
    print("\n| tune: K | weights | MLX MB | process MB | queries | seconds |\n|---|---|---|---|---|---|")
    rows = []
    for dtype in dtypes:
        for count in classes:
            row = measure_tune(count, dtype=dtype, graph=graph, **given)
            figures = f"{row['mlx_mb']:.0f} | {row['process_mb']:.0f} | {row['queries']} | {row['seconds']:.1f}"
            print(f"| {count} | {dtype}{', graph' if graph else ''} | {figures} |", flush=True)
            rows.append({"part": "tune", "classes": count, "dtype": dtype, "graph": graph, **row})
    return rows


def measure_encoding() -> list[dict[str, Any]]:
    """Measure and print the peaks of encoding 64 images and four times as many; the peaks should be equal."""
    print("\n| encode: images | batch | MLX MB | process MB |\n|---|---|---|---|")
    rows = []
    for images in (IMAGES, 4 * IMAGES):
        row = run_alone("measure_encode_peak", images=images, batch=32)
        print(f"| {images} | 32 | {row['mlx_mb']:.0f} | {row['process_mb']:.0f} |", flush=True)
        rows.append({"part": "encode", "images": images, **row})
    return rows


def measure_budgets(graph: bool) -> list[dict[str, Any]]:
    """Measure and print the memory used under budgets from the smallest that works."""
    print("\n| budget: K | N | population | budget MB | chunk | losses MB | derivatives MB | most of the budget |")
    print("|" + 8 * "---|")
    rows = []
    for classes, images, population in BUDGET_CASES:
        least = run_alone("find_least_budget", classes=classes, images=images, graph=graph)
        for factor in FACTORS:
            given = {"classes": classes, "images": images, "population": population, "graph": graph}
            row = run_alone("measure_budget_peak", **given, budget=int(factor * least))
            print(
                f"| {classes} | {images} | {population} | {row['budget_mb']:.0f} | {row['chunk']} "
                f"| {row['losses']:.1f} | {row['jvp'] or '-'} | {row['share']:.2f} |",
                flush=True,
            )
            rows.append({"part": "budget", **given, **row})
    return rows


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16", "float32"])
    parser.add_argument("--population", type=int, default=sz.TuneConfig().stage1.population)
    parser.add_argument("--steps", type=int, default=20, help="steps of stage 2")
    parser.add_argument("--graph", action="store_true", help="run what a GPU runs")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ALONE[given.one[0]](**json.loads(given.one[1]))))
        return
    rows: list[dict[str, Any]] = []
    if "tune" in given.parts:
        rows += measure_tuning(
            given.classes, given.dtypes, graph=given.graph, population=given.population, steps=given.steps
        )
    if "encode" in given.parts:
        rows += measure_encoding()
    if "budget" in given.parts:
        rows += measure_budgets(given.graph)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=4) + "\n")


if __name__ == "__main__":
    main()
