"""Images on which an exported file is compared with this program, and what such a comparison found.

The images are some that the run has drawn, where they are still there, and some of noise, which are of no class.

>>> judge(Checked(8, 2.1e-06), "runs/photo-m-0", rounded=False)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import root_of
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.images.stored import is_there
from sharpzo_mlx.runs.run import Run

KNOWN, NOISE = 6, 2  # images of each kind
LARGEST = 1e-2  # difference of a probability that rounding explains; 1e-5 is common, sharp heads have more


@dataclass(frozen=True)
class Checked:
    """What a check found: how many images were compared, and the largest difference of a probability."""

    images: int
    difference: float


@dataclass(frozen=True)
class Sample:
    """Images and what this program says of them.

    Attributes:
        pictures: bytes in the model's size [N, H, W, 3].
        features: [N, D].
        probabilities: [N, K].
    """

    pictures: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


def draw_sample(run: Run, clip: Clip, size: tuple[int, int]) -> Sample:
    """Return images of a run and of noise.

    Args:
        run, clip: the run and its checkpoint.
        size: (height, width) of the model's pictures.
    """
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, *size, 3), dtype=np.uint8)
    known = [batch.pictures for batch in stream(_known(run), clip.config.preprocessor, workers=1) if len(batch.indices)]
    pictures = np.concatenate([*known, noise])
    features = clip.encode_pixels(pictures)
    probabilities = mx.softmax(run.prompt.logits(features), axis=-1)
    return Sample(pictures, np.array(features), np.array(probabilities))


def judge(checked: Checked, source: object, *, rounded: bool) -> None:
    """Say that probabilities differ by more than rounding explains; only those of half precision may.

    Args:
        checked: what was found.
        source: the run, for the message.
        rounded: whether the file has numbers in half precision.

    Raises:
        UserError: they differ, in a file without half precision.
    """
    if checked.difference <= LARGEST:
        return
    if rounded and checked.difference < 1:
        difference = f"{checked.difference:.2g}"
        notify(f"{source}: probabilities differ by up to {difference} with --dtype float16; float32 is exact")
        return
    raise UserError(
        f"{source}: the exported graph gives other probabilities than this program, by {checked.difference:.2g}; "
        "nothing was written: please report this"
    )


def _known(run: Run) -> list[Path]:
    """Return some images that the run has drawn, evenly spaced, of those that are still there.

    A stranger's run names no files of this machine.
    """
    paths = [] if run.name is not None else list(_existing(run))
    return paths[:: max(1, len(paths) // KNOWN)][:KNOWN]


def _existing(run: Run) -> Iterator[Path]:
    for rows in run.record.images.by_split().values():
        for relative, _ in rows[:: max(1, len(rows) // KNOWN)]:
            if is_there(path := root_of(run.record.dataset) / relative):
                yield path
