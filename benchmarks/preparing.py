"""Measure how long a GPU waits for the host between batches of images, before and after batches overlapped.

The GPU is pretended: a clock that is busy for a given time with each batch, while the host decodes and prepares images
as it does for a real one. "Before" normalises on the host and takes one batch after the other; "after" is
`Clip.encode_batches`. The photographs have 500 x 375 pixels, and 46 images a second is what an M1 should do with
ViT-B/16. The wait for the first batch is not counted.

usage: python benchmarks/preparing.py [--images 256] [--rate 46]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
from memory import write_photographs
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.images.load import normalise, stream

TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
CONFIG = {"model_type": "clip", "text_config": TOWER | {"vocab_size": 600}, "vision_config": TOWER}
evaluate = mx.eval


class PretendedGPU(CLIPModel):
    """An image tower that computes nothing, on a device that takes its time.

    Args:
        rate: images a second.
    """

    def __init__(self, rate: float) -> None:
        super().__init__(CLIPConfig.from_dict(CONFIG), towers=())
        self.rate, self.ends, self.waits, self.pending = rate, [], [], {}

    def take_place(self) -> None:
        """Stand in for the device and the image tower of the program."""
        mx.default_device = lambda: mx.Device(mx.gpu)
        mx.device_info = lambda *_: {"architecture": "applegpu_g13g"}
        mx.async_eval, mx.eval = self.begin, self.wait
        Clip.vision = lambda clip: self

    def image_features(self, pixels: mx.array) -> mx.array:
        """Return zeros for pixels that are handed over."""
        evaluate(pixels)
        return mx.zeros((len(pixels), 512))

    def begin(self, features: mx.array) -> None:
        """Start a batch now, or when the one before it has ended."""
        now = time.perf_counter()
        if self.ends:
            self.waits.append(max(0.0, now - self.ends[-1]))
        self.ends.append(max([now, *self.ends[-1:]]) + len(features) / self.rate)
        self.pending[id(features)] = self.ends[-1]

    def wait(self, *arrays: mx.array) -> None:
        """Wait until a batch has ended."""
        for array in arrays:
            time.sleep(max(0.0, self.pending.pop(id(array), 0.0) - time.perf_counter()))
        evaluate(*arrays)


def encode_before(clip: sz.Clip, paths: list[Path], size: int) -> None:
    """Encode one batch after the other from pixels that the host has normalised."""
    for batch in stream(paths, clip.config.preprocessor, batch_size=size):
        pixels = mx.array(normalise(batch.pictures, clip.config.preprocessor))
        features = clip.vision().image_features(pixels)
        mx.async_eval(features)
        mx.eval(features)
        np.array(features)


def encode_after(clip: sz.Clip, paths: list[Path], size: int) -> None:
    """Encode as the program does on a GPU."""
    for _, features in clip.encode_batches(stream(paths, clip.config.preprocessor, batch_size=size), size):
        np.array(features)


def measure(encode: Callable[[sz.Clip, list[Path], int], None], paths: list[Path], size: int, rate: float) -> list[str]:
    """Return the cells of one row."""
    gpu = PretendedGPU(rate)
    gpu.take_place()
    clip = sz.load(paths[0].parent / "m")
    encode(clip, paths, size)
    sent = size * 224 * 224 * 3 * (4 if encode is encode_before else 1)
    busy = size / rate
    wait = float(np.mean(gpu.waits))
    return [
        str(size),
        f"{sent / 1e6:.1f}",
        f"{1e3 * busy:.0f}",
        f"{1e3 * wait:.1f}",
        f"{100 * wait / (wait + busy):.1f}",
    ]


def main() -> None:
    """Print one row for before, and one after for each size of batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rate", type=float, default=46, help="images a second of the pretended GPU")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = CLIPConfig.from_dict(CONFIG)
        weights = dict(tree_flatten(CLIPModel(config).parameters()))
        save_model(Path(scratch) / "m", config, weights, "{}", "zeros")
        paths = write_photographs(Path(scratch), given.images)
        print("| | images a batch | MB sent | GPU busy, ms | GPU waits, ms | share, % |")
        print("|---|---|---|---|---|---|")
        for name, encode, size in (
            ("before", encode_before, 32),
            ("after", encode_after, 32),
            ("after", encode_after, 8),
        ):
            print(f"| {name} | " + " | ".join(measure(encode, paths, size, given.rate)) + " |", flush=True)


if __name__ == "__main__":
    main()
