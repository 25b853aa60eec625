"""A transformer layer in NumPy, for MLX's CPU device: its weights, its buffers and its computations.

MLX's CPU backend computes exp and the like one element at a time and on one core. On that device both of CLIP's towers
therefore run in NumPy (`clip.cpu_vision`, `prompts.shared_prefix_cpu`): the work is cut into pieces, and one core
carries each piece from the first layer to the last (`runtime.threads.spread`). Weights are used in float32, whatever
dtype they are stored in; float32 weights are not copied.

    layer = cpu_layer(encoder.layers[0])
    layer.finish(x, buffers, act)       # changes x [r, m] in place; buffers.y holds its attention
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.runtime.products import host_products

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer

Array = np.ndarray
ROWS = 512  # tokens of one piece: enough for a product's full speed, few enough for the cache


@dataclass(frozen=True)
class Affine:
    """The weights of a linear map x W^T + b, or of a layer norm."""

    weight: Array
    bias: Array | None
    eps: float = 0.0

    @host_products()
    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Apply the linear map: [..., in] -> [..., out]."""
        y: Array = np.matmul(x, self.weight.T, out=out)
        if self.bias is not None:
            y += self.bias
        return y

    @host_products()
    def norm(self, x: Array, out: Array) -> Array:
        """Write the layer norm of the rows x [R, m] into `out` and return it."""
        np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
        variance = np.einsum("ri,ri->r", out, out) / x.shape[-1]
        out *= (1 / np.sqrt(variance + np.float32(self.eps)))[:, None]
        out *= self.weight
        out += self.bias
        return out


class Buffers:
    """The arrays that one piece of work needs; all of its layers reuse them."""

    def __init__(self, rows: int, width: int, hidden: int) -> None:
        self.x, self.y, self.q, self.k, self.v = (np.empty((rows, width), np.float32) for _ in range(5))
        self.hidden = np.empty((rows, hidden), np.float32)


@dataclass(frozen=True)
class CPULayer:
    """The weights of one transformer layer."""

    norm1: Affine
    q: Affine
    k: Affine
    v: Affine
    out: Affine
    norm2: Affine
    fc1: Affine
    fc2: Affine

    def finish(self, x: Array, buffers: Buffers, act: Callable[[Array], None]) -> None:
        """Apply the rest of the layer to x [r, m] in place, after the attention; `buffers.y` holds its result."""
        r = len(x)
        x += self.out(buffers.y[:r], buffers.q[:r])
        hidden = self.fc1(self.norm2.norm(x, buffers.y[:r]), buffers.hidden[:r])
        act(hidden)
        x += self.fc2(hidden, buffers.q[:r])

    @host_products()
    def attend(
        self,
        buffers: Buffers,
        sequences: int,
        *,
        heads: int,
        scale: np.float32,
        read: Array | None = None,
        turns: Array | None = None,
    ) -> None:
        """Write the attention within sequences to `buffers.y`; every token sees its whole sequence.

        Args:
            buffers: `x` holds the states [sequences * T, m]; `q`, `k` and `v` are overwritten.
            sequences: how many there are.
            heads, scale: of the attention.
            read: for each sequence the one token whose attention is computed; None: that of all tokens.
            turns: the factors [T, m / heads / 2] of `clip.rotary` for queries and keys, or None; not with `read`.
        """
        m = buffers.x.shape[1]
        y = asked = self.norm1.norm(buffers.x, buffers.y)
        if read is not None:
            asked = take_tokens(y, read)
        rows = len(asked)
        split = (self.q(asked, buffers.q[:rows]), self.k(y, buffers.k), self.v(y, buffers.v))
        if turns is not None:
            for part in split[:2]:
                turn(part, turns, heads)
        q, k, v = (by_head(part.reshape(sequences, -1, m), heads) for part in split)
        q *= scale
        out = by_head(buffers.y[:rows].reshape(sequences, -1, m), heads)
        np.matmul(softmax(q @ k.swapaxes(-1, -2)), v, out=out)


def turn(x: Array, turns: Array, heads: int) -> None:
    """Multiply pairs of numbers of x [p * T, m], as complex numbers, by their token's factors in place."""
    tokens, pairs = turns.shape
    x.view(np.complex64).reshape(-1, tokens, heads, pairs)[...] *= turns[:, None]


def take_tokens(x: Array, index: Array) -> Array:
    """Return a copy of one token of each sequence: [p * T, m] and [p] -> [p, m]."""
    taken: Array = x.reshape(len(index), -1, x.shape[1])[np.arange(len(index)), index]
    return taken


def cpu_layer(layer: EncoderLayer) -> CPULayer:
    """Return the weights of a layer of the network."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = (layer.layer_norm1, attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    return CPULayer(*[affine(module) for module in (*modules, layer.layer_norm2, mlp.fc1, mlp.fc2)])


def affine(module: Any) -> Affine:
    """Return the weights of a linear layer, quantised or not, or of a layer norm."""
    bias = array(module.bias) if "bias" in module else None
    if isinstance(module, nn.QuantizedLinear):
        weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, mode=module.mode
        )
        return Affine(array(weight), bias)
    return Affine(array(module.weight), bias, getattr(module, "eps", 0.0))


def array(x: mx.array) -> Array:
    """Return an MLX array as a NumPy array in float32; float32 arrays are not copied."""
    return np.array(x, copy=False) if x.dtype == mx.float32 else np.array(x.astype(mx.float32))


def by_head(x: Array, heads: int) -> Array:
    """Return a view by attention heads: [..., T, m] -> [..., H, T, h]."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def softmax(scores: Array) -> Array:
    """Replace scores by their softmax over the last axis, in place, and return them."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
