"""Measure the cost of tuning at the sizes of published checkpoints: seconds per query, images per second, memory.

The cost does not depend on the values of the weights, so the towers have random ones and nothing is downloaded. Each
size runs in a separate process, which gives it a separate memory peak; queries are timed in batches of one generation,
as in stage 1 (SharpZO, arXiv 2506.20990, section 3.1).

usage: python benchmarks/cost.py [--model SigLIP-B/16 --classes 10] [--dtype float16]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import sharpzo_mlx  # noqa: F401  (before MLX: it loads OpenBLAS)

import mlx.core as mx  # isort: skip
import numpy as np

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.cpu_fastvit import CPUFastViT
from sharpzo_mlx.clip.cpu_vision import CPUVision
from sharpzo_mlx.clip.fastvit import FastViTModel
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.doctor import networks
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.runtime.device import on_cpu

SIZES = [name for name in networks.SIZES if not name.startswith(("tiny", "RN"))]
DEFAULT = ("ViT-B/32", "ViT-B/16", "ViT-L/14")
VOCABULARY = 49408  # of CLIP
CLASSES = (10, 100)
SHOTS = networks.SHOTS
DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def make_config(name: str) -> CLIPConfig:
    """Return the configuration of a published checkpoint of the given size, with CLIP's vocabulary."""
    return networks.make_config(name, VOCABULARY)


def make_tower(name: str, kind: str, dtype: mx.Dtype) -> CLIPModel:
    """Make one tower with random weights and CLIP's vocabulary."""
    return networks.make_tower(name, kind, vocabulary=VOCABULARY, dtype=dtype)


def make_objective(name: str, classes: int) -> Objective:
    """Make an objective in float32 for classes with two-word names and sixteen images each."""
    return networks.make_objective(name, classes=classes)


def measure_query_seconds(objective: Objective, population: int, at_least: float = 2.0) -> float:
    """Measure the seconds of a query in generations of `population`, after one generation to warm up."""
    w = 0.4 * mx.random.normal((population, objective.dimension), key=mx.random.key(0))
    mx.eval(objective.losses(w))
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least:
        mx.eval(objective.losses(w))
        rounds += 1
    return (time.perf_counter() - start) / (rounds * population)


def choose_image_encoder(model: CLIPModel) -> Callable[[np.ndarray], object]:
    """Return the function that encodes pixels on this device, as `Clip.encode_pixels` chooses it."""
    if on_cpu():
        fastvit = isinstance(model.vision_model, FastViTModel)
        return (CPUFastViT(model) if fastvit else CPUVision(model)).image_features
    return lambda pixels: mx.eval(model.image_features(mx.array(pixels)))


def measure_image_rate(name: str, dtype: mx.Dtype, batch: int = 16) -> float:
    """Measure the images per second of the image tower on prepared pixels."""
    encode, side = choose_image_encoder(make_tower(name, "vision", dtype)), make_config(name).vision.image_size
    pixels = np.random.default_rng(0).standard_normal((batch, side, side, 3)).astype(np.float32)
    encode(pixels)
    start = time.perf_counter()
    encode(pixels)
    return batch / (time.perf_counter() - start)


def measure(name: str, classes: int, dtype: str) -> dict[str, float]:
    """Measure all figures of one size in this process; text first, so that the memory peak is that of tuning."""
    objective = make_objective(name, classes)
    memory.reset_mlx_peak()
    query = measure_query_seconds(objective, TuneConfig().stage1.population)
    peak = memory.mlx_peak()
    del objective
    return {"query": query, "peak": peak, "images": measure_image_rate(name, DTYPES[dtype])}


def main() -> None:
    """Print one row of figures for each size and number of classes."""
    parser = argparse.ArgumentParser(description="Measure the cost of tuning at the sizes of published checkpoints.")
    parser.add_argument("--model", choices=SIZES)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the image tower")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.model, given.classes, given.dtype)))
        return
    print("| model | classes | ms a query | queries a minute | peak MB while tuning | images a second |")
    print("|---|---|---|---|---|---|")
    for name in [given.model] if given.model else DEFAULT:
        for classes in [given.classes] if given.classes else CLASSES:
            command = [sys.executable, __file__, "--one", "--model", name, "--classes", str(classes)]
            done = subprocess.run([*command, "--dtype", given.dtype], capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            figures = f"{1000 * row['query']:.1f} | {60 / row['query']:.0f} | {row['peak'] / 1e6:.0f}"
            print(f"| {name} | {classes} | {figures} | {row['images']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
