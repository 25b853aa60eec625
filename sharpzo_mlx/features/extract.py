"""Encode images into Features: by the frozen image tower, once for each file content; unreadable files are skipped.

Image features do not depend on the prompt (arXiv 2506.20990, section 3), so that tuning needs only these rows.
`encode_steps` yields records of progress and returns the features; `encode` runs it to its end.

>>> features = encode(clip, read_folder(Path("photos")))  # doctest: +SKIP
>>> features.embeddings.shape, features.skipped  # doctest: +SKIP
((150, 512), ())
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.blocks import Batching
from sharpzo_mlx.features.cache import FeatureCache, make_key
from sharpzo_mlx.features.digests import digest_contents, digest_steps
from sharpzo_mlx.features.pieces import encode_anywhere
from sharpzo_mlx.features.skipped import NAMED, report_skipped
from sharpzo_mlx.images.stored import read_order
from sharpzo_mlx.runtime.helpers import Model

P = TypeVar("P")
R = TypeVar("R")
F = TypeVar("F")
T = TypeVar("T")


@dataclass(frozen=True)
class EncodeProgress:
    """The progress of encoding.

    Attributes:
        done: images done, the cached ones among them.
        total: all images.
        cached: images that were in the cache.
        looked_up: while none is done: files that were read to look for them in the cache.
    """

    done: int
    total: int
    cached: int
    looked_up: int = 0


@dataclass(frozen=True)
class Features:
    """The features of a set of images, in the order of its files.

    Attributes:
        embeddings: [N, D] float32, unit norm.
        labels: [N] int32, positions in `class_names`.
        class_names: names for prompts.
        folders: the classes' folder names, in the same order.
        paths: [N] the file of each row.
        skipped: the files that could not be read, with the reason.
        content: a digest of the content of all files in order; empty if the cache, which needs it, is off.
        digests: [N] the SHA-256 of each row's file, 32 bytes; empty likewise.
    """

    embeddings: mx.array
    labels: np.ndarray
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    paths: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    content: str = ""
    digests: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Evaluate the rows, so that every thread may use them."""
        mx.eval(self.embeddings)

    def take(self, rows: np.ndarray | list[int]) -> Features:
        """Return the features of some rows, in the order given."""
        chosen = np.asarray(rows, dtype=np.int32)
        return replace(
            self,
            embeddings=self.embeddings[mx.array(chosen)],
            labels=self.labels[chosen],
            paths=tuple(self.paths[row] for row in chosen),
            digests=tuple(self.digests[row] for row in chosen) if self.digests else (),
        )


def encode(clip: Clip, images: ImageSet, *, cache: bool = True) -> Features:
    """Encode a set of images without reporting progress; see `encode_steps`."""
    return finish(encode_steps(clip, images, cache=cache))


def finish(steps: Generator[P, None, F]) -> F:
    """Run steps to their end without their records of progress, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: F = end.value
            return result


def relay(steps: Generator[P, None, F], record: Callable[[P], R]) -> Generator[R, None, F]:
    """Yield `record(progress)` for each record of progress, and return what `steps` returns."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            result: F = end.value
            return result
        yield record(progress)


def encode_steps(
    clip: Clip,
    images: ImageSet,
    *,
    batch_size: int | None = None,
    cache: bool = True,
    whole: bool = True,
    chunk: int | None = None,
) -> Generator[EncodeProgress, None, Features]:
    """Encode a set of images; the image tower is loaded only if an image is not cached.

    Args:
        clip: the checkpoint.
        images: files and labels.
        batch_size: images that pass the tower at once; None for what suits the device.
        cache: whether the cache on disk is read and written.
        whole: whether these are all images of their set; for a part, the caller calls `check_readable` at the end.
        chunk: see `encode_files`.

    Yields:
        The progress: about every second while the files are looked up, when that is done, and after each batch.

    Returns:
        The features in the order of `images`, without the unreadable images, which a notice names; no rows and no
        progress for a set without images.

    Raises:
        UserError: there are images, and none could be read.
    """
    if not len(images):
        return replace(
            _collect(images, {}, {}, clip.config.projection_dim), content=digest_contents({}) if cache else ""
        )
    rows: dict[int, np.ndarray] = {}
    failed: dict[int, str] = {}
    with FeatureCache(cache_name(clip), width=clip.config.projection_dim) as store:
        digests = (yield from find_digests(images.paths, failed)) if cache else {}
        known = store.get(list(digests.values())) if cache else {}
        rows.update({index: known[found] for index, found in digests.items() if found in known})
        cached = len(rows)
        yield EncodeProgress(cached, len(images.paths), cached)
        missing = [index for index in range(len(images.paths)) if index not in rows and index not in failed]
        copies = find_copies(missing, digests)
        size, own = batch_size or clip.image_batch, list(copies)
        for fresh, unread in encode_files(clip, images.paths, own, size, digests=digests, chunk=chunk):
            if cache:
                store.put({digests[index]: row for index, row in fresh.items()})
            rows.update(give_to_copies(fresh, copies))
            failed.update(give_to_copies(unread, copies))
            yield EncodeProgress(len(rows) + len(failed), len(images.paths), cached)
    features = _collect(images, rows, failed, clip.config.projection_dim)
    if cache:
        known_rows = tuple(digests[index] for index in sorted(rows))
        features = replace(features, content=digest_contents(digests), digests=known_rows)
    if whole:
        check_readable(images, features.labels, features.skipped)
    return features


def cache_name(clip: Clip) -> str:
    """Return the name of the FeatureCache with this checkpoint's features, as this device's precision makes them."""
    preprocessing = json.dumps(clip.config.preprocessor.to_dict(), sort_keys=True)
    return make_key(clip.fingerprint, preprocessing, clip.image_precision)


def find_digests(paths: Sequence[Path], failed: dict[int, str]) -> Generator[EncodeProgress, None, dict[int, bytes]]:
    """Yield the progress of `digest_steps` as that of images of which none is encoded, and return the digests."""
    return (yield from relay(digest_steps(paths, failed), lambda n: EncodeProgress(0, len(paths), 0, looked_up=n)))


def content_of(paths: Sequence[Path]) -> str:
    """Return the `Features.content` of some files without decoding them."""
    return digest_contents(finish(digest_steps(paths, {})))


def find_copies(missing: Iterable[int], digests: Mapping[int, bytes]) -> dict[int, list[int]]:
    """Return the first position of each content with all positions of that content; of an unknown one, itself alone."""
    firsts: dict[bytes, int] = {}
    copies: dict[int, list[int]] = {}
    for index in missing:
        first = firsts.setdefault(digests[index], index) if index in digests else index
        copies.setdefault(first, []).append(index)
    return copies


def give_to_copies(found: Mapping[int, T], copies: Mapping[int, list[int]]) -> dict[int, T]:
    """Return what was found for first positions, for all positions of the same content."""
    return {index: one for first, one in found.items() for index in copies[first]}


def encode_files(
    clip: Clip,
    paths: Sequence[Path],
    missing: list[int],
    batch_size: int,
    *,
    digests: Mapping[int, bytes] = MappingProxyType({}),
    chunk: int | None = None,
) -> Iterator[tuple[dict[int, np.ndarray], dict[int, str]]]:
    """Encode some of the files, without the cache; by the helpers of this thread, if it has any.

    Args:
        clip: the checkpoint.
        paths: files.
        missing: the positions of those to encode.
        batch_size: images that pass the tower at once; no batch leaves a block of so many, see `features.blocks`.
        digests: the SHA-256 of the files by position; without it no helper is asked.
        chunk: positions after which the blocks begin anew.

    Yields:
        For each batch, in any order, the features [D] and the reasons of failure, by position in `paths`.
    """
    chunk_blocks = -(-(chunk := chunk or len(paths)) // batch_size)
    places = [s + place for s in range(0, len(paths), chunk) for place in read_order(paths[s : s + chunk])]
    missing = sorted(missing, key=places.__getitem__)
    blocks = [places[index] // chunk * chunk_blocks + places[index] % chunk // batch_size for index in missing]
    images = [(paths[index], digests.get(index, b"")) for index in missing]
    batching = Batching(blocks, batch_size, min(batch_size, len(missing)))
    for rows, reasons in encode_anywhere(clip, name_model(clip), images, batching):
        fresh = {missing[index]: row for index, row in rows.items()}
        yield fresh, {missing[index]: reason for index, reason in reasons.items()}


def name_model(clip: Clip) -> Model:
    """Return how helpers know a checkpoint."""
    return Model(cache_name(clip), clip.folder)


def check_readable(images: ImageSet, labels: np.ndarray, skipped: Sequence[tuple[Path, str]]) -> None:
    """Notify the user of images that could not be read, and of classes that have no other image.

    Args:
        images: all images of a set.
        labels: the labels of the images that were read.
        skipped: the other files, with the reasons.

    Raises:
        UserError: no image could be read.
    """
    report_skipped(skipped)
    if not len(labels):
        raise UserError(f"none of {len(images.paths)} images could be read{_first(skipped)}")
    _report_empty(images, labels)


def _collect(images: ImageSet, rows: dict[int, np.ndarray], failed: dict[int, str], width: int) -> Features:
    skipped = tuple((images.paths[index], failed[index]) for index in sorted(failed))
    kept = sorted(rows)
    return Features(
        embeddings=mx.array(np.stack([rows[index] for index in kept])) if kept else mx.zeros((0, width)),
        labels=np.array([images.labels[index] for index in kept], dtype=np.int32),
        class_names=images.class_names,
        folders=images.folders,
        paths=tuple(images.paths[index] for index in kept),
        skipped=skipped,
    )


def _first(skipped: Sequence[tuple[Path, str]]) -> str:
    return f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""


def _report_empty(images: ImageSet, labels: np.ndarray) -> None:
    lost = sorted(set(images.labels) - set(labels.tolist()))
    if lost:
        names = ", ".join(images.folders[label] for label in lost[:NAMED])
        notify(f"classes left without a readable image: {names}")
