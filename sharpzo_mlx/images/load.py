"""Load image files in the size that CLIP's image tower takes, in order and in bounded memory.

The steps are those of transformers' CLIPImageProcessorPil: resize the shortest edge by Pillow's bicubic filter (the
long side rounds down), crop the centre (with zeros where the picture is smaller), rescale, normalise. mlx-data decodes
plain JPEG files in its own threads, about twice as fast as Pillow. Pillow does all the rest: mlx-data's PNG is no
faster and drops checksums and transparency, and its resize is not CLIP's bicubic filter.

>>> for batch in stream(paths, clip.config.preprocessor):  # doctest: +SKIP
...     features = clip.encode_pixels(batch.pictures)
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.images.decode import IMAGE_SUFFIXES, ImageError, held_content, held_image, open_image
from sharpzo_mlx.images.jpeg import PLAIN_BYTES, is_plain_jpeg
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.images.quiet import quiet
from sharpzo_mlx.runtime.threads import kept_threads, shared_cores

__all__ = ["IMAGE_SUFFIXES", "Batch", "ImageError", "open_image", "preprocess", "stream"]

CHUNK = 256  # images that are sorted by decoder at a time
AHEAD = 4  # finished pictures per thread that wait for the consumer, as bytes [H, W, 3]
CHANNEL_STARTS = np.array([0, 256, 512], dtype=np.uint16)  # of the three channels in the table of `levels`
STRETCHED = 64  # ratio of the sides above which only the part that the crop keeps is resized

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """Consecutive images: positions and pictures of the readable ones, positions and reasons of the others."""

    indices: list[int]
    pictures: np.ndarray  # [B, H, W, 3] bytes, which the image tower normalises
    failed: list[tuple[int, str]]


def preprocess(image: Image.Image, config: PreprocessorConfig) -> np.ndarray:
    """Resize, crop, rescale and normalise one picture as the checkpoint's own processor does.

    Args:
        image: a picture of any mode that converts to RGB, for example from `open_image`.
        config: the checkpoint's preprocessing.

    Returns:
        Pixels [H, W, 3], float32.
    """
    return normalise(resize_and_crop(image, config), config)


def resize_and_crop(image: Image.Image, config: PreprocessorConfig) -> np.ndarray:
    """Do the geometric part of `preprocess`; return a writable array [H, W, 3] of bytes."""
    picture = image if image.mode == "RGB" else image.convert("RGB")
    size = _resized(picture.height, picture.width, config)
    filtering = Image.Resampling(config.resample)
    if config.crop is None:
        return np.array(picture.resize(size[::-1], filtering))
    if max(size) > STRETCHED * min(size):
        return _resized_middle(picture, size, config.crop, filtering)
    return _centre_crop(np.asarray(picture.resize(size[::-1], filtering)), config.crop)


def _resized(height: int, width: int, config: PreprocessorConfig) -> tuple[int, int]:
    if config.resize is None:
        return height, width
    if not isinstance(config.resize, int):
        return config.resize
    stretched = int(config.resize * max(height, width) / min(height, width))  # rounds down, as the processor does
    return (stretched, config.resize) if width <= height else (config.resize, stretched)


def _resized_middle(
    image: Image.Image, size: tuple[int, int], crop: tuple[int, int], filtering: Image.Resampling
) -> np.ndarray:
    """Resize only the part that the crop keeps: a whole stripe of 1 x 20 000 pixels would fill gigabytes."""
    starts, counts, box = [], [], []
    for target, want, have in zip(size, crop, (image.height, image.width), strict=True):
        start, count = max((target - want) // 2, 0), min(target, want)
        starts.append(start)
        counts.append(count)
        box.append((start * have / target, (start + count) * have / target))
    (top, bottom), (left, right) = box
    middle = image.resize((counts[1], counts[0]), filtering, box=(left, top, right, bottom))
    return _centre_crop(np.asarray(middle), crop)


def _centre_crop(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    out = np.zeros((*crop, 3), dtype=np.uint8)
    spans = []
    for have, want in zip(pixels.shape[:2], crop, strict=True):
        first = (have - want) // 2  # negative where the picture is smaller: zeros around it
        spans.append((slice(max(first, 0), min(first + want, have)), max(-first, 0)))
    (rows, top), (columns, left) = spans
    kept = pixels[rows, columns]
    out[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    return out


def normalise(pictures: np.ndarray, config: PreprocessorConfig) -> np.ndarray:
    """Rescale and normalise bytes [..., 3] to float32, through the table of `levels`."""
    return np.take(levels(config), pictures + CHANNEL_STARTS)


def levels(config: PreprocessorConfig) -> np.ndarray:
    """Return the normalised values of the 256 levels of each channel, one channel behind the other: [768] float32."""
    return _levels(config.rescale_factor, config.mean, config.std)


@lru_cache(maxsize=8)
def _levels(factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> np.ndarray:
    values = np.arange(256, dtype=np.float64) * (1.0 if factor is None else factor)
    table = np.stack([values.astype(np.float32)] * 3)
    if mean is not None and std is not None:
        table = (table - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    return table.ravel()


def stream(
    paths: Sequence[Path | str],
    config: PreprocessorConfig,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    blocks: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Decode, resize and crop images in threads, a bounded number at a time, in the order of `paths`.

    Args:
        paths: image files.
        config: the checkpoint's preprocessing.
        batch_size: images of a batch, with the unreadable ones.
        workers: decoding threads; None takes the machine's cores, at most 8.
        blocks: a number for each path; a batch holds images of one number, which lie side by side. None: of any.

    Yields:
        Batches that together hold every position of `paths` once.

    Raises:
        UserError: the preprocessing gives pictures of different sizes, which cannot be stacked.
    """
    fixed_size(config)
    workers = workers or default_workers()
    pictures = _pictures([Path(path) for path in paths], config, workers)
    yield from make_batches(enumerate(pictures), config, batch_size, blocks)


def fixed_size(config: PreprocessorConfig) -> tuple[int, int]:
    """Return the (height, width) of every prepared picture; UserError if pictures have different sizes."""
    if config.output_size is None:
        raise UserError("the model's preprocessing has no crop and no fixed size: set `crop` in its config.json")
    return config.output_size


def default_workers() -> int:
    """Return the number of decoding threads: the machine's cores, or this process's part of them, at most 8."""
    return min(8, shared_cores())


def make_batches(
    results: Iterable[tuple[int, np.ndarray | str]],
    config: PreprocessorConfig,
    batch_size: int,
    blocks: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Gather pictures into batches.

    Args:
        results: positions, each with its picture [H, W, 3] of bytes or the reason why there is none.
        config: the checkpoint's preprocessing.
        batch_size: results of a batch; the last batch, and the last of a block, may have fewer.
        blocks: the number of each position's block, which a batch does not leave; None: all are one block.

    Yields:
        Batches with the results in order.
    """
    nothing = np.zeros((0, *fixed_size(config), 3), dtype=np.uint8)
    for _, block in groupby(results, key=lambda result: blocks[result[0]] if blocks else 0):
        while chunk := list(islice(block, batch_size)):
            pictures = [(index, result) for index, result in chunk if not isinstance(result, str)]
            failed = [(index, result) for index, result in chunk if isinstance(result, str)]
            stacked = np.stack([picture for _, picture in pictures]) if pictures else nothing
            yield Batch([index for index, _ in pictures], stacked, failed)


def read_picture(source: Path | bytes, config: PreprocessorConfig) -> np.ndarray | str:
    """Return the cropped bytes [H, W, 3] of an image file, or of its content, or the reason why there are none."""
    try:
        with held_content(source) if isinstance(source, bytes) else held_image(source) as picture:
            return resize_and_crop(picture, config)
    except ImageError as error:
        return error.reason
    except MemoryError:
        return "too large for the memory that there is"


def _pictures(paths: list[Path], config: PreprocessorConfig, workers: int) -> Iterator[np.ndarray | str]:
    """Yield for each path, in order, its cropped bytes [H, W, 3] or the reason why it cannot be read."""

    def by_pillow(path: Path) -> np.ndarray | str:
        return read_picture(path, config)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(paths), CHUNK):
                chunk = paths[start : start + CHUNK]
                plain = _plain(chunk, pool)
                fast = _fast_pictures([path for path in chunk if path in plain], config, workers)
                slow = map_ahead(pool, by_pillow, [path for path in chunk if path not in plain], workers * AHEAD)
                for path in chunk:
                    result = next(fast) if path in plain else next(slow)
                    yield by_pillow(path) if result is None else result
        finally:
            pool.shutdown(cancel_futures=True)  # a consumer that stops early does not wait for the rest


def _plain(paths: list[Path], pool: ThreadPoolExecutor) -> set[Path]:
    """Return the files that mlx-data may decode; none where it has no wheel."""
    if mlx_data() is None:
        return set()
    return {path for path, plain in zip(paths, pool.map(_is_plain, paths), strict=True) if plain}


def _is_plain(path: Path) -> bool:
    if path.suffix.lower() not in (".jpg", ".jpeg", ".jpe", ".jfif"):
        return False
    try:
        with open_regular(path) as file:
            return is_plain_jpeg(file.read(PLAIN_BYTES + 1))
    except OSError:
        return False


def map_ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """Do as `pool.map`, with at most `limit` results in progress."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fast_pictures(paths: list[Path], config: PreprocessorConfig, workers: int) -> Iterator[np.ndarray | None]:
    """Decode in mlx-data's threads, which call Pillow's resize; yield None for a file that mlx-data cannot read."""

    def shrink(pixels: Any) -> np.ndarray:
        # mlx-data keeps this array and crashes at a read-only one; this one is new and writable
        return resize_and_crop(Image.fromarray(np.asarray(pixels)), config)

    done = 0
    with kept_threads, quiet:
        while done < len(paths):
            samples = [{"image": os.fsencode(path)} for path in paths[done:]]
            buffer = mlx_data().buffer_from_vector(samples).load_image("image").key_transform("image", shrink)
            try:
                for sample in buffer.ordered_prefetch(workers * AHEAD, workers):
                    yield np.array(sample["image"])
                    done += 1
            except (RuntimeError, ValueError):
                # one bad file ends a stream: Pillow reads it, or says why not, and a new stream begins after it
                yield None
                done += 1


@lru_cache(maxsize=1)
def mlx_data() -> Any:
    """Return the module mlx.data, or None where there is no wheel for this Python."""
    try:
        return importlib.import_module("mlx.data")
    except ImportError:
        return None
