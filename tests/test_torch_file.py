"""The reader of torch's files equals torch on what torch writes.

Torch makes the files where it is installed; others are made by hand.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from torch_files import NUMBERS, VIEWS, legacy_file, mapping, one, storage, tensor, zip_file

from sharpzo_mlx.convert.torch_file import read
from sharpzo_mlx.errors import UserError


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_views_of_one_storage(tmp_path: Path, form: str) -> None:
    path = tmp_path / "w.bin"
    if form == "zip":
        zip_file(path, VIEWS, {"0": NUMBERS.tobytes()}, byteorder=b"little")
    else:
        legacy_file(path, VIEWS, {"0": NUMBERS})
    found = read(path)
    np.testing.assert_array_equal(np.array(found["a"]), NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(np.array(found["b"]), NUMBERS.reshape(3, 4).T[2:, :][:2])
    assert found["c"].shape == ()
    assert found["c"].item() == 11
    assert found["d"].shape == (0, 5)
    assert list(found) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_are_prepared_one_by_one(tmp_path: Path, form: str) -> None:
    path, seen = tmp_path / "w.bin", []
    if form == "zip":
        zip_file(path, VIEWS, {"0": NUMBERS.tobytes()})
    else:
        legacy_file(path, VIEWS, {"0": NUMBERS})

    def halve(array: mx.array) -> mx.array:
        seen.append(array.shape)
        return array.astype(mx.float16)

    found = read(path, halve)
    assert seen == [(3, 4), (2, 3), ()]  # of the empty one there is nothing to prepare
    np.testing.assert_array_equal(np.array(found["a"]), NUMBERS.reshape(3, 4).astype(np.float16))
    np.testing.assert_array_equal(np.array(found["b"]), NUMBERS.reshape(3, 4).T[2:, :][:2])


def test_bfloat16_without_torch(tmp_path: Path) -> None:
    halves = np.array([0x3F80, 0xC040, 0x0001], dtype="<u2")  # 1, -3, the smallest
    program = mapping(w=tensor(storage("7", 3, "BFloat16Storage"), (3,), (1,)))
    found = read(zip_file(tmp_path / "w.bin", program, {"7": halves.tobytes()}))["w"]
    assert found.dtype == mx.bfloat16
    np.testing.assert_array_equal(np.array(found.astype(mx.float32)), np.array([1, -3, 2.0**-133], np.float32))


@pytest.mark.parametrize("zipped", [True, False])
def test_equals_torch(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    weights = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1:3, ::2, 3],
        "tied": base,
        "half": torch.nn.Parameter(torch.randn(3).half()),
        "brain": torch.randn(2, 2).bfloat16(),
        "brain_scalar": torch.tensor(2.5).bfloat16(),
        "double": torch.randn(3, dtype=torch.float64),
        "ids": torch.arange(7).expand(1, -1),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "w.bin"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert list(found) == list(weights)
    for key, value in weights.items():
        np.testing.assert_array_equal(
            np.array(found[key].astype(mx.float32)), value.detach().to(torch.float32).numpy(), err_msg=key
        )
    assert found["half"].dtype == mx.float16
    assert found["brain"].dtype == mx.bfloat16
    assert found["double"].dtype == mx.float32


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict_with_metadata_and_training_checkpoint(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    path = tmp_path / "w.bin"
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=zipped)
    np.testing.assert_array_equal(np.array(read(path)["weight"]), layer.weight.detach().numpy())
    torch.save({"epoch": 3, "state_dict": layer.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    np.testing.assert_array_equal(np.array(read(path)["bias"]), layer.bias.detach().numpy())


def test_torch_module_is_refused_by_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.bin"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear.*nothing was run"):
        read(path)


def test_zip64_directory(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (("data.pkl", one()), ("data/0", NUMBERS.tobytes())):
            with archive.open(f"archive/{member}", "w", force_zip64=True) as file:
                file.write(content)
    whole = path.read_bytes()
    end = whole.index(b"PK\5\6")
    *_, count, length, offset, _ = struct.unpack("<4s4H2LH", whole[end:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    full = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(whole[:end] + record + locator + full)
    assert zipfile.ZipFile(io.BytesIO(path.read_bytes())).testzip() is None
    np.testing.assert_array_equal(np.array(read(path)["w"]), NUMBERS.reshape(3, 4))
