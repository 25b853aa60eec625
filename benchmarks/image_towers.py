"""Measure the processor's time of MobileCLIP's image towers, and compare with timm on torch.

Random weights, eight images at once, one thread, each library in a process of its own, since the BLAS of one slows the
other down. The times are those that the processor spent (`time.process_time`), so that other programs on the machine
matter less; the lowest of the rounds counts. timm's network has its branches as its files have them, and once more
folded by timm itself.

usage: python benchmarks/image_towers.py [--towers fastvit_mci0 vit_base_mci_224] [--rounds 4]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIDES = {"fastvit_mci0": 256, "fastvit_mci1": 256, "fastvit_mci2": 256, "fastvit_mci3": 256, "vit_base_mci_224": 224}
IMAGES = 8
WIDTH = 512


def draw_pixels(name: str) -> np.ndarray:
    """Return random normalised images of the tower's size."""
    side = SIDES[name]
    return np.random.default_rng(0).standard_normal((IMAGES, side, side, 3)).astype(np.float32)


def ours(name: str) -> dict[str, Callable[[], Any]]:
    """Return the tower in NumPy with random weights, as a call."""
    import sharpzo_mlx  # noqa: F401  (before MLX: it loads OpenBLAS)

    import mlx.core as mx  # isort: skip
    from mlx.utils import tree_map

    from sharpzo_mlx.clip.config import CLIPConfig
    from sharpzo_mlx.clip.cpu_fastvit import CPUFastViT
    from sharpzo_mlx.clip.cpu_vision import CPUVision
    from sharpzo_mlx.clip.fastvit import FastViTModel
    from sharpzo_mlx.clip.model import CLIPModel
    from sharpzo_mlx.convert.mobileclip import find_tower

    mx.set_default_device(mx.cpu)
    config = CLIPConfig.from_dict({"model_type": "clip", "vision_config": find_tower(name)})
    model = CLIPModel(config, towers=("vision",))
    model.update(tree_map(lambda weight: 0.05 * mx.random.normal(weight.shape), model.parameters()))
    mx.eval(model.parameters())
    tower = CPUFastViT(model) if isinstance(model.vision_model, FastViTModel) else CPUVision(model)
    pixels = draw_pixels(name)
    return {"sharpzo-mlx": lambda: tower.image_features(pixels)}


def theirs(name: str) -> dict[str, Callable[[], Any]]:
    """Return timm's network with its branches and folded, each as a call."""
    import timm
    import torch
    from timm.utils.model import reparameterize_model

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    network = timm.create_model(name, num_classes=WIDTH).eval()
    folded = reparameterize_model(network).eval()
    images = torch.tensor(np.ascontiguousarray(draw_pixels(name).transpose(0, 3, 1, 2)))
    return {"timm": lambda: network(images), "timm, folded": lambda: folded(images)}


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> str:
    """Return the lowest milliseconds an image of each call, as text."""
    lowest = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for label, call in calls.items():
            start = time.process_time()
            call()
            lowest[label] = min(lowest[label], (time.process_time() - start) / IMAGES)
    return ", ".join(f"{label} {1e3 * seconds:.0f}" for label, seconds in lowest.items())


def main() -> None:
    """Print the milliseconds of one thread an image, a line for each tower and library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--towers", nargs="+", choices=SIDES, default=["fastvit_mci0", "fastvit_mci2", "vit_base_mci_224"]
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--library", choices=("ours", "theirs"), help="measure one of them in this process")
    options = parser.parse_args()
    if options.library:
        for name in options.towers:
            calls = ours(name) if options.library == "ours" else theirs(name)
            print(name, measure(calls, options.rounds), flush=True)
        return
    for library in ("ours", "theirs"):
        command = [sys.executable, __file__, "--towers", *options.towers, "--rounds", str(options.rounds)]
        subprocess.run([*command, "--library", library], check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
