"""Encode augmented views of labelled images: for each image the mean of its views' features, kept in the cache.

The views are those of `sharpzo_mlx.images.views`: crops and mirrored crops that depend only on the file's content.
Their mean takes one pass of the image tower for each view, once. After that it is read from the cache, and no image is
decoded.

>>> encode_views(clip, features, views=10).shape  # doctest: +SKIP
(150, 512)
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.batches import view_batch
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.blocks import Batching
from sharpzo_mlx.features.cache import FeatureCache
from sharpzo_mlx.features.extract import (
    EncodeProgress,
    Features,
    cache_name,
    find_copies,
    find_digests,
    finish,
    give_to_copies,
    name_model,
)
from sharpzo_mlx.features.pieces import encode_anywhere
from sharpzo_mlx.features.skipped import name_files

FORMAT = "1"  # part of a row's key: raise it when the views or their mean change
VIEWS = 10
MOST_VIEWS = 100  # the views of one image a thread are in memory at once


def encode_views(clip: Clip, features: Features, *, views: int = VIEWS, cache: bool = True) -> mx.array:
    """Return the mean features of views [N, D] without reporting progress; see `encode_views_steps`."""
    return finish(encode_views_steps(clip, features, views=views, cache=cache))


def encode_views_steps(
    clip: Clip, features: Features, *, views: int = VIEWS, cache: bool = True
) -> Generator[EncodeProgress, None, mx.array]:
    """Encode views of images; the image tower is loaded only if an image is not cached.

    Args:
        clip: the checkpoint.
        features: the features of the images themselves.
        views: the views of each image, 1 to `MOST_VIEWS`.
        cache: whether the cache on disk is read and written.

    Yields:
        The progress in images, at the start and after each batch; none for features without images.

    Returns:
        The mean of each image's view features [N, D], float32, unit norm, in the order of `features`. An image that
        can no longer be read keeps its plain feature, and a notice names it.

    Raises:
        UserError: `views` is out of range.
    """
    if not 1 <= views <= MOST_VIEWS:
        raise UserError(f"views is {views}: take 1 to {MOST_VIEWS} views of each image")
    rows: dict[int, np.ndarray] = {}
    failed: dict[int, str] = {}
    total = len(features.paths)
    digests = yield from find_digests(features.paths, failed)
    keys = {index: _make_row_key(found, views) for index, found in digests.items()}
    with FeatureCache(cache_name(clip), width=clip.config.projection_dim) as store:
        known = store.get(list(keys.values())) if cache else {}
        rows.update({index: known[key] for index, key in keys.items() if key in known})
        cached = len(rows)
        if total:
            yield EncodeProgress(cached, total, cached)
        copies = find_copies((index for index in digests if index not in rows), digests)
        for fresh, unread in _encoded(clip, features, {index: digests[index] for index in copies}, views):
            if cache:
                store.put({keys[index]: row for index, row in fresh.items()})
            rows.update(give_to_copies(fresh, copies))
            failed.update(give_to_copies(unread, copies))
            yield EncodeProgress(len(rows) + len(failed), total, cached)
    _report(features, failed)
    return _replace_rows(features.embeddings, rows)


def _make_row_key(digest: bytes, views: int) -> bytes:
    """Return the cache's key of an image's mean, which no file has as its own digest."""
    return hashlib.sha256(digest + f"mean of {views} views, format {FORMAT}".encode()).digest()


def _encoded(
    clip: Clip, features: Features, missing: dict[int, bytes], views: int
) -> Iterator[tuple[dict[int, np.ndarray], dict[int, str]]]:
    """Yield, for each batch, the means that it completes and the reasons of failure by position in `features`."""
    positions = list(missing)
    images = [(features.paths[index], missing[index]) for index in positions]
    together = max(1, clip.image_batch // views)  # images of a block, see `features.blocks`: a stop changes no batch
    size = view_batch(clip.image_batch, views)
    batching = Batching([index // together for index in positions], size, min(size, views * len(images)), views)
    for rows, reasons in encode_anywhere(clip, name_model(clip), images, batching):
        fresh = {positions[index]: row for index, row in rows.items()}
        yield fresh, {positions[index]: reason for index, reason in reasons.items()}


def _report(features: Features, failed: dict[int, str]) -> None:
    if failed:
        named = name_files([(features.paths[index], failed[index]) for index in sorted(failed)])
        notify(f"{len(failed)} images can no longer be read and have no views, only their plain features: {named}")


def _replace_rows(embeddings: mx.array, rows: dict[int, np.ndarray]) -> mx.array:
    replaced = np.array(embeddings, dtype=np.float32)
    for index, row in rows.items():
        replaced[index] = row
    return mx.array(replaced)
