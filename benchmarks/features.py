"""Measure images per second from files to features, and compare with transformers on torch.

ViT-B/16's image tower with random weights, JPEG files of 500 x 375, the same files and cores for both, each in a
separate process, one after the other. The script compares the features, and also measures how long the tower waits for
the decoder, the memory peak for one and for four times as many images, and images a second with ten views each.

usage: python benchmarks/features.py [--images 64] [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
from memory import SIZE, write_photographs, write_random_model
from mlx.utils import tree_flatten
from oracle import KEEP_MEMORY

from sharpzo_mlx.clip.batches import IMAGE_BATCH
from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.views import VIEWS
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.images.views import stream_views
from sharpzo_mlx.runtime import memory

ROUNDS = 2
VIEWED = 8  # images whose views are encoded: each takes ten passes


def ours(folder: Path, paths: list[Path]) -> dict[str, Any]:
    """Encode in rounds in this process, measure how long the tower waits for pixels, and save the features."""
    clip, rounds = sz.load(folder), []
    for _ in range(ROUNDS):
        rows, waited = [], 0.0
        start = asked = time.perf_counter()
        processor = time.process_time()
        for batch in stream(paths, clip.config.preprocessor, batch_size=IMAGE_BATCH):
            waited += time.perf_counter() - asked
            rows.append(np.array(clip.encode_pixels(batch.pictures)))
            asked = time.perf_counter()
        rounds.append((time.perf_counter() - start, time.process_time() - processor, waited))
    np.save(folder / "ours.npy", np.concatenate(rows))
    return {
        "rounds": rounds,
        "mlx_mb": memory.mlx_peak() / 1e6,
        "process_mb": memory.process_peak() / 1e6,
        "views": timed_views(clip, paths[:VIEWED]),  # last: the peaks are those of plain features
    }


def timed_views(clip: sz.Clip, paths: list[Path]) -> float:
    """Return the images a second whose views are made and encoded."""
    start = time.perf_counter()
    images = [(path, digest(path)) for path in paths]
    for batch in stream_views(images, clip.config.preprocessor, views=VIEWS, batch_size=IMAGE_BATCH):
        clip.encode_pixels(batch.pictures)
    return len(paths) / (time.perf_counter() - start)


def export(folder: Path) -> Path:
    """Write the image tower in the layout of transformers, and return its folder."""
    model, place = load_model(folder, towers=("vision",)), folder / "torch"
    weights = {name: x for name, x in tree_flatten(model.parameters()) if name != "logit_scale"}
    name = "vision_model.embeddings.patch_embedding.weight"
    weights[name] = weights[name].transpose(0, 3, 1, 2)
    place.mkdir()
    mx.save_safetensors(str(place / "weights.safetensors"), {k: mx.contiguous(v) for k, v in weights.items()})
    config = model.config.to_dict()
    (place / "config.json").write_text(json.dumps(config))
    (place / "preprocessor_config.json").write_text(json.dumps(config["preprocessor"]))
    return place


def theirs(place: Path, paths: list[Path], threads: int, python: str) -> list[list[float]]:
    """Run the competitor in an interpreter that has it; return seconds and processor seconds of each round."""
    script = Path(__file__).with_name("torch_features.py")
    command = [python, str(script), str(place), str(threads), *map(str, paths)]
    quietly = {"TRANSFORMERS_VERBOSITY": "error"}
    environment = os.environ | KEEP_MEMORY | quietly
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(folder: Path, images: Path, count: int) -> dict[str, Any]:
    """Run `encode_in_rounds` in a separate process and return its figures."""
    command = [sys.executable, __file__, "--one", str(folder), str(images), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(count: int, threads: int, *, grow: bool, python: str) -> dict[str, Any]:
    """Measure both sides on the same files, the competitor second."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, images = Path(scratch) / "m", Path(scratch) / "images"
        images.mkdir()
        write_random_model(folder, mx.float32)
        place, paths = export(folder), write_photographs(images, count)
        own, other = alone(folder, images, count), theirs(place, paths, threads, python)
        difference = np.max(np.abs(np.load(folder / "ours.npy") - np.load(place / "features.npy")))
        bare = min(timed_decoding(folder, paths) for _ in range(ROUNDS))
        many = alone(folder, write_photographs_more(images, 4 * count), 4 * count) if grow else None
    best, best_other = min(own["rounds"]), min(other)
    return {
        "model": SIZE,
        "images": count,
        "ours_per_second": count / best[0],
        "torch_per_second": count / best_other[0],
        "ours_cpu_ms": 1e3 * best[1] / count,
        "torch_cpu_ms": 1e3 * best_other[1] / count,
        f"ours_with_{VIEWS}_views_per_second": own["views"],
        "waiting_share": best[2] / best[0],
        "decoding_per_second": count / bare,
        "difference": float(difference),
        "process_mb": own["process_mb"],
        "process_mb_of_four_times": many and many["process_mb"],
    }


def write_photographs_more(images: Path, count: int) -> Path:
    """Add links to the folder's own files under other names until it holds `count`, and return the folder."""
    there = sorted(images.glob("*.jpg"))
    for number in range(count - len(there)):
        os.link(there[number % len(there)], images / f"more-{number}.jpg")
    return images


def timed_decoding(folder: Path, paths: list[Path]) -> float:
    """Measure the seconds of decoding and preprocessing alone."""
    start = time.perf_counter()
    for _ in stream(paths, sz.load(folder).config.preprocessor, batch_size=IMAGE_BATCH):
        pass
    return time.perf_counter() - start


def main() -> None:
    """Print the figures of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--no-growth", action="store_true", help="leave out memory with four times as many images")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has transformers")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, images, count = Path(given.one[0]), Path(given.one[1]), int(given.one[2])
        print(json.dumps(ours(folder, sorted(images.glob("*.jpg"))[:count])))
        return
    row = measure(given.images, given.threads, grow=not given.no_growth, python=given.python)
    for name, value in row.items():
        print(f"{name:32} {value if isinstance(value, str) else f'{value:.4g}' if value is not None else '-'}")
    if given.output:
        given.output.write_text(json.dumps(row, indent=4) + "\n")


if __name__ == "__main__":
    main()
