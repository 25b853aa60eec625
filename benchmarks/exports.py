"""Measure exported classifiers: the bytes of files and packages, and the processor's milliseconds an image beside ours.

Networks of published sizes with random weights, and a head of a hundred classes. Eight images at once, one thread, ours
and onnxruntime's in turns; the times are those that the processor spent (`time.process_time`), and the lowest of the
rounds counts. Ours ends with the image
features, onnxruntime's with the answers: the head takes less than a hundredth of the time.

usage: OPENBLAS_NUM_THREADS=1 python benchmarks/exports.py [--networks ViT-B/32 RN50] [--rounds 4]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
import onnxruntime
from mlx.utils import tree_map

from sharpzo_mlx.clip.cpu_fastvit import CPUFastViT
from sharpzo_mlx.clip.cpu_vision import CPUVision
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.exporting.bundle import write_bundle
from sharpzo_mlx.exporting.classifier import ClassifierRecord, HeadRecord, ModelName
from sharpzo_mlx.exporting.coreml_model import write_coreml
from sharpzo_mlx.exporting.onnx_model import OnnxForm, write_onnx
from sharpzo_mlx.exporting.tower import Tower, Weights, flatten_weights

from sharpzo_mlx.clip.config import CLIPConfig  # isort: skip
from sharpzo_mlx.convert.mobileclip import find_tower  # isort: skip

SIDES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {  # vision_config, joint width
    "ViT-B/32": (SIDES | {"patch_size": 32}, 512),
    "ViT-B/16": (SIDES | {"patch_size": 16}, 512),
    "RN50": ({"model_type": "clip_resnet_model"}, 1024),
    "MobileCLIP-S0": (find_tower("fastvit_mci0"), 512),
}
IMAGES, CLASSES = 8, 100


def make_network(name: str) -> CLIPModel:
    """Return an image tower with random weights, small enough that deep networks stay finite."""
    vision, width = NETWORKS[name]
    config = CLIPConfig.from_dict({"model_type": "clip", "projection_dim": width, "vision_config": vision})
    model = CLIPModel(config, towers=("vision",))
    mx.random.seed(0)
    model.update(tree_map(lambda weight: weight + 0.02 * mx.abs(mx.random.normal(weight.shape)), model.parameters()))
    mx.eval(model.parameters())
    return model


def make_record(model: CLIPModel) -> ClassifierRecord:
    """Return a classifier with random numbers."""
    width, draw = model.config.projection_dim, np.random.default_rng(0)
    rows = [draw.standard_normal((CLASSES, width)).astype(np.float32) for _ in range(3)]
    head = HeadRecord(rows[1], rows[1][:, 0], np.eye(width, dtype=np.float32), rows[2], 30.0, 3.0, 0.05, 35.0)
    names = tuple(f"class {k}" for k in range(CLASSES))
    size = (model.config.vision.image_size,) * 2
    made = ModelName("random", "none", None)
    return ClassifierRecord(names, names, "a photo of a {}.", rows[0], head, model.config.preprocessor, size, made)


def encoder(model: CLIPModel) -> Callable[[np.ndarray], np.ndarray]:
    """Return this program's way from bytes to image features on a CPU."""
    mx.set_default_device(mx.cpu)
    kind = type(model.vision_model).__name__
    if kind == "ResNetModel":
        return lambda pictures: np.array(model.image_features(mx.array(pictures)))
    tower = CPUFastViT(model) if kind == "FastViTModel" else CPUVision(model)
    return tower.image_features


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the lowest milliseconds an image of each call."""
    lowest = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for label, call in calls.items():
            start = time.process_time()
            call()
            lowest[label] = min(lowest[label], 1e3 * (time.process_time() - start) / IMAGES)
    return lowest


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    print(f"onnxruntime {onnxruntime.__version__}, sharpzo-mlx in {Path(sz.__file__).parent.name}")
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            print(name, measure_network(name, Path(folder), options.rounds), flush=True)


def measure_network(name: str, folder: Path, rounds: int) -> str:
    """Return sizes and times of a network's exports as text."""
    model = make_network(name)
    record, tower = make_record(model), Tower(model.config.vision, Weights(flatten_weights(model)))
    write_bundle(folder, record)
    sizes = {"bundle": sum(path.stat().st_size for path in folder.iterdir())}
    for label, half in (("onnx", False), ("onnx float16", True)):
        write_onnx(folder / f"{label}.onnx", record, tower, OnnxForm(half=half))
        sizes[label] = (folder / f"{label}.onnx").stat().st_size
    for label, half in (("coreml", False), ("coreml float16", True)):
        package = folder / f"{label}.mlpackage"
        write_coreml(package, record, tower, half=half)
        sizes[label] = sum(path.stat().st_size for path in package.rglob("*"))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "onnx.onnx"), settings, providers=["CPUExecutionProvider"])
    side = model.config.vision.image_size
    pictures = np.random.default_rng(1).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    ours = encoder(model)
    calls = {"ours": lambda: ours(pictures), "onnxruntime": lambda: session.run(None, {"image": pictures})}
    times = ", ".join(f"{label} {ms:.0f} ms" for label, ms in measure(calls, rounds).items())
    return ", ".join(f"{label} {size / 1e6:.1f} MB" for label, size in sizes.items()) + f"; {times}"


if __name__ == "__main__":
    main()
