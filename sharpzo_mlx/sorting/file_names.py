"""Number a file's name where another file has it: `a.jpg`, `a (2).jpg`, and its sidecars alike.

>>> numbered("a", ".jpg", 2), numbered("a", ".jpg.xmp", 2), numbered("a", ".jpg", 1)
('a (2).jpg', 'a (2).jpg.xmp', 'a.jpg')
"""

from __future__ import annotations

import os

from sharpzo_mlx.datasets.safe_names import shorten

LONGEST = 255  # bytes of a name


def numbered(stem: str, ending: str, number: int) -> str:
    """Return the name of a file with a number behind its stem; the stem is shortened if the name would be too long.

    Args:
        stem: the name without its ending.
        ending: all that follows, with its dot.
        number: from 1; 1 leaves the name as it is.
    """
    if number == 1:
        return stem + ending
    mark = f" ({number})"
    return shorten(stem, LONGEST - len(os.fsencode(mark + ending))) + mark + ending
