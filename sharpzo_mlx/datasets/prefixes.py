r"""Notice numbers in front of class names, which a prompt is worse with: `001.dog`, `n02085620-Chihuahua`.

They are left out where they count the classes: WordNet ids, or numbers that follow one another, or have zeros in front.
Other numbers may belong to the name (`2-door car`), so they stay.

>>> without_numbers(("001.dog", "002.elephant"))
('dog', 'elephant')
>>> without_numbers(("2-door car", "4-door car")) is None
True
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PREFIX = re.compile(r"(n\d{8}|\d+)[\s._-]+(?=\S)")


def without_numbers(folders: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of class folders without the numbers that count them.

    None where they have none, or where the names without them would be the same or no words.
    """
    found = [_PREFIX.match(name) for name in folders]
    matches = [match for match in found if match is not None]
    if len(folders) < 2 or len(matches) < len(folders) or not _count_classes([match[1] for match in matches]):
        return None
    rests = tuple(name[match.end() :] for name, match in zip(folders, matches, strict=True))
    told_apart = len({rest.casefold() for rest in rests}) == len(rests)
    return rests if told_apart and all(any(map(str.isalpha, rest)) for rest in rests) else None


def all_numbered(folders: Sequence[str]) -> bool:
    """Return whether every name is a number, or begins with a number and a separator."""
    return bool(folders) and all(name.isdecimal() or _PREFIX.match(name) for name in folders)


def _count_classes(numbers: Sequence[str]) -> bool:
    """Return whether numbers look like those of classes: ids, padded with zeros, or consecutive; none occurs twice."""
    if len(set(numbers)) < len(numbers):
        return False
    if any(number.startswith("n") for number in numbers):
        return all(number.startswith("n") for number in numbers)
    values = sorted(map(int, numbers))
    padded = len({len(number) for number in numbers}) == 1 and any(number.startswith("0") for number in numbers)
    return padded or (len(values) > 2 and values == list(range(values[0], values[0] + len(values))) and values[0] < 2)
