"""Hand image files out to helpers in pieces of whole blocks, or encode them here where there are no helpers.

A helper looks for each file where the leader has it (a shared folder) and compares its content; where one is missing or
another, it says so, and the piece is sent again with the files' content. What a helper cannot read is read here before
it is believed. So the rows are those that this process would have made.

>>> for rows, reasons in encode_anywhere(clip, model, images, batching):  # doctest: +SKIP
...     ...
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.blocks import Batching, Encoded, Images, encode_blocks
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images.load import read_picture
from sharpzo_mlx.images.stored import open_stored, split_stored
from sharpzo_mlx.runtime.helpers import Helpers, Model, current

WORK = "encode"
MOST_PASSES = 256  # of the tower in a piece: a few seconds, which a lost helper costs
PIECES_EACH = 16  # for every helper, so that none waits long for the last one
KNOWN_SUFFIX = 8  # characters of a file's ending


@dataclass(frozen=True)
class FilePiece:
    """Files for a helper.

    Attributes:
        paths: where the leader has them, as bytes.
        digests: the SHA-256 of each content.
        batching: how they pass the tower.
        contents: the files' contents if they are sent along, else empty.
    """

    paths: list[bytes]
    digests: list[bytes]
    batching: Batching
    contents: list[bytes]


@dataclass(frozen=True)
class PieceFeatures:
    """What a helper made of a piece.

    Attributes:
        seen: whether it has all files with the leader's content; if not, the rest is empty.
        positions: the positions of the rows in the piece.
        rows: [n, D] float32, unit norm.
        failed: reasons of failure by position.
    """

    seen: bool
    positions: list[int]
    rows: np.ndarray
    failed: dict[int, str]


def encode_anywhere(clip: Clip, model: Model, images: Images, batching: Batching) -> Iterator[Encoded]:
    """Do as `encode_blocks`, with the helpers of this thread if there are any; then in any order of the blocks.

    Args:
        clip: the checkpoint.
        model: its name for helpers.
        images: files with their digests; without digests they are encoded here.
        batching: how they pass the tower.
    """
    helpers = current()
    if helpers is None or not all(found for _, found in images):
        yield from encode_blocks(clip, images, batching)
        return
    pieces = _cut(batching, helpers.count)
    unseen = yield from _hand_out(clip, helpers, model, (images, batching), pieces, with_content=False)
    if unseen:
        yield from _hand_out(clip, helpers, model, (images, batching), unseen, with_content=True)


def _cut(batching: Batching, helpers: int) -> list[range]:
    """Return the positions of each piece: whole blocks, smaller pieces where there is little to do for each helper."""
    total, passes = len(batching.blocks), max(1, batching.views)
    most = max(1, min(MOST_PASSES // passes, total // (PIECES_EACH * helpers)))
    pieces: list[range] = []
    begin = end = 0
    for _, block in groupby(batching.blocks):
        length = len(list(block))
        if end > begin and end + length - begin > most:
            pieces.append(range(begin, end))
            begin = end
        end += length
    return [*pieces, range(begin, end)] if end > begin else pieces


def _hand_out(
    clip: Clip,
    helpers: Helpers,
    model: Model,
    task: tuple[Images, Batching],
    pieces: Sequence[range],
    *,
    with_content: bool,
) -> Generator[Encoded, None, list[range]]:
    """Yield what helpers made of the pieces, and return those that they do not see."""
    images, batching = task
    unseen: list[range] = []
    made = (_make_piece(images, batching, piece, with_content) for piece in pieces)
    for number, found in helpers.perform(WORK, made, model):
        place = pieces[number]
        if found.seen and _confirms(clip, [images[index] for index in place], found):
            rows = {place[index]: row for index, row in zip(found.positions, found.rows, strict=True)}
            yield rows, {place[index]: reason for index, reason in found.failed.items()}
        elif found.seen or with_content:
            yield from _encode_here(clip, images, batching, place)
        else:
            unseen.append(place)
    return unseen


def _make_piece(images: Images, batching: Batching, place: range, with_content: bool) -> FilePiece:
    chosen = [images[index] for index in place]
    contents = [_read(path) for path, _ in chosen] if with_content else []
    return FilePiece(
        [os.fsencode(os.path.abspath(path)) for path, _ in chosen],
        [one for _, one in chosen],
        _part(batching, place),
        contents,
    )


def _part(batching: Batching, place: range) -> Batching:
    return Batching(batching.blocks[place.start : place.stop], batching.batch, batching.fill, batching.views)


def _read(path: Path) -> bytes:
    """Return the content of a file; nothing of one that has gone, which no helper takes for the file."""
    try:
        with open_stored(path) as file:
            return file.read()
    except OSError:
        return b""


def _encode_here(clip: Clip, images: Images, batching: Batching, place: range) -> Iterator[Encoded]:
    for rows, reasons in encode_blocks(clip, [images[index] for index in place], _part(batching, place)):
        yield {place[index]: row for index, row in rows.items()}, {place[index]: why for index, why in reasons.items()}


def _confirms(clip: Clip, images: Images, found: PieceFeatures) -> bool:
    """Return whether this process cannot read either what the helper could not read, and the answer is whole."""
    whole = sorted([*found.positions, *found.failed]) == list(range(len(images)))
    sound = found.rows.shape == (len(found.positions), clip.config.projection_dim) and np.isfinite(found.rows).all()
    unread = (read_picture(images[index][0], clip.config.preprocessor) for index in found.failed if whole)
    return whole and bool(sound) and all(isinstance(one, str) for one in unread)


def encode_piece(clip: Clip, piece: FilePiece) -> PieceFeatures:
    """Encode a piece; this is what a helper does."""
    width = clip.config.projection_dim
    with ExitStack() as stack:
        paths = _unpack(piece, stack) if piece.contents else [Path(os.fsdecode(path)) for path in piece.paths]
        if not all(holds(path, known) for path, known in zip(paths, piece.digests, strict=True)):
            return PieceFeatures(False, [], np.zeros((0, width), np.float32), {})
        rows: dict[int, np.ndarray] = {}
        failed: dict[int, str] = {}
        for fresh, unread in encode_blocks(clip, list(zip(paths, piece.digests, strict=True)), piece.batching):
            rows.update(fresh)
            failed.update(unread)
    stacked = np.stack(list(rows.values())) if rows else np.zeros((0, width), np.float32)
    return PieceFeatures(True, list(rows), stacked, failed)


def _unpack(piece: FilePiece, stack: ExitStack) -> list[Path]:
    """Write the contents into a folder of their own, under endings that choose the decoder (none for stored ones)."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sharpzo-mlx-")))
    paths = []
    for number, (name, content) in enumerate(zip(piece.paths, piece.contents, strict=True)):
        path = Path(os.fsdecode(name))
        chosen = len(path.suffix) <= KNOWN_SUFFIX and split_stored(path) is None
        paths.append(folder / f"{number}{path.suffix if chosen else ''}")
        paths[-1].write_bytes(content)
    return paths


def holds(path: Path, known: bytes) -> bool:
    """Return whether an image is here with a content of that SHA-256, and can be read here."""
    try:
        return digest(path) == known
    except (OSError, UserError):  # the latter of a Parquet file where the package that reads it is missing
        return False
