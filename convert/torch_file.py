"""Read the tensors of a torch checkpoint (pytorch_model.bin) without torch, and without running the file.

Both forms are read: the zip file that torch >= 1.6 writes (data.pkl, data/0, data/1 ...), and the older one (five
pickles, then the storages one after the other). `pickle_machine` interprets the pickles with the closed list of
`torch_tensors`. OpenAI's own archives are TorchScript: their modules become records that hold tensors, and their
code is not even read. Storages are memory-mapped, and each tensor is copied out of the map once. All tensors together
may not take more than a few times the file's size.

>>> weights = read("pytorch_model.bin")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import as_strided

from sharpzo_mlx.errors import UserError, notify, one_line

from .pickle_machine import Refused, run
from .torch_tensors import ALLOWED, BFLOAT16, Storage, Tensor, build_storage, name_copies, tensors_of
from .zip_members import BadZip, Span, find_members

ZIP_MAGIC = b"PK\3\4"
MAXIMUM_PICKLE = 64 * 2**20  # bytes of data.pkl; that of a CLIP is about a tenth of one MiB
MAXIMUM_EXPANSION = 4  # tensors may share storages, but together not be larger than this many files
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def is_torchscript(path: Path) -> bool:
    """Tell by its zip directory alone whether a file is a TorchScript archive, as OpenAI's own are.

    Raises:
        UserError: the file is a damaged zip file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            names = find_members(path, _is_code) if file.read(4) == ZIP_MAGIC else {}
    except BadZip as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error
    return any(name.partition("/")[2] == "constants.pkl" for name in names)


def read(path: str | Path, prepare: Callable[[mx.array], mx.array] | None = None) -> dict[str, mx.array]:
    """Read a checkpoint's tensors.

    Args:
        path: a file that torch.save wrote from a state dict, in either form, or a TorchScript archive.
        prepare: is applied to each tensor before the next one is read, for example a cast; None keeps the tensors.

    Returns:
        Name -> array, in the file's order; float64 comes as float32, which is the widest that a GPU has.

    Raises:
        UserError: the file is no torch file or cut short, or its pickle asks for anything but tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 8:
                raise Refused("it is empty; download the file again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        unpickled, spans = _read_zip(path, data) if data[:4] == ZIP_MAGIC else _read_legacy(data)
        tensors = tensors_of(unpickled)
        if copies := name_copies(unpickled):
            notify(f"{path}: it holds {one_line(copies[0])!r} too, which is left out; to have it, save it alone")
        _check_storages(tensors, spans, data)
        return {
            name: _copy(tensor, spans[tensor.storage.key], data, prepare or (lambda array: array))
            for name, tensor in tensors.items()
        }
    except (Refused, BadZip) as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error


def _read_zip(path: Path, data: mmap.mmap) -> tuple[Any, dict[str, Span]]:
    """Return what data.pkl builds, and the place of each storage by its key."""
    spans = find_members(path, _is_code)
    roots = [name.removesuffix("data.pkl") for name in spans if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise Refused("it is a zip file, but none that torch.save wrote (no data.pkl)")
    root = roots[0]
    if f"{root}byteorder" in spans and _bytes_of(data, spans[f"{root}byteorder"], most=7) != b"little":
        raise Refused("it was written by a big-endian machine, which is not read; use model.safetensors")
    pickled = spans[f"{root}data.pkl"]
    if pickled.length > MAXIMUM_PICKLE:
        raise Refused(f"its pickle has {pickled.length} bytes, which no CLIP needs")
    records = "__torch__." if f"{root}constants.pkl" in spans else None
    stream = io.BytesIO(_bytes_of(data, pickled, most=MAXIMUM_PICKLE))
    unpickled = run(stream, ALLOWED, build_storage, records=records)
    inner = f"{root}data/"
    return unpickled, {name[len(inner) :]: span for name, span in spans.items() if name.startswith(inner)}


def _is_code(name: str) -> bool:
    """Tell whether a member is a TorchScript archive's source or debug data: compressed, and of no use to us."""
    return name.partition("/")[2].startswith("code/") or name.endswith(".debug_pkl")


def _bytes_of(data: mmap.mmap, span: Span, *, most: int) -> bytes:
    return data[span.start : span.start + min(span.length, most)]


def _read_legacy(data: mmap.mmap) -> tuple[Any, dict[str, Span]]:
    """Return what the fourth pickle builds, and the place of each storage that the fifth lists."""
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
        storage = build_storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"its storage {storage.key[:40]!r} is described twice; download the file again")
        return storage

    unpickled = run(data, ALLOWED, remember)
    keys = run(data, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is damaged; download the file again")
    return unpickled, _legacy_spans(data, keys, storages)


def _legacy_spans(data: mmap.mmap, keys: list[str], storages: Mapping[str, Storage]) -> dict[str, Span]:
    """Return the place of each storage's numbers: eight bytes of their count, then they, in the order of the keys."""
    spans: dict[str, Span] = {}
    position = data.tell()
    for key in keys:
        if key not in storages:
            raise Refused(f"it has a storage {key[:40]!r} that nothing uses; download the file again")
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        length = count * storages[key].itemsize
        if count != storages[key].count or position + 8 + length > len(data):
            raise Refused("its storages are damaged or cut short; download the file again")
        spans[key] = Span(position + 8, length)
        position += 8 + length
    return spans


def _check_storages(tensors: Mapping[str, Tensor], spans: Mapping[str, Span], data: mmap.mmap) -> None:
    """Refuse, before anything is copied, a missing storage and tensors that together are far larger than the file."""
    total = sum(tensor.size * tensor.storage.itemsize for tensor in tensors.values())
    if total > MAXIMUM_EXPANSION * len(data):
        raise Refused(f"its tensors would take {total} bytes, many times the file's own size")
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in spans or spans[storage.key].length < storage.count * storage.itemsize:
            raise Refused(f"its storage {storage.key[:40]!r} is missing or cut short; download again")


def _copy(tensor: Tensor, span: Span, data: mmap.mmap, prepare: Callable[[mx.array], mx.array]) -> mx.array:
    """Copy one tensor out of the map, and release the map's pages that it was read from."""
    storage = tensor.storage
    half = storage.dtype == BFLOAT16
    dtype = np.dtype("<u2") if half else np.dtype(storage.dtype)
    if not tensor.size:
        return mx.zeros(tensor.shape, mx.bfloat16 if half else mx.array(np.zeros(0, dtype)).dtype)
    start = span.start + tensor.offset * storage.itemsize
    flat = np.frombuffer(data, dtype, storage.count - tensor.offset, start)
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    view = as_strided(flat, tensor.shape, strides, writeable=False)
    # a copy: MLX may not read unaligned memory, and the map must not outlive this call
    copy = np.array(view, dtype=np.float32 if storage.dtype == "<f8" else dtype, order="C")
    _release(data, span)
    array = mx.array(copy)
    del copy
    return prepare(array.view(mx.bfloat16) if half else array)


def _release(data: mmap.mmap, span: Span) -> None:
    """Tell the system that pages of the map are not needed; it reads them again should another tensor need them."""
    first = span.start - span.start % mmap.PAGESIZE
    if hasattr(data, "madvise"):  # not on Windows
        data.madvise(mmap.MADV_DONTNEED, first, span.start + span.length - first)
