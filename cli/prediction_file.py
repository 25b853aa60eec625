r"""Append predictions to a CSV or JSON Lines file, batch by batch, and go on with one that was not finished.

The file is made, or cut back to its whole rows, when the first predictions are there; until then it is only read.

>>> with PredictionFile(Path("labels.csv"), "csv", resume=True) as file:  # doctest: +SKIP
...     file.holds(Path("a.jpg")), file.append("b.jpg,dog,0.910000,,0\n")
(True, None)
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sharpzo_mlx.cli.prediction_rows import digest_path, read_done
from sharpzo_mlx.cli.prediction_text import STYLES
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import check_place, naming, open_regular
from sharpzo_mlx.reading import reason

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def style_of(path: Path) -> str:
    """Return the style that a file's ending names; UserError if it names none."""
    if (style := ENDINGS.get(path.suffix.lower())) is None:
        raise UserError(f"--output {path}: end its name in .csv or .jsonl, or add --csv or --jsonl")
    return style


class PredictionFile:
    """A file of predictions in one of the two styles; use it in a `with` block.

    Args:
        path: the file. It is made with the first predictions.
        style: "csv" or "jsonl".
        resume: whether the file may be there, and is gone on with.

    Raises:
        UserError: the file is there and is not to be gone on with, is not one that `predict` wrote, or its folder
            cannot be written to.
    """

    def __init__(self, path: Path, style: str, *, resume: bool) -> None:
        self.path, self.style = path, style
        self._done: set[bytes] = set()
        self._kept = 0  # bytes
        self._file: BinaryIO | None = None
        if os.path.lexists(path):
            if not resume:
                raise UserError(f"{path}: is there already; add --resume to go on with it, or name another --output")
            self._read()
        check_place(path.parent)

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Return the number of images that were in the file."""
        return len(self._done)

    def holds(self, path: Path) -> bool:
        """Return whether the file held this path when it was opened."""
        return digest_path(str(path)) in self._done

    def append(self, text: str) -> None:
        """Write whole rows, which are not held back."""
        with naming(self.path):
            if self._file is None:
                self._file = self._open()
            self._file.write(text.encode("utf-8", "surrogateescape"))
            self._file.flush()

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("r+b" if os.path.lexists(self.path) else "xb")
        file.truncate(self._kept)
        file.seek(self._kept)
        if not self._kept:
            file.write(STYLES[self.style].header.encode())
        return file

    def _read(self) -> None:
        try:
            with open_regular(self.path) as file:
                self._done, self._kept = read_done(file, self.style)
        except (OSError, ValueError) as error:
            advice = "name a file that `predict` wrote, or another --output"
            raise UserError(f"{self.path}: {reason(error)}; {advice}") from None
