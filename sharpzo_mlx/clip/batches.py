"""Cut images and texts into batches that suit the device, and compute the next one while the last is read.

On a GPU every array shape leaves its own buffers in MLX's pool, so batches there have few shapes: the last one is
filled up, and its extra rows are cut off again. How many images fill a GPU depends on the largest array that the image
tower makes of one. On the CPU a batch has 32 images, and nothing is filled up.

>>> len(pad_rows(mx.ones((3, 2)), 8))
8
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import mlx.core as mx

from sharpzo_mlx.clip.cpu_text import encode_ids
from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.tower_config import ImageConfig, ResNetConfig
from sharpzo_mlx.runtime.device import on_cpu

IMAGE_BATCH = 32  # on the CPU
TEXT_BATCH = 64
SMALL_GPU = 8 * 197 * 3072  # numbers in the largest array that fill a GPU of some ten cores: 8 images of ViT-B/16
LARGE_GPU = 2 * SMALL_GPU
MOST_IMAGES = 64  # of a batch for a small tower
LENGTHS = 8  # texts on a GPU have a multiple of so many tokens

T = TypeVar("T")


def image_batch(tower: ImageConfig) -> int:
    """Return the number of images that pass an image tower at once on the default device."""
    if on_cpu():
        return IMAGE_BATCH
    architecture = str(mx.device_info().get("architecture", ""))
    small = architecture.startswith("applegpu") and architecture[-1] in "gp"  # a plain M chip, or a phone's
    return min(MOST_IMAGES, max(1, (SMALL_GPU if small else LARGE_GPU) // _largest_array(tower)))


def _largest_array(tower: ImageConfig) -> int:
    """Return the numbers of one image in the widest layer: the MLP of a ViT, the first stage of the others."""
    if isinstance(tower, ResNetConfig):
        return 4 * tower.width * (tower.image_size // 4) ** 2
    if isinstance(tower, FastViTConfig):
        return tower.positions * tower.mlp_ratio * tower.widths[0]
    return tower.positions * tower.intermediate_size


def view_batch(images: int, views: int) -> int:
    """Return the number of views that pass the image tower at once, where `images` images do.

    On a GPU the views of an image are cut into batches of one size: whole images if they fit, equal parts if not.
    """
    if on_cpu():
        return images
    return images // views * views if views <= images else -(-views // round(views / images))


def pad_rows(rows: mx.array, size: int) -> mx.array:
    """Return rows [n, ...] with copies of the last row behind them, `size` in all; unchanged if there are enough."""
    missing = size - len(rows)
    if missing <= 0:
        return rows
    return mx.concatenate([rows, mx.broadcast_to(rows[-1:], (missing, *rows.shape[1:]))])


def read_behind(started: Iterable[tuple[T, mx.array]]) -> Iterator[tuple[T, mx.array]]:
    """Evaluate arrays in order, each while the next one is prepared.

    Args:
        started: lazy arrays, each with what it belongs to. Taking the next one is its preparation.

    Yields:
        The same, evaluated. On the CPU nothing is prepared ahead. On a GPU two arrays are in work at most.
    """
    waiting: list[tuple[T, mx.array]] = []
    for item, array in started:
        mx.async_eval(array)
        waiting.append((item, array))
        if len(waiting) > 1 or on_cpu():
            yield _evaluated(*waiting.pop(0))
    for item, array in waiting:
        yield _evaluated(item, array)


def _evaluated(item: T, array: mx.array) -> tuple[T, mx.array]:
    mx.eval(array)
    return item, array


def encode_texts(model: CLIPModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[mx.array]:
    """Return the features [n, D] of whole texts in order, one array a batch, evaluated.

    Raises:
        UserError: a text is too long; the error shows it.
    """
    parts = (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))
    size = min(TEXT_BATCH, len(texts))
    return [rows for _, rows in read_behind((None, _text_features(model, tokenizer, part, size)) for part in parts)]


def _text_features(model: CLIPModel, tokenizer: Tokenizer, texts: Sequence[str], size: int) -> mx.array:
    ids = tokenizer(list(texts))
    if on_cpu():
        return model.text_features(ids) if model.text_model.config.causal else encode_ids(model, ids)
    return model.text_features(pad_rows(_lengthen(model, tokenizer, ids), size))[: len(texts)]


def _lengthen(model: CLIPModel, tokenizer: Tokenizer, ids: mx.array) -> mx.array:
    """Pad token ids [B, T] on the right to one of few lengths; a tower without a causal mask does so itself."""
    text = model.text_model.config
    length = min(-(-ids.shape[1] // LENGTHS) * LENGTHS, text.max_position_embeddings) if text.causal else 0
    return mx.pad(ids, [(0, 0), (0, max(0, length - ids.shape[1]))], constant_values=tokenizer.pad_id)
