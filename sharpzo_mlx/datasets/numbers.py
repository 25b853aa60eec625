"""Find which tuned class a numbered folder of an evaluated data set stands for.

Where the tuned classes are numbers themselves, numbers are compared as numbers: `07` is `7`. Else folder n is the n-th
tuned class in order, counted from 0, as ImageNet-V2 numbers ImageNet's classes.

>>> numbers_to_ids(Path("test"), ("00", "01"), ("0", "1"))
('0', '1')
>>> numbers_to_ids(Path("test"), ("0", "1"), ("n01440764", "n01443537"))
('n01440764', 'n01443537')
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.errors import UserError, notify

NAMED = 5  # numbers that a message names
_DIGITS = re.compile(r"(\d+)")


def numbers_to_ids(folder: Path, found: tuple[str, ...], ids: Sequence[str]) -> tuple[str, ...]:
    """Replace the numbers of class folders by the tuned classes that they stand for.

    Args:
        folder: the folder that holds them, for messages.
        found: the names of the class folders; returned as they are unless all are numbers.
        ids: the folder names of the tuned classes.

    Raises:
        UserError: a number occurs twice, or which class a number stands for is not known.
    """
    if not imagenet.numbered(found) or set(found) <= set(ids):
        return found
    numbers = [int(name) for name in found]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UserError(f"{folder}: the number {twice} occurs twice; keep one folder of it")
    if imagenet.numbered(ids):
        return _by_number(folder, numbers, ids)
    return _by_place(folder, numbers, sorted(ids))


def _by_number(folder: Path, numbers: Sequence[int], ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids with these numbers, whatever zeros are in front of them."""
    known = {int(name): name for name in ids}
    if len(known) < len(ids):
        number = next(number for number in known if [int(name) for name in ids].count(number) > 1)
        raise UserError(f"{folder}: two tuned classes have the number {number}; name the folders as the run's classes")
    if unknown := [number for number in numbers if number not in known]:
        raise UserError(
            f"{folder}: the folders {_listed(unknown)} are not among the tuned classes, the numbers "
            f"{_listed(sorted(known))}; rename the folders to these"
        )
    return tuple(known[number] for number in numbers)


def _by_place(folder: Path, numbers: Sequence[int], ordered: Sequence[str]) -> tuple[str, ...]:
    """Return the ids at these places, counted from 0."""
    if list(ordered) != sorted(ordered, key=_natural):  # class2 comes behind class10 in one order, before it in another
        raise UserError(
            f"{folder}: the tuned classes ({', '.join(ordered[:NAMED])}, ...) have numbers in their names, so which of "
            "them a numbered folder stands for is not known; name the folders as the run's classes"
        )
    if max(numbers) >= len(ordered):
        raise UserError(
            f"{folder}: a folder {max(numbers)}, but the {len(ordered)} tuned classes are numbered "
            f"0 to {len(ordered) - 1}; renumber the folders from 0, or name them as the run's classes"
        )
    if max(numbers) < len(ordered) - 1:
        raise UserError(
            f"{folder}: numbers end at {max(numbers)}, the tuned classes at {len(ordered) - 1}: which classes "
            "they stand for is not known; name the folders as the run's classes, or give a --mapping"
        )
    if missing := sorted(set(range(len(ordered))) - set(numbers)):
        notify(f"{folder}: no folder {_listed(missing)}; the other folders keep their numbers")
    return tuple(ordered[number] for number in numbers)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts numbers in names as numbers."""
    parts = _DIGITS.split(name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return ", ".join(map(str, numbers[:NAMED])) + more
