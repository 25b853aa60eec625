"""`Operations` as nodes of an ONNX graph, operator set 17; a value is the name of a tensor.

With half precision, matrices and kernels are stored as float16 and turned into float32 when the graph is loaded. All is
computed in float32: a runtime without float16 arithmetic, such as one on a CPU, loses no time, and none loses accuracy.

>>> ops = OnnxOperations(half=False)  # doctest: +SKIP
>>> ops.activate("x", "relu")  # doctest: +SKIP
'relu_1'
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sharpzo_mlx.exporting.operations import Array

OPERATORS = 17  # the first set with layer norms


class OnnxOperations:
    """Collects the nodes and constants of a graph.

    Args:
        half: whether matrices and kernels are stored as float16.

    Attributes:
        nodes: the nodes in the order of computation.
        constants: the arrays by their names.
    """

    def __init__(self, half: bool) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._small: dict[tuple[bytes, str, tuple[int, ...]], str] = {}

    def run(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its result; `name` gives it one."""
        result = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], name=f"node_{result}", **attributes))
        return result

    def constant(self, array: np.ndarray, *, halved: bool = False) -> str:
        """Store an array and return the name of its value; equal small arrays are stored once.

        Args:
            array: float32 or int64.
            halved: whether it may be stored as float16.
        """
        array = np.asarray(array, order="C")
        if halved and self.half and array.dtype == np.float32:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = array.astype(np.float16)
            return self.run("Cast", name, to=TensorProto.FLOAT)
        key = (array.tobytes(), str(array.dtype), array.shape) if array.size <= 64 else None
        if key in self._small:
            return self._small[key]
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        if key is not None:
            self._small[key] = name
        return name

    def _value(self, x: str | Array) -> str:
        return x if isinstance(x, str) else self.constant(x)

    def convolve(self, x: str, kernel: Array, bias: Array | None, *, stride: int, padding: int, groups: int) -> str:
        """See `Operations`."""
        inputs = [x, self.constant(kernel.transpose(0, 3, 1, 2), halved=True)]
        inputs += [] if bias is None else [self.constant(bias)]
        side = list(kernel.shape[1:3])
        return self.run("Conv", *inputs, kernel_shape=side, strides=[stride, stride], pads=[padding] * 4, group=groups)

    def average_pool(self, x: str, size: int) -> str:
        """See `Operations`."""
        return self.run("AveragePool", x, kernel_shape=[size, size], strides=[size, size])

    def linear(self, x: str, weight: Array, bias: Array | None) -> str:
        """See `Operations`."""
        product = self.run("MatMul", x, self.constant(weight.T, halved=True))
        return product if bias is None else self.add(product, bias)

    def layer_norm(self, x: str, weight: Array, bias: Array, eps: float) -> str:
        """See `Operations`."""
        return self.run("LayerNormalization", x, self.constant(weight), self.constant(bias), axis=-1, epsilon=eps)

    def activate(self, x: str, name: str) -> str:
        """See `Operations`."""
        if name in ("relu", "sigmoid"):
            return self.run(name.capitalize(), x)
        if name == "gelu":
            erf = self.run("Erf", self.multiply(x, _number(math.sqrt(0.5))))
            return self.multiply(self.multiply(x, _number(0.5)), self.add(erf, _number(1)))
        if name == "quick_gelu":
            return self.multiply(x, self.run("Sigmoid", self.multiply(x, _number(1.702))))
        cube = self.multiply(self.multiply(x, x), x)
        inner = self.add(x, self.multiply(cube, _number(0.044715)))
        return self.multiply(x, self.run("Sigmoid", self.multiply(inner, _number(math.sqrt(8 / math.pi)))))

    def add(self, x: str, y: str | Array) -> str:
        """See `Operations`."""
        return self.run("Add", x, self._value(y))

    def multiply(self, x: str, y: str | Array) -> str:
        """See `Operations`."""
        return self.run("Mul", x, self._value(y))

    def divide(self, x: str, y: str | Array) -> str:
        """See `Operations`."""
        return self.run("Div", x, self._value(y))

    def square_root(self, x: str) -> str:
        """See `Operations`."""
        return self.run("Sqrt", x)

    def matmul(self, x: str | Array, y: str | Array) -> str:
        """See `Operations`."""
        return self.run("MatMul", self._value(x), self._value(y))

    def softmax(self, x: str) -> str:
        """See `Operations`."""
        return self.run("Softmax", x, axis=-1)

    def mean(self, x: str, axes: tuple[int, ...], *, keep: bool) -> str:
        """See `Operations`."""
        return self.run("ReduceMean", x, axes=list(axes), keepdims=int(keep))

    def sum_last(self, x: str) -> str:
        """See `Operations`."""
        return self.run("ReduceSum", x, self.constant(np.array([-1], np.int64)), keepdims=1)

    def least(self, x: str) -> str:
        """See `Operations`."""
        return self.run("ReduceMin", x, axes=[-1], keepdims=1)

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        """See `Operations`."""
        return self.run("Reshape", x, self.constant(np.array(shape, np.int64)))

    def transpose(self, x: str, axes: tuple[int, ...]) -> str:
        """See `Operations`."""
        return self.run("Transpose", x, perm=list(axes))

    def first(self, x: str) -> str:
        """See `Operations`."""
        return self.run("Gather", x, self.constant(np.array(0, np.int64)), axis=1)

    def put_zeros_first(self, x: str) -> str:
        """See `Operations`."""
        return self.run("Pad", x, self.constant(np.array([0, 1, 0, 0, 0, 0], np.int64)), mode="constant")

    def join(self, x: str, y: str) -> str:
        """See `Operations`."""
        return self.run("Concat", x, y, axis=1)


def _number(value: float) -> Array:
    return np.array(value, np.float32)
