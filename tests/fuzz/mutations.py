"""Damage to files as bit rot, other programs and strangers do it, made from a seed."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**6, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-300, 1e300, "", "a", "\0", "a\nb",
    "../../x", "/etc/passwd", "\ud800", "\udcff", "x" * 5000, "{}", "$x^{$", "<b>", [], {}, [[]], [None], {"a": 1},
    ["a", 0], [["a", 0]], [["../x", 0]], "nan", "1e999",
)  # fmt: skip
TEXTS: tuple[bytes, ...] = (
    b"", b"{", b"[]", b"null", b"5", b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"\x00" * 100, b'"',
    b"[" + b"9" * 5000 + b"]", b"1e999",
)  # fmt: skip


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Return a JSON file with one or two places changed, or with its text damaged."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    value = copy.deepcopy(json.loads(content))
    for _ in range(rng.choice((1, 1, 2))):
        value = _change(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        text = text.replace("0", rng.choice(("NaN", "Infinity", "1e999", "-Infinity")), 1)
    elif rng.random() < 0.05:
        text = text.replace(
            '{"', '{"' + '": 0, "'.join(re.findall(r'"(\w+)":', text)[:3]) + '": 0, "', 1
        )  # names twice
    return text.encode(errors="surrogatepass")


def mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """Return a file of JSON lines with one of them changed as JSON, or damaged as bytes."""
    lines = content.splitlines()
    if rng.random() < 0.3 or not lines:
        return mutate_bytes(content, rng)
    place = rng.randrange(len(lines))
    lines[place] = mutate_json(lines[place], rng)
    return b"\n".join(lines) + rng.choice((b"\n", b""))


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a file cut short, with bytes changed or inserted, or another file altogether."""
    if not content or rng.random() < 0.2:
        return rng.choice(TEXTS)
    place = rng.randrange(len(content))
    kind = rng.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 3:
        return content[place:] + content[:place]
    if kind == 4:
        end = rng.randrange(place, len(content) + 1)
        return content[:end] + content[place:end] * rng.choice((1, 2, 50)) + content[end:]
    if kind == 1:
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    return content[:place] + rng.choice(TEXTS) + content[place:]


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with its header's JSON changed, an array's bytes overwritten, or damaged as bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if rng.random() < 0.3:
        place = rng.randrange(0, len(data) - 4, 4)
        data[place : place + 4] = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0")
        )
    elif rng.random() < 0.7:
        words = header["__metadata__"]
        name = rng.choice(sorted(words))
        try:
            inner = json.dumps(_change(json.loads(words[name]), rng))
        except ValueError:
            inner = str(rng.choice(ODD))
        words[name] = rng.choice((inner, inner, str(rng.choice(ODD)).replace("\ud800", "?").replace("\udcff", "?")))
        if rng.random() < 0.2:
            del words[name]
    else:
        header = _change(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def mutations(path: Path, mutate: Callable[[bytes, random.Random], bytes], *, seed: int, count: int) -> list[bytes]:
    """Return so many damaged forms of a file."""
    whole = path.read_bytes()
    return [mutate(whole, random.Random(f"{path.name} {seed} {number}")) for number in range(count)]


def _change(value: Any, rng: random.Random) -> Any:
    """Change one place of a JSON value: replace, remove, add, repeat, or move something of another place there."""
    place, other = _pick(value, rng), _pick(value, rng)
    if not place:
        return copy.deepcopy(rng.choice(ODD))
    owner = _at(value, place[:-1])
    kind = rng.randrange(8)
    found = owner[place[-1]]
    if kind == 6 and isinstance(found, (int, float)) and not isinstance(found, bool):
        owner[place[-1]] = rng.choice(
            (found + 1, found - 1, -found, found * 2, found * 1000, found / 2, str(found), [found])
        )
    elif kind == 7 and isinstance(found, str):
        owner[place[-1]] = rng.choice((found.upper(), found[:-1], found + "\x1b[31m", found * 3, [found], found + "\n"))
    elif kind == 0:
        del owner[place[-1]]
    elif kind == 1:
        owner[place[-1]] = copy.deepcopy(_at(value, other))
    elif kind == 2 and isinstance(owner, list):
        owner.extend(owner[:] * rng.choice((1, 3)))
    elif kind == 3 and isinstance(owner, dict):
        owner[str(rng.choice(ODD))[:40]] = owner.pop(place[-1])
    else:
        owner[place[-1]] = copy.deepcopy(rng.choice(ODD))
    return value


def _pick(value: Any, rng: random.Random) -> tuple[Any, ...]:
    """Return a place by way down from the top, so that long lists are not the most of all places."""
    path: list[Any] = []
    while isinstance(value, (dict, list)) and value and (not path or rng.random() < 0.75):
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path.append(key)
        value = value[key]
    return tuple(path)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
