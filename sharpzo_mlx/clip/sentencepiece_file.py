"""Read a SentencePiece model (`spiece.model`, `tokenizer.model`) without its library.

The file is a protocol buffer, of which four fields are read: the pieces with their scores and kinds, the kind of model,
and the table that normalises text (the public schema is `sentencepiece_model.proto`).

>>> read_sentencepiece(Path("siglip/spiece.model")).unigram  # doctest: +SKIP
True
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import open_regular

MOST_BYTES = 64 << 20  # the largest known model has 5 MB
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
BYTES, FIXED32, FIXED64, VARINT = 2, 5, 1, 0  # kinds of fields


@dataclass(frozen=True)
class SentencePieceFile:
    """A model's content.

    Attributes:
        pieces: (text, score, kind) of each id.
        unigram: whether it is a unigram model; else byte-pair encoding.
        charsmap: the table that normalises text; empty for none.
    """

    pieces: tuple[tuple[str, float, int], ...]
    unigram: bool
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """Read a SentencePiece model.

    Raises:
        UserError: the file cannot be read, is too large, or no such model.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("too large")
        return _parse(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reading.reason(error)}); download the file again") from error
    except (ValueError, LookupError, struct.error) as error:
        raise UserError(f"{path}: no SentencePiece model ({error}); download the file again") from error


def _parse(content: bytes) -> SentencePieceFile:
    kind: int | bytes = UNIGRAM
    pieces, charsmap = [], b""
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_parse_piece(value))
        elif number == 2 and isinstance(value, bytes):
            kind = dict(_fields(value)).get(3, UNIGRAM)
        elif number == 3 and isinstance(value, bytes):
            found = dict(_fields(value)).get(2, b"")
            charsmap = found if isinstance(found, bytes) else b""
    if not pieces:
        raise ValueError("it holds no pieces")
    if kind not in (UNIGRAM, BPE):
        raise ValueError("it is neither a unigram nor a byte-pair model")
    return SentencePieceFile(tuple(pieces), kind == UNIGRAM, charsmap)


def _parse_piece(content: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(content))
    text, score, kind = fields[1], fields.get(2, b"\0\0\0\0"), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece is damaged")
    return text.decode(), struct.unpack("<f", score)[0], kind


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field; numbers of fixed width stay bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == VARINT:
            number, place = _varint(content, place)
            yield key >> 3, number
            continue
        if kind not in (BYTES, FIXED32, FIXED64):
            raise ValueError("it is damaged")
        length = 4 if kind == FIXED32 else 8
        if kind == BYTES:
            length, place = _varint(content, place)
        if place + length > len(content):
            raise ValueError("it is cut short")
        yield key >> 3, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it is damaged")
