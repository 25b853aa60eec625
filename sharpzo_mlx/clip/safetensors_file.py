"""Read a safetensors file once its header was checked: a damaged file ends in one line before a weight is used.

The `safetensors` package checks the header: each tensor's place must fit its dtype and shape, and all of them together
must fill the file without holes, so that no damaged file is half used and none can ask for more memory than its own
size. MLX then reads the tensors lazily, each when it is first evaluated.

>>> read_tensors(Path("m/model.safetensors"))["logit_scale"]  # doctest: +SKIP
array(4.60517, dtype=float32)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.reading import IS_POINTER, POINTER

AGAIN = "download or convert it again"
DTYPES = {
    "BOOL": mx.bool_,
    **{"U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64},
    **{"I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64},
    **{"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32},
}
MAXIMUM_HEADER = 8 * 2**20  # bytes; a tensor takes about a hundred, and parsing takes many times as much memory
MAXIMUM_DIMENSIONS = 16
SHOWN = 120  # characters of the package's own reason that an error repeats


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        metadata: free texts by name.
        shapes, dtypes: the shape and the type ("F16", "F32") of each tensor by its name.
        places: the first byte of each tensor in the file, and the byte behind its last.
    """

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    places: dict[str, tuple[int, int]]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        UserError: the file is missing, is no safetensors file, is cut short or damaged, or holds a type of numbers
            that MLX lacks.
    """
    try:
        with open_regular(path) as file:  # its errors have a reason, unlike the package's
            length = int.from_bytes(start := file.read(8), "little")
            if POINTER.startswith(start) and start:
                raise SafetensorError(IS_POINTER)
            if length > MAXIMUM_HEADER:
                raise SafetensorError("header too large")
            text = file.read(length)
        with safe_open(path, framework="numpy") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (a handle, no dict)
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            header = Header(handle.metadata() or {}, shapes, dtypes, _places(text, shapes))
    except SafetensorError as error:
        raise UserError(f"{path}: no safetensors file, or cut short or damaged ({_reason(error)}); {AGAIN}") from error
    except (OSError, MemoryError) as error:  # the package maps the whole file, however large it claims to be
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {AGAIN}") from error
    for name, shape in header.shapes.items():
        if dtypes[name] not in DTYPES:
            raise UserError(f"{path}: {name[:80]!r} is of type {dtypes[name]}; save it as F32, F16 or BF16")
        if len(shape) > MAXIMUM_DIMENSIONS:
            raise UserError(f"{path}: {name[:80]!r} has {len(shape)} dimensions; {AGAIN}")
    return header


def _places(text: bytes, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the places of tensors in a file whose header was found to be whole."""
    try:
        described, start = json.loads(text), 8 + len(text)
        offsets = {name: described[name]["data_offsets"] for name in names}
        return {name: (start + begin, start + end) for name, (begin, end) in offsets.items()}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise SafetensorError(f"its header is read in two ways: {error}") from error


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Read a safetensors file, strictly.

    Returns:
        Name -> array; MLX reads a tensor from the file when it is first evaluated.

    Raises:
        UserError: see `read_header`.
    """
    read_header(path)
    try:
        str(path).encode()
        tensors = mx.load(str(path), format="safetensors")
    except UnicodeEncodeError:
        raise UserError(f"{path}: a name that is not UTF-8, which MLX cannot open; rename it") from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: MLX cannot read it ({_reason(error)}); {AGAIN}") from error
    assert isinstance(tensors, dict)
    return tensors


def _reason(error: Exception) -> str:
    """Return a library's own words in one line; they may quote names from the file."""
    words = str(error).removeprefix("Error while deserializing header: ")
    return one_line(words, SHOWN)
