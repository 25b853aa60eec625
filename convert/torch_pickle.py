"""Read the tensors of a torch checkpoint (pytorch_model.bin) without torch, and without running the file.

Both forms are read: the zip file that torch >= 1.6 writes (data.pkl, data/0, data/1 ...), and the older
one (five pickles, then the storages one after the other). The pickles go through `pickle_machine` with
the few names that weights need; of a TorchScript program (OpenAI's own archives) the modules become records
that hold tensors, and its code is not even read. Storages are memory-mapped, and each tensor is copied out of the map
once, after its offset, shape and strides were checked against its storage. All tensors together may not
take more than a few times the file's size.

>>> weights = read("pytorch_model.bin")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import as_strided

from sharpzo_mlx.errors import UserError

from .pickle_machine import MAXIMUM_KEY, Name, Record, Refused, run
from .stored_zip import BadZip, Span, members

MAXIMUM_PICKLE = 64 * 2**20  # bytes of data.pkl; that of a CLIP is about a tenth of one MiB
MAXIMUM_EXPANSION = 4  # tensors may share storages, but together not be larger than this many files
MAXIMUM_DIMENSIONS = 16
MAXIMUM_ATTRIBUTES = 200_000  # of a program's modules, which may share modules; a CLIP has some thousands
MAXIMUM_NAME = 100  # characters of a storage's key; torch uses a number
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
BFLOAT16 = "bfloat16"  # numpy has none: read as uint16 and viewed

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


@dataclass(frozen=True)
class Storage:
    """A named run of numbers outside of the pickle."""

    key: str
    dtype: str
    count: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == BFLOAT16 else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_program(path: Path) -> bool:
    """Whether a file is a TorchScript program, as OpenAI's own archives are, by its zip directory alone."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            names = members(data, _is_code) if data[:4] == b"PK\3\4" else {}
            return any(name.partition("/")[2] == "constants.pkl" for name in names)
    except (BadZip, OSError, ValueError):
        return False  # `read` says what is wrong with it


def read(path: str | Path, prepare: Callable[[mx.array], mx.array] | None = None) -> dict[str, mx.array]:
    """Read a checkpoint's tensors.

    Args:
        path: a file that torch.save wrote from a state dict, in either form, or a TorchScript program.
        prepare: what becomes of each tensor before the next one is read, such as a cast; None keeps them.

    Returns:
        Name -> array, in the file's order; float64 comes as float32, which is the widest that a GPU has.

    Raises:
        UserError: no torch file, cut short, or a pickle that asks for anything but tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 8:
                raise Refused("it is empty; download the file again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found, spans = _read_zip(data) if data[:4] == b"PK\3\4" else _read_legacy(data)
        tensors = _state_dict(found)
        _check_storages(tensors, spans, data)
        return {
            name: _array(tensor, spans[tensor.storage.key], data, prepare or (lambda array: array))
            for name, tensor in tensors.items()
        }
    except (Refused, BadZip) as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error


def _read_zip(data: mmap.mmap) -> tuple[Any, dict[str, Span]]:
    """What data.pkl builds, and where each storage lies."""
    spans = members(data, _is_code)
    roots = [name.removesuffix("data.pkl") for name in spans if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise Refused("it is a zip file, but none that torch.save wrote (no data.pkl)")
    root = roots[0]
    if f"{root}byteorder" in spans and data[slice(*_bounds(spans[f"{root}byteorder"]))] != b"little":
        raise Refused("it was written by a big-endian machine, which is not read; use model.safetensors")
    start, length = spans[f"{root}data.pkl"]
    if length > MAXIMUM_PICKLE:
        raise Refused(f"its pickle has {length} bytes, which no CLIP needs")
    records = "__torch__." if f"{root}constants.pkl" in spans else None
    found = run(io.BytesIO(data[start : start + length]), _names(), _storage, records=records)
    inner = f"{root}data/"
    return found, {name[len(inner) :]: span for name, span in spans.items() if name.startswith(inner)}


def _is_code(name: str) -> bool:
    """A TorchScript program's source and what helps to debug it: compressed, and of no use to us."""
    return name.partition("/")[2].startswith("code/") or name.endswith(".debug_pkl")


def _bounds(span: Span) -> Span:
    return span[0], span[0] + span[1]


def _read_legacy(data: mmap.mmap) -> tuple[Any, dict[str, Span]]:
    """What the fourth pickle builds, and where the storages lie that the fifth lists."""
    try:
        magic = run(data, {})
    except Refused:
        magic = None
    if magic != LEGACY_MAGIC:
        raise Refused("it is no file that torch.save wrote (a failed download?); download the file again")
    if run(data, {}) != LEGACY_PROTOCOL:
        raise Refused("it is a torch file of an unknown protocol; use the model's model.safetensors")
    machine = run(data, {})
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("it was written by a big-endian machine, which is not read; use model.safetensors")
    storages: dict[str, Storage] = {}

    def remember(identity: Any) -> Storage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"its storage {storage.key[:40]!r} is described twice; download the file again")
        return storage

    found = run(data, _names(), remember)
    keys = run(data, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is damaged; download the file again")
    return found, _legacy_spans(data, keys, storages)


def _legacy_spans(data: mmap.mmap, keys: list[str], storages: Mapping[str, Storage]) -> dict[str, Span]:
    """Where each storage's numbers lie: eight bytes of their count, then they, in the order of the keys."""
    spans: dict[str, Span] = {}
    position = data.tell()
    for key in keys:
        if key not in storages:
            raise Refused(f"it has a storage {key[:40]!r} that nothing uses; download the file again")
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        length = count * storages[key].itemsize
        if count != storages[key].count or position + 8 + length > len(data):
            raise Refused("its storages are damaged or cut short; download the file again")
        spans[key] = (position + 8, length)
        position += 8 + length
    return spans


def _names() -> dict[str, Name]:
    """The closed list."""
    builders: dict[str, Callable[[tuple[Any, ...]], Any]] = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch.Size": _size,
    }
    names = {dotted: Name(dotted, build) for dotted, build in builders.items()}
    return names | {f"torch.{name}": Name(f"torch.{name}") for name in _STORAGES}


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:  # Python 3 fills it item by item; copying what the memo holds could be repeated without end
        raise Refused("its pickle builds an ordered dict in Python 2's way; use the model's model.safetensors")
    return {}


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise Refused("its pickle builds a parameter from something else than a tensor")
    return arguments[0]


def _storage(identity: Any) -> Storage:
    """The record of a persistent id: ("storage", type, key, location, count of numbers[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refused("its pickle refers to something else than a storage")
    _, kind, key, _, count, *view = identity
    known = isinstance(kind, Name) and kind.dotted.removeprefix("torch.") in _STORAGES
    if not known or not _is_name(key) or not _is_count(count) or view not in ([], [None]):
        raise Refused("its pickle describes a storage that cannot be read; use the model's model.safetensors")
    return Storage(key, _STORAGES[kind.dotted.removeprefix("torch.")], count)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """A tensor record, once it is sure that it stays inside of its storage."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise Refused("its pickle builds a tensor from something else than a storage")
    storage, offset, shape, strides = arguments[:4]
    if not _is_shape(shape) or not _is_shape(strides) or len(shape) != len(strides) or not _is_count(offset):
        raise Refused("its pickle describes a tensor with an impossible shape")
    size = math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if size and (last >= storage.count or size > storage.count):
        raise Refused("its pickle describes a tensor that reaches beyond its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _is_shape(arguments[0]):
        raise Refused("its pickle describes a tensor with an impossible shape")
    return tuple(arguments[0])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAXIMUM_NAME


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) <= MAXIMUM_DIMENSIONS and all(map(_is_count, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31  # what MLX can index


def _state_dict(found: Any) -> dict[str, Tensor]:
    """The tensors by name; a training checkpoint that keeps them under "state_dict" is understood."""
    if isinstance(found, Record):
        found = _tensors_of(found)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise Refused("it holds no named tensors; give the file of a model's weights")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise Refused(f"its entry {str(name)[:80]!r} is no tensor; give the file of a model's weights")
    return found


def _tensors_of(program: Record) -> dict[str, Tensor]:
    """A program's tensors by the path of the modules that hold them; its other attributes are no weights."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", program)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1 + len(module.attributes)
        if seen > MAXIMUM_ATTRIBUTES or len(prefix) > MAXIMUM_KEY:
            raise Refused("its modules lie in each other without end, or are more than any CLIP needs")
        for name, value in module.attributes.items():
            if isinstance(value, Record):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
    return found


def _check_storages(tensors: Mapping[str, Tensor], spans: Mapping[str, Span], data: mmap.mmap) -> None:
    """Before anything is copied: every storage is whole, and all tensors together stay near the file's size."""
    total = sum(math.prod(tensor.shape) * tensor.storage.itemsize for tensor in tensors.values())
    if total > MAXIMUM_EXPANSION * len(data):
        raise Refused(f"its tensors would take {total} bytes, many times the file's own size")
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in spans or spans[storage.key][1] < storage.count * storage.itemsize:
            raise Refused(f"its storage {storage.key[:40]!r} is missing or cut short; download again")


def _array(tensor: Tensor, span: Span, data: mmap.mmap, prepare: Callable[[mx.array], mx.array]) -> mx.array:
    """Copy one tensor out of the map, and let go of the map's pages that it was read from."""
    storage, start = tensor.storage, span[0]
    half = storage.dtype == BFLOAT16
    dtype = np.dtype("<u2") if half else np.dtype(storage.dtype)
    if not math.prod(tensor.shape):
        return mx.zeros(tensor.shape, mx.bfloat16 if half else mx.array(np.zeros(0, dtype)).dtype)
    flat = np.frombuffer(data, dtype, storage.count - tensor.offset, start + tensor.offset * storage.itemsize)
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    view = as_strided(flat, tensor.shape, strides, writeable=False)
    # a copy: MLX may not read unaligned memory, and the map must not outlive this call
    copy = np.array(view, dtype=np.float32 if storage.dtype == "<f8" else dtype, order="C")
    _let_go(data, span)
    array = mx.array(copy)
    del copy
    return prepare(array.view(mx.bfloat16) if half else array)


def _let_go(data: mmap.mmap, span: Span) -> None:
    """Tell the system that pages of the map are not needed; they are read again should another tensor need them."""
    first = span[0] - span[0] % mmap.PAGESIZE
    if hasattr(data, "madvise"):  # not on Windows
        data.madvise(mmap.MADV_DONTNEED, first, span[0] + span[1] - first)
