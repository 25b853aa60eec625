"""Read the arrays of an `.npz` file, as MLX's older examples wrote them, without unpickling or unpacking anything.

Such a file is a zip of `.npy` members. Only stored members are read, since a compressed one can unfold to any size.
NumPy's own parser reads their headers with pickles forbidden, and each array's bytes are checked against its shape
before any of them is read.

>>> weights = read("weights.npz")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError

import mlx.core as mx
import numpy as np
from numpy.lib import format as npy

from sharpzo_mlx.errors import UserError

from .zip_members import BadZip, Span, find_members

MAXIMUM_HEADER = 4096  # bytes in front of an array's numbers; NumPy writes 128
KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def read(path: str | Path, prepare: Callable[[mx.array], mx.array] | None = None) -> dict[str, mx.array]:
    """Read all arrays.

    Args:
        path: the file.
        prepare: is applied to each array before the next one is read, for example a cast; None keeps the arrays.

    Returns:
        Name -> array, in the file's order; float64 comes as float32.

    Raises:
        UserError: the file is missing, cut short or compressed, or holds objects in place of numbers.
    """
    path = Path(path)
    try:
        spans = find_members(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found: dict[str, mx.array] = {}
            for name, span in spans.items():
                array = _array(data, name, span)
                found[name.removesuffix(".npy")] = prepare(array) if prepare else array
            return found
    except (BadZip, ValueError) as error:
        raise UserError(f"{path}: {str(error).partition(chr(10))[0] or 'damaged'}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error


def _array(data: mmap.mmap, name: str, span: Span) -> mx.array:
    start, length = span
    head = io.BytesIO(data[start : start + min(length, MAXIMUM_HEADER)])
    try:
        version = npy.read_magic(head)
        parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = parse(head, max_header_size=MAXIMUM_HEADER)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError):
        raise BadZip(f"its member {name[:80]!r} is no array; download the file again") from None
    if dtype.str[1:] not in KINDS or dtype.byteorder == ">":
        raise BadZip(f"its member {name[:80]!r} holds {dtype.str[:20]}, not numbers that MLX has")
    if any(type(size) is not int or size < 0 for size in shape):
        raise BadZip(f"its member {name[:80]!r} has an impossible shape")
    first = head.tell()
    if first + math.prod(shape) * dtype.itemsize != length:
        raise BadZip(f"the bytes of {name[:80]!r} do not fit its shape; download the file again")
    numbers = np.frombuffer(data[start + first : start + length], dtype).reshape(shape, order="F" if fortran else "C")
    return mx.array(numbers.astype(np.float32) if dtype.str[1:] == "f8" else np.array(numbers, order="C"))
