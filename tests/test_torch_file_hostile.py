"""The reader of torch's files refuses hostile and damaged ones in one line, quickly and in bounded memory."""

from __future__ import annotations

import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import NUMBERS, VIEWS, integer, items, legacy_file, mapping, name, one, storage, tensor, text, zip_file

from sharpzo_mlx.convert.torch_file import read
from sharpzo_mlx.errors import UserError

TUPLES = b"\x80\x02" + b"K\x01" + b"\x85" * 100_000  # ((((1,),),),) ...
LAUGHS = b"\x80\x02)" + b"2\x86" * 200  # a pair of itself, 200 times: 2^200 leaves
HOSTILE = {
    "os.system": (b"\x80\x02" + name("os", "system") + text("touch hacked") + b"\x85R.", r"'os\.system'"),
    "eval": (b"\x80\x02" + name("builtins", "eval") + text("1") + b"\x85R.", r"'builtins\.eval'"),
    "torch.load": (b"\x80\x02" + name("torch", "load") + text("x") + b"\x85R.", r"'torch\.load'"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"'os\.system'"),
    "dotted name": (b"\x80\x04\x8c\x0bcollections\x8c\x1dOrderedDict.__init__.__func__\x93.", "asks for"),
    "inst": (b"(ios\nsystem\n.", "uses INST"),
    "record of a weights file": (b"\x80\x02" + name("__torch__.a", "B") + b")\x81.", r"'__torch__\.a\.B'"),
    "newobj": (b"\x80\x02" + name("collections", "OrderedDict") + b")\x81.", "uses NEWOBJ"),
    "extension": (b"\x80\x02\x82\x01.", "uses EXT1"),
    "call of text": (b"\x80\x02" + text("x") + b")R.", "not a name"),
    "call of a storage type": (b"\x80\x02" + name("torch", "FloatStorage") + b")R.", "no constructor"),
    "state": (b"\x80\x02]}b.", "sets the state"),
    "tuple key": (TUPLES[:2] + b"}" + TUPLES[2:] + b"K\x01s.", "dict key"),
    "exponential key": (LAUGHS[:2] + b"}" + LAUGHS[2:] + b"K\x01s.", "dict key"),
    "steps": (b"\x80\x02" + b"N0" * 600_000 + b".", "more than 1000000 steps"),
    "huge memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "no named tensors"),
    "huge text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "damaged or cut short"),
    "huge bytes": (b"\x80\x02B\xff\xff\xff\xffx.", "damaged or cut short"),
    "no stop": (b"\x80\x02N", "damaged or cut short"),
    "empty stack": (b"\x80\x020.", "damaged or cut short"),
    "nothing": (b"", "damaged or cut short"),
    "python 2 dict": (b"\x80\x02" + name("collections", "OrderedDict") + b"]\x85R.", "ordered dict"),
    "no tensors": (b"\x80\x02}.", "no named tensors"),
    "number": (mapping(epoch=integer(3)), "'epoch' is no tensor"),
    "beyond": (one(shape=(3, 5), strides=(4, 1)), "reaches beyond"),
    "far offset": (one(offset=1), "reaches beyond"),
    "expanded": (one(shape=(2**30,), strides=(0,)), "reaches beyond"),
    "overflow": (one(shape=(2**31 - 1,) * 3, strides=(2**31 - 1,) * 3), "reaches beyond"),
    "negative stride": (one(strides=(-4, 1)), "impossible shape"),
    "negative size": (one(shape=(-3, 4)), "impossible shape"),
    "dimensions": (one(shape=(1,) * 40, strides=(1,) * 40), "impossible shape"),
    "unequal": (one(shape=(3, 4), strides=(4,)), "impossible shape"),
    "too many numbers": (one(count=13, shape=(13,), strides=(1,)), "missing or cut short"),
    "other type": (one(kind="DoubleStorage"), "missing or cut short"),
    "unknown type": (one(kind="ComplexFloatStorage"), r"'torch\.ComplexFloatStorage'"),
    "storage view": (one(view=items(text("1"), integer(0), integer(3))), "cannot be read"),
    "no storage": (mapping(w=name("torch._utils", "_rebuild_tensor_v2") + b")R"), "something else than a storage"),
    "no parameter": (mapping(w=name("torch._utils", "_rebuild_parameter") + b")R"), "something else than a tensor"),
    "bad size": (mapping(w=name("torch", "Size") + integer(5) + b"\x85R"), "impossible shape"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_program(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program, message = HOSTILE[case]
    path = zip_file(tmp_path / "w.bin", program, {"0": NUMBERS.tobytes()})
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - started < 20
    assert peak < 60e6
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.bin"]


def test_many_views_of_one_storage_are_bounded(tmp_path: Path) -> None:
    numbers = np.zeros(50_000, np.float32)
    view = tensor(storage("0", numbers.size), (numbers.size,), (1,))
    program = mapping(**{f"w{index}": view for index in range(40)})
    with pytest.raises(UserError, match="many times the file's own size"):
        read(zip_file(tmp_path / "w.bin", program, {"0": numbers.tobytes()}))


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", one())
        archive.writestr("archive/data/0", bytes(10**7))


def _traversing(path: Path) -> None:
    zip_file(path, one(), {"../../0": NUMBERS.tobytes()})


def _two_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", one())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", one())


def _directory_elsewhere(path: Path) -> None:
    zip_file(path, one(), {"0": NUMBERS.tobytes()})
    data = bytearray(path.read_bytes())
    data[-6:-2] = struct.pack("<I", 2**31)  # the end record's offset of the directory
    path.write_bytes(data)


def _members_elsewhere(path: Path) -> None:
    zip_file(path, one(), {"0": NUMBERS.tobytes()})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 42 : entry + 46] = struct.pack("<I", 2**31)  # the entry's offset of its member
    path.write_bytes(data)


def _long_directory(path: Path) -> None:
    entry = struct.Struct("<4s6H3L5H2L")
    names = [b"%05x" % number for number in range(90_000)]
    entries = [entry.pack(b"PK\1\2", 20, 20, *[0] * 7, len(name), *[0] * 6) + name for name in names]
    directory = b"".join(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, len(directory), 30, 0)
    path.write_bytes(b"PK\3\4" + bytes(26) + directory + end)


CONTAINERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "compressed": (_compressed, "compressed"),
    "traversing": (_traversing, "suspicious name"),
    "duplicate": (_two_members, "two members"),
    "directory elsewhere": (_directory_elsewhere, "directory is damaged"),
    "members elsewhere": (_members_elsewhere, "outside of the file"),
    "long directory": (_long_directory, "absurdly long"),
    "no pickle": (lambda path: zipfile.ZipFile(path, "w").writestr("a/b", "x"), "zip directory|none that torch"),
    "big-endian": (lambda path: zip_file(path, one(), {}, byteorder=b"big"), "big-endian"),
    "missing storage": (lambda path: zip_file(path, one(), {"1": NUMBERS.tobytes()}), "missing or cut short"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "page": (lambda path: path.write_text("<!DOCTYPE html><title>404</title>"), "no file that torch.save wrote"),
    "safetensors": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), "no file that torch.save wrote"),
    "other magic": (lambda path: path.write_bytes(pickle.dumps([1, 2], 2)), "no file that torch.save wrote"),
    "legacy big-endian": (
        lambda path: legacy_file(path, one(), {"0": NUMBERS}, {"little_endian": False}),
        "big-endian",
    ),
    "legacy wrong count": (lambda path: legacy_file(path, one(), {"0": NUMBERS[:5]}), "damaged or cut short"),
    "legacy unknown key": (lambda path: legacy_file(path, one(), {"9": NUMBERS}), "nothing uses"),
    "legacy two sizes": (
        lambda path: legacy_file(
            path,
            mapping(a=tensor(storage("0", 12), (1,), (1,)), b=tensor(storage("0", 13), (1,), (1,))),
            {"0": NUMBERS},
        ),
        "described twice",
    ),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("case", CONTAINERS)
def test_damaged_container(tmp_path: Path, case: str) -> None:
    make, message = CONTAINERS[case]
    path = tmp_path / "w.bin"
    make(path)
    with pytest.raises(UserError, match=message):
        read(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "absent.bin")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_truncation_is_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "w.bin"
    whole = (
        zip_file(path, one(), {"0": NUMBERS.tobytes()}) if form == "zip" else legacy_file(path, one(), {"0": NUMBERS})
    ).read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read(path)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("spoiled")
    files = [
        zip_file(folder / "z.bin", VIEWS, {"0": NUMBERS.tobytes()}).read_bytes(),
        legacy_file(folder / "l.bin", VIEWS, {"0": NUMBERS}).read_bytes(),
    ]
    return folder / "w.bin", files


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_crash(spoiled: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    path, files = spoiled
    whole = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        found = read(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(isinstance(value, mx.array) for value in found.values())
