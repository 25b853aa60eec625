"""Encode listed image files block by block, in this process and without the cache: images, or the means of their views.

The last bit of a row depends on the other images of its batch. So images belong to numbered blocks, and no batch leaves
one: the same blocks give the same rows, after a stop and in any process that has the same BLAS, threads and device.

>>> for rows, reasons in encode_blocks(clip, images, Batching(blocks, batch=32, fill=32)):  # doctest: +SKIP
...     ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.images.views import stream_views
from sharpzo_mlx.runtime.limits import empty_cache

Encoded: TypeAlias = tuple[dict[int, np.ndarray], dict[int, str]]  # rows [D] and reasons of failure, by position
Images: TypeAlias = Sequence[tuple[Path, bytes]]  # files with the SHA-256 of their content


@dataclass(frozen=True)
class Batching:
    """How images pass the tower.

    Attributes:
        blocks: a number for each image; images of one number lie side by side.
        batch: pictures that pass the tower at once, all of one block.
        fill: the number that a smaller batch is filled up to on a GPU.
        views: the views of each image whose mean is taken; 0 for the image itself.
    """

    blocks: list[int]
    batch: int
    fill: int
    views: int = 0


def encode_blocks(clip: Clip, images: Images, batching: Batching) -> Iterator[Encoded]:
    """Encode images.

    Args:
        clip: the checkpoint; its tower is loaded if there is an image.
        images: files with their digests, which only views need.
        batching: how they pass the tower.

    Yields:
        For each batch the rows [D], float32, unit norm, that it completes, and the reasons of failure, by position.
    """
    yield from _encode_views(clip, images, batching) if batching.views else _encode_plain(clip, images, batching)
    empty_cache()


def _encode_plain(clip: Clip, images: Images, batching: Batching) -> Iterator[Encoded]:
    paths = [path for path, _ in images]
    batches = stream(paths, clip.config.preprocessor, batch_size=batching.batch, blocks=batching.blocks)
    for batch, features in clip.encode_batches(batches, batching.fill):
        yield dict(zip(batch.indices, np.array(features), strict=True)), dict(batch.failed)


def _encode_views(clip: Clip, images: Images, batching: Batching) -> Iterator[Encoded]:
    encoded: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    config, views = clip.config.preprocessor, batching.views
    batches = stream_views(images, config, views=views, batch_size=batching.batch, blocks=batching.blocks)
    for batch, viewed in clip.encode_batches(batches, batching.fill):
        for index, row in zip(batch.indices, np.array(viewed), strict=True):
            encoded[index].append(row)
        complete = [index for index, rows in encoded.items() if len(rows) == views]
        yield {index: _mean_direction(encoded.pop(index)) for index in complete}, dict(batch.failed)


def _mean_direction(rows: list[np.ndarray]) -> np.ndarray:
    """Return the mean of rows [D], brought to unit norm."""
    mean = np.mean(rows, axis=0, dtype=np.float64)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)
