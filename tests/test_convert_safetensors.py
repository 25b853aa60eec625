"""A damaged safetensors file is one line; a whole one is read as its maker wrote it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.convert.safetensors_file import read
from sharpzo_mlx.errors import UserError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_equals_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    weights = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array(3.5, np.float32), "c": np.arange(4)}
    library.save_file(weights, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found, metadata = read(tmp_path / "w.safetensors")
    assert metadata == {"format": "pt"}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(np.array(found[name]), value)


def test_every_truncation_and_every_surplus_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), {"a": mx.arange(4), "b": mx.ones((2, 2))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="again"):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="its header says"):
        read(path)


DAMAGED: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "no safetensors"),
    "a list": ([1], "no safetensors"),
    "deep": (b"[" * 100_000, "header is damaged|no safetensors"),
    "no dict": ({"a": 1}, "header is damaged|no safetensors"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "header is damaged|no safetensors"),
    "metadata": ({"a": ENTRY, "__metadata__": [1]}, "header is damaged|no safetensors"),
    "bytes": ({"a": ENTRY | {"shape": [3]}}, "do not fit its shape"),
    "negative": ({"a": ENTRY | {"shape": [-2]}}, "damaged at 'a'"),
    "huge": ({"a": ENTRY | {"shape": [2**40, 2**40]}}, "do not fit its shape"),
    "backwards": ({"a": ENTRY | {"data_offsets": [8, 0]}}, "do not fit its shape"),
    "three offsets": ({"a": ENTRY | {"data_offsets": [0, 8, 8]}}, "damaged at 'a'"),
    "text offsets": ({"a": ENTRY | {"data_offsets": ["0", "8"]}}, "damaged|no safetensors"),
    "overlap": ({"a": ENTRY, "b": ENTRY}, "overlap"),
    "hole": ({"a": ENTRY | {"shape": [1], "data_offsets": [4, 8]}}, "holes"),
    "type": ({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "'a' is of type F8_E4M3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_header(tmp_path: Path, case: str) -> None:
    header, message = DAMAGED[case]
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / "w.safetensors", header))
    assert "\n" not in str(caught.value)


def test_absurd_header_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(UserError, match="cut short"):
        read(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "absent.safetensors")
