"""Keep the features of a run's labelled images in its folder, so that `add` needs neither the images nor the network.

`labelled.safetensors` holds what a head is fitted to, the SHA-256 of each image's file, and those of the test images,
which must never be learned from.

>>> LabelledImages.read(Path("runs/photo-m-0/labelled.safetensors")).images.labels.shape  # doctest: +SKIP
(140,)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path
from sharpzo_mlx.heads.labelled_set import LabelledSet

LABELLED = "labelled.safetensors"
DIGEST = 32  # bytes of a SHA-256
TYPES = {"embeddings": "F32", "averages": "F32", "labels": "I32", "digests": "U8", "test_digests": "U8"}
_REMEDY = "tune again"


@dataclass(frozen=True)
class LabelledImages:
    """The labelled images of a run.

    Attributes:
        images: their features and labels: training images, those for validation, and those that were added.
        validation: how many are for validation.
        digests: of each image's file [N].
        test_digests: of the test images' files.
    """

    images: LabelledSet
    validation: int
    digests: tuple[bytes, ...]
    test_digests: tuple[bytes, ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many are for training, for validation, and added."""
        training = self.images.training
        return training, self.validation, len(self.digests) - training - self.validation

    def write(self, path: Path) -> None:
        """Write the file whole, beside its place, and rename it into place."""
        images = self.images
        arrays = {"embeddings": mx.array(images.embeddings), "labels": mx.array(images.labels.astype(np.int32))}
        if images.averages is not None:
            arrays["averages"] = mx.array(images.averages.astype(np.float32))
        arrays |= {"digests": _pack(self.digests), "test_digests": _pack(self.test_digests)}
        counts = {"training": f"{images.training}", "validation": f"{self.validation}"}
        with atomic_path(path) as temporary:
            mx.save_safetensors(str(temporary), arrays, metadata={"format": "mlx", **counts})

    @classmethod
    def read(cls, path: Path, classes: int) -> LabelledImages:
        """Read what `write` wrote.

        Args:
            path: the file.
            classes: of the run; each label is one of them.

        Raises:
            UserError: the file is damaged; the message says what is wrong.
        """
        try:
            header = read_header(path)
            _check_shapes(header.shapes, header.dtypes)
            loaded: Any = mx.load(str(path), format="safetensors")
            arrays = {name: np.array(loaded[name]) for name in header.shapes}
            training, validation = (_read_count(header.metadata, name) for name in ("training", "validation"))
            _check_content(arrays, classes, training + validation)
        except UserError as error:
            raise UserError(f"{path}: no readable features of labelled images here; {_REMEDY}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:200]}); {_REMEDY}") from error
        images = LabelledSet(arrays["embeddings"], arrays["labels"], training, arrays.get("averages"))
        return cls(images, validation, _unpack(arrays["digests"]), _unpack(arrays["test_digests"]))


def _pack(digests: tuple[bytes, ...]) -> mx.array:
    return mx.array(np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST))


def _unpack(rows: np.ndarray) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in rows)


def _check_shapes(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str]) -> None:
    """Raise ValueError with the name of an array that is missing, unknown, or of another type or shape."""
    for name, kind in TYPES.items():
        if name not in shapes and name != "averages":
            raise ValueError(f"{name} is missing")
        if name in shapes and dtypes[name] != kind:
            raise ValueError(f"{name} is of type {dtypes[name]}, not {kind}")
    if unknown := sorted(shapes.keys() - TYPES.keys()):
        raise ValueError(f"{unknown[0][:80]} is unknown")
    of_rows = shapes["embeddings"]
    rows = of_rows[0] if len(of_rows) == 2 else -1
    expected = {"embeddings": of_rows if rows > 0 else (0, 0), "averages": of_rows, "labels": (rows,)}
    expected |= {"digests": (rows, DIGEST), "test_digests": (*shapes["test_digests"][:1], DIGEST)}
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise ValueError(f"{name} has shape {shape}, not {expected[name]}")


def _read_count(metadata: dict[str, str], name: str) -> int:
    text = metadata.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ValueError(f"{name} is no number of images")
    return int(text)


def _check_content(arrays: dict[str, np.ndarray], classes: int, drawn: int) -> None:
    labels = arrays["labels"]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label is none of the {classes} classes")
    if drawn > len(labels):
        raise ValueError(f"{drawn} images of {len(labels)} are said to have been drawn")
    for name in ("embeddings", "averages"):
        # rows have unit norm
        if name in arrays and not np.all(np.abs(arrays[name]) <= 2):
            raise ValueError(f"{name} has numbers that no feature has")
