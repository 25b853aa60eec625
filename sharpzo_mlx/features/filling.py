"""Fill the feature cache: encode the images of folders, so that later commands find their features.

>>> fill_cache(clip, ["photos/"]).encoded  # doctest: +SKIP
1200
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import FeatureCache
from sharpzo_mlx.features.digests import Reading
from sharpzo_mlx.features.extract import cache_name, encode_files, find_copies, finish
from sharpzo_mlx.features.streaming import CHUNK, take_chunks
from sharpzo_mlx.runtime.helpers import helped_at


@dataclass(frozen=True)
class Filled:
    """How many images are in the cache.

    Attributes:
        done: images so far, all of them at the end.
        encoded: those whose feature was computed.
        cached: those that were in the cache already, or are copies of others.
        unreadable: the files that cannot be read, with the reason.
    """

    done: int = 0
    encoded: int = 0
    cached: int = 0
    unreadable: tuple[tuple[Path, str], ...] = ()


def fill_cache(
    clip: Clip, paths: str | Path | Sequence[str | Path], *, recursive: bool = True, cluster: str | None = None
) -> Filled:
    """Encode images, and keep their features in the cache.

    Args:
        clip: the checkpoint.
        paths: one image file, folder of images or file that lists or stores images (`datasets.listed`), or several.
        recursive: whether folders inside folders are read too.
        cluster: workers that help: `local:N` or an address, as `open_cluster` takes it; None for no others.

    Returns:
        How many images are in the cache, and which cannot be read.

    Raises:
        UserError: there is no image among the paths.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    with helped_at(cluster):
        *_, last = fill_cache_steps(clip, paths, recursive=recursive)
    return last


def fill_cache_steps(
    clip: Clip, paths: Iterable[str | Path], *, recursive: bool = True
) -> Generator[Filled, None, None]:
    """Do as `fill_cache`, and yield how far it is after each batch; paths may be a generator."""
    listing = ImageListing(paths, recursive=recursive)
    found = Filled()
    with FeatureCache(cache_name(clip), width=clip.config.projection_dim) as store:
        for reading in take_chunks(iter(listing)):
            found = yield from _fill_chunk(clip, store, reading, found)
    if not listing.count:
        left_out = listing.describe_left_out()
        raise UserError(f"no image to encode: {f'left out: {left_out}' if left_out else 'name a folder of images'}")


def _fill_chunk(clip: Clip, store: FeatureCache, reading: Reading, before: Filled) -> Generator[Filled, None, Filled]:
    failed: dict[int, str] = {}
    chunk, digests = reading.paths, finish(reading.steps(failed))
    known = store.get(list(digests.values()))
    missing = [index for index, one in digests.items() if one not in known]
    copies = find_copies(missing, digests)
    encoded, cached = before.encoded, before.cached + len(digests) - len(missing)
    unreadable = [*before.unreadable, *((chunk[index], reason) for index, reason in failed.items())]
    done = before.done + len(chunk) - len(missing)
    yield Filled(done, encoded, cached, tuple(unreadable))
    for fresh, unread in encode_files(clip, chunk, list(copies), clip.image_batch, digests=digests, chunk=CHUNK):
        store.put({digests[index]: row for index, row in fresh.items()})
        encoded += len(fresh)
        cached += sum(len(copies[index]) - 1 for index in fresh)
        unreadable += [(chunk[one], reason) for index, reason in unread.items() for one in copies[index]]
        done += sum(len(copies[index]) for index in (*fresh, *unread))
        yield Filled(done, encoded, cached, tuple(unreadable))
    return Filled(done, encoded, cached, tuple(unreadable))
