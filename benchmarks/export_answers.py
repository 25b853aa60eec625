"""Compare an exported ONNX graph with `predict` on image files: probabilities, labels and rejections.

The images are spaced evenly through each folder; folders of other looks and other things show the guard and rejections.

usage: python benchmarks/export_answers.py RUN FOLDER... [--count 200] [--dtype float16]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import numpy as np  # isort: skip
import onnxruntime

from sharpzo_mlx.images.decode import held_image
from sharpzo_mlx.images.load import resize_and_crop

ENDINGS = {".jpg", ".jpeg", ".png"}
REJECT = 0.05


def choose(folders: list[Path], count: int) -> list[Path]:
    """Return about `count` images, as many of each folder."""
    chosen: list[Path] = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        share = min(len(files), count // len(folders))
        chosen += [files[place * len(files) // share] for place in range(share)]
    return chosen


def compare(run: sz.Run, images: list[Path], dtype: str = "float32") -> dict[str, Any]:
    """Export a run, and return how the graph's answers differ from those of `predict`."""
    clip = sz.load(run.model_folder)
    rate = None if run.prompt.head is None else REJECT
    expected = sz.predict(run, images, top=len(run.prompt.class_names), reject=rate, clip=clip)
    pictures = []
    for path in images:
        with held_image(path) as image:
            pictures.append(resize_and_crop(image, clip.config.preprocessor))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "run.onnx")
        sz.export(run, "onnx", graph, options=sz.ExportOptions(dtype=dtype, reject=rate), clip=clip)
        session = onnxruntime.InferenceSession(str(graph))
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, {"image": np.stack(pictures)}), strict=True))
    own = np.array([[dict(one.labels)[name] for name in run.prompt.class_names] for one in expected])
    rejected = np.array([one.rejected for one in expected])
    return {
        "images": len(images),
        "difference": float(np.abs(own - found["probabilities"]).max()),
        "other labels": int((own.argmax(axis=1) != found["label"]).sum()),
        "other rejections": int((rejected != found["rejected"]).sum()) if "rejected" in found else 0,
        "rejected": int(rejected.sum()),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    asked = parser.parse_args()
    print(json.dumps(compare(sz.Run.load(asked.run), choose(asked.folders, asked.count), asked.dtype)))


if __name__ == "__main__":
    main()
