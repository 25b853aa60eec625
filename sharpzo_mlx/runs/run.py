"""A tuning run and its folder: the configuration, what was drawn, the results and the tuned prompt.

The folder holds `run.json` (configuration, record, results), `prompt.safetensors` (a classifier that works without
this library), `steps.jsonl` (one record a step) and, until the run is finished, `checkpoint.safetensors` (all state of
the search). Whole files are renamed into place. One process at a time holds the folder.

>>> run = Run.load("runs/photo-m-0")  # doctest: +SKIP
>>> run.results.test, run.prompt.class_names  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError, notify, remedy, why
from sharpzo_mlx.files import (
    atomic_write,
    check_spelling,
    identify,
    missing_folders,
    refuse_empty,
    remove_empty,
    remove_leftovers,
)
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.reading import read_json, reason
from sharpzo_mlx.runs.checkpoint import CHECKPOINTS
from sharpzo_mlx.runs.json_record import JsonRecord
from sharpzo_mlx.runs.prompt_file import read_prompt, write_prompt
from sharpzo_mlx.runs.record import RunRecord, RunResults
from sharpzo_mlx.runs.settings_file import SETTINGS

RECORD, PROMPT, HISTORY = "run.json", "prompt.safetensors", "history"
FORMAT = 2
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}  # what network shares answer to flock


@dataclass
class Run:
    """One tuning run and its folder.

    Attributes:
        folder: the folder on disk.
        config: the configuration that the run was made with.
        record: model, dataset, images drawn, versions and status.
        current_results: the results so far; None while there is no prompt.
        place: what tells the folder from another at the same path, from `hold` on.
        name: `owner/name` of a run from the hub, whose folder is the hub's and is not written to; else None.
    """

    folder: Path
    config: TuneConfig
    record: RunRecord
    current_results: RunResults | None = None
    place: object = field(default=None, repr=False, compare=False)
    name: str | None = None

    @property
    def results(self) -> RunResults:
        """The accuracies and the cost of this run.

        Raises:
            UserError: the run was stopped before it had any.
        """
        if self.current_results is None:
            reason = "stopped before there was anything to show"
            raise UserError(f"{self.folder}: {reason}; continue it with `tune --resume`")
        return self.current_results

    @property
    def leaves_out(self) -> bool:
        """Whether a labelled image can be left out, so that a head can be judged; not so with one image a class."""
        labels = [label for _, label in self.record.images.labelled()]
        return len(labels) > len(set(labels))

    @property
    def prompt_path(self) -> Path:
        """The prompt of the present version: in the history, once something was added to the run."""
        version = self.record.version
        kept = self.folder / PROMPT if version is None else version_folder(self.folder, version.number) / PROMPT
        return kept if kept.is_file() else self.folder / PROMPT

    @cached_property
    def prompt(self) -> Prompt:
        """The tuned prompt.

        Raises:
            UserError: the run was stopped before it had one, or its file is missing, damaged or of other classes.
        """
        path = self.prompt_path
        if not path.is_file():
            if self.finished:
                raise UserError(f"{path}: missing, though the run is finished; tune again with another --output")
            raise UserError(f"{self.folder}: this run has no prompt so far; continue it with `tune --resume`")
        prompt = read_prompt(path)
        if prompt.class_names != self.record.class_names:
            raise UserError(f"{path}: of other classes than {RECORD} beside it; tune again")
        if prompt.w.size != self.config.space.dimension:
            raise UserError(f"{path}: damaged (w has {prompt.w.size} numbers, not space.dimension); tune again")
        return prompt

    def hold(self) -> None:
        """From now on write into the folder as it is now only: not into one made anew in its place."""
        self.place = identify(self.folder)

    def check_place(self) -> None:
        """Check that the folder is still the one that is held.

        Raises:
            UserError: it was removed or moved, or another folder is in its place.
        """
        if self.place is not None and identify(self.folder) != self.place:
            raise UserError(f"{self.folder}: removed or replaced while it was written to; tune again")

    def keep_prompt(self, prompt: Prompt) -> None:
        """Write the prompt into the folder, in place of the one before."""
        self.check_place()
        write_prompt(self.folder / PROMPT, prompt)
        self.__dict__["prompt"] = prompt

    @property
    def title(self) -> str:
        """What the run is called: its name on the hub, or that of its folder."""
        return self.name or os.path.basename(os.path.abspath(self.folder))

    @property
    def model_folder(self) -> Path:
        """The folder of the model that was tuned."""
        return Path(self.record.model.folder)

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.record.status == "finished"

    def save(self) -> None:
        """Write run.json."""
        self.check_place()
        atomic_write(self.folder / RECORD, self.to_text())

    def to_text(self) -> str:
        """Return what run.json holds."""
        results = self.current_results and self.current_results.to_json()
        record = self.record.to_json()
        content = {"format": FORMAT, "config": self.config.to_json(), **record, "results": results}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run.

        Args:
            folder: the folder that `tune` wrote.

        Raises:
            UserError: there is no run there, or it cannot be read.
        """
        refuse_empty(folder)
        folder = Path(folder)
        path = folder / RECORD
        try:
            content = read_json(path)
            head = _RunHead.from_json(content)
            if head.format != FORMAT:
                raise UserError(f"{path}: written by another version of sharpzo-mlx; tune again")
            record = RunRecord.from_json(content)
            return cls(folder, _read_config(head.config), record, _read_results(head.results, record))
        except OSError as error:
            raise UserError(_explain_unreadable(folder, error)) from error
        except ValueError as error:
            raise UserError(f"{path}: damaged ({reason(error)}); tune again") from error

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds a run."""
        return os.path.isfile(folder / RECORD)


def version_folder(folder: Path, number: int) -> Path:
    """Return the folder of a version of the run in `folder`."""
    return folder / HISTORY / f"{number}"


@dataclass(frozen=True)
class _RunHead(JsonRecord):
    """What run.json holds beside the record."""

    format: int
    config: dict[str, Any]
    results: Any


def _read_config(content: dict[str, Any]) -> TuneConfig:
    """Return the configuration in a run.json; ValueError names a setting that is unknown or refused."""
    try:
        return TuneConfig.from_json({"head": "none", **content})  # the oldest runs had no head
    except UserError as error:
        raise ValueError(f"config: {error}") from error


def _read_results(content: object, record: RunRecord) -> RunResults | None:
    """Return the results in a run.json; only a run that is not finished may have none."""
    if content is None and record.status != "finished":
        return None
    return RunResults.from_json(content, "results")


def _explain_unreadable(folder: Path, error: OSError) -> str:
    """Return the message about a folder whose run.json cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return f"{folder}: no run here ({RECORD} is missing); name the folder that `tune` wrote"
    if isinstance(error, PermissionError):
        return f"{folder / RECORD}: {why(error)}; {remedy(error, 'allow reading it')}"
    if isinstance(error, NotADirectoryError):
        return f"{folder}: not a folder; name the run's folder, which `tune` wrote"
    if error.errno == errno.EINVAL:  # a pipe or a device
        return f"{folder / RECORD}: {why(error)}; name the run's folder, which `tune` wrote"
    return f"{folder}: {why(error)}; name the run's folder, which `tune` wrote"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process. The folder is made, and removed at the end if it is empty then.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    check_spelling(folder)
    made = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file to leave behind
    except OSError as error:
        remove_empty(made)
        advice = remedy(error, "choose another --output")
        raise UserError(f"{folder}: cannot be made a run's folder ({why(error)}); {advice}") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)
        remove_empty(made)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{folder}: another process is tuning into this folder; wait, or use --output") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        notify(f"{folder}: its disk has no locks ({why(error)}); let no other process tune into this folder")
    for name in (RECORD, PROMPT, SETTINGS, *CHECKPOINTS):
        remove_leftovers(folder / name)
