"""Bars and lines say how many workers there are, and nothing about workers without a cluster."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpzo_mlx.cli import progress
from sharpzo_mlx.cli.image_bar import PipedLines, open_bar
from sharpzo_mlx.evaluation.folders import FolderProgress
from sharpzo_mlx.runtime.helpers import Model, Shared, describe_helpers, helped_by


class Crew:
    """Helpers of whom so many are there."""

    count = 2

    def __init__(self, present: int) -> None:
        self.present = present

    def perform(
        self, work: str, pieces: Iterable[Any], model: Model, shared: Shared | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Do nothing."""
        return iter(())


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("present", "words"), [(0, ", no worker"), (1, ", 1 worker"), (3, ", 3 workers")])
def test_workers_are_counted(present: int, words: str) -> None:
    with helped_by(Crew(present)):
        assert describe_helpers() == words
    assert describe_helpers() == ""


def test_a_pipe_says_how_many_workers_there_are() -> None:
    stream, clock = io.StringIO(), iter((0.0, 20.0, 20.0, 40.0, 40.0, 60.0, 60.0))
    lines = progress.Lines(stream, lambda: next(clock))
    images = PipedLines(9, stream, lambda: 60.0 if stream.tell() else 0.0)
    with helped_by(Crew(2)):
        lines.draw(FolderProgress(Path("photos"), 9, 9))
        images.move(3)
    lines.draw(FolderProgress(Path("photos"), 9, 9))
    images.move(4)
    said = stream.getvalue().splitlines()
    assert said[0] == "photos: 9 of 9 read, 2 workers"
    assert said[1] == "images: 3 of 9 done, 2 workers"
    assert said[2] == "photos: 9 of 9 read"


def test_a_bar_says_how_many_workers_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for helpers, expected in ((Crew(2), True), (None, False)):
        stream = Terminal()
        with helped_by(helpers), open_bar(9, stream) as bar:
            bar.move(3)
        screen = Terminal()
        with helped_by(helpers), progress.open_painter(screen) as draw:
            draw(FolderProgress(Path("photos"), 3, 9))
        for text in (stream.getvalue(), screen.getvalue()):
            assert ("2 workers" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)) == expected
