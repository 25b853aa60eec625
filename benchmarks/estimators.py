"""Compare gradient estimates in several precisions: cosine to the true gradient, and seconds per estimate.

CGE probes every coordinate with central differences (SharpZO, arXiv 2506.20990, section 3.1), RGE and the pairs of
stage 2 probe random directions (eq. 5), forward mode takes the derivatives themselves. Rounding in
the products disturbs the difference of two close losses. The true gradient is MLX's automatic gradient of the same
function, with the weights' rounded values, in float32. CGE probes 64 of the 512 coordinates, which are independent of
each other. The number of directions bounds RGE's cosine to the gradient in every precision, so the script compares
slopes: the cosine between the differences along 32 directions and the true slopes.

Tuning always computes in float32, on the CPU with NumPy (`cpu`); the other rows run MLX's graph in the weights' type.

usage: python benchmarks/estimators.py [--model m --dataset FOLDER] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
from mlx import nn
from mlx.utils import tree_map

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.demo import MODEL_FOLDER, Amounts
from sharpzo_mlx.demo.render import DATASET, render
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.optimisers import gradients
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.space import PromptSpace, make_space
from sharpzo_mlx.prompts.tokens import tokenise_prompts

TESTBED = Path(__file__).resolve().parents[2] / "shared" / "testbed" / "pacs" / "photo" / "train"
MUS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
COORDINATES = 64  # number of probed coordinates
DIRECTIONS = 32
GROUP = 64
PARTS = ("cosines", "seconds")
# name: type of the weights, bits of the layers' matrices, whether NumPy computes as in tuning on the CPU
PRECISIONS: dict[str, tuple[mx.Dtype, int | None, bool]] = {
    "float32 (cpu)": (mx.float32, None, True),
    "float32": (mx.float32, None, False),
    "bfloat16": (mx.bfloat16, None, False),
    "float16": (mx.float16, None, False),
    "8 bits (cpu)": (mx.float32, 8, True),
    "8 bits, float32": (mx.float32, 8, False),
    "4 bits, float32": (mx.float32, 4, False),
    "8 bits, float16": (mx.float16, 8, False),
    "4 bits, float16": (mx.float16, 4, False),
}


def quantise(model: CLIPModel, bits: int) -> None:
    """Quantise the matrices of the text tower's layers, as `convert --quantize` does."""

    def chosen(path: str, module: nn.Module) -> bool:
        return path.startswith("text_model.encoder.") and isinstance(module, nn.Linear)

    nn.quantize(model, GROUP, bits, class_predicate=chosen)


def text_half(folder: Path, dtype: mx.Dtype, bits: int | None, *, exact: bool) -> CLIPModel:
    """Load the text tower in a precision; with `exact`, hold the rounded values in float32."""
    model = load_model(folder, towers=("text",), dtype=mx.float32)
    model.update(tree_map(lambda weight: weight.astype(dtype), model.parameters()))
    if bits is not None:
        quantise(model, bits)
    if exact:
        for layer in model.text_model.encoder.layers if bits is not None else []:
            layer.update_modules(tree_map(_dequantise, layer.leaf_modules(), is_leaf=nn.Module.is_module))
        model.update(tree_map(lambda weight: weight.astype(mx.float32), model.parameters()))
    mx.eval(model.parameters())
    return model


def _dequantise(module: nn.Module) -> nn.Module:
    """Return a quantised layer as a linear layer with the dequantised weights."""
    if not isinstance(module, nn.QuantizedLinear):
        return module
    weight = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = weight, module.bias
    return linear


class Setting:
    """The features and prompts of one data set, from which objectives in any precision are made."""

    def __init__(self, folder: Path, train: Features, dimension: int) -> None:
        self.clip, self.train, self.dimension = sz.load(folder), train, dimension
        self.tokens = tokenise_prompts(self.clip.tokenizer, "a photo of a {}.", train.class_names)

    def space(self, model: CLIPModel) -> PromptSpace:
        """Make the space that tuning searches by default."""
        scale = sz.TuneConfig().space.relative_scale
        return make_space(
            model.text_model,
            self.tokens,
            dimension=self.dimension,
            relative_scale=scale,
            projection_std=None,
            seed=0,
        )

    def objective(self, dtype: mx.Dtype, bits: int | None, *, numpy: bool = False, exact: bool = False) -> Objective:
        """Make the objective in a precision, computed by MLX's graph or by NumPy on the CPU."""
        model = text_half(self.clip.folder, dtype, bits, exact=exact)
        text = SharedPrefixText(model.text_model, model.text_projection, self.tokens)
        scale = self.clip.logit_scale
        labels = self.train.labels.tolist()
        return Objective(
            text,
            self.space(model),
            self.train.embeddings,
            labels,
            logit_scale=scale,
            backend="numpy" if numpy else "graph",
        )


def cosine(a: mx.array, b: mx.array) -> float:
    """Return the cosine between two vectors; 0 if one of them is zero."""
    x, y = (np.array(v, dtype=np.float64) for v in (a, b))
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths > 0 else 0.0


def compute_true_gradient(objective: Objective, w: mx.array) -> mx.array:
    """Compute the gradient by automatic differentiation of the graph."""
    scale = objective.logit_scale

    def loss(x: mx.array) -> mx.array:
        features = objective.text.class_features(objective.space.contexts(x[None]))[0]
        logits = scale * (objective.embeddings @ features.T)
        return mx.mean(nn.losses.cross_entropy(logits, objective.labels))

    gradient: mx.array = mx.grad(loss)(w)
    return gradient


def measure_cosines(objective: Objective, exact: Objective) -> dict[str, Any]:
    """Return the cosines of CGE and slopes at every mu, and of forward mode, as means over two points."""
    d = objective.dimension
    points = [mx.zeros(d), 0.4 * mx.random.normal((d,), key=mx.random.key(1))]
    u = mx.random.normal((DIRECTIONS, d), key=mx.random.key(2))
    probed = mx.arange(0, d, max(1, d // COORDINATES))
    axes = mx.eye(d)[probed]
    found: dict[str, Any] = {"cge": {mu: [] for mu in MUS}, "slopes": {mu: [] for mu in MUS}, "forward": []}
    for w in points:
        truth = compute_true_gradient(exact, w)
        for mu in MUS:
            along = gradients.difference_slopes(objective, w, axes, mu).values
            found["cge"][mu].append(cosine(along, truth[probed]))
            slopes = gradients.difference_slopes(objective, w, u, mu).values
            found["slopes"][mu].append(cosine(slopes, u @ truth))
        found["forward"].append(cosine(gradients.derivative_slopes(objective, w, u).values, u @ truth))
    mean = {kind: {mu: float(np.mean(values)) for mu, values in found[kind].items()} for kind in ("cge", "slopes")}
    return mean | {"forward": float(np.mean(found["forward"]))}


def measure_seconds(objective: Objective) -> dict[str, float]:
    """Measure the seconds of one estimate of each kind after one to warm up; CGE would take ten times RGE's."""
    d = objective.dimension
    w, key, mu = mx.zeros(d), mx.random.key(3), 1e-2
    one, tenth = mx.random.normal((1, d), key=key), max(1, d // 10)
    work: dict[str, Callable[[], mx.array]] = {
        "pair": lambda: gradients.difference_slopes(objective, w, one, mu).values,
        "derivative": lambda: gradients.derivative_slopes(objective, w, one).values,
        "rge": lambda: gradients.rge(objective, w, key, mu=mu, directions=tenth).vector,
        "forward": lambda: gradients.forward_mode(objective, w, key, directions=tenth).vector,
    }
    return {name: _time_second(run) for name, run in work.items()}


def _time_second(run: Callable[[], mx.array]) -> float:
    for _ in range(2):
        start = time.perf_counter()
        mx.eval(run())
    return time.perf_counter() - start


def measure(setting: Setting, name: str, parts: list[str]) -> dict[str, Any]:
    """Measure the figures of one precision."""
    dtype, bits, numpy = PRECISIONS[name]
    objective, found = setting.objective(dtype, bits, numpy=numpy), {"precision": name}
    if "seconds" in parts:
        found["seconds"] = measure_seconds(objective)
    if "cosines" in parts:
        found["cosines"] = measure_cosines(objective, setting.objective(dtype, bits, exact=True))
    return found


def print_table(rows: list[dict[str, Any]], parts: list[str], dimension: int) -> None:
    """Print the figures of all precisions."""
    mus = [f"{mu:g}" for mu in MUS]
    headings = {"cge": "CGE: cosine to the gradient", "slopes": "RGE, pairs: cosine of slopes"}
    for kind, words in headings.items() if "cosines" in parts else ():
        print(f"\n| {words} at mu = | " + " | ".join(mus) + " | forward mode |\n|" + (len(mus) + 2) * "---|")
        for row in rows:
            found = [*row["cosines"][kind].values(), row["cosines"]["forward"]]
            print(f"| {row['precision']} | " + " | ".join(f"{value:.3f}" for value in found) + " |")
    if "seconds" in parts:
        names = list(rows[0]["seconds"])
        print(f"\n| ms, d = {dimension} | " + " | ".join(names) + " |\n|" + (len(names) + 1) * "---|")
        for row in rows:
            spent = " | ".join(f"{1e3 * value:.1f}" for value in row["seconds"].values())
            print(f"| {row['precision']} | {spent} |")


def encode_training_images(model: Path, dataset: Path | None) -> Features:
    """Encode a folder of class folders, or the demonstration's pictures if none is given."""
    if dataset is not None:
        return encode(sz.load(model), read_folder(dataset))
    with tempfile.TemporaryDirectory() as scratch:
        for _ in render(Path(scratch), amounts=Amounts(16, 1, 1, 1)):
            pass
        return encode(sz.load(model), read_folder(Path(scratch) / DATASET / "train"), cache=False)


def main() -> None:
    """Measure the chosen precisions, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a converted model folder; without it the demonstration's")
    parser.add_argument(
        "--dataset", type=Path, help="a folder of class folders; with --model, the testbed's pacs/photo"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dimension", type=int, default=512, help="d")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    dataset = given.dataset or (TESTBED if given.model else None)
    model = given.model or MODEL_FOLDER
    setting = Setting(model, encode_training_images(model, dataset), given.dimension)
    rows = []
    for name in given.precisions:
        rows.append(measure(setting, name, given.parts))
        print(f"{name}: done", file=sys.stderr, flush=True)
    print_table(rows, given.parts, given.dimension)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=4) + "\n")


if __name__ == "__main__":
    main()
