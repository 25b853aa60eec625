"""A transformer layer in NumPy, for MLX's CPU device: its weights, its buffers, what its parts compute.

MLX's CPU backend computes exp and its like one element at a time and on one core, so on that device both of CLIP's
towers go through NumPy, a piece of work from its first layer to its last on one core (`cores.spread`): `host_text`
and `host_vision`. Weights are used in float32, whatever they are stored in; float32 ones are not copied.

    layer = cpu_layer(encoder.layers[0])
    layer.finish(x, room, act)          # x [r, m] in place, its attention in room.y
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx import nn

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer

Array = np.ndarray
ROWS = 512  # tokens of one piece: enough for a product's full speed, few enough for the cache


@dataclass(frozen=True)
class Affine:
    """x W^T + b, and a layer norm's weight and bias."""

    weight: Array
    bias: Array | None
    eps: float = 0.0

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """The product [..., in] -> [..., out]."""
        y: Array = np.matmul(x, self.weight.T, out=out)
        if self.bias is not None:
            y += self.bias
        return y

    def norm(self, x: Array, out: Array) -> Array:
        """The layer norm of rows [R, m]."""
        np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
        variance = np.einsum("ri,ri->r", out, out) / x.shape[-1]
        out *= (1 / np.sqrt(variance + np.float32(self.eps)))[:, None]
        out *= self.weight
        out += self.bias
        return out


class Buffers:
    """The arrays that one piece of work needs, for all of its layers."""

    def __init__(self, rows: int, width: int, hidden: int) -> None:
        self.x, self.y, self.q, self.k, self.v = (np.empty((rows, width), np.float32) for _ in range(5))
        self.hidden = np.empty((rows, hidden), np.float32)


@dataclass(frozen=True)
class CPULayer:
    """One layer's weights."""

    norm1: Affine
    q: Affine
    k: Affine
    v: Affine
    out: Affine
    norm2: Affine
    fc1: Affine
    fc2: Affine

    def finish(self, x: Array, room: Buffers, act: Callable[[Array], None]) -> None:
        """What follows the attention, whose result is in `room.y`: x [r, m] is changed in place."""
        r = len(x)
        x += self.out(room.y[:r], room.q[:r])
        hidden = self.fc1(self.norm2.norm(x, room.y[:r]), room.hidden[:r])
        act(hidden)
        x += self.fc2(hidden, room.q[:r])


def cpu_layer(layer: EncoderLayer) -> CPULayer:
    """The weights of a layer of the network."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = (layer.layer_norm1, attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    return CPULayer(*[affine(module) for module in (*modules, layer.layer_norm2, mlp.fc1, mlp.fc2)])


def affine(module: Any) -> Affine:
    """The numbers of a linear layer, quantised or not, or of a layer norm."""
    bias = array(module.bias) if "bias" in module else None
    if isinstance(module, nn.QuantizedLinear):
        weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, mode=module.mode
        )
        return Affine(array(weight), bias)
    return Affine(array(module.weight), bias, getattr(module, "eps", 0.0))


def array(x: mx.array) -> Array:
    """An MLX array in float32, without a copy where it is such already."""
    return np.array(x, copy=False) if x.dtype == mx.float32 else np.array(x.astype(mx.float32))


def by_head(x: Array, heads: int) -> Array:
    """[..., T, m] -> a view [..., H, T, h]."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def softmax(scores: Array) -> Array:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
