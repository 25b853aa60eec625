"""Torch checkpoints made by hand, opcode by opcode, for tests without torch.

Each of the first functions returns the bytes that push one object.

>>> mapping(w=tensor(storage("0", 12), (3, 4), (4, 1)))  # doctest: +SKIP
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


# pickles by hand: each function gives the bytes that push one object
def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def storage(key: str, count: int, kind: str = "FloatStorage", view: bytes = b"") -> bytes:
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), integer(count), view)
    return items(*parts) + b"Q"


def tensor(place: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    sizes = [items(*map(integer, values)) for values in (shape, strides)]
    return name("torch._utils", "_rebuild_tensor_v2") + items(place, integer(offset), *sizes, b"\x89", hooks) + b"R"


def mapping(**values: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in values.items()) + b"u."


def entries(values: dict[str, bytes]) -> bytes:
    """A dict within another object."""
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def state_dict(weights: dict[str, np.ndarray]) -> tuple[bytes, dict[str, bytes]]:
    """A dict of float32 tensors, and the storages that it needs."""
    arrays = {key: np.array(array, np.float32, order="C") for key, array in weights.items()}
    pushed = {}
    for number, (key, array) in enumerate(arrays.items()):
        strides = tuple(stride // 4 for stride in array.strides)
        pushed[key] = tensor(storage(str(number), array.size), array.shape, strides)
    return entries(pushed), {str(number): array.tobytes() for number, array in enumerate(arrays.values())}


def training_file(path: Path, weights: dict[str, np.ndarray], entry: str | None, **beside: bytes) -> Path:
    """A training checkpoint: weights under an entry (None: alone), and what else it holds."""
    pushed, storages = state_dict(weights)
    program = pushed if entry is None else entries({**beside, entry: pushed})
    return zip_file(path, b"\x80\x02" + program + b".", storages)


def zip_file(path: Path, program: bytes, storages: dict[str, bytes], **other: bytes) -> Path:
    members = {"data.pkl": program, **{f"data/{key}": data for key, data in storages.items()}, **other}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(f"archive/{member}", data)
    return path


def legacy_file(path: Path, program: bytes, storages: dict[str, np.ndarray], system: Any = None) -> Path:
    heads = (MAGIC, 1001, SYSTEM if system is None else system)
    start = b"".join(pickle.dumps(value, protocol=2) for value in heads) + program
    data = b"".join(struct.pack("<q", value.size) + value.tobytes() for value in storages.values())
    path.write_bytes(start + pickle.dumps(list(storages), protocol=2) + data)
    return path


NUMBERS = np.arange(12, dtype=np.float32)
VIEWS = mapping(
    a=tensor(storage("0", 12), (3, 4), (4, 1)),
    b=tensor(storage("0", 12), (2, 3), (1, 4), offset=2),
    c=tensor(storage("0", 12), (), (), offset=11),
    d=tensor(storage("0", 12), (0, 5), (5, 1)),
)


def one(**change: Any) -> bytes:
    """A state dict of one tensor, spoiled by the arguments."""
    place = storage("0", change.pop("count", 12), change.pop("kind", "FloatStorage"), change.pop("view", b""))
    return mapping(w=tensor(place, change.pop("shape", (3, 4)), change.pop("strides", (4, 1)), **change))
