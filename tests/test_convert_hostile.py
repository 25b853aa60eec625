"""Hostile files: each is refused in one line, in bounded memory and time, and nothing is written.

The tests build them by hand and need neither torch nor open_clip. The reader of torch's files has its own tests.
"""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.convert import convert, npz, torch_file
from sharpzo_mlx.errors import UserError

MODULE = b"c__torch__.clip\nCLIP\n)\x81"
CYCLE = b"\x80\x02" + MODULE + b"q\x00}X\x01\x00\x00\x00ah\x00sb."
DOUBLING = (
    b"\x80\x02"
    + MODULE
    + b"".join(
        b"q"
        + bytes([n])
        + b"0"
        + MODULE
        + b"}(X\x01\x00\x00\x00ah"
        + bytes([n])
        + b"X\x01\x00\x00\x00bh"
        + bytes([n])
        + b"ub"
        for n in range(60)
    )
    + b"."
)
CONFIG = {"text_config": {}, "vision_config": {}, "model_type": "clip"}


def program(path: Path, pickle: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A TorchScript archive; its code is compressed, as torch's is."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("clip/data.pkl", pickle)
        archive.writestr("clip/constants.pkl", b"\x80\x02).")
        archive.writestr("clip/code/__torch__/clip.py", b"import os\n" * 1000, zipfile.ZIP_DEFLATED)
        archive.writestr("clip/data/0", np.zeros(4, np.float32).tobytes())
    return path


PROGRAMS: dict[str, tuple[bytes, str]] = {
    "module in itself": (CYCLE, "without end"),
    "2^60 modules": (DOUBLING, "without end"),
    "call of a module": (b"\x80\x02c__torch__.os\nsystem\n)R.", "calls something that is not a name"),
    "off the list": (b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.", r"asks for 'os\.system'"),
    "module with arguments": (b"\x80\x02c__torch__.a\nB\nN\x85\x81.", "uses NEWOBJ"),
    "another package": (b"\x80\x02c__torch__x.a\nB\n)\x81.", "asks for"),
    "no tensors": (b"\x80\x02" + MODULE + b"}b.", "no named tensors"),
    "state that is no dict": (b"\x80\x02" + MODULE + b"Nb.", "sets the state"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_hostile_archive(tmp_path: Path, case: str) -> None:
    pickle, message = PROGRAMS[case]
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            convert(program(tmp_path / "ViT-B-16.pt", pickle), tmp_path / "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 100e6
    assert time.perf_counter() - started < 30
    assert [path.name for path in tmp_path.iterdir()] == ["ViT-B-16.pt"]


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compressed or encrypted"):
        torch_file.read(program(tmp_path / "a.pt", CYCLE, compression=zipfile.ZIP_DEFLATED))


def test_an_archive_that_was_cut_short_says_so(tmp_path: Path) -> None:
    path = program(tmp_path / "ViT-B-16.pt", CYCLE)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"ViT-B-16\.pt: it has no zip directory at its end; download the file again"):
        convert(path, tmp_path / "m")


def npz_file(path: Path, member: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w.npy", member)
    return path


def npy(header: str, numbers: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + numbers


def described(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"


ARRAYS: dict[str, tuple[bytes, str]] = {
    "objects": (npy(described("(1,)", "|O"), bytes(8)), "not numbers"),
    "absurd shape": (npy(described("(10**9, 10**9)"), bytes(8)), "no array"),
    "large shape": (npy(described("(1000000000, 1000000000)"), bytes(8)), "do not fit its shape"),
    "negative shape": (npy(described("(-1, -2)"), bytes(8)), "impossible shape"),
    "code": (npy("__import__('os').system('x')"), "no array"),
    "nested": (npy("(" * 3000), "no array"),
    "no magic": (b"PK", "no array"),
    "cut short": (npy(described("(4,)"), bytes(8)), "do not fit its shape"),
    "big-endian": (npy(described("(2,)", ">f4"), bytes(8)), "not numbers"),
    "complex": (npy(described("(1,)", "<c8"), bytes(8)), "not numbers"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_hostile_npz(tmp_path: Path, case: str) -> None:
    member, message = ARRAYS[case]
    with pytest.raises(UserError, match=message) as caught:
        npz.read(npz_file(tmp_path / "weights.npz", member))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_compressed_npz_is_not_unpacked(tmp_path: Path) -> None:
    member = npy(described("(25000000,)"), bytes(10**8))
    with pytest.raises(UserError, match="compressed"):
        npz.read(npz_file(tmp_path / "weights.npz", member, zipfile.ZIP_DEFLATED))


def test_npz_equals_numpy(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        "a.b": draw.normal(size=(3, 4)).astype(np.float32),
        "half": draw.normal(size=5).astype(np.float16),
        "fortran": np.asfortranarray(draw.normal(size=(2, 3)).astype(np.float32)),
        "scalar": np.float32(2.5),
        "double": draw.normal(size=3),
    }
    np.savez(tmp_path / "weights.npz", **arrays)  # type: ignore[arg-type]
    found = npz.read(tmp_path / "weights.npz")
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(np.array(found[name]), np.asarray(value, np.array(found[name]).dtype))


def test_an_mlx_folder_with_npz_gives_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "clip"
    source.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (source / name).write_bytes((tiny_model / name).read_bytes())
    weights = mx.load(str(tiny_model / "model.safetensors"))
    assert isinstance(weights, dict)
    mx.savez(str(source / "weights.npz"), **weights)
    made = convert(source, tmp_path / "m").folder
    assert (made / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def gigabyte_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # sparse: takes no space on the disk


def twice_the_same(folder: Path) -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"a":{entry},"a":{entry}}}'.encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "/etc/model.safetensors"}}))


def deep_config(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("[" * 10**6)
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    (folder / "config.json").unlink()


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "header of a gigabyte": (gigabyte_header, "no safetensors file"),
    "one name twice": (twice_the_same, "tensors are missing|twice|no CLIP"),
    "index outside": (index_outside, "no weights file beside it"),
    "deep configuration": (deep_config, "no JSON"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_hostile_folder(tmp_path: Path, case: str) -> None:
    spoil, message = FOLDERS[case]
    source = tmp_path / "clip"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG))
    spoil(source)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            convert(source, tmp_path / "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 100e6
    assert not (tmp_path / "m").exists()
