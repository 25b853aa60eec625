"""Encode any number of image files in bounded memory: features come batch by batch, from the cache if they are there.

Files are taken a chunk at a time: their content is digested, the cache is asked, and what it lacks passes the image
tower and is stored. Nothing is kept of a chunk that is done.

>>> for batch in encode_stream(clip, Path("photos").iterdir()):  # doctest: +SKIP
...     print([path for path, feature in batch if isinstance(feature, str)])  # the unreadable ones
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.features.cache import FeatureCache
from sharpzo_mlx.features.digests import Reading, read_in_chunks
from sharpzo_mlx.features.extract import cache_name, encode_files, find_copies, finish, give_to_copies
from sharpzo_mlx.runtime.helpers import count_helpers, current

CHUNK = 512  # files that are looked up in the cache at once
CHUNKS_EACH = 4  # with helpers, for each, because they wait for one another at a chunk's end
MOST_CHUNKS = 64  # however many helpers there are

Encoded = list[tuple[Path, np.ndarray | str]]


def encode_stream(clip: Clip, paths: Iterable[Path]) -> Iterator[Encoded]:
    """Encode image files as they come.

    Args:
        clip: the checkpoint; its image tower is loaded only if an image is not cached.
        paths: image files, of which at most 512 are taken ahead; with helpers 2 048 for each, twice.

    Yields:
        Batches that together hold every file once, in order: the file with its feature [D], float32, unit norm, or with
        the reason why it cannot be read.
    """
    with FeatureCache(cache_name(clip), width=clip.config.projection_dim) as store:
        for reading in take_chunks(iter(paths)):
            yield from _encode_chunk(clip, store, reading)


def take_chunks(files: Iterator[Path]) -> Iterator[Reading]:
    """Take files a chunk at a time; with helpers larger chunks, and the next one is read while they have one."""

    def most() -> int:
        return CHUNK * (min(CHUNKS_EACH * count_helpers(), MOST_CHUNKS) if current() is not None else 1)

    return read_in_chunks(files, most, ahead=current() is not None)


def _encode_chunk(clip: Clip, store: FeatureCache, reading: Reading) -> Iterator[Encoded]:
    failed: dict[int, str] = {}
    chunk, digests = reading.paths, finish(reading.steps(failed))
    known = store.get(list(digests.values()))
    found: dict[int, np.ndarray | str] = {index: known[one] for index, one in digests.items() if one in known}
    found.update(failed)
    ready = _take_ready(chunk, found, 0)
    if ready:
        yield ready
    done = len(ready)
    copies = find_copies((index for index in range(len(chunk)) if index not in found), digests)
    missing = list(copies)
    for fresh, unread in encode_files(clip, chunk, missing, clip.image_batch, digests=digests, chunk=CHUNK):
        store.put({digests[index]: row for index, row in fresh.items()})
        found.update(give_to_copies(fresh, copies))
        found.update(give_to_copies(unread, copies))
        ready = _take_ready(chunk, found, done)
        done += len(ready)
        if ready:  # helpers may have begun with a later one
            yield ready


def _take_ready(chunk: Sequence[Path], found: dict[int, np.ndarray | str], done: int) -> Encoded:
    """Return the files from position `done` up to the first that is not encoded yet."""
    end = next((index for index in range(done, len(chunk)) if index not in found), len(chunk))
    return [(chunk[index], found[index]) for index in range(done, end)]
