"""Read a journal back: what was about to be done, what is known to be done, and whether it was undone.

Journals may come from a stranger or a failing disk, so every line is checked. A half-written last line is left out:
what it announces was not begun.

>>> read_story(Path("sorted/.sharpzo-sort/2026-11-30T02-30-44.jsonl")).header.mode  # doctest: +SKIP
'move'
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets.scan import JOURNALS
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.reading import decode_text, parse_json, reason
from sharpzo_mlx.runs.json_record import checked
from sharpzo_mlx.sorting.journal import FORMAT, Header, Step

LONGEST = 32 << 20  # bytes of a line


@dataclass
class Story:
    """A journal as it was read.

    Attributes:
        path: the file.
        header: its first line.
        size: bytes of its whole lines.
        made: folders that were about to be made, below `into`.
        groups: the steps of each group, by its number, in the order of the lines.
        done: the numbers of the groups that are known to be done.
        rolled: those that were taken back at once.
        ended: whether the sorting came to its end.
        undone: when all was put back, or None.
    """

    path: Path
    header: Header
    size: int = 0
    made: list[str] = field(default_factory=list)
    groups: dict[int, tuple[Step, ...]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    rolled: set[int] = field(default_factory=set)
    ended: bool = False
    undone: str | None = None

    @property
    def into(self) -> Path:
        """The folder that was sorted into: around the journal, also where it has been moved."""
        place = self.path.absolute().parent
        return place.parent if place.name == JOURNALS else Path(self.header.into)

    @property
    def folder(self) -> Path:
        """The folder that was sorted; where it is not there any more, the one at the same place beside `into`."""
        then = Path(self.header.folder)
        beside = Path(os.path.normpath(self.into / os.path.relpath(then, self.header.into)))
        return beside if self.header.folder == self.header.into or not then.is_dir() else then


def read_story(path: Path) -> Story:
    """Read a journal.

    Raises:
        UserError: it cannot be read, or is no journal.
    """
    try:
        lines = _whole_lines(path)
        first = parse_json(next(lines, "null"))
        if not isinstance(first, dict) or first.get("format") != FORMAT:
            raise ValueError("it does not begin as one")
        story = Story(path, checked(Header, first))
        if not re.fullmatch("[0-9a-f]{8}", story.header.key):
            raise ValueError("its key is none")
        for number, line in enumerate(lines, start=2):
            try:
                _take(story, parse_json(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no journal of a sorting ({reason(error)}); name one in DIR/{JOURNALS}/") from error
    story.size = _size(path)
    return story


def inside(path: str) -> bool:
    """Return whether a path with slashes stays below its folder, as it is written."""
    parts = path.split("/")
    return bool(path) and "\0" not in path and not {"", ".", ".."} & set(parts) and JOURNALS not in parts


def _take(story: Story, record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError("no object")
    if "group" in record:
        number = checked(int, record["group"], "group")
        steps = checked(tuple[Step, ...], record.get("steps"), "steps")
        if not all(inside(path) for step in steps for path in (step.source, step.target)):
            raise ValueError("names a path outside of the folder")
        story.groups[number] = steps
    elif "make" in record:
        place = checked(str, record["make"], "make")
        if not inside(place):
            raise ValueError("names a path outside of the folder")
        story.made.append(place)
    elif "done" in record:
        story.done.add(checked(int, record["done"], "done"))
    elif "rolled" in record:
        story.rolled.add(checked(int, record["rolled"], "rolled"))
    elif "ended" in record:
        story.ended = True
    elif "undone" in record:
        story.undone = checked(str, record["undone"], "undone")
    else:
        raise ValueError("says nothing that is known")


def _whole_lines(path: Path) -> Iterator[str]:
    with open_regular(path) as file:
        while (line := file.readline(LONGEST)).endswith(b"\n"):
            yield decode_text(line)
        if len(line) == LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes")


def _size(path: Path) -> int:
    """Return the bytes up to the last end of a line."""
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - (1 << 16))
            file.seek(start)
            if (found := file.read(size - start).rfind(b"\n")) >= 0:
                return start + found + 1
            size = start
    return 0
