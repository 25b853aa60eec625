"""Hypothesis strategies for JSON files in which a field or two hold what a stranger may put there.

Values are texts of JSON, so that there can be numbers and nestings that `json.dumps` does not write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]
MARK = "place of the odd value"

LIMITS = (0, 1, 2, 3, 8, 16, 77, 2**7, 2**16, 2**20, 2**31, 2**32, 2**53, 10**15, 2**63, 2**64, 10**19, 10**20)
ODD_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-0", "-0.0", "1e-400", "5e-324", "1e16", "0.1e1"]
ODD_NUMBERS += ["1E5", "9" * 21, "9" * 5000, "1" + "0" * 400 + ".0", "0x10", "01", "1.", "+1", "1_000"]
NUMBERS = st.one_of(
    st.sampled_from(LIMITS).flatmap(lambda limit: st.integers(limit - 1, limit + 1)).map(str),
    st.sampled_from(LIMITS).map(lambda limit: str(-limit)),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.sampled_from(ODD_NUMBERS),
)
NAMES = ["/etc/passwd", "../../etc/passwd", "..", ".", "/", "~", "a/../../b", "//a", "a\\b", "C:\\a", "cat/0.png/x"]
NAMES += ["/dev/zero", "/proc/self/mem", "a/" * 3000, "x" * 300, " ", "-", "--help", "$HOME", "*", "cat", "dog"]
ODD_CHARACTERS = "\0\x01\x07\n\r\t\x1b\x7f\x85\u2028\u202e\ufeff\ud800\udc80\udcff\udfff\ufdd0\U0010ffff\U0001f600é日"
LONE = st.text(st.one_of(st.sampled_from(ODD_CHARACTERS), st.characters()), max_size=12)
TEXTS = st.one_of(
    LONE,
    st.sampled_from([*NAMES, "", "nan", "NaN", "1", "true", "null", "{}", "{", "%s", "\x1b]0;x\x07", "é" * 20_000]),
    st.sampled_from(["<script>alert(1)</script>", "a\nerror: b", "\0" * 9, "\ud83d", "e\u0301", "İ", "<|endoftext|>"]),
).map(json.dumps)
DEPTHS = st.sampled_from([1, 5, 26, 31, 32, 33, 500, 20_000])
DEEP = st.one_of(
    DEPTHS.map(lambda depth: "[" * depth + "]" * depth),
    DEPTHS.map(lambda depth: '{"a":' * depth + "0" + "}" * depth),
)
PLAIN = st.one_of(NUMBERS, TEXTS, st.sampled_from(["null", "true", "false", "[]", "{}", "[[]]", "[null]", '{"": {}}']))


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
    pairs = st.lists(st.tuples(TEXTS, inner), max_size=3)  # a name may come twice
    return st.one_of(lists, pairs.map(lambda some: "{" + ", ".join(f"{name}: {value}" for name, value in some) + "}"))


VALUES = st.one_of(PLAIN, PLAIN, st.recursive(PLAIN, _containers, max_leaves=6), DEEP)


def places(content: Any) -> Iterator[Place]:
    """Return every place of a JSON value below its top; of a list the first three entries and the last."""
    if isinstance(content, dict):
        entries: list[tuple[str | int, Any]] = list(content.items())
    elif isinstance(content, list):
        entries = [*enumerate(content[:3]), *([(len(content) - 1, content[-1])] if len(content) > 3 else [])]
    else:
        return
    for key, value in entries:
        yield (key,)
        yield from ((key, *rest) for rest in places(value))


def fields_replaced(whole: str, most: int = 2) -> st.SearchStrategy[str]:
    """Return a JSON text with the values of one field or of a few replaced, renamed, left out or repeated.

    Args:
        whole: the undamaged text.
        most: how many changes are made.
    """
    content = json.loads(whole)
    by_depth: dict[int, list[Place]] = {}  # so that long lists are not most of all places
    for place in places(content):
        by_depth.setdefault(len(place), []).append(place)
    somewhere = st.one_of(*(st.sampled_from(found) for found in by_depth.values()))
    return st.lists(st.tuples(somewhere, _CHANGES), min_size=1, max_size=most).map(lambda some: _changed(whole, some))


Change = tuple[Callable[[Any, str | int], None], str]


def _replace(owner: Any, key: str | int) -> None:
    owner[key] = MARK


def _remove(owner: Any, key: str | int) -> None:
    del owner[key]


def _rename(owner: Any, key: str | int) -> None:
    if isinstance(owner, dict):
        owner[MARK] = owner.pop(key)


def _repeat(owner: Any, key: str | int) -> None:
    if isinstance(owner, list) and isinstance(key, int):
        owner.extend([owner[key]] * 40)


def _wrap(owner: Any, key: str | int) -> None:
    owner[key] = [owner[key]]


_CHANGES: st.SearchStrategy[Change] = st.tuples(
    st.sampled_from([_replace] * 8 + [_remove, _rename, _repeat, _wrap]), VALUES
)


def _changed(whole: str, changes: list[tuple[Place, Change]]) -> str:
    content: Any = json.loads(whole)
    values: list[tuple[str, str]] = []
    for number, (place, (change, value)) in enumerate(changes):
        try:
            owner: Any = content
            for key in place[:-1]:
                owner = owner[key]
            change(owner, place[-1])
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
        content = json.loads(json.dumps(content).replace(json.dumps(MARK), json.dumps(f"{MARK} {number}")))
        values.append((json.dumps(f"{MARK} {number}"), value))
    text = json.dumps(content)
    for mark, value in values:
        as_name = value if value.startswith('"') else json.dumps(value)
        text = text.replace(f"{mark}:", f"{as_name}:").replace(mark, value)
    return text
