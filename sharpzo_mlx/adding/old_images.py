"""Get the labelled images of a run: from the features that it kept, else from the images themselves.

>>> finish(read_old_images(clip, run)).counts  # doctest: +SKIP
(112, 28, 0)
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from sharpzo_mlx.adding.refit import join_features
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.digests import digest_steps
from sharpzo_mlx.features.extract import Features, finish, relay
from sharpzo_mlx.heads.labelled_set import LabelledSet
from sharpzo_mlx.images.stored import is_there
from sharpzo_mlx.runs.history import labelled_path, present_version
from sharpzo_mlx.runs.labelled import LABELLED, LabelledImages
from sharpzo_mlx.runs.record import ImageRows
from sharpzo_mlx.runs.resume import check_content, restore_images
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.beside_head import count_views, encode_all_views
from sharpzo_mlx.tuning.encoding import Encoding, encode_split


def read_old_images(clip: Clip, run: Run) -> Generator[Encoding, None, LabelledImages]:
    """Return the labelled images of a run.

    Raises:
        UserError: their features were not kept or are damaged, and the images are gone or have changed.
    """
    path = labelled_path(run)
    if path.is_file():
        return LabelledImages.read(path, len(run.record.class_names))
    notify(f"{run.folder}: {LABELLED} is not there, so its images in {run.record.dataset} are read again")
    drawn = run.record.images
    for rows in (drawn.train, drawn.val, drawn.added or ()):
        _check_present(run, rows)
    train = yield from _encode(clip, run, drawn.train, "train")
    val = yield from _encode(clip, run, drawn.val, "val")
    check_content(run, train, val)
    added = yield from _encode(clip, run, drawn.added or (), "added")
    labelled = yield from _collect(clip, run, train, val, added)
    if present_version(run).number == 1:
        labelled.write(path)
    return labelled


def _encode(clip: Clip, run: Run, rows: ImageRows, name: str) -> Generator[Encoding, None, Features]:
    return (yield from encode_split(clip, restore_images(Path(run.record.dataset), run.record, rows), name))


def _collect(
    clip: Clip, run: Run, train: Features, val: Features, added: Features
) -> Generator[Encoding, None, LabelledImages]:
    further = join_features(val, added)
    views = None
    if run.config.head != "none":
        steps = encode_all_views(clip, train, further, count_views(run.config, train, further))
        views = yield from relay(steps, lambda progress: Encoding.of("views of", progress))
    tests = [path for path in _paths(run, run.record.images.test or ()) if is_there(path)]
    test_digests = finish(digest_steps(tests, {}))
    images = LabelledSet.of(train, further, views)
    digests = (*train.digests, *further.digests)
    return LabelledImages(images, len(val.labels), digests, tuple(test_digests[row] for row in sorted(test_digests)))


def _paths(run: Run, rows: ImageRows) -> list[Path]:
    return list(restore_images(Path(run.record.dataset), run.record, rows).paths)


def _check_present(run: Run, rows: ImageRows) -> None:
    missing = next((path for path in _paths(run, rows) if not is_there(path)), None)
    if missing:
        raise UserError(
            f"{missing}: gone, and {run.folder} has no {LABELLED} to do without it; put it back, or tune anew on all"
        )
