"""Queries a second against the released code's way of computing them, in one process and minute.

One query is L(w): a pass of the text tower over K class prompts and an N x K product (SharpZO, arXiv 2506.20990,
section 3). The oracle computes it in torch as the method's released code does: all 77 tokens, one candidate at a
time, float32, all cores. Both have the same random weights, and the losses are compared. The bound is what the
operations of our products alone would take at the matrix speed measured here and now. Rounds alternate and the
fastest of each counts, so that other work on the machine troubles both alike.

usage: python benchmarks/queries.py [--model ViT-B/16] [--classes 10 100] [--rounds 3] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cost import SIZES, tower

import mlx.core as mx  # isort: skip
import numpy as np
import torch
import torch.nn.functional as functional

from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.objective import Objective
from sharpzo_mlx.prompt import PromptTokens, make_space
from sharpzo_mlx.prompted_text import specialise

SHOTS, POPULATION, CONTEXT, DIMENSION = 16, 40, 4, 512
PROMPTS = 800  # of a timed batch, where the population would take minutes
SEQUENCE = 77
FULL_STOP, EOS = 269, 49407
SCALE = 100.0


@dataclass(frozen=True)
class Row:
    """Figures of one size; operations are those of matrix products, of one query, in 1e9."""

    model: str
    classes: int
    batch: int
    ours_ms: float
    oracle_ms: float
    speedup: float
    ours_cpu_ms: float  # processor time, of all cores: what is left of a timing on a machine with other work
    oracle_cpu_ms: float
    spread: float  # of the losses, relative: that they depend on the candidate
    difference: float  # largest relative difference from the oracle's losses
    ours_gflop: float
    oracle_gflop: float
    matrix_gflops: float
    bound_share: float


def prompts(classes: int, seed: int = 0) -> PromptTokens:
    """Class names of one to four tokens anywhere in the vocabulary: next to nothing is shared."""
    draw = np.random.default_rng(seed)
    names = [draw.integers(1000, 40000, draw.integers(1, 5)).tolist() for _ in range(classes)]
    return PromptTokens(49406, (320, 1125, 539, 320), tuple((*name, FULL_STOP, EOS) for name in names))


def spread_weights(model: CLIPModel) -> None:
    """Random weights under which contexts matter: MLX's own defaults leave a tower nearly constant."""
    table = model.text_model.embeddings
    table.token_embedding.weight = 0.5 * table.token_embedding.weight
    mx.eval(model.parameters())


def objective_of(model: CLIPModel, tokens: PromptTokens) -> Objective:
    """The objective on sixteen random unit features a class."""
    space = make_space(model.text_model, tokens, dimension=DIMENSION, relative_scale=1.0, projection_std=None, seed=0)
    classes = len(tokens.suffixes)
    images = np.random.default_rng(1).standard_normal((SHOTS * classes, model.config.projection_dim))
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    text = specialise(model.text_model, model.text_projection, tokens)
    labels = [index // SHOTS for index in range(SHOTS * classes)]
    return Objective(text, space, mx.array(images), labels, logit_scale=SCALE)


class Oracle:
    """L(w) for one w, with torch's own multi-head attention over [77, K, m]."""

    def __init__(self, model: CLIPModel, tokens: PromptTokens, objective: Objective) -> None:
        def tensor(x: mx.array) -> torch.Tensor:
            return torch.from_numpy(np.array(x))

        ids = [[tokens.sos, *tokens.prefix, *suffix] for suffix in tokens.suffixes]
        self.eos = torch.tensor([len(row) - 1 for row in ids])
        padded = mx.array([row + [0] * (SEQUENCE - len(row)) for row in ids])
        tower = model.text_model
        self.embedded = tensor(tower.embed(padded))
        self.positions = tensor(tower.positions(SEQUENCE))
        self.heads = tower.config.num_attention_heads
        self.layers = [self._weights(layer, tensor) for layer in tower.encoder.layers]
        final = tower.final_layer_norm
        self.final = (tensor(final.weight), tensor(final.bias))
        self.projection = tensor(model.text_projection.weight)
        self.images, self.labels = tensor(objective.embeddings), tensor(objective.labels).long()
        self.mask = torch.full((SEQUENCE, SEQUENCE), -torch.inf).triu(1)

    @staticmethod
    def _weights(layer: Any, tensor: Callable[[mx.array], torch.Tensor]) -> dict[str, torch.Tensor]:
        a, m = layer.self_attn, layer.mlp
        stack = (a.q_proj, a.k_proj, a.v_proj)
        found = {"in.weight": torch.cat([tensor(p.weight) for p in stack])}
        found["in.bias"] = torch.cat([tensor(p.bias) for p in stack])
        modules = {"out": a.out_proj, "n1": layer.layer_norm1, "n2": layer.layer_norm2, "fc1": m.fc1, "fc2": m.fc2}
        for name, module in modules.items():
            found |= {f"{name}.weight": tensor(module.weight), f"{name}.bias": tensor(module.bias)}
        return found

    @torch.inference_mode()
    def loss(self, context: torch.Tensor) -> float:
        """Mean cross-entropy under one context [n, m]."""
        x = self.embedded.clone()
        x[:, 1 : 1 + CONTEXT] = context
        x = (x + self.positions).transpose(0, 1)  # [77, K, m], as the released code has it
        for layer in self.layers:
            x = self._layer(x, layer)
        x = x.transpose(0, 1)[torch.arange(len(self.eos)), self.eos]
        x = functional.layer_norm(x, x.shape[-1:], *self.final) @ self.projection.T
        logits = SCALE * self.images @ (x / x.norm(dim=-1, keepdim=True)).T
        return float(functional.cross_entropy(logits, self.labels))

    def _layer(self, x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
        width = x.shape[-1]
        y = functional.layer_norm(x, (width,), w["n1.weight"], w["n1.bias"])
        y, _ = functional.multi_head_attention_forward(
            y, y, y, width, self.heads, w["in.weight"], w["in.bias"], None, None, False, 0.0,
            w["out.weight"], w["out.bias"], training=False, need_weights=False, attn_mask=self.mask,
        )  # fmt: skip
        x = x + y
        y = functional.layer_norm(x, (width,), w["n2.weight"], w["n2.bias"])
        y = functional.linear(y, w["fc1.weight"], w["fc1.bias"])
        y = y * torch.sigmoid(1.702 * y)
        return x + functional.linear(y, w["fc2.weight"], w["fc2.bias"])


def our_gflop(objective: Objective, layers: int, width: int, joint: int) -> float:
    """Operations of the weights' products and the logits of one query, with all savings, in 1e9."""
    tokens, classes = objective.text.tokens, objective.text.classes
    middle = 24 * width**2 * tokens * (layers - 1) - 6 * width**2 * (tokens - CONTEXT)  # the first layer's are known
    last = 4 * width**2 * tokens + 20 * width**2 * classes + 2 * width * joint * classes
    return (middle + last + 2 * SHOTS * classes**2 * joint) / 1e9


def oracle_gflop(classes: int, layers: int, width: int, joint: int) -> float:
    """The same of the oracle."""
    products = 24 * width**2 * SEQUENCE * classes * layers + 2 * width * joint * classes
    return (products + 2 * SHOTS * classes**2 * joint) / 1e9


def matrix_speed(width: int) -> float:
    """NumPy's GFLOP/s on this tower's largest product, now."""
    x, w = (np.ones((rows, columns), np.float32) for rows, columns in ((2048, width), (4 * width, width)))
    out = np.empty((2048, 4 * width), np.float32)
    best = min(timed(lambda: np.matmul(x, w.T, out=out))[0] for _ in range(8))
    return 2 * 2048 * 4 * width**2 / best / 1e9


def timed(work: Callable[[], object]) -> np.ndarray:
    """Seconds, and processor seconds, of one call."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - start


def measure(name: str, classes: int, rounds: int) -> Row:
    """Alternate both and take the fastest of each."""
    width, layers, joint = (SIZES[name][i] for i in (0, 1, 3))
    model, tokens = tower(name, "text", mx.float32), prompts(classes)
    spread_weights(model)
    objective = objective_of(model, tokens)
    oracle = Oracle(model, tokens, objective)
    batch = min(POPULATION, max(2, PROMPTS // classes))
    w = mx.random.normal((batch, DIMENSION), key=mx.random.key(0))
    contexts = torch.from_numpy(np.array(objective.space.contexts(w)))
    losses = np.array(objective.losses(w))
    expected, ours, theirs, speeds = [], [], [], []
    for number in range(rounds):
        speeds.append(matrix_speed(width))
        ours.append(timed(lambda: mx.eval(objective.losses(w))) / batch)
        context = contexts[number % batch]
        theirs.append(timed(lambda context=context: expected.append(oracle.loss(context))))
    needed, speed = our_gflop(objective, layers, width, joint), max(speeds)
    (ours_s, ours_cpu), (oracle_s, oracle_cpu) = np.min(ours, axis=0), np.min(theirs, axis=0)
    differences = np.array(expected) / np.resize(losses, len(expected)) - 1
    return Row(
        model=name,
        classes=classes,
        batch=batch,
        ours_ms=1e3 * ours_s,
        oracle_ms=1e3 * oracle_s,
        speedup=oracle_s / ours_s,
        ours_cpu_ms=1e3 * ours_cpu,
        oracle_cpu_ms=1e3 * oracle_cpu,
        spread=float(np.ptp(losses) / np.mean(losses)),
        difference=float(np.max(np.abs(differences))),
        ours_gflop=needed,
        oracle_gflop=oracle_gflop(classes, layers, width, joint),
        matrix_gflops=speed,
        bound_share=needed / speed / ours_s,
    )


def main() -> None:
    """Print a row for each number of classes, and write all of them as JSON."""
    parser = argparse.ArgumentParser(description="Queries a second against the released code's way.")
    parser.add_argument("--model", choices=SIZES, default="ViT-B/16")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; set OPENBLAS_NUM_THREADS to the same for ours")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads or torch.get_num_threads())
    print("| model | K | ours ms | oracle ms | times | CPU ms | oracle | times ", end="")
    print("| loss differs by | GFLOP ours | oracle | GFLOP/s | of the bound |")
    print("|" + 13 * "---|")
    rows = []
    for classes in given.classes:
        rows.append(row := measure(given.model, classes, given.rounds))
        print(
            f"| {row.model} | {row.classes} | {row.ours_ms:.1f} | {row.oracle_ms:.0f} | {row.speedup:.1f} "
            f"| {row.ours_cpu_ms:.1f} | {row.oracle_cpu_ms:.0f} | {row.oracle_cpu_ms / row.ours_cpu_ms:.1f} "
            f"| {row.difference:.1e} | {row.ours_gflop:.2f} | {row.oracle_gflop:.1f} | {row.matrix_gflops:.0f} "
            f"| {row.bound_share:.2f} |",
            flush=True,
        )
    if given.output:
        given.output.write_text(json.dumps([asdict(row) for row in rows], indent=4) + "\n")


if __name__ == "__main__":
    main()
