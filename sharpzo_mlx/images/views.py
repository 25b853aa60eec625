"""Make augmented views of pictures: random resized crops, half of them mirrored, in the model's input size.

The crop keeps a share of the area that is uniform in [0.5, 1], with an aspect ratio that is log-uniform in [3/4, 4/3].
The rules are those of torchvision's RandomResizedCrop: after ten attempts that do not fit into the picture, the crop is
the largest part in the centre with a ratio in that range. The random numbers of a view depend only on the content of
the image file and the number of the view, so that a picture has the same views in every set, order and process.

>>> for batch in stream_views(images, clip.config.preprocessor, views=10):  # doctest: +SKIP
...     features = clip.encode_pixels(batch.pictures)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sharpzo_mlx.images.decode import ImageError, held_image
from sharpzo_mlx.images.load import Batch, default_workers, fixed_size, make_batches, map_ahead
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.rng import generator_for

SHARES = (0.5, 1.0)  # of the picture's area
RATIOS = (3 / 4, 4 / 3)  # width to height
ATTEMPTS = 10

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def make_view(image: Image.Image, config: PreprocessorConfig, digest: bytes, number: int) -> np.ndarray:
    """Make one view of a picture.

    Args:
        image: a picture of any mode that converts to RGB, for example from `open_image`.
        config: the checkpoint's preprocessing; its filter (bicubic in CLIP) resizes the crop.
        digest: the SHA-256 of the image file.
        number: which view, from 0.

    Returns:
        The view [H, W, 3] as bytes, which `sharpzo_mlx.images.load.normalise` turns into pixels.

    Raises:
        UserError: the preprocessing has no fixed size.
    """
    height, width = fixed_size(config)
    generator = generator_for(int.from_bytes(digest, "big"), "view", number)
    picture = image if image.mode == "RGB" else image.convert("RGB")
    crop = picture.crop(draw_crop(generator, picture.width, picture.height))
    pixels = np.asarray(crop.resize((width, height), Image.Resampling(config.resample)))
    return pixels[:, ::-1] if generator.random() < 0.5 else pixels


def draw_crop(generator: np.random.Generator, width: int, height: int) -> Box:
    """Draw the part of a picture of `width` x `height` pixels that a view shows."""
    for _ in range(ATTEMPTS):
        area = width * height * _between(generator, *SHARES)
        ratio = math.exp(_between(generator, *map(math.log, RATIOS)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = _draw_start(generator, height - high), _draw_start(generator, width - wide)
            return left, top, left + wide, top + high
    return _central_crop(width, height)


def _between(generator: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * generator.random()


def _draw_start(generator: np.random.Generator, last: int) -> int:
    return int(generator.random() * (last + 1))  # 0 to `last`: random() is below 1


def _central_crop(width: int, height: int) -> Box:
    """Return the largest centred part whose ratio is in `RATIOS`."""
    low, high = RATIOS
    wide = min(width, round(height * high))
    tall = min(height, round(width / low))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def stream_views(
    images: Sequence[tuple[Path, bytes]],
    config: PreprocessorConfig,
    *,
    views: int,
    batch_size: int = 64,
    workers: int | None = None,
    blocks: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Make the views of images in threads, each file decoded once, with the views of one image a thread in memory.

    Args:
        images: files with the SHA-256 of their content.
        config: the checkpoint's preprocessing.
        views: the views of each image.
        batch_size: views of a batch; an unreadable image counts as one.
        workers: decoding threads; None takes the machine's cores, at most 8.
        blocks: a number for each image; a batch holds views of images of one number, which lie side by side. None: of
            any.

    Yields:
        Batches in the order of `images`. A position is in `indices` once for each of its views, which may lie in
        several batches, or once in `failed`.

    Raises:
        UserError: the preprocessing has no fixed size.
    """
    fixed_size(config)
    results = _all_views(images, config, views, workers or default_workers())
    yield from make_batches(results, config, batch_size, blocks)


def _all_views(
    images: Sequence[tuple[Path, bytes]], config: PreprocessorConfig, views: int, workers: int
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Yield each view with the position of its image, or the reason why the image cannot be read."""

    def read(image: tuple[Path, bytes]) -> list[np.ndarray] | str:
        path, digest = image
        try:
            with held_image(path) as picture:
                return [make_view(picture, config, digest, number) for number in range(views)]
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, result in enumerate(map_ahead(pool, read, images, workers)):
                for one in [result] if isinstance(result, str) else result:
                    yield index, one
        finally:
            pool.shutdown(cancel_futures=True)  # a consumer that stops early does not wait for the rest
