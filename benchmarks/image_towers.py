"""Measure the processor's time of the image towers of MobileCLIP, SigLIP and PE-Core, and compare with timm on torch.

Random weights, eight images at once, each library in a process of its own, since the BLAS of one slows the other down.
The processes take turns, so that other programs on the machine disturb both alike. The times are those that the
processor spent (`time.process_time`) and those by the clock; the lowest of the rounds counts. timm's network has its
branches as its files have them, and once more folded by timm itself.

usage: python benchmarks/image_towers.py [--towers fastvit_mci0 vit_base_mci_224] [--rounds 4] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

SIDES = {"fastvit_mci0": 256, "fastvit_mci1": 256, "fastvit_mci2": 256, "fastvit_mci3": 256, "vit_base_mci_224": 224}
SIDES |= {"vit_base_patch16_siglip_224": 224, "vit_pe_core_base_patch16_224": 224}
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
    from sharpzo_mlx.convert import mobileclip, perception

    mx.set_default_device(mx.cpu)
    siglip = {"model_type": "siglip", "vision_config": {}, "text_config": {}}
    family = perception if name in perception.SIZES else mobileclip
    given = siglip if "siglip" in name else {"model_type": "clip", "vision_config": family.find_tower(name)}
    config = CLIPConfig.from_dict(given)
    model = CLIPModel(config, towers=("vision",))
    model.update(tree_map(lambda weight: 0.05 * mx.random.normal(weight.shape), model.parameters()))
    mx.eval(model.parameters())
    tower = CPUFastViT(model) if isinstance(model.vision_model, FastViTModel) else CPUVision(model)
    pixels = draw_pixels(name)
    return {"sharpzo-mlx": lambda: tower.image_features(pixels)}


def theirs(name: str, threads: int) -> dict[str, Callable[[], Any]]:
    """Return timm's network with its branches and, where there are any, folded, each as a call."""
    import timm
    import torch
    from timm.utils.model import reparameterize_model

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network = timm.create_model(name, num_classes=0 if "siglip" in name else WIDTH).eval()
    images = torch.tensor(np.ascontiguousarray(draw_pixels(name).transpose(0, 3, 1, 2)))
    calls = {"timm": lambda: network(images)}
    if "fastvit" in name:
        folded = reparameterize_model(network).eval()
        calls["timm, folded"] = lambda: folded(images)
    return calls


def answer(calls: dict[str, Callable[[], Any]]) -> None:
    """Time every call whenever a line comes in; print milliseconds of the processor and by the clock an image."""
    for _ in sys.stdin:
        found = {}
        for label, call in calls.items():
            start, clock = time.process_time(), time.perf_counter()
            call()
            spent = (time.process_time() - start, time.perf_counter() - clock)
            found[label] = [1e3 * seconds / IMAGES for seconds in spent]
        print(json.dumps(found), flush=True)


def measure(name: str, rounds: int, threads: int, python: str) -> dict[str, np.ndarray]:
    """Return the lowest milliseconds an image of each library, by the processor and by the clock."""
    lowest: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        sides = []
        for library, program in (("ours", sys.executable), ("theirs", python)):
            command = [program, __file__, "--towers", name, "--threads", str(threads), "--library", library]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
            sides.append(stack.enter_context(process))
        for number in range(rounds + 1):
            for process in sides:
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                for label, spent in json.loads(process.stdout.readline()).items():
                    before = lowest.get(label, np.full(2, np.inf))
                    lowest[label] = np.minimum(before, spent) if number else before  # the first warms up
        for process in sides:
            assert process.stdin is not None
            process.stdin.close()
    return lowest


def main() -> None:
    """Print the milliseconds an image, a row for each tower and library, and how many times ours that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["fastvit_mci0", "fastvit_mci2", "vit_base_mci_224", "vit_base_patch16_siglip_224"]
    parser.add_argument("--towers", nargs="+", choices=SIDES, default=default)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has timm, if it is another one")
    parser.add_argument("--library", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.library:
        name = given.towers[0]
        answer(ours(name) if given.library == "ours" else theirs(name, given.threads))
        return
    print("| tower | library | CPU ms an image | by the clock | times ours |")
    print("|---|---|---|---|---|")
    for name in given.towers:
        found = measure(name, given.rounds, given.threads, given.python)
        for label, (processor, clock) in found.items():
            times = processor / found["sharpzo-mlx"][0]
            print(f"| {name} | {label} | {processor:.0f} | {clock:.0f} | {times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
