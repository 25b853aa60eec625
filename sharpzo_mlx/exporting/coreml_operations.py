"""`Operations` in MIL, the language of Core ML's programs, operators of iOS 17; a value is a variable of the program.

The batch is one picture, as Core ML's image inputs have it. The names of operations begin with the part of the network
that they are in, so that half precision can leave out the classifier.

>>> ops = CoreMLOperations()  # doctest: +SKIP
>>> ops.activate(x, "relu").name  # doctest: +SKIP
'tower_relu_0'
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpzo_mlx.exporting.coreml_tools import mb
from sharpzo_mlx.exporting.operations import Array, Value

TOWER, CLASSIFIER = "tower", "classifier"
GELU = {"gelu": "EXACT", "quick_gelu": "SIGMOID_APPROXIMATION"}  # x times the sigmoid of 1.702 x


class CoreMLOperations:
    """Adds operations to the program that is being built.

    Attributes:
        part: what the names of new operations begin with, TOWER or CLASSIFIER.
    """

    def __init__(self) -> None:
        self.part = TOWER
        self._count = 0

    def run(self, operator: str, **inputs: Any) -> Value:
        """Add an operation; `name` gives it a name of its own."""
        name = inputs.pop("name", f"{self.part}_{operator}_{self._count}")
        self._count += 1
        return getattr(mb, operator)(**inputs, name=name)

    def convolve(self, x: Value, kernel: Array, bias: Array | None, *, stride: int, padding: int, groups: int) -> Value:
        """See `Operations`."""
        weights = {"weight": _dense(kernel.transpose(0, 3, 1, 2))} | ({} if bias is None else {"bias": bias})
        moves = {"strides": [stride, stride], "pad_type": "custom", "pad": [padding] * 4}
        return self.run("conv", x=x, **weights, **moves, groups=groups)

    def average_pool(self, x: Value, size: int) -> Value:
        """See `Operations`."""
        return self.run("avg_pool", x=x, kernel_sizes=[size, size], strides=[size, size], pad_type="valid")

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """See `Operations`."""
        summand = {} if bias is None else {"bias": _dense(bias)}
        return self.run("linear", x=x, weight=_dense(weight), **summand)

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """See `Operations`."""
        return self.run("layer_norm", x=x, axes=[-1], gamma=weight, beta=bias, epsilon=np.float32(eps))

    def activate(self, x: Value, name: str) -> Value:
        """See `Operations`."""
        if name in ("relu", "sigmoid"):
            return self.run(name, x=x)
        return self.run("gelu", x=x, mode=GELU.get(name, "TANH_APPROXIMATION"))

    def add(self, x: Value, y: Value | Array) -> Value:
        """See `Operations`."""
        return self.run("add", x=x, y=y)

    def multiply(self, x: Value, y: Value | Array) -> Value:
        """See `Operations`."""
        return self.run("mul", x=x, y=y)

    def divide(self, x: Value, y: Value | Array) -> Value:
        """See `Operations`."""
        return self.run("real_div", x=x, y=y)

    def square_root(self, x: Value) -> Value:
        """See `Operations`."""
        return self.run("sqrt", x=x)

    def matmul(self, x: Value | Array, y: Value | Array) -> Value:
        """See `Operations`; a matrix on the right is a linear layer's, which need not be turned and rounded."""
        if isinstance(y, np.ndarray) and y.ndim == 2:
            return self.linear(x, y.T, None)
        return self.run("matmul", x=x, y=y)

    def softmax(self, x: Value) -> Value:
        """See `Operations`."""
        return self.run("softmax", x=x, axis=-1)

    def mean(self, x: Value, axes: tuple[int, ...], *, keep: bool) -> Value:
        """See `Operations`."""
        return self.run("reduce_mean", x=x, axes=list(axes), keep_dims=keep)

    def sum_last(self, x: Value) -> Value:
        """See `Operations`."""
        return self.run("reduce_sum", x=x, axes=[-1], keep_dims=True)

    def least(self, x: Value) -> Value:
        """See `Operations`."""
        return self.run("reduce_min", x=x, axes=[-1], keep_dims=True)

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """See `Operations`; the batch is one."""
        return self.run("reshape", x=x, shape=[1, *shape[1:]])

    def transpose(self, x: Value, axes: tuple[int, ...]) -> Value:
        """See `Operations`."""
        return self.run("transpose", x=x, perm=list(axes))

    def first(self, x: Value) -> Value:
        """See `Operations`."""
        one, width = x.shape[0], x.shape[2]
        return self.run("slice_by_index", x=x, begin=[0, 0, 0], end=[one, 1, width], squeeze_mask=[False, True, False])

    def put_zeros_first(self, x: Value) -> Value:
        """See `Operations`."""
        return self.run("concat", values=(np.zeros((1, 1, x.shape[2]), np.float32), x), axis=1)

    def join(self, x: Value, y: Value) -> Value:
        """See `Operations`."""
        return self.run("concat", values=(x, y), axis=1)


def _dense(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
