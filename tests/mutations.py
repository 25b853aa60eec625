"""Damage files as chance does it: the same seed gives the same damage.

for _ in range(100):
    path.write_bytes(mutate(whole, random))
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 256, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30),
    *(0.0, 0.5, -1.5, 1e-320, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "a", "clip", "\n", "\x1b[31m", "F64", "I8", "<|endoftext|>", "x" * 5000, "\ud800", "../../etc/passwd"),
    *([], [0], [1, 2, 3], ["a", 0, 0], [[[]]], {}, {"a": 1}, {"content": 3}, {"height": 4, "width": -4}),
)
INSERTED = (b"\x00", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b",", b'"')
OTHERS = (b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xef\xbb\xbf{}", b"<!DOCTYPE html>", b"\x00" * 64)


def mutate_value(whole: Any, random: Random) -> Any:
    """Return a copy of a JSON value with one to three places replaced, removed, doubled or moved."""
    changed = copy.deepcopy(whole)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return random.choice(ODD)
        holder, key = random.choice(places)
        action = random.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1:
            _, other = random.choice(places)
            holder[key] = copy.deepcopy(holder.get(other) if isinstance(holder, dict) else holder[-1])
        elif action == 2 and isinstance(holder, dict):
            holder[random.choice(("", "layers", "model", "a\nb", key + "x"))] = holder.pop(key)
        elif action == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = random.choice((-1, 2, 10, 0.5, 1000)) * holder[key] + random.choice((0, 0, 1, -1))
        else:
            holder[key] = copy.deepcopy(random.choice(ODD))
    return changed


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All (holder, key) of a value; of long lists and tables only the first, for the others are alike."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder)[:60] if isinstance(holder, dict) else list(range(min(len(holder), 20)))
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
    return found


def mutate_bytes(whole: bytes, random: Random) -> bytes:
    """Return bytes with flips, a cut, an insertion, a doubled part, or something else in their place."""
    data, at = bytearray(whole), random.randrange(len(whole) or 1)
    action = random.randrange(7)
    if action == 0:
        return bytes(data[:at])
    if action == 1:
        data[at:at] = random.choice(
            (b"\x00", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b",", b'"', random.randbytes(9))
        )
    elif action == 2:
        data[at : at + random.randrange(1, 200)] = b""
    elif action == 3:
        data += data[at:]
    elif action == 4:
        return random.choice(
            (b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xef\xbb\xbf{}", b"<!DOCTYPE html>", b"\x00" * 64)
        )
    else:
        for _ in range(random.choice((1, 1, 3, 20))):
            data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def mutate_json(whole: bytes, random: Random) -> bytes:
    """Return the bytes of a JSON file with damage to a value, or, of each four, to the bytes."""
    if random.random() < 0.25:
        return mutate_bytes(whole, random)
    return json.dumps(mutate_value(json.loads(whole), random)).encode()


def mutate_safetensors(whole: bytes, random: Random) -> bytes:
    """Return the bytes of a safetensors file with damage to its header, its length or its numbers."""
    length = int.from_bytes(whole[:8], "little")
    header, numbers = whole[8 : 8 + length], whole[8 + length :]
    action = random.randrange(8)
    if action == 0:
        lie = random.choice((0, 1, 7, length - 1, length + 1, 2**31, 2**62, 2**64 - 1))
        return struct.pack("<Q", lie) + header + numbers
    if action == 1:
        return struct.pack("<Q", length) + header + mutate_bytes(numbers, random)
    header = mutate_json(header, random)
    return struct.pack("<Q", len(header)) + header + numbers


Mutator = Callable[[bytes, Random], bytes]
