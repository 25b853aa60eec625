"""Measure the processor's time of MobileCLIP's image towers, and compare with timm on torch.

Random weights, eight images at once, one thread each, by turns in one process. The times are those that the processor
spent (`time.process_time`), so that other programs on the machine matter less; the lowest of the rounds counts. timm's
network has its branches as its files have them, and once more folded by timm itself.

usage: python benchmarks/image_towers.py [--towers fastvit_mci0 vit_base_mci_224] [--rounds 4]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import sharpzo_mlx  # noqa: F401 (before mlx: it loads OpenBLAS)

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_map

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.cpu_fastvit import CPUFastViT
from sharpzo_mlx.clip.cpu_vision import CPUVision
from sharpzo_mlx.clip.fastvit import FastViTModel
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert.mobileclip import TOWERS, find_tower
from sharpzo_mlx.runtime.threads import small_products

IMAGES = 8
WIDTH = 512


def make_tower(name: str) -> tuple[CPUFastViT | CPUVision, int]:
    """Return the tower in NumPy with random weights, and the side of its images."""
    tower = find_tower(name)
    model = CLIPModel(CLIPConfig.from_dict({"model_type": "clip", "vision_config": tower}), towers=("vision",))
    model.update(tree_map(lambda weight: 0.05 * mx.random.normal(weight.shape), model.parameters()))
    mx.eval(model.parameters())
    made = CPUFastViT(model) if isinstance(model.vision_model, FastViTModel) else CPUVision(model)
    return made, tower["image_size"]


def networks_of_timm(name: str, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return timm's network with its branches and folded, each as a call; nothing without timm."""
    try:
        import timm
        import torch
        from timm.utils.model import reparameterize_model
    except ImportError:
        return {}
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    network = timm.create_model(name, num_classes=WIDTH).eval()
    folded = reparameterize_model(network).eval()
    images = torch.tensor(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return {"timm": lambda: network(images), "timm, folded": lambda: folded(images)}


def main() -> None:
    """Print one line for each tower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--towers", nargs="+", choices=TOWERS, default=("fastvit_mci0", "fastvit_mci2", "vit_base_mci_224")
    )
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    print("milliseconds of one thread an image")
    for name in options.towers:
        tower, side = make_tower(name)
        pixels = np.random.default_rng(0).standard_normal((IMAGES, side, side, 3)).astype(np.float32)
        calls = {"sharpzo-mlx": lambda tower=tower, pixels=pixels: tower.image_features(pixels)}
        calls |= networks_of_timm(name, pixels)
        lowest = dict.fromkeys(calls, float("inf"))
        with small_products():
            for _ in range(options.rounds):
                for label, call in calls.items():
                    start = time.process_time()
                    call()
                    lowest[label] = min(lowest[label], (time.process_time() - start) / IMAGES)
        print(name, ", ".join(f"{label} {1e3 * seconds:.0f}" for label, seconds in lowest.items()), flush=True)


if __name__ == "__main__":
    main()
