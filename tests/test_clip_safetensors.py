"""A damaged safetensors file is one line; a whole one is read as its maker wrote it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from sharpzo_mlx.clip.safetensors_file import MAXIMUM_HEADER, read_header, read_tensors
from sharpzo_mlx.errors import UserError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_equals_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.array(3.5, np.float32),
        "c": np.arange(4),
    }
    save_file(weights, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "w.safetensors")
    assert read_header(tmp_path / "w.safetensors").metadata == {"format": "pt"}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(np.array(found[name]), value)


def test_every_truncation_and_every_surplus_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), {"a": mx.arange(4), "b": mx.ones((2, 2))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="again"):
            read_tensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="file not fully covered"):
        read_tensors(path)


DAMAGED: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "invalid JSON"),
    "a list": ([1], "invalid JSON"),
    "deep": (b"[" * 100_000, "invalid JSON"),
    "deep value": (b'{"a":' + b"[" * 100_000, "invalid JSON"),
    "no dict": ({"a": 1}, "invalid JSON.*integer"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "missing field `shape`"),
    "metadata": ({"a": ENTRY, "__metadata__": [1]}, "invalid JSON.*sequence"),
    "bytes": ({"a": ENTRY | {"shape": [3]}}, "invalid shape"),
    "negative": ({"a": ENTRY | {"shape": [-2]}}, "integer `-2`"),
    "huge": ({"a": ENTRY | {"shape": [2**40, 2**40]}}, "overflow"),
    "backwards": ({"a": ENTRY | {"data_offsets": [8, 0]}}, "invalid offset for tensor `a`"),
    "three offsets": ({"a": ENTRY | {"data_offsets": [0, 8, 8]}}, "invalid length 3"),
    "text offsets": ({"a": ENTRY | {"data_offsets": ["0", "8"]}}, "invalid JSON.*string"),
    "overlap": ({"a": ENTRY, "b": ENTRY}, "invalid offset for tensor"),
    "hole": ({"a": ENTRY | {"shape": [1], "data_offsets": [4, 8]}}, "invalid offset for tensor `a`"),
    "name of two lines": ({"a\nb\x1b[2J": ENTRY | {"data_offsets": [8, 0]}}, r"invalid offset for tensor `a b \[2J`"),
    "type": ({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "'a' is of type F8_E4M3"),
    "double": ({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, "'a' is of type F64"),
    "unknown type": ({"a": ENTRY | {"dtype": "X32"}}, "unknown variant `X32`"),
    "dimensions": ({"a": ENTRY | {"shape": [1] * 5000 + [2]}}, "'a' has 5001 dimensions"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_header(tmp_path: Path, case: str) -> None:
    header, message = DAMAGED[case]
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(write(tmp_path / "w.safetensors", header))
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{tmp_path / 'w.safetensors'}: ")


def test_a_long_header_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    header = json.dumps({f"{number:07}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(9)})
    with pytest.raises(UserError, match="header too large"):
        read_tensors(write(tmp_path / "w.safetensors", header.encode() + b" " * MAXIMUM_HEADER, b""))


def test_absurd_header_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(UserError, match="cut short"):
        read_tensors(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_tensors(tmp_path / "absent.safetensors")


def test_a_pipe_is_no_file_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not a regular file"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.bool_, mx.uint64, mx.int8])
def test_every_type_that_mlx_writes_is_read(tmp_path: Path, dtype: mx.Dtype) -> None:
    written = {"a": mx.array([0, 1, 1]).astype(dtype), "b": mx.array(1).astype(dtype), "c": mx.zeros((0, 3), dtype)}
    mx.save_safetensors(str(tmp_path / "w.safetensors"), written)
    found = read_tensors(tmp_path / "w.safetensors")
    assert read_header(tmp_path / "w.safetensors").shapes == {"a": (3,), "b": (), "c": (0, 3)}
    for name, value in written.items():
        assert found[name].dtype == dtype
        assert mx.array_equal(found[name], value).item()
