"""Steps that encode images: half precision at once and one by one, and memory while files are encoded.

>>> compare_half_precision(workspace).numbers["RN50_one_by_one_away"]  # doctest: +SKIP
2.1e-13
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.doctor.steps import Answer, NotHere
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.report.formatting import amount
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.footprint import largest_footprint

EQUAL, ALIKE = 1e-4, 1e-3  # largest 1 - cosine of equal computations, and of half precision with float32
_UNSEEN = 0.9  # a footprint holds at least this share of MLX's peak


def compare_half_precision(workspace: Workspace) -> Answer:
    """Compare features of float16 weights as this program computes them: in a batch, one by one, and in float32."""
    numbers: dict[str, float] = {}
    for name in workspace.sizes.image_towers:
        folder = workspace.model(name)
        clip, pixels = load(folder), _draw_pixels(workspace, name)
        at_once, single = (
            clip.encode_pixels(pixels),
            [clip.encode_pixels(pixels[i : i + 1]) for i in range(len(pixels))],
        )
        exact = _encode_with(folder, pixels, mx.float32)
        numbers |= _named(f"{name}_one_by_one", _compare(mx.concatenate(single), at_once))
        numbers |= _named(f"{name}_float32", _compare(at_once, exact))
        clip.release_vision()
    away = {name: value for name, value in numbers.items() if name.endswith("_away")}
    right = all(value <= (EQUAL if "one_by" in name else ALIKE) for name, value in away.items())
    return Answer(_list(numbers), dict(numbers), right)


def measure_raw_half_precision(workspace: Workspace) -> Answer:
    """Measure what float16 would be where this program computes in float32 instead, as in a ResNet; for information."""
    if on_cpu():
        raise NotHere("on the CPU half precision is float32")
    numbers: dict[str, float] = {}
    for name in workspace.sizes.image_towers:
        folder, pixels = workspace.model(name), _draw_pixels(workspace, name)
        half, exact = (_encode_with(folder, pixels, dtype) for dtype in (mx.float16, mx.float32))
        single = mx.concatenate([_encode_with(folder, pixels[i : i + 1], mx.float16) for i in range(2)])
        numbers |= _named(f"{name}_float16", _compare(half, exact))
        numbers |= _named(f"{name}_float16_one_by_one", _compare(single, half[:2]))
    return Answer(_list(numbers), dict(numbers))


def measure_encoding(workspace: Workspace) -> Answer:
    """Encode image files; compare the process's largest memory with the peak of MLX, which it has to contain."""
    clip = load(workspace.model(workspace.sizes.image_towers[0]))
    paths = _list_pictures(workspace)
    images = ImageSet(paths, (0,) * len(paths), ("picture",), ("picture",))
    before = memory.process_peak()
    memory.reset_mlx_peak()
    started = time.monotonic()
    encode(clip, images, cache=False)
    seconds = time.monotonic() - started
    after, mlx = memory.process_peak(), memory.mlx_peak()
    clip.release_vision()
    numbers = {
        "images": len(paths),
        "images_per_second": len(paths) / seconds,
        "mlx_peak_mb": mlx / 2**20,
        "mlx_cache_mb": memory.mlx_cache() / 2**20,
        "process_peak_before_mb": before / 2**20,
        "process_peak_mb": after / 2**20,
        "footprint": largest_footprint() is not None,
    }
    words = (
        f"{numbers['images_per_second']:.3g} images a second; MLX's peak {amount(mlx)}, the process's {amount(after)}"
    )
    right = sys.platform != "darwin" or (bool(numbers["footprint"]) and after >= _UNSEEN * mlx)
    return Answer(words, dict(numbers), right)


def _list_pictures(workspace: Workspace) -> tuple[Path, ...]:
    return tuple(islice(sorted((workspace.pictures / "images").rglob("*.png")), workspace.sizes.images))


def _draw_pixels(workspace: Workspace, name: str) -> np.ndarray:
    """Return prepared pixels [n, side, side, 3] that differ in brightness, contrast and detail."""
    side = load(workspace.model(name)).config.vision.image_size
    draw = np.random.default_rng(0)
    shape = (workspace.sizes.at_once, side, side, 3)
    contrast, colour = draw.uniform(0.1, 1.5, (shape[0], 1, 1, 1)), draw.uniform(-1.5, 1.5, (shape[0], 1, 1, 3))
    return (colour + contrast * draw.standard_normal(shape)).astype(np.float32)


def _encode_with(folder: Path, pixels: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Return the features of pixels by MLX's graph, with the weights in one type."""
    features = load_model(folder, towers=("vision",), dtype=dtype).image_features(mx.array(pixels))
    mx.eval(features)
    return features


def _compare(a: mx.array, b: mx.array) -> dict[str, float]:
    """Return the largest 1 - cosine of rows of unit norm, and the error in units of how much the rows of b differ."""
    found, expected = np.array(a, np.float64), np.array(b, np.float64)
    lengths = np.linalg.norm(found - expected, axis=-1)
    spread = np.linalg.norm(expected - expected.mean(axis=0), axis=-1).mean()
    # 1 - cos is half the squared distance of unit vectors, which keeps the digits that 1 - cos would lose
    return {"away": float(lengths.max() ** 2 / 2), "of_spread": float(lengths.max() / spread)}


def _named(name: str, found: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{figure}": value for figure, value in found.items()}


def _list(numbers: dict[str, float]) -> str:
    shown = {name.removesuffix("_away"): value for name, value in numbers.items() if name.endswith("_away")}
    return "1 - cosine: " + ", ".join(f"{name.replace('_', ' ')} {value:.0e}" for name, value in shown.items())
