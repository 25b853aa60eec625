"""Keep the versions of a run that something was added to, and switch between them in one step.

`history/N/` in the run's folder holds version N whole: its run.json, its prompt, and the features of its labelled
images if they are not those of the tuning. A version is written beside its place and renamed into it; the run becomes
that version when run.json in the run's own folder is replaced, so that a kill leaves the old version or the new one.

>>> [version.describe() for version, _ in read_versions(Run.load("runs/photo-m-0"))]  # doctest: +SKIP
['as tuned', '20 images; new: red panda']
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import remove_empty
from sharpzo_mlx.runs.labelled import LABELLED, LabelledImages
from sharpzo_mlx.runs.prompt_file import write_prompt
from sharpzo_mlx.runs.record import RunResults
from sharpzo_mlx.runs.run import HISTORY, PROMPT, Run, version_folder
from sharpzo_mlx.runs.version_record import Version

_STAGED = ".new"  # a version that is being written


def present_version(run: Run) -> Version:
    """Return the version that a run is; one that nothing was added to is its first."""
    return run.record.version or Version(number=1, latest=1, date="")


def labelled_path(run: Run) -> Path:
    """Return where the features of the labelled images of a run's present version are, if they were kept."""
    number = present_version(run).number
    return (run.folder if number == 1 else version_folder(run.folder, number)) / LABELLED


def read_versions(run: Run) -> list[tuple[Version, RunResults]]:
    """Return all versions of a run with their results, the first one first.

    Raises:
        UserError: one of them is damaged.
    """
    latest = present_version(run).latest
    if latest == 1:
        return [(present_version(run), run.results)]
    found = [_read(run, number) for number in _numbers(run.folder) if number <= latest]
    return [(present_version(one), one.results) for one in found]


def keep_version(run: Run, version: Version, labelled: LabelledImages | None) -> None:
    """Write a version into the history, under its number.

    Args:
        run: the run as that version has it, with its prompt.
        version: what it is.
        labelled: the features of its labelled images; None for the first version, which has them in the run's folder.
    """
    place, staged = version_folder(run.folder, version.number), run.folder / HISTORY / _STAGED
    run.check_place()
    try:
        staged.mkdir(parents=True)
        if labelled is not None:
            labelled.write(staged / LABELLED)
        write_prompt(staged / PROMPT, run.prompt)
        Run(staged, run.config, replace(run.record, version=version), run.current_results).save()
        os.replace(staged, place)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        remove_empty([run.folder / HISTORY])
        raise


def switch_to(run: Run, number: int) -> Run:
    """Make a version of the history the present one.

    Returns:
        The run as it is then.

    Raises:
        UserError: there is no such version, or it is damaged.
    """
    found = _read(run, number)
    latest = max(present_version(run).latest, number)
    version = replace(present_version(found), latest=latest)
    changed = Run(run.folder, found.config, replace(found.record, version=version), found.current_results, run.place)
    changed.save()  # from here on the run is that version
    changed.keep_prompt(found.prompt)
    return changed


def tidy(run: Run) -> None:
    """Finish what a killed process began: remove versions that never became the present one.

    The copy of the prompt in the run's own folder becomes that of the present version.
    """
    folder = run.folder / HISTORY
    if not folder.is_dir():
        return
    shutil.rmtree(folder / _STAGED, ignore_errors=True)
    for number in _numbers(run.folder):
        if number > present_version(run).latest or run.record.version is None:
            shutil.rmtree(version_folder(run.folder, number))
    if run.record.version is None:
        remove_empty([folder])
    elif _differ(run.prompt_path, run.folder / PROMPT):
        run.keep_prompt(run.prompt)


def _differ(one: Path, other: Path) -> bool:
    return not other.is_file() or one.read_bytes() != other.read_bytes()


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the versions that lie in the history of a run's folder, rising."""
    try:
        names = os.listdir(folder / HISTORY)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 10)


def _read(run: Run, number: int) -> Run:
    folder = version_folder(run.folder, number)
    if not Run.exists(folder):
        known = ", ".join(map(str, _numbers(run.folder))) or "1"
        raise UserError(f"{run.folder}: has no version {number}; name one of these: {known}")
    found = Run.load(folder)
    if present_version(found).number != number:
        raise UserError(f"{folder}: damaged (its run.json is that of another version); tune again")
    return found
