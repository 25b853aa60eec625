"""Encode any number of image files in bounded memory: features come batch by batch, from the cache if they are there.

Files are taken a chunk at a time: their content is digested, the cache is asked, and what it lacks passes the image
tower and is stored. Nothing is kept of a chunk that is done.

>>> for batch in encode_stream(clip, Path("photos").iterdir()):  # doctest: +SKIP
...     print([path for path, feature in batch if isinstance(feature, str)])  # the unreadable ones
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.features.cache import FeatureCache
from sharpzo_mlx.features.digests import digest_steps, report_cloud_only
from sharpzo_mlx.features.extract import cache_name, encode_files, find_copies, finish, give_to_copies
from sharpzo_mlx.runtime.helpers import count_helpers

CHUNK = 512  # files that are looked up in the cache at once

Encoded = list[tuple[Path, np.ndarray | str]]


def encode_stream(clip: Clip, paths: Iterable[Path]) -> Iterator[Encoded]:
    """Encode image files as they come.

    Args:
        clip: the checkpoint; its image tower is loaded only if an image is not cached.
        paths: image files, of which at most 512 are taken ahead, or so many for each helper.

    Yields:
        Batches that together hold every file once, in order: the file with its feature [D], float32, unit norm, or with
        the reason why it cannot be read.
    """
    files, reported = iter(paths), False
    with FeatureCache(cache_name(clip), width=clip.config.projection_dim) as store:
        while chunk := list(islice(files, most := CHUNK * count_helpers())):
            reported = reported or report_cloud_only(chunk, more=len(chunk) == most)
            yield from _encode_chunk(clip, store, chunk)


def _encode_chunk(clip: Clip, store: FeatureCache, chunk: list[Path]) -> Iterator[Encoded]:
    failed: dict[int, str] = {}
    digests = finish(digest_steps(chunk, failed))
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


def _take_ready(chunk: list[Path], found: dict[int, np.ndarray | str], done: int) -> Encoded:
    """Return the files from position `done` up to the first that is not encoded yet."""
    end = next((index for index in range(done, len(chunk)) if index not in found), len(chunk))
    return [(chunk[index], found[index]) for index in range(done, end)]
