"""What is sent to the hub: a few named files, complete and checked before the network is asked for anything.

>>> Parcel("ann/pets", "run", (Item("README.md", b"# pets"),)).bytes
6
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.files import atomic_path, atomic_write

CARD, LICENCE_FILE = "README.md", "LICENSE"
REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,94}[A-Za-z0-9_]?")
Kind: TypeAlias = Literal["run", "model"]
BLOCK = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True)
class Item:
    """One file of a parcel.

    Attributes:
        name: its name in the repository.
        content: its bytes, or the file on the disk that is sent as it lies there.
    """

    name: str
    content: bytes | Path

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Parcel:
    """All that is sent.

    Attributes:
        repository: `owner/name` on the hub.
        kind: what it is.
        items: the files.
        base: the model on the hub that it was made from, or None.
        licence: the hub's name of its licence, or None where it is not known.
        class_names: a run's classes, which are sent by name.
    """

    repository: str
    kind: Kind
    items: tuple[Item, ...]
    base: str | None = None
    licence: str | None = None
    class_names: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(item.bytes for item in self.items)

    @property
    def card(self) -> str:
        """The text of its card."""
        (content,) = (item.content for item in self.items if item.name == CARD)
        assert isinstance(content, bytes)
        return content.decode()

    def write(self, folder: Path) -> None:
        """Write all that would be sent into a folder, in which none of these files may be yet.

        Raises:
            UserError: one of them is there.
            OSError: the folder cannot be written to.
        """
        for item in self.items:
            if (folder / item.name).exists():
                raise UserError(f"{folder / item.name}: is there already; name a new folder")
        for item in self.items:
            _write(folder / item.name, item.content)


def check_repository(name: str) -> None:
    """Check the name of a repository.

    Raises:
        UserError: it is not `owner/name` as the hub allows it.
    """
    if not REPOSITORY.fullmatch(name) or len(name) > 96 or name.endswith((".git", ".ipynb")):
        raise UserError(f"--to {one_line(name)!r}: write OWNER/NAME, of letters, digits, -, _ and . (96 at most)")


def _write(path: Path, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        atomic_write(path, content)
        return
    with atomic_path(path) as temporary, content.open("rb") as source, temporary.open("wb") as target:
        while block := source.read(BLOCK):
            target.write(block)
