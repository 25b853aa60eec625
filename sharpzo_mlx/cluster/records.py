"""Turn typed records with arrays into bytes and back; what comes back is checked against the types.

A record is a frozen dataclass of numbers, text, bytes, lists, mappings, other records and arrays of NumPy or MLX.
Nothing else can be written, and nothing but what the type says is read.

>>> write({"a": np.zeros(2, np.float32)})  # doctest: +SKIP
b'...'
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import mlx.core as mx
import msgspec
import numpy as np

T = TypeVar("T")
KINDS = frozenset(("float32", "float64", "int32", "int64", "uint8", "bool"))


def write(record: Any) -> bytes:
    """Return a record as bytes.

    Raises:
        TypeError: it holds something that is no plain value and no array.
    """
    return msgspec.msgpack.encode(record, enc_hook=_pack)


def read(data: bytes, kind: type[T]) -> T:
    """Return the record of a kind that `write` made bytes of.

    Raises:
        ValueError: the bytes are no such record.
    """
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_unpack)


def _pack(value: Any) -> Any:
    if isinstance(value, mx.array):
        value = np.array(value, copy=False)
    if isinstance(value, np.ndarray) and value.dtype.name in KINDS:
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return [value.dtype.name, list(value.shape), np.ascontiguousarray(little).tobytes()]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


def _unpack(kind: type, value: Any) -> Any:
    if kind is mx.array:
        return mx.array(_unpack(np.ndarray, value))
    if kind is not np.ndarray:
        raise NotImplementedError(f"{kind} is no kind of record")
    name, shape, data = value
    if name not in KINDS:
        raise ValueError(f"an array of {name!r} is not sent")
    dtype = np.dtype(name).newbyteorder("<")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array's bytes do not fit its shape")
    return np.frombuffer(data, dtype).astype(name).reshape(shape)
