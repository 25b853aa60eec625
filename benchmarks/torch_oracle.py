"""Compute L(w) in torch as the method's released code does: all positions, one candidate at a time, float32.

This is the competitor of the benchmarks, which we wrote. It needs a separate process, because `import sharpzo_mlx`
loads OpenBLAS in such a way that torch uses it, too; torch's threads and OpenBLAS's then compete for the cores, which
made torch 2.3 times slower. `oracle.py` starts this file, sends the number of a context, and receives its loss, seconds
and processor seconds.

usage: python torch_oracle.py ARRAYS.npz [THREADS] < numbers of contexts
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional

ACTIVATIONS = {
    "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda y: functional.gelu(y, approximate="tanh"),
}


class Oracle:
    """The loss of one context, computed with torch's multi-head attention over [T, K, m].

    Args:
        arrays: the arrays of `oracle.export`: weights by their attribute paths, and the problem.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        found = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "act"}
        self.embedded, self.positions, self.eos = found["embedded"], found["positions"], found["eos"]
        self.images, self.labels = found["images"], found["labels"]
        self.contexts, self.scale, self.heads = found["contexts"], float(found["scale"]), int(found["heads"])
        self.final = (found["final_layer_norm.weight"], found["final_layer_norm.bias"])
        self.projection, self.bias = found["projection"], found["projection_bias"]
        self.act, self.eps = ACTIVATIONS[str(arrays["act"])], float(found["eps"])
        self.layers = [_layer(found, f"layers.{number}.") for number in range(int(found["layers"]))]
        length = len(self.positions)
        self.mask = torch.full((length, length), -torch.inf).triu(1) if found["causal"] else None

    @torch.inference_mode()
    def loss(self, number: int) -> float:
        """Return the mean cross-entropy under one of the contexts [n, m]."""
        context = self.contexts[number]
        x = self.embedded.clone()
        x[:, 1 : 1 + len(context)] = context
        x = (x + self.positions).transpose(0, 1)  # [T, K, m], as the released code has it
        for layer in self.layers:
            x = self._forward(x, layer)
        x = x.transpose(0, 1)[torch.arange(len(self.eos)), self.eos]
        x = functional.layer_norm(x, x.shape[-1:], *self.final, self.eps)
        x = functional.linear(x, self.projection, self.bias)
        logits = self.scale * self.images @ (x / x.norm(dim=-1, keepdim=True)).T
        return float(functional.cross_entropy(logits, self.labels))

    def _forward(self, x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
        width = x.shape[-1]
        y = functional.layer_norm(x, (width,), w["n1.weight"], w["n1.bias"], self.eps)
        y, _ = functional.multi_head_attention_forward(
            y, y, y, width, self.heads, w["in.weight"], w["in.bias"], None, None, False, 0.0,
            w["out.weight"], w["out.bias"], training=False, need_weights=False, attn_mask=self.mask,
        )  # fmt: skip
        x = x + y
        y = functional.layer_norm(x, (width,), w["n2.weight"], w["n2.bias"], self.eps)
        y = functional.linear(y, w["fc1.weight"], w["fc1.bias"])
        return x + functional.linear(self.act(y), w["fc2.weight"], w["fc2.bias"])


def _layer(found: Mapping[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    names = {"out": "self_attn.out_proj", "n1": "layer_norm1", "n2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    layer = {f"{k}.{p}": found[f"{path}{v}.{p}"] for k, v in names.items() for p in ("weight", "bias")}
    for part in ("weight", "bias"):
        layer[f"in.{part}"] = torch.cat([found[f"{path}self_attn.{kind}_proj.{part}"] for kind in "qkv"])
    return layer


def main() -> None:
    """Answer every number on standard input with a loss, seconds and processor seconds."""
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    with np.load(Path(sys.argv[1])) as arrays:
        oracle = Oracle(dict(arrays))
    for line in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        loss = oracle.loss(int(line))
        print(repr(loss), time.perf_counter() - start, time.process_time() - processor, flush=True)


if __name__ == "__main__":
    main()
