"""The header of a safetensors file: its metadata, and whether the file is whole.

The format begins with the header's length (8 bytes, little-endian) and a JSON header that gives each tensor's
place behind it. MLX reads the tensors; it does not notice a file that was cut short until a weight is used,
and does not give a file's metadata without the rest.

>>> read_header(Path("m/model.safetensors")).metadata["format"]  # doctest: +SKIP
'mlx'
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sharpzo_mlx.errors import UserError

LENGTH = struct.Struct("<Q")
LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Header:
    """A file's metadata, and each tensor's `dtype`, `shape` and `data_offsets`."""

    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        UserError: there is no such file, it is not safetensors, or it was cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            read, start = _parse(file, size)
        metadata = read.pop("__metadata__", None) or {}  # MLX writes null where there is none
        end = start + max((tensor["data_offsets"][1] for tensor in read.values()), default=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); convert the checkpoint again") from None
    except (ValueError, TypeError, KeyError, struct.error):
        raise UserError(f"{path}: no safetensors file, or cut short; download or convert it again") from None
    if size < end:
        raise UserError(f"{path}: cut short, {size} of {end} bytes; download or convert it again")
    return Header(metadata, read)


def _parse(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    (length,) = LENGTH.unpack(file.read(LENGTH.size))
    if length > min(size, LONGEST_HEADER):
        raise ValueError
    read = json.loads(file.read(length))
    if not isinstance(read, dict):
        raise ValueError
    return read, LENGTH.size + length
