"""Read what a checkpoint's card, its README.md, says in its front matter, such as the licence.

>>> read_card_entry(Path("m/README.md"), "license")  # doctest: +SKIP
'mit'
"""

from __future__ import annotations

import re
from pathlib import Path

from sharpzo_mlx.files import open_regular

MOST = 10_000  # bytes of a card that are read


def read_licence(card: Path) -> str | None:
    """Return the value of `license:` in the card's front matter, or None."""
    return read_card_entry(card, "license")


def read_card_entry(card: Path, name: str) -> str | None:
    """Return the one word behind `name:` in the card's front matter, or None where it or the card is not there."""
    try:
        with open_regular(card) as file:
            text = file.read(MOST).decode("utf-8", "replace")
    except OSError:
        return None
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(rf"^{re.escape(name)}:\s*[\"']?([\w./+-]+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None
