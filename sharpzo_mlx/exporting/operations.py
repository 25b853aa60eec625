"""The operations that the networks of `exporting` are written in; each format implements them once.

A network is a function of `Operations` and a value of the format's own kind, so that ViT, ResNet, FastViT and the
classifier are described once for all formats. The first axis of every value is the batch, whose size is not known.
Pictures are [N, channels, H, W], tokens [N, T, m], features [N, D].

>>> def twice(ops, x):
...     return ops.add(x, x)
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Value = Any  # what a format calls the result of an operation: a name, an object


class Operations(Protocol):
    """The operations; `x`, `y` are values, or arrays, which become constants. Shapes broadcast as NumPy's do."""

    def convolve(self, x: Value, kernel: Array, bias: Array | None, *, stride: int, padding: int, groups: int) -> Value:
        """Convolve pictures with a kernel [out, height, width, in / groups]; the padding is of zeros, on all sides."""
        ...

    def average_pool(self, x: Value, size: int) -> Value:
        """Return the means of squares of pictures, without a rest that fills none."""
        ...

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """Return x W^T + b of the last axis, for a weight [out, in]."""
        ...

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """Normalise the last axis."""
        ...

    def activate(self, x: Value, name: str) -> Value:
        """Apply "quick_gelu", "gelu", a tanh form of GELU by any other name, "relu" or "sigmoid"."""
        ...

    def add(self, x: Value, y: Value | Array) -> Value:
        """Return x + y."""
        ...

    def multiply(self, x: Value, y: Value | Array) -> Value:
        """Return x y, element by element."""
        ...

    def divide(self, x: Value, y: Value | Array) -> Value:
        """Return x / y, element by element."""
        ...

    def square_root(self, x: Value) -> Value:
        """Return the square root."""
        ...

    def matmul(self, x: Value | Array, y: Value | Array) -> Value:
        """Return the products of the last two axes."""
        ...

    def softmax(self, x: Value) -> Value:
        """Return the softmax over the last axis."""
        ...

    def mean(self, x: Value, axes: tuple[int, ...], *, keep: bool) -> Value:
        """Return the mean over axes, which stay with length 1 if `keep`."""
        ...

    def sum_last(self, x: Value) -> Value:
        """Return the sum over the last axis, which stays with length 1."""
        ...

    def least(self, x: Value) -> Value:
        """Return the minimum over the last axis, which stays with length 1."""
        ...

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """Give a value the shape (-1, ...), where -1 is the batch."""
        ...

    def transpose(self, x: Value, axes: tuple[int, ...]) -> Value:
        """Reorder the axes."""
        ...

    def first(self, x: Value) -> Value:
        """Return the first token, [N, T, m] -> [N, m]."""
        ...

    def put_zeros_first(self, x: Value) -> Value:
        """Return tokens behind a token of zeros, [N, T, m] -> [N, 1 + T, m]."""
        ...

    def join(self, x: Value, y: Value) -> Value:
        """Return the tokens of x, then those of y."""
        ...
