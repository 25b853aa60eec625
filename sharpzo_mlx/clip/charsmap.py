"""Normalise text as SentencePiece does, by the table that its models carry.

The table maps beginnings of texts to their replacement; the longest that fits is taken, and a character that none fits
stays (Kudo and Richardson, "SentencePiece", arXiv 1808.06226, section 3.3). It is a double-array trie over UTF-8 bytes
(Aoe, 1989): four bytes of length, the trie's units of four bytes, and the replacements, each ended by a zero byte.

>>> normalise("a  b", None)
'a▁b'
"""

from __future__ import annotations

from typing import Final

import numpy as np

from sharpzo_mlx.errors import UserError

SPACE: Final = "▁"  # stands for a space within tokens
MOST_UNITS = 1 << 22


class CharsMap:
    """The table of one model.

    Args:
        packed: its bytes, as the model has them.

    Raises:
        UserError: they are no such table.
    """

    def __init__(self, packed: bytes) -> None:
        length = int.from_bytes(packed[:4], "little")
        if length % 4 or not 4 <= length <= min(4 * MOST_UNITS, len(packed) - 4):
            raise UserError("the tokenizer's table of characters is damaged; download the checkpoint again")
        self._units: list[int] = np.frombuffer(packed, "<u4", length // 4, 4).tolist()
        self._replacements = packed[4 + length :]

    def replace_first(self, text: bytes, start: int) -> tuple[str, int]:
        """Return what replaces the text from a byte on, and how many bytes it replaces; ("", 0) for nothing."""
        value, taken = self._find_longest(text, start)
        if not taken:
            return "", 0
        end = self._replacements.find(b"\0", value)
        return self._replacements[value : None if end < 0 else end].decode("utf-8", "replace"), taken

    def _find_longest(self, text: bytes, start: int) -> tuple[int, int]:
        units, value, taken = self._units, 0, 0
        place = _offset(units[0])
        for number in range(start, len(text)):
            place ^= text[number]
            if place >= len(units) or units[place] & 0x800000FF != text[number]:
                break
            unit = units[place]
            place ^= _offset(unit)
            if unit & 0x100 and place < len(units):
                value, taken = units[place] & 0x7FFFFFFF, number - start + 1
        return value, taken


def normalise(text: str, table: CharsMap | None) -> str:
    """Return a text with its characters replaced, spaces joined and written as `SPACE`, and none of them at the end.

    Args:
        text: any text without lone surrogates.
        table: the model's table; None replaces nothing.
    """
    data, start, parts, behind_space = text.encode(), 0, [], False
    while start < len(data):
        found, taken = table.replace_first(data, start) if table else ("", 0)
        if not taken:
            taken = _width(data[start])
            found = data[start : start + taken].decode()
        start += taken
        found = found.lstrip(" ") if behind_space else found
        if found:
            parts.append(found.replace(" ", SPACE))
            behind_space = found.endswith(" ")
    return "".join(parts).rstrip(SPACE)


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _width(first: int) -> int:
    """Return the bytes of the character that begins with this byte of UTF-8."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
