"""Compare the time of a query with the released code's way of computing it, on the same cores.

One query is L(w): a pass of the text tower over K class prompts and an N x K product (SharpZO, arXiv 2506.20990,
section 3). The oracle computes it in torch as the method's released code does: all positions, one candidate at a
time, float32, all cores, in a separate process (`torch_oracle.py`). Both have the same random weights, and the script
compares the losses. The bound is the time of our products alone at the matrix speed measured in the same round. Rounds
alternate between the sides and the fastest of each counts, so that other work on the machine affects both alike; the
first of several rounds warms up.

usage: python benchmarks/queries.py [--models ViT-B/16 SigLIP-B/16] [--classes 10] [--names imagenet] [--batch 4]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from cost import SIZES, make_config, make_tower

import mlx.core as mx  # isort: skip
import numpy as np
from oracle import start_oracle

from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import clip_vocabulary
from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.space import make_space
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import PromptTokens, tokenise_prompts

SHOTS, POPULATION, CONTEXT, DIMENSION = 16, 40, 4, 512
PROMPTS = 800  # largest number of prompts in a timed batch
FULL_STOP, EOS = 269, 49407
SCALE = 100.0
NAMES = ("random", "imagenet")


@dataclass(frozen=True)
class Row:
    """The figures of one size; operations count one query's products with weights or images, in 1e9."""

    model: str
    names: str
    classes: int
    batch: int
    tokens: int  # computed per candidate; the oracle computes all positions of every class
    ours_ms: float
    oracle_ms: float
    speedup: float
    ours_cpu_ms: float  # processor time of all cores, which other work on the machine disturbs less
    oracle_cpu_ms: float
    losses: list[float]  # ours, and the oracle's of the same candidates
    oracle_losses: list[float]
    difference: float  # largest relative difference of the two
    ours_gflop: float
    oracle_gflop: float
    matrix_gflops: float
    bound_share: float


def make_prompts(classes: int, names: str = "random", seed: int = 0) -> PromptTokens:
    """Return prompts with random class names of one to four tokens, or with ImageNet's class names."""
    if names == "imagenet":
        known = imagenet.classes()
        chosen = [known.names[wnid] for wnid in known.ids[:: len(known.ids) // classes][:classes]]
        return tokenise_prompts(Tokenizer(clip_vocabulary()), "a photo of a {}.", chosen)
    draw = np.random.default_rng(seed)
    words = [draw.integers(1000, 40000, draw.integers(1, 5)).tolist() for _ in range(classes)]
    return PromptTokens(49406, (320, 1125, 539, 320), tuple((*name, FULL_STOP, EOS) for name in words))


def make_query_objective(
    model: CLIPModel,
    tokens: PromptTokens,
    *,
    shots: int = SHOTS,
    dimension: int = DIMENSION,
    backend: BackendName | None = None,
    memory_budget: int | None = None,
) -> Objective:
    """Make an objective on random image features of unit norm, `shots` per class."""
    space = make_space(model.text_model, tokens, dimension=dimension, relative_scale=1.0, projection_std=None, seed=0)
    classes = len(tokens.suffixes)
    images = np.random.default_rng(1).standard_normal((shots * classes, model.config.projection_dim))
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    text = specialise_text_tower(model.text_model, model.text_projection, tokens)
    labels = [index // shots for index in range(shots * classes)]
    return Objective(
        text, space, mx.array(images), labels, logit_scale=SCALE, memory_budget=memory_budget, backend=backend
    )


def our_gflop(objective: Objective, layers: int, width: int, joint: int) -> float:
    """Return our operations for the weights' products and the logits of one query, in 1e9.

    Empty places of the layout are not counted, because their values are not used.
    """
    tokens, classes = objective.text.tokens, objective.text.classes
    context = int(objective.space.initial.shape[0])
    known = tokens - context if isinstance(objective.text, SharedPrefixText) else 0  # rows of the first layer's q, k, v
    middle = 24 * width**2 * tokens * (layers - 1) - 6 * width**2 * known
    last = 4 * width**2 * tokens + 20 * width**2 * classes + 2 * width * joint * classes
    return (middle + last + 2 * objective.embeddings.shape[0] * classes * joint) / 1e9


def oracle_gflop(classes: int, images: int, layers: int, width: int, joint: int, sequence: int) -> float:
    """Return the oracle's operations for one query, in 1e9; it computes all positions of every prompt."""
    products = 24 * width**2 * sequence * classes * layers + 2 * width * joint * classes
    return (products + 2 * images * classes * joint) / 1e9


def matrix_speed(width: int) -> float:
    """Measure NumPy's GFLOP/s on this tower's largest product."""
    x, w = (np.ones((rows, columns), np.float32) for rows, columns in ((2048, width), (4 * width, width)))
    out = np.empty((2048, 4 * width), np.float32)
    best = min(timed(lambda: np.matmul(x, w.T, out=out))[0] for _ in range(8))
    return 2 * 2048 * 4 * width**2 / best / 1e9


def timed(work: Callable[[], object]) -> np.ndarray:
    """Measure seconds and processor seconds of one call."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - start


def measure(name: str, classes: int, given: argparse.Namespace) -> Row:
    """Time both sides in turn and keep the fastest time of each; `given` are the options of the command line."""
    names, rounds = given.names, given.rounds
    config = make_config(name)
    width, layers, joint = config.text.hidden_size, config.text.num_hidden_layers, config.projection_dim
    length = config.text.max_position_embeddings
    model, tokens = make_tower(name, "text", mx.float32), make_prompts(classes, names)
    objective = make_query_objective(model, tokens)
    batch = given.batch or min(POPULATION, max(2, PROMPTS // classes))
    w = mx.random.normal((batch, DIMENSION), key=mx.random.key(0))
    losses = np.array(objective.losses(w))
    ours, answers, speeds = [], [], []
    with start_oracle(model, tokens, objective, w, threads=given.threads, python=given.python) as ask:
        for number in range(rounds):
            speeds.append(matrix_speed(width))
            ours.append(timed(lambda: mx.eval(objective.losses(w))) / batch)
            answers.append(ask(number % batch))
    needed, speed = our_gflop(objective, layers, width, joint), max(speeds)
    (ours_s, ours_cpu), (oracle_s, oracle_cpu) = np.min(ours, axis=0), np.min([row[1:] for row in answers], axis=0)
    expected, found = [row[0] for row in answers], np.resize(losses, rounds).tolist()
    return Row(
        model=name,
        names=names,
        classes=classes,
        batch=batch,
        tokens=objective.text.tokens,
        ours_ms=1e3 * ours_s,
        oracle_ms=1e3 * oracle_s,
        speedup=oracle_s / ours_s,
        ours_cpu_ms=1e3 * ours_cpu,
        oracle_cpu_ms=1e3 * oracle_cpu,
        losses=found,
        oracle_losses=expected,
        difference=max(abs(a / b - 1) for a, b in zip(found, expected, strict=True)),
        ours_gflop=needed,
        oracle_gflop=oracle_gflop(classes, len(objective.labels), layers, width, joint, length),
        matrix_gflops=speed,
        bound_share=needed / speed / ours_s,
    )


def main() -> None:
    """Print a row for each number of classes, and write all of them as JSON."""
    parser = argparse.ArgumentParser(description="Compare the time of a query with the released code's way.")
    parser.add_argument("--models", "--model", nargs="+", choices=SIZES, default=["ViT-B/16"])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--names", choices=NAMES, default="random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; set OPENBLAS_NUM_THREADS to the same for ours")
    parser.add_argument("--batch", type=int, help="candidates at once, at most 800 / classes by default")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch, if it is another one")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    print("| model | names | K | tokens | ours ms | oracle ms | times | CPU ms | oracle | times ", end="")
    print("| loss differs by | GFLOP ours | oracle | GFLOP/s | of the bound |")
    print("|" + 15 * "---|")
    rows = []
    for model, classes in product(given.models, given.classes):
        rows.append(row := measure(model, classes, given))
        print(
            f"| {row.model} | {row.names} | {row.classes} | {row.tokens} "
            f"| {row.ours_ms:.1f} | {row.oracle_ms:.0f} | {row.speedup:.1f} "
            f"| {row.ours_cpu_ms:.1f} | {row.oracle_cpu_ms:.0f} | {row.oracle_cpu_ms / row.ours_cpu_ms:.1f} "
            f"| {row.difference:.1e} | {row.ours_gflop:.2f} | {row.oracle_gflop:.1f} | {row.matrix_gflops:.0f} "
            f"| {row.bound_share:.2f} |",
            flush=True,
        )
    if given.output:
        given.output.write_text(json.dumps([asdict(row) for row in rows], indent=4) + "\n")


if __name__ == "__main__":
    main()
