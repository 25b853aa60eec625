"""Look for folders of this machine in what is about to be sent.

What is sent is made without them. This is the second look, at the finished bytes.

>>> find_leak("see /home/ann/photos/x", ["/home/ann"])
'/home/ann'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.doctor.redaction import find_names
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.sharing.parcel import LICENCE_FILE, Item

VOCABULARY = "tokenizer.json"  # words that anybody's folder may be called
SHORTEST = 3  # characters of a folder; "/" is in every text


def check_items(items: Iterable[Item], *folders: str) -> None:
    """Check that no file names a folder of this machine.

    Args:
        items: what is about to be sent. Of weights the texts in the header are looked at.
        folders: private folders beside those of the user and the process, such as that of the images.

    Raises:
        UserError: a file names one.
    """
    private = [folder for folder, _ in find_names().pairs if folder.startswith("/")]
    private += [folder for folder in folders if len(folder) >= SHORTEST]
    for item in items:
        if item.name in (VOCABULARY, LICENCE_FILE):
            continue
        if found := find_leak(_text(item), private):
            raise UserError(f"{item.name}: names {found}, a folder of this machine; nothing is sent until it is gone")


def find_leak(text: str, folders: Iterable[str]) -> str | None:
    """Return the first of some folders that a text names, or None."""
    return next((one for one in folders if re.search(rf"(?<![\w.-]){re.escape(one)}(?![\w-])", text)), None)


def _text(item: Item) -> str:
    if isinstance(item.content, Path) and item.content.suffix == ".safetensors":
        return "\n".join(read_header(item.content).metadata.values())
    content = item.content if isinstance(item.content, bytes) else item.content.read_bytes()
    return content.decode("utf-8", "replace")
