"""Open a foreign safetensors file once all of its header is checked: a damaged one is one line, no crash.

The header gives each tensor's type, shape, first and last byte. Each entry is checked against its shape,
and all of them together must fill the file without holes or overlaps, so no damaged file is half used
and none can ask for more memory than its own size. The arrays are lazy: MLX reads a tensor when it is
first evaluated.

>>> weights, metadata = read("model.safetensors")  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from sharpzo_mlx.clip.safetensors import read_header
from sharpzo_mlx.errors import UserError

AGAIN = "download the file again"
MAXIMUM_DIMENSIONS = 16

_WIDTHS = {
    1: ("BOOL", "U8", "I8"),
    2: ("U16", "I16", "F16", "BF16"),
    4: ("U32", "I32", "F32"),
    8: ("U64", "I64"),
}
_BYTES = {dtype: width for width, dtypes in _WIDTHS.items() for dtype in dtypes}


def read(path: str | Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Check and open a safetensors file.

    Returns:
        Name -> array (lazy), and the file's own metadata.

    Raises:
        UserError: no safetensors file, cut short, damaged, or numbers of a type that MLX lacks.
    """
    path = Path(path)
    metadata = check(path)
    try:
        weights = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: MLX cannot read it ({reason}); {AGAIN}") from error
    assert isinstance(weights, dict)
    return weights, metadata


def check(path: Path) -> dict[str, str]:
    """Check a file's header against its size and return the file's own metadata.

    Raises:
        UserError: as `read`.
    """
    try:
        header = read_header(path)
        metadata = {str(name): str(value) for name, value in header.metadata.items()}
        spans = sorted(_span(path, name, entry) for name, entry in header.tensors.items())
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its header is damaged; {AGAIN}") from error
    _check_spans(path, spans, path.stat().st_size - start)
    return metadata


def _check_spans(path: Path, spans: list[tuple[int, int]], size: int) -> None:
    """Tensors must follow each other without holes and end where the file ends; `size` is in bytes."""
    end = 0
    for first, last in spans:
        if first != end:
            raise UserError(f"{path}: its tensors overlap or leave holes; {AGAIN}")
        end = last
    if end != size:
        raise UserError(f"{path}: holds {size} bytes of numbers, its header says {end}; {AGAIN}")


def _span(path: Path, name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """First byte and end of one tensor, once they agree with its dtype and shape."""
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(span) or len(span) != 2:
        raise UserError(f"{path}: its header is damaged at {name[:80]!r}; {AGAIN}")
    if dtype not in _BYTES:
        raise UserError(f"{path}: {name[:80]!r} is of type {dtype[:20]}; save it as F32, F16 or BF16")
    if span[1] - span[0] != math.prod(shape) * _BYTES[dtype]:
        raise UserError(f"{path}: the bytes of {name[:80]!r} do not fit its shape; {AGAIN}")
    return span[0], span[1]


def _are_counts(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > MAXIMUM_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**60 for value in values)
