"""Take a sorting back from its journal: what is there now decides, so that it can be killed and begun again anywhere.

A copy or a link is removed while it is what was put there and its original still holds the same; a moved file goes back
unless something else has its old name; a sidecar gets its old content back. What a person changed is kept and named.

>>> undo_sort("sorted/.sharpzo-sort/2026-11-30T02-30-44.jsonl").kept  # doctest: +SKIP
()
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.scan import JOURNALS
from sharpzo_mlx.errors import UserError, notify, why
from sharpzo_mlx.files import refuse_empty, remove_empty
from sharpzo_mlx.sorting.items import Failure
from sharpzo_mlx.sorting.journal import Journal, locked, now, part_name
from sharpzo_mlx.sorting.story import Story, read_story
from sharpzo_mlx.sorting.taking_back import take_back
from sharpzo_mlx.sorting.transfer import remove_part


@dataclass(frozen=True)
class Undone:
    """What an undoing did.

    Attributes:
        files: files that were put back or removed.
        kept: files that stay, and why.
        before: when the journal had been undone already, or None.
    """

    files: int
    kept: tuple[Failure, ...]
    before: str | None = None


def undo_sort(journal: str | Path) -> Undone:
    """Put back what a sorting did.

    Args:
        journal: the journal's path, which `SortPlan.apply` gives.

    Returns:
        What was done. A second call does nothing, unless files were kept.

    Raises:
        UserError: there is no such journal, another sorting is at work there, or the disk does not allow it.
    """
    steps = undo_steps(journal)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result = end.value
            assert isinstance(result, Undone)
            return result


def undo_steps(journal: str | Path) -> Generator[tuple[int, int], None, Undone]:
    """Put back what a sorting did, the last first.

    Args:
        journal: see `undo_sort`.

    Yields:
        How many of the groups of files are done, and of how many.

    Returns:
        What was done.

    Raises:
        UserError: see `undo_sort`.
    """
    refuse_empty(journal)
    story = read_story(Path(journal))
    if not (story.into / JOURNALS).is_dir():
        raise UserError(f"{story.into}: the folder of the journal's files is gone; put it back there first")
    if not story.folder.is_dir() and not story.folder.parent.is_dir():
        raise UserError(f"{story.folder}: is gone, and so is the folder around it; make it, and undo again")
    if story.undone:
        return Undone(0, (), story.undone)
    try:
        with locked(story.into):
            return (yield from _undo(story))
    except OSError as error:
        place = error.filename or story.into
        raise UserError(
            f"{place}: {why(error)}; allow it or make room, and give the same command again, which goes on"
        ) from error


def _undo(story: Story) -> Generator[tuple[int, int], None, Undone]:
    kept: list[Failure] = []
    files = 0
    remove_parts(story)
    numbers = [number for number in reversed(story.groups) if number not in story.rolled]
    for done, number in enumerate(numbers):
        changed, left = take_back_group(story, number)
        files += changed
        kept += left
        yield done + 1, len(numbers)
    remove_empty(story.into / place for place in sorted(story.made, key=len, reverse=True))
    if not kept:
        _mark(story, {"undone": now()})
    return Undone(files, tuple(kept))


def take_back_group(story: Story, number: int) -> tuple[int, list[Failure]]:
    """Take back the steps of one group, the last first.

    Returns:
        How many files changed, and those that stay.

    Raises:
        OSError: the disk does not allow it.
    """
    changed, kept = 0, []
    for index, step in reversed(list(enumerate(story.groups[number]))):
        part = (story.into / step.target).with_name(part_name(story.header.key, number, index))
        took = take_back(step, story.folder / step.source, story.into / step.target, part)
        if isinstance(took, str):
            kept.append(Failure(str(story.into / step.target), took))
        else:
            changed += took
    return changed, kept


def remove_parts(story: Story) -> None:
    """Remove what was not in place yet of groups that were taken back at once."""
    for number in story.rolled & story.groups.keys():
        for index, step in enumerate(story.groups[number]):
            remove_part((story.into / step.target).with_name(part_name(story.header.key, number, index)))


def recover(into: Path) -> None:
    """Take back the one group that a killed sorting may have left half done in a folder, and remove its parts.

    The folder must be locked. Journals that cannot be read are left alone.
    """
    for path in sorted((into / JOURNALS).glob("*.jsonl")):
        try:
            story = read_story(path)
        except UserError:
            continue
        if story.ended or story.undone:
            continue
        remove_parts(story)
        last = max(story.groups, default=0)
        if last and last not in story.done | story.rolled:
            _, kept = take_back_group(story, last)
            if not kept:
                _mark(story, {"rolled": last})
        _mark(story, {"ended": now()})


def _mark(story: Story, record: dict[str, object]) -> None:
    try:
        with Journal.reopen(story.path, story.header, story.size) as journal:
            journal.write(record)
            story.size = journal.size
    except OSError as error:  # undoing needs no mark
        notify(f"{story.path}: cannot be marked as undone ({why(error)})")
