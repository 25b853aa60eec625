"""Carry out a Core ML package in NumPy, operation by operation as MIL's documentation has them, without a Mac.

The program is read from the files of the package, so it is the one that coremltools' rewriting has left. Every result
is rounded to the type that the program declares for it. An operation that is not known here is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # of NumPy
TYPES: dict[int, Any] = {1: np.bool_, 2: np.str_, 10: np.float16, 11: np.float32, 12: np.float64, 23: np.int32}
TYPES |= {25: np.int64}
BLOB = np.dtype([("mark", "<u4"), ("type", "<u4"), ("bytes", "<u8"), ("offset", "<u8")])
MARK = 0xDEADBEEF  # each array of a weight file begins with it
BLOB_TYPES: dict[int, Any] = {1: np.float16, 2: np.float32}


class Package:
    """A package that is read from its files.

    Attributes:
        spec: the model's description.
        block: its program.
        constants: arrays, numbers and texts by their names.
    """

    def __init__(self, path: Path) -> None:
        from sharpzo_mlx.exporting.coreml_tools import ct, quiet

        with quiet():
            self.spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        function = self.spec.mlProgram.functions["main"]
        self.block = function.block_specializations[function.opset]
        (file,) = path.rglob("weight.bin")
        self._weights = file.read_bytes()
        self.constants = {
            operation.outputs[0].name: self._value(operation.attributes["val"])
            for operation in self.block.operations
            if operation.type == "const"
        }

    @property
    def operations(self) -> list[Any]:
        """The operations that compute something."""
        return [operation for operation in self.block.operations if operation.type != "const"]

    def run(self, given: Array) -> dict[str, Any]:
        """Return the outputs by their names for one input, an image as bytes [H, W, 3] or a feature [D]."""
        (feature,) = self.spec.description.input
        if feature.type.WhichOneof("Type") == "imageType":
            assert given.shape == (feature.type.imageType.height, feature.type.imageType.width, 3)
            given = given.transpose(2, 0, 1)
        values = self.constants | {feature.name: given[None].astype(np.float32)}
        for operation in self.operations:
            inputs = {name: self._argument(one.arguments, values) for name, one in operation.inputs.items()}
            results = OPERATIONS[operation.type](**inputs)
            if operation.type == "classify":
                values |= dict(zip((output.name for output in operation.outputs), results, strict=True))
                continue
            (output,) = operation.outputs
            values[output.name] = _typed(np.asarray(results), output.type.tensorType)
        return {name: values[name] for name in self.block.outputs}

    def _argument(self, arguments: Any, values: dict[str, Any]) -> Any:
        found = [
            values[one.name] if one.WhichOneof("binding") == "name" else self._value(one.value) for one in arguments
        ]
        return found[0] if len(found) == 1 else found

    def _value(self, value: Any) -> Any:
        if value.type.WhichOneof("type") == "listType":
            return [self._value(one).item() for one in value.immediateValue.list.values]
        kind = value.type.tensorType
        shape = tuple(dimension.constant.size for dimension in kind.dimensions)
        dtype = TYPES[kind.dataType]
        if value.WhichOneof("value") == "blobFileValue":
            return self._read(value.blobFileValue.offset, dtype).reshape(shape)
        tensor = value.immediateValue.tensor
        numbers = getattr(tensor, tensor.WhichOneof("value")).values
        if isinstance(numbers, bytes):
            return np.frombuffer(numbers, dtype).reshape(shape)
        return np.array(list(numbers), dtype).reshape(shape)

    def _read(self, offset: int, dtype: Any) -> Array:
        """Return an array of the weight file; a record of its type, length and place stands at the offset."""
        (blob,) = np.frombuffer(self._weights, BLOB, 1, offset)
        assert (blob["mark"], BLOB_TYPES[int(blob["type"])]) == (MARK, dtype)
        return np.frombuffer(self._weights, dtype, int(blob["bytes"]) // np.dtype(dtype).itemsize, int(blob["offset"]))


def _typed(result: Array, kind: Any) -> Array:
    """Check a result's declared shape, and round it to its declared type."""
    assert result.shape == tuple(dimension.constant.size for dimension in kind.dimensions)
    return result.astype(TYPES[kind.dataType])


def _wide(x: Any) -> Array:
    return np.asarray(x, np.float32)


def _flags(flags: Any) -> list[bool]:
    return [bool(flag) for flag in flags]


def conv(
    *, x: Array, weight: Array, strides: Array, pad_type: Any, pad: Array, dilations: Array, groups: Any, bias: Any = 0
) -> Array:
    """x [1, C, H, W], weight [out, C / groups, h, w]."""
    assert list(dilations) == [1, 1]
    assert pad_type.item() in ("custom", "valid")
    top, bottom, left, right = pad if pad_type.item() == "custom" else (0, 0, 0, 0)
    x = np.pad(_wide(x), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    windows = windows[0, :, :: strides[0], :: strides[1]]
    parts = zip(np.split(windows, int(groups)), np.split(_wide(weight), int(groups)), strict=True)
    found = np.concatenate([np.einsum("cyxhw,ochw->oyx", picture, kernel, optimize=True) for picture, kernel in parts])
    return (found + np.broadcast_to(_wide(bias), len(weight))[:, None, None])[None]


def avg_pool(*, x: Array, kernel_sizes: Array, strides: Array, pad_type: Any, **_: Any) -> Array:
    """Means of windows without padding."""
    assert pad_type.item() == "valid"
    windows = np.lib.stride_tricks.sliding_window_view(_wide(x), tuple(kernel_sizes), axis=(2, 3))
    return windows[:, :, :: strides[0], :: strides[1]].mean(axis=(-2, -1))


def linear(*, x: Array, weight: Array, bias: Any = 0) -> Array:
    """x [..., in], weight [out, in]."""
    return _wide(x) @ _wide(weight).T + _wide(bias)


def matmul(*, x: Array, y: Array, transpose_x: Any, transpose_y: Any) -> Array:
    """The products of the last two axes, which the flags exchange."""
    x, y = _wide(x), _wide(y)
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


def softmax(*, x: Array, axis: Any) -> Array:
    """Exponentials that add up to one."""
    powers = np.exp(_wide(x) - _wide(x).max(axis=int(axis), keepdims=True))
    return powers / powers.sum(axis=int(axis), keepdims=True)


def layer_norm(*, x: Array, axes: Array, gamma: Array, beta: Array, epsilon: Any) -> Array:
    """(x - mean) / sqrt(variance + epsilon) gamma + beta."""
    wide, over = _wide(x), tuple(axes)
    assert over in ((-1,), (wide.ndim - 1,))
    spread = np.sqrt(wide.var(axis=over, keepdims=True) + _wide(epsilon))
    return (wide - wide.mean(axis=over, keepdims=True)) / spread * _wide(gamma) + _wide(beta)


def gelu(*, x: Array, mode: Any) -> Array:
    """The exact form, the one with tanh, and x sigmoid(1.702 x)."""
    wide = _wide(x)
    if mode.item() == "EXACT":
        erf = np.frompyfunc(math.erf, 1, 1)(wide / math.sqrt(2)).astype(np.float32)
        return 0.5 * wide * (1 + erf)
    if mode.item() == "TANH_APPROXIMATION":
        return 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    assert mode.item() == "SIGMOID_APPROXIMATION"
    return wide * sigmoid(x=1.702 * wide)


def sigmoid(*, x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(np.minimum(-_wide(x), 80)))


def reduction(over: Callable[..., Array]) -> Callable[..., Array]:
    """A reduction over axes."""
    return lambda *, x, axes, keep_dims: over(_wide(x), axis=tuple(axes), keepdims=bool(keep_dims))


def arithmetic(combine: Callable[..., Array]) -> Callable[..., Array]:
    """An operation of two numbers, whose shapes broadcast."""
    return lambda *, x, y: combine(_wide(x), _wide(y))


def slice_by_index(*, x: Array, begin: Array, end: Array, **masks: Any) -> Array:
    """x[begin:end]; a mask for the end says to go to the end, one for squeezing removes the axis."""
    unknown = set(masks) - {"begin_mask", "end_mask", "squeeze_mask"}
    assert not unknown
    begins, ends, squeezed = (_flags(masks.get(name, [False] * x.ndim)) for name in
                              ("begin_mask", "end_mask", "squeeze_mask"))  # fmt: skip
    places: list[Any] = []
    for axis in range(x.ndim):
        start, stop = None if begins[axis] else int(begin[axis]), None if ends[axis] else int(end[axis])
        places.append(int(begin[axis]) if squeezed[axis] else slice(start, stop))
    return np.asarray(x[tuple(places)])


def concat(*, values: list[Array], axis: Any, interleave: Any) -> Array:
    """Arrays one behind the other."""
    assert not interleave
    return np.concatenate(values, axis=int(axis))


def cast(*, x: Array, dtype: Any) -> Array:
    """Another type; the result's own declaration carries it out."""
    assert dtype.item() in ("fp16", "fp32", "int32")
    return x


def classify(*, probabilities: Array, classes: list[str]) -> tuple[str, dict[str, float]]:
    """The most probable class, and all of them."""
    assert probabilities.size == len(classes)
    numbers = probabilities.ravel().tolist()
    return classes[int(np.argmax(numbers))], dict(zip(classes, numbers, strict=True))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "conv": conv, "avg_pool": avg_pool, "linear": linear, "matmul": matmul, "softmax": softmax,
    "layer_norm": layer_norm, "gelu": gelu, "sigmoid": sigmoid,
    "relu": lambda *, x: np.maximum(_wide(x), 0), "sqrt": lambda *, x: np.sqrt(_wide(x)),
    "identity": lambda *, x: x, "cast": cast, "greater": arithmetic(np.greater),
    "add": arithmetic(np.add), "sub": arithmetic(np.subtract), "mul": arithmetic(np.multiply),
    "real_div": arithmetic(np.divide),
    "reduce_mean": reduction(np.mean), "reduce_sum": reduction(np.sum), "reduce_min": reduction(np.min),
    "reshape": lambda *, x, shape: x.reshape(shape), "transpose": lambda *, x, perm: x.transpose(perm),
    "slice_by_index": slice_by_index, "concat": concat, "classify": classify,
}  # fmt: skip
