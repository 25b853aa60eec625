"""Carry out an order: image by image, each with its sidecars, and each announced in the journal before it is touched.

What is in place already is passed over, so that the same order goes on after a kill. An error of one file is noted and
the others go on; an error of the disk takes back the files that it struck and stops.

>>> for state in apply_steps(order):  # doctest: +SKIP
...     print(state.seen, "of", state.total)
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.files import missing_folders, remove_empty
from sharpzo_mlx.reading import reason
from sharpzo_mlx.sorting import transfer
from sharpzo_mlx.sorting.arranging import Arrangement, Transfer
from sharpzo_mlx.sorting.copying import digest_file
from sharpzo_mlx.sorting.items import Failure, Item, Order, Sorted
from sharpzo_mlx.sorting.journal import Journal, Step, locked, part_name
from sharpzo_mlx.sorting.sidecars import Sidecars
from sharpzo_mlx.sorting.tags import make_tag, write_tag
from sharpzo_mlx.sorting.taking_back import take_back
from sharpzo_mlx.sorting.undo import recover

TRIES = 100  # names that others may take before us
OF_A_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT, errno.ESTALE}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
Put = Callable[[Path, Path, Path], None]


def apply_steps(order: Order) -> Generator[Sorted, None, Sorted]:
    """Carry out an order.

    Yields:
        How far it is, after each image: the same record, which grows.

    Returns:
        The record at the end.

    Raises:
        UserError: another sorting is at work in the folder, or the disk is full, read-only or the like; the message
            says how far it came and how to go on.
    """
    state = Sorted(total=len(order.items))
    made = missing_folders(order.into)
    try:
        with locked(order.into) as alone:
            if alone:
                recover(order.into)
            with _Work(order, state) as work:
                for item in order.items:
                    work.sort(item)
                    state.seen += 1
                    yield state
    except OSError as error:
        raise UserError(_stopped(error, order, state)) from error
    finally:
        remove_empty(made)
    return state


def _stopped(error: OSError, order: Order, state: Sorted) -> str:
    place = error.filename if isinstance(error.filename, str) else order.into
    back = f"; `sharpzo-mlx sort --undo {state.journal}` puts them back" if state.journal else ""
    done = f"{state.done} of {state.total} images are done"
    return f"{place}: {why(error)}; {done}; {_advise(error, order)}, and the same command goes on{back}"


def _advise(error: OSError, order: Order) -> str:
    if order.mode == "link" and error.errno in NO_LINKS:
        return "leave out --link, or give --symlink"
    return remedy(error, "make room" if error.errno in FULL else "let this user write there")


class _Work:
    """The work on one order; use it in a `with` block."""

    def __init__(self, order: Order, state: Sorted) -> None:
        self._order, self._state = order, state
        self._journal: Journal | None = None
        self._group = 0
        self._whole = True  # whether no group is half done
        self._tags = Sidecars(order.folder, {item.path for item in order.items}) if order.mode == "tag" else None
        self._arrangement = Arrangement(order) if order.mode != "tag" else None

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            if self._whole:
                with suppress(OSError):
                    self._journal.write({"ended": True})
            self._journal.__exit__(None, None, None)

    def sort(self, item: Item) -> None:
        """Put one image in place; OSError if the disk does not allow it."""
        try:
            if not os.path.lexists(self._order.folder / item.path):
                raise ValueError("is not there any more")
            for _ in range(TRIES):
                with suppress(FileExistsError):  # somebody was faster
                    self._tag(item) if self._tags else self._place(item)
                    return
            raise ValueError("its name is taken again and again")
        except ValueError as error:
            self._state.failures.append(Failure(item.path, reason(error)))

    def _place(self, item: Item) -> None:
        assert self._arrangement is not None
        try:
            group = self._arrangement.arrange(item)
            steps = [self._make_step(file) for file in group.files]
        except FileExistsError:
            raise
        except OSError as error:  # of the image itself
            raise ValueError(reason(error)) from None
        if steps:
            self._make_folder(group.place)
            self._carry_out(steps, [_PUT[step.act] for step in steps])
        self._state.there += group.there
        self._state.done += not group.there
        self._state.numbered += not group.there and group.number > 1
        self._state.sidecars += len(steps) - (not group.there)

    def _tag(self, item: Item) -> None:
        assert self._tags is not None
        if item.label is None:
            return
        try:
            made = make_tag(self._order, self._tags, item)
        except OSError as error:
            raise ValueError(reason(error)) from None
        if made is None:
            self._state.there += 1
            return
        step, new = made
        self._carry_out([step], [lambda _, target, part: write_tag(step, new, target, part)])
        self._state.done += 1

    def _make_step(self, file: Transfer) -> Step:
        source = self._order.folder / file.source
        if not (file.act == "move" and source.is_symlink()) and not stat.S_ISREG(source.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(source))
        if file.act == "symlink":
            return Step(file.act, file.source, file.target, words=os.path.abspath(source))
        if file.act == "move":
            if not source.is_symlink():
                return Step(file.act, file.source, file.target)
            words = transfer.moved_link(source, self._order.into / file.target)
            return Step(file.act, file.source, file.target, words=words, before=os.readlink(source))
        inode = source.stat().st_ino if file.act == "link" else None
        return Step(file.act, file.source, file.target, sha256=digest_file(source), inode=inode)

    def _begin(self) -> Journal:
        if self._journal is None:
            self._journal = Journal.begin(self._order.into, self._order.folder, self._order.mode)
            self._state.journal = str(self._journal.path)
        return self._journal

    def _make_folder(self, place: str) -> None:
        path = self._order.into / place
        if path.is_dir():
            return
        for missing in reversed(missing_folders(path)):
            self._begin().write({"make": missing.relative_to(self._order.into).as_posix()})
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{path}: a file has the name of a class folder; rename it") from None

    def _carry_out(self, steps: list[Step], puts: list[Put]) -> None:
        """Announce the steps of a group and carry them out, or take all of them back."""
        journal = self._begin()
        self._group += 1
        journal.write({"group": self._group, "steps": [step.to_json() for step in steps]})
        self._whole = False
        done = 0
        try:
            for step, put in zip(steps, puts, strict=True):
                put(*self._paths(step, done))
                done += 1
        except FileExistsError:
            self._roll_back(steps[:done])  # the name is another's: nothing of this step is in place
            transfer.remove_part(self._paths(steps[done], done)[2])
            raise
        except BaseException as error:
            self._roll_back(steps[: done + 1])
            if isinstance(error, OSError) and self._is_of_a_file(error, steps):
                raise ValueError(reason(error)) from None
            raise
        journal.write({"done": self._group}, wait=False)
        self._whole = True

    def _is_of_a_file(self, error: OSError, steps: list[Step]) -> bool:
        if error.errno == errno.ENOENT:
            return not all(os.path.lexists(self._paths(step, 0)[0]) for step in steps)
        return error.errno in OF_A_NAME or isinstance(error, transfer.ChangedError)

    def _roll_back(self, steps: list[Step]) -> None:
        for index, step in reversed(list(enumerate(steps))):
            take_back(step, *self._paths(step, index))
        assert self._journal is not None
        self._journal.write({"rolled": self._group})
        self._whole = True

    def _paths(self, step: Step, index: int) -> tuple[Path, Path, Path]:
        assert self._journal is not None
        target = self._order.into / step.target
        part = target.with_name(part_name(self._journal.header.key, self._group, index))
        return self._order.folder / step.source, target, part


def _move(source: Path, target: Path, part: Path) -> None:
    if source.is_symlink():
        os.symlink(transfer.moved_link(source, target), target)
        source.unlink()
    else:
        transfer.move(source, target, part)


_PUT: dict[str, Put] = {
    "copy": transfer.copy,
    "move": _move,
    "link": lambda source, target, _: transfer.link(source, target),
    "symlink": lambda source, target, _: os.symlink(os.path.abspath(source), target),
}
