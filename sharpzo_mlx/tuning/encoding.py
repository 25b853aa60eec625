"""Encode the images of a run's splits, with a progress record a batch.

train = yield from encode_split(clip, images["train"], "train")
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.extract import EncodeProgress, Features, check_readable, encode_steps, relay
from sharpzo_mlx.heads.fit import FittedHead
from sharpzo_mlx.heads.labelled_set import LabelledSet
from sharpzo_mlx.runs.labelled import LABELLED, LabelledImages
from sharpzo_mlx.runs.run import Run


@dataclass(frozen=True)
class Encoding:
    """The images of one split are being encoded.

    Attributes:
        split: "train", "val" or "test".
        done: images so far.
        total: images of the split.
        cached: images whose features were in the cache.
        looked_up: while none is done: files that were read to look for them in the cache.
    """

    split: str
    done: int
    total: int
    cached: int
    looked_up: int = 0

    @classmethod
    def of(cls, split: str, progress: EncodeProgress) -> Encoding:
        """Return the progress of encoding under the name of the split."""
        return cls(split, progress.done, progress.total, progress.cached, progress.looked_up)


def encode_split(clip: Clip, images: ImageSet, split: str) -> Generator[Encoding, None, Features]:
    """Encode images; yield a record a batch under the name of their split, and return the features."""
    steps = encode_steps(clip, images)
    return (yield from relay(steps, lambda progress: Encoding.of(split, progress)))


def encode_test(clip: Clip, run: Run, images: ImageSet) -> Generator[Encoding, None, Features | None]:
    """Encode the test images.

    Returns:
        The features. None if not one image can be read: the run then ends as one without a test split, and a notice
        says so.
    """
    steps = encode_steps(clip, images, whole=False)
    test = yield from relay(steps, lambda progress: Encoding.of("test", progress))
    if len(test.labels):
        check_readable(images, test.labels, test.skipped)
        return test
    path, reason = test.skipped[0]
    notify(
        f"{run.folder}: not one of the {len(images)} test images can be read ({path}: {reason}), so the run has "
        "no accuracy on them; repair the images and measure them with `evaluate`"
    )
    run.record = replace(run.record, images=replace(run.record.images, test=None))
    return None


def check_classes(train: Features) -> None:
    """Refuse training images that leave a class without one.

    Raises:
        UserError: names the first such class.
    """
    lost = sorted(set(range(len(train.folders))) - set(train.labels.tolist()))
    if lost:
        raise UserError(
            f"{train.folders[lost[0]]}: no readable training image is left in this class; "
            "repair or add images, or remove the folder"
        )


def keep_labelled(
    run: Run, train: Features, val: Features, head: FittedHead | None, test_digests: tuple[bytes, ...]
) -> None:
    """Write the features of a run's labelled images into its folder, so that more can be added without the images.

    Args:
        run: the run.
        train: the training images.
        val: the validation images.
        head: what was fitted to them, which may hold the means of views too; None for a run without a head.
        test_digests: the digests of the test images' files.
    """
    images = LabelledSet.of(train, val) if head is None else head.images
    labelled = LabelledImages(images, len(val.labels), train.digests + val.digests, test_digests)
    run.check_place()
    labelled.write(run.folder / LABELLED)
