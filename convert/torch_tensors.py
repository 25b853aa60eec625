"""The names that a torch checkpoint's pickle may use, and the checked records that they build.

A checkpoint's pickle names storages (runs of numbers outside of the pickle) and describes tensors as strided views
of them. `ALLOWED` is the closed list of names for `pickle_machine`; each builds a plain record here, after its
offset, shape and strides were checked against its storage. Nothing of torch is imported or called.

>>> Tensor(Storage("0", "<f4", 6), offset=0, shape=(2, 3), strides=(3, 1)).size
6
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pickle_machine import MAXIMUM_KEY, Name, Record, Refused

MAXIMUM_DIMENSIONS = 16
MAXIMUM_ATTRIBUTES = 200_000  # of an archive's modules, which may share modules; a CLIP has some thousands
MAXIMUM_NAME = 100  # characters of a storage's key; torch uses a number
STATES = ("state_dict", "model_state_dict", "model", "module")  # entries of training checkpoints, by preference
NESTED = 3  # such entries within each other that are looked into
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
    """A run of `count` numbers outside of the pickle, under a key."""

    key: str
    dtype: str
    count: int

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 2 if self.dtype == BFLOAT16 else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)


def build_storage(identity: Any) -> Storage:
    """Build the record of a persistent id: ("storage", type, key, location, count of numbers[, view]).

    Raises:
        Refused: the id is something else.
    """
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refused("its pickle refers to something else than a storage")
    _, kind, key, _, count, *view = identity
    known = isinstance(kind, Name) and kind.dotted.removeprefix("torch.") in _STORAGES
    if not known or not _is_name(key) or not _is_count(count) or view not in ([], [None]):
        raise Refused("its pickle describes a storage that cannot be read; use the model's model.safetensors")
    return Storage(key, _STORAGES[kind.dotted.removeprefix("torch.")], count)


def _build_ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:  # Python 3 fills it item by item; copying what the memo holds could be repeated without end
        raise Refused("its pickle builds an ordered dict in Python 2's way; use the model's model.safetensors")
    return {}


def _build_parameter(arguments: tuple[Any, ...]) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise Refused("its pickle builds a parameter from something else than a tensor")
    return arguments[0]


def _build_tensor(arguments: tuple[Any, ...]) -> Tensor:
    """Build a tensor's record from (storage, offset, shape, strides, ...), unless it leaves its storage."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise Refused("its pickle builds a tensor from something else than a storage")
    storage, offset, shape, strides = arguments[:4]
    if not _is_shape(shape) or not _is_shape(strides) or len(shape) != len(strides) or not _is_count(offset):
        raise Refused("its pickle describes a tensor with an impossible shape")
    tensor = Tensor(storage, offset, tuple(shape), tuple(strides))
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if tensor.size and (last >= storage.count or tensor.size > storage.count):
        raise Refused("its pickle describes a tensor that reaches beyond its storage")
    return tensor


def _build_size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _is_shape(arguments[0]):
        raise Refused("its pickle describes a tensor with an impossible shape")
    return tuple(arguments[0])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAXIMUM_NAME


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) <= MAXIMUM_DIMENSIONS and all(map(_is_count, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31  # what MLX can index


_BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _build_ordered_dict,
    "torch._utils._rebuild_tensor": _build_tensor,
    "torch._utils._rebuild_tensor_v2": _build_tensor,
    "torch._utils._rebuild_parameter": _build_parameter,
    "torch._utils._rebuild_parameter_with_state": _build_parameter,
    "torch.Size": _build_size,
}
ALLOWED = {dotted: Name(dotted, build) for dotted, build in _BUILDERS.items()} | {
    f"torch.{name}": Name(f"torch.{name}") for name in _STORAGES
}


def tensors_of(unpickled: Any) -> dict[str, Tensor]:
    """Return the named tensors of what a checkpoint's pickle built.

    Args:
        unpickled: a state dict, a training checkpoint that keeps one under a name such as "state_dict" or "model", or
            the root module of a TorchScript archive.

    Raises:
        Refused: it holds no tensors, or something besides tensors.
    """
    found = _tensors_of_modules(unpickled) if isinstance(unpickled, Record) else unpickled
    for _ in range(NESTED):
        if isinstance(found, dict) and not _is_state(found):
            found = _state_of_training(found)
    if not isinstance(found, dict) or not found:
        raise Refused("it holds no named tensors; give the file of a model's weights")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise Refused(f"its entry {str(name)[:80]!r} is no tensor; give the file of a model's weights")
    return found


def name_copies(unpickled: Any) -> list[str]:
    """Return the entries of a training checkpoint that hold as many tensors as the one that is read, such as EMA's."""
    if not isinstance(unpickled, dict) or _is_state(unpickled):
        return []
    read = _state_of_training(unpickled)
    copies = (name for name, value in unpickled.items() if value is not read and _is_state(value))
    return [str(name) for name in copies if _is_state(read) and len(unpickled[name]) == len(read)]


def _is_state(value: Any) -> bool:
    """Tell whether a value is a dict of named tensors, with at least one."""
    return isinstance(value, dict) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _state_of_training(saved: dict[Any, Any]) -> Any:
    """Return the state dict that a training checkpoint keeps beside its optimiser and counters, or all of it."""
    states = {name: value for name, value in saved.items() if _is_state(value)}
    for name in STATES:
        if isinstance(saved.get(name), dict):
            return saved[name]
    if len(states) > 1:
        raise Refused(f"it holds several models ({', '.join(str(name)[:40] for name in states)}); save the one to use")
    return next(iter(states.values()), saved)


def _tensors_of_modules(root: Record) -> dict[str, Tensor]:
    """Return an archive's tensors by the path of the modules that hold them; other attributes are no weights."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", root)], 0
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
