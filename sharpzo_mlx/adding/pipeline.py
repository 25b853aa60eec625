"""Add images and classes to a finished run: `add_steps` yields records of progress, `add` runs it to the end.

The words are kept, and the head is fitted anew in closed form to the labelled images of the run and the new ones. A
class without images gets a Gaussian where its words predict it. What that changed is measured on left-out images, and,
when all is chosen, on the test split. The run becomes a new version of itself; `go_back` makes another one present.

>>> run = add("runs/photo-m-0", ["more/"], classes=["red panda"])  # doctest: +SKIP
>>> run.record.version.accuracies[0].after, go_back(run).record.version.number  # doctest: +SKIP
(0.57, 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharpzo_mlx.adding.addition import Adding
from sharpzo_mlx.adding.new_images import clean_names
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import expand, refuse_empty
from sharpzo_mlx.runs.history import present_version, switch_to, tidy
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run, locked
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import Done


def add(
    run: Run | str | Path,
    folders: str | Path | Sequence[str | Path] = (),
    *,
    classes: str | Sequence[str] = (),
    clip: Clip | None = None,
) -> Run:
    """Add images and classes to a finished run; see `add_steps`.

    Returns:
        The run as it is then.
    """
    for event in add_steps(run, folders, classes=classes, clip=clip):
        if isinstance(event, Done):
            return event.run
    raise AssertionError("add_steps ends with Done")


def add_steps(
    run: Run | str | Path,
    folders: str | Path | Sequence[str | Path] = (),
    *,
    classes: str | Sequence[str] = (),
    clip: Clip | None = None,
) -> Iterator[Encoding | Done]:
    """Add images and classes to a finished run; yield a record at a time.

    Args:
        run: the run or its folder.
        folders: one or several folders with a folder of images for each class, which may be new to the run, or files
            that list or store labelled images, see `datasets.listed`.
        classes: names of classes to add without images.
        clip: the checkpoint; None loads the one that the run names.

    Yields:
        Encoding for each batch of images, and Done; where nothing is new, a notice says so and the run stays as it is.

    Raises:
        UserError: what was given cannot be used; the run is as it was.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    if run.name is not None:
        raise UserError(f"{run.name}: a run from the hub, without the features of its images; tune again to add to it")
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    names = clean_names([classes] if isinstance(classes, str) else classes)
    refuse_empty(*folders)
    _check(run, folders, names)
    with locked(run.folder):
        run = _open(run.folder)
        yield from Adding(run, open_model(run, clip), [expand(one) for one in folders], names).steps()


def go_back(run: Run | str | Path, number: int | None = None) -> Run:
    """Make another version of a run the present one; nothing is lost, so that this can be undone likewise.

    Args:
        run: the run or its folder.
        number: of the version; None for the one that the present one adds to.

    Raises:
        UserError: there is no such version.
    """
    folder = run.folder if isinstance(run, Run) else Run.load(run).folder
    with locked(folder):
        found = _open(folder)
        number = present_version(found).parent if number is None else number
        if number is None:
            raise UserError(f"{folder}: this is its first version, there is none to go back to")
        return switch_to(found, number)


def _open(folder: Path) -> Run:
    """Return the run in a folder that this process holds, after what a killed process left is put right."""
    run = Run.load(folder)
    run.hold()
    tidy(run)
    return run


def _check(run: Run, folders: Sequence[str | Path], names: Sequence[str]) -> None:
    if not run.finished:
        raise UserError(f"{run.folder}: this run is not finished; continue it with `tune --resume`, then add")
    if not folders and not names:
        raise UserError("nothing to add: name a folder of class folders, or a class with --class NAME")
    if folders and run.config.head == "none":
        raise UserError(
            f"{run.folder}: tuned with --head none, which learns from images by its search alone; tune anew on all of "
            "them, or add classes by name with --class"
        )
