"""Plan where the images of a folder go by the labels of a run, or as a plan file says; then carry the plan out.

Nothing is touched before `apply`. What it does can be undone with its journal.

>>> plan = sort_plan("runs/photos-m-0", "new/", "sorted/", reject=0.05)  # doctest: +SKIP
>>> plan.survey().classes  # doctest: +SKIP
Counter({'cat': 33, 'dog': 20, 'unsorted': 5})
>>> undo_sort(plan.apply().journal)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.listed import find_containers, is_listed_file
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.errors import UserError, notify, one_line
from sharpzo_mlx.evaluation.prediction import predict_steps
from sharpzo_mlx.features.extract import finish
from sharpzo_mlx.files import expand, identify, is_inside, refuse_empty
from sharpzo_mlx.hub.runs import load_run
from sharpzo_mlx.images.stored import split_stored
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.sorting.apply import apply_steps
from sharpzo_mlx.sorting.items import MODES, Failure, Item, Mode, Order, Sorted
from sharpzo_mlx.sorting.plan_file import read_plan, write_plan
from sharpzo_mlx.sorting.sidecars import EDITS, MOVIE, XMP
from sharpzo_mlx.sorting.survey import Survey, survey

_NO_FILES = "lists or stores images, and `sort` moves files; unpack them into a folder, or list labels with `predict`"


@dataclass(frozen=True)
class SortPlan:
    """Images, their labels, and what is to be done with them.

    Attributes:
        order: the folders, the way and the images.
        unread: images that cannot be read and have no label; they stay where they are.
    """

    order: Order
    unread: tuple[Failure, ...] = ()

    def survey(self) -> Survey:
        """Return what the plan would do now; nothing is touched."""
        return survey(self.order)

    def apply(self) -> Sorted:
        """Carry the plan out; what is in place already is passed over.

        Returns:
            What was done; `journal` is for `undo_sort`.

        Raises:
            UserError: see `apply_steps`.
        """
        return finish(self.apply_steps())

    def apply_steps(self) -> Generator[Sorted, None, Sorted]:
        """Carry the plan out image by image; see `sorting.apply.apply_steps`."""
        return apply_steps(self.order)

    def save(self, path: str | Path) -> None:
        """Write the labels as a plan file; UserError if something has the name."""
        refuse_empty(path)
        write_plan(Path(path), self.order.folder, self.order.items)


def sort_plan(
    run: Run | str | Path,
    folder: str | Path,
    into: str | Path | None = None,
    *,
    mode: Mode = "copy",
    reject: float | None = None,
    recursive: bool = False,
    clip: Clip | None = None,
    xmp_by_stem: bool = False,
) -> SortPlan:
    """Label the images of a folder and plan where they go.

    Args:
        run: the run, its folder, or its name on the hub.
        folder: the images; those that lie under `into` already are left alone.
        into: the folder of the class folders; need not exist. None for tags, which are written beside the images.
        mode: "copy", "move", "link" (a second name of the same file), "symlink", or "tag" (XMP sidecars).
        reject: the rate at which images of the labelled kind may wrongly come to `unsorted/`; None for no image there.
        recursive: whether folders inside folders are read too.
        clip: the checkpoint; None loads the one that the run names.
        xmp_by_stem: whether the new sidecar of `a.jpg` is `a.xmp` in place of `a.jpg.xmp`.

    Raises:
        UserError: see `sz.predict_steps`; the folders are missing, or contradict the mode or `recursive`.
    """
    steps = plan_steps(
        run, folder, into, mode=mode, reject=reject, recursive=recursive, clip=clip, xmp_by_stem=xmp_by_stem
    )
    return finish(steps)


def plan_steps(
    run: Run | str | Path,
    folder: str | Path,
    into: str | Path | None = None,
    *,
    mode: Mode = "copy",
    reject: float | None = None,
    recursive: bool = False,
    clip: Clip | None = None,
    xmp_by_stem: bool = False,
) -> Generator[int, None, SortPlan]:
    """Plan as `sort_plan` does, and yield how many images are labelled, batch by batch."""
    source, target = check_folders(folder, into, mode)
    run = run if isinstance(run, Run) else load_run(run)
    skip = make_skip(source, target, recursive=recursive) if mode != "tag" else None
    items: list[Item] = []
    unread: list[Failure] = []
    listing = list_files(source, recursive=recursive)
    paths = (path for path in listing if skip is None or not skip(path))
    for batch in predict_steps(run, _refuse_none(paths, source, listing), clip=clip, reject=reject):
        for one in batch:
            path = one.path.relative_to(source).as_posix()
            if one.error is not None:
                unread.append(Failure(path, one.error))
            else:
                items.append(Item(path, None if one.rejected else one.labels[0][0]))
        yield len(items) + len(unread)
    if left_out := _describe_left_out(listing):
        notify(f"left out of folders: {left_out}")
    classes = run.prompt.class_names
    return SortPlan(Order(source, target, mode, tuple(items), xmp_by_stem=xmp_by_stem, classes=classes), tuple(unread))


def list_files(folder: Path, *, recursive: bool) -> ImageListing:
    """Return the listing of the images of a folder that are files, which alone can be moved.

    Raises:
        UserError: the folder has none, and Parquet or tar files that store some.
    """
    if stored := find_containers(folder):
        raise UserError(f"{stored[0]}: {_NO_FILES}")
    return ImageListing([folder], recursive=recursive, lists=False)


def _refuse_none(paths: Iterator[Path], folder: Path, listing: ImageListing) -> Iterator[Path]:
    """Yield the paths, or refuse a folder without one."""
    count = 0
    for count, path in enumerate(paths, start=1):  # noqa: B007
        yield path
    if not count:
        left_out = _describe_left_out(listing)
        raise UserError(f"{folder}: no image to sort{f'; left out: {left_out}' if left_out else ''}")


def _describe_left_out(listing: ImageListing) -> str:
    """Return what is left out of a folder but for the kinds of sidecars, which travel with their images."""
    for kind in (XMP, EDITS, MOVIE):
        listing.left_out.pop(kind, None)
    return listing.describe_left_out()


def read_sort_plan(
    path: str | Path, into: str | Path | None = None, *, mode: Mode = "copy", xmp_by_stem: bool = False
) -> SortPlan:
    """Read a plan file; no model is needed.

    Args:
        path: the file, of `SortPlan.save` or a review page.
        into: see `sort_plan`. If it is the plan's own folder, images change places in a data set: those of a split,
            such as `train/cat/1.jpg`, stay in it.
        mode: see `sort_plan`.
        xmp_by_stem: see `sort_plan`.

    Raises:
        UserError: the file is no plan, or its paths are not below its folder.
    """
    refuse_empty(path)
    folder, items = read_plan(Path(path))
    if stored := next((item.path for item in items if split_stored(folder / item.path)), None):
        name = one_line(stored, 200)
        raise UserError(f"{path}: {name} is inside a file, and `sort` moves files; take it out of the plan")
    source, target = check_folders(folder, into, mode)
    in_place = identify(source) == identify(target)
    return SortPlan(Order(source, target, mode, items, in_place=in_place, xmp_by_stem=xmp_by_stem))


def check_folders(folder: str | Path, into: str | Path | None, mode: Mode) -> tuple[Path, Path]:
    """Return the folder that is sorted and the one that is sorted into.

    Raises:
        UserError: the first is not there, the second is missing or a file, or a tag has one.
    """
    refuse_empty(folder, *(() if into is None else (into,)))
    source = expand(folder)
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: is none of {', '.join(MODES)}")
    if is_listed_file(source):
        raise UserError(f"{source}: {_NO_FILES}")
    if not source.is_dir():
        raise UserError(f"{source}: {'a file' if source.exists() else 'no such folder'}; name a folder of images")
    if mode == "tag":
        if into is not None:
            raise UserError("--tag: writes beside the images and goes without --into; leave one of them out")
        return source, source
    if into is None:
        raise UserError("--into is missing: name the folder for the class folders, or give --tag")
    target = expand(into)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: a file; name a folder for --into")
    return source, target


def make_skip(folder: Path, into: Path, *, recursive: bool) -> Callable[[Path], bool] | None:
    """Return what says of an image whether it lies under `into` already, if some of a folder may.

    Raises:
        UserError: the two are the same, and folders inside are to be read.
    """
    if identify(folder) == identify(into):
        if recursive:
            raise UserError(f"{into}: is the folder that is sorted; leave out --recursive, or name another --into")
        return None
    if not recursive or not into.is_dir() or not is_inside(into, folder):
        return None
    known: dict[Path, bool] = {}

    def skip(path: Path) -> bool:
        place = path.parent
        if place not in known:
            known[place] = is_inside(place, into)
        return known[place]

    return skip
