"""A run on disk: what was asked, what was drawn, what came out, and the state to go on from.

A folder holds `run.json` (options, versions, fingerprints, images drawn, results), `prompt.safetensors` (a classifier
that works without this library), `steps.jsonl` (one record a step) and `checkpoint.safetensors` (all of the
optimisers' state). Whole files are renamed into place; steps are appended, and cut back to the checkpoint when a
killed run goes on. One process at a time holds the folder.

    run = Run.load("runs/photo-m-0")
    run.results["test"], run.prompt.class_names
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import (
    atomic_write,
    check_spelling,
    missing,
    refuse_empty,
    remove_empty,
    remove_leftovers,
)
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.checkpoint import CHECKPOINT

RECORD, PROMPT = "run.json", "prompt.safetensors"
FORMAT = 2
_KINDS: dict[str, type] = {
    "status": str, "dataset": str, "model": dict, "images": dict, "class_names": list, "class_folders": list,
    "versions": dict,
}  # fmt: skip
_OF_MODEL: dict[str, type] = {"folder": str, "fingerprint": str}
_OF_IMAGES: dict[str, type] = {"train": list, "val": list}
_RESULTS = ("zero_shot", "val", "test", "queries", "val_queries", "seconds", "peak_memory_mb")


@dataclass
class Run:
    """One tuning run and its folder.

    Attributes:
        folder: where it lies.
        config: the options it was made with.
        record: everything else in run.json: model, dataset, images, versions, status.
        results: accuracies 0..1 (`zero_shot`, `val`, `test`), `queries`, `seconds`, `peak_memory_mb`; empty until
            there is a prompt. `zero_shot` is read on the test split once the run is finished and where there is
            one, on the validation images until then. With a head `val` and `test` are those of the words joined
            with it, `val_text` and `test_text` those of the words alone, and `head` says what each counts for.
    """

    folder: Path
    config: TuneConfig
    record: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def prompt(self) -> Prompt:
        """The tuned prompt.

        Raises:
            UserError: the run was stopped before it had one.
        """
        path = self.folder / PROMPT
        if not path.is_file():
            raise UserError(f"{self.folder}: this run has no prompt so far; go on with `tune --resume`")
        return Prompt.load(path)

    def keep_prompt(self, prompt: Prompt) -> None:
        """Write the prompt and hold it in place of the one before."""
        prompt.save(self.folder / PROMPT)
        self.__dict__["prompt"] = prompt

    @property
    def model_folder(self) -> Path:
        """The model that was tuned."""
        return Path(self.record["model"]["folder"])

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.record.get("status") == "finished"

    def save(self) -> None:
        """Write run.json whole."""
        content = {"format": FORMAT, "config": self.config.to_json(), **self.record, "results": self.results}
        text = json.dumps(content, indent=2, allow_nan=False)
        atomic_write(self.folder / RECORD, text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run.

        Args:
            folder: where `tune` put it.

        Raises:
            UserError: there is no run there, or it cannot be read.
        """
        refuse_empty(folder)
        folder = Path(folder)
        path = folder / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise UserError(f"{path}: written by another version of sharpzo-mlx; tune again")
            config, results = TuneConfig.from_json(content.pop("config")), content.pop("results")
            _check_record(content, results)
        except OSError as error:
            raise UserError(_unreadable(folder, error)) from error
        except KeyError as error:
            raise UserError(f"{path}: damaged ({error} is missing); tune again") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error}); tune again") from error
        return cls(folder, config, content, results)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a run lies there."""
        return os.path.isfile(folder / RECORD)


def _unreadable(folder: Path, error: OSError) -> str:
    """What to say of a folder whose run.json cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return f"{folder}: no run here ({RECORD} is missing); name the folder that `tune` wrote"
    if isinstance(error, PermissionError):
        return f"{folder / RECORD}: permission denied; allow reading it"
    if isinstance(error, NotADirectoryError):
        return f"{folder}: not a folder; name the run's folder, which `tune` wrote"
    return f"{folder}: {(error.strerror or str(error)).lower()}; name the run's folder, which `tune` wrote"


def _check_record(record: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Look whether everything is there that a reader takes for granted.

    Raises:
        KeyError: something is missing.
        TypeError: something is of another kind.
    """
    kinds = [(record, _KINDS), (record["model"], _OF_MODEL), (record["images"], _OF_IMAGES)]
    if results or record["status"] == "finished":
        kinds.append((results, dict.fromkeys(_RESULTS, object)))
    for room, expected in kinds:
        for name, kind in expected.items():
            if not isinstance(room[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process; the folder is made, and removed again when it is left empty.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    check_spelling(folder)
    made = missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file to leave behind
    except OSError as error:
        remove_empty(made)
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: cannot be made a run's folder ({reason}); choose another --output") from error
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
    for name in (RECORD, PROMPT, CHECKPOINT):
        remove_leftovers(folder / name)
