"""Draw the records that the library yields: bars on a terminal, plain lines at a limited rate in a pipe.

The library yields records and never prints. All progress goes to stderr, so that stdout holds only results. `follow`
runs a tuning to its end.

>>> run = follow(tuning.tune_steps(clip, "photos/", config))  # doctest: +SKIP
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sharpzo_mlx.cli.progress_words import (
    cut_words,
    describe_drawn,
    describe_images,
    describe_plan,
    describe_result,
    describe_step,
    describe_step_shortly,
    describe_working,
)
from sharpzo_mlx.cli.wording import duration
from sharpzo_mlx.errors import escape, is_gpu_error
from sharpzo_mlx.report.formatting import shorten
from sharpzo_mlx.runtime.helpers import describe_helpers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Column

    from sharpzo_mlx.comparison.dataset_runner import Finished, Working
    from sharpzo_mlx.comparison.record import Comparison
    from sharpzo_mlx.comparison.runner import Event as ComparisonEvent
    from sharpzo_mlx.evaluation.folders import FolderProgress
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.tuning.encoding import Encoding
    from sharpzo_mlx.tuning.pipeline import Event
    from sharpzo_mlx.tuning.search import TuneStep

    Record = Event | FolderProgress | Working | Finished

QUIET_SECONDS = 10.0  # the longest time without a line in a pipe
WIDE = 100  # columns from which a bar has all its words
NEWS_SECONDS = 1.0  # the shortest time between two lines about a new best


def follow(events: Iterable[Event], stream: TextIO | None = None) -> Run:
    """Draw every record of a tuning and return the run that the last one holds.

    Args:
        events: the records of `tune_steps`; closing this generator at the end saves an interrupted run.
        stream: where to draw; None for stderr. A terminal gets bars.
    """
    from sharpzo_mlx.tuning.pipeline import Done, Plan

    folder: Path | None = None
    try:
        with open_painter(stream) as draw:
            for event in events:
                if isinstance(event, Done):
                    return event.run
                folder = event.run if isinstance(event, Plan) else folder
                draw(event)
    except (KeyboardInterrupt, RuntimeError) as error:
        if folder is not None and (isinstance(error, KeyboardInterrupt) or is_gpu_error(error)):
            command_end = f"--output {shlex.quote(str(folder))} --resume"
            print(escape(f"note: the same command with {command_end} continues the run"), file=stream or sys.stderr)
        raise
    finally:
        if isinstance(events, Generator):
            events.close()
    raise AssertionError("tune_steps ends with Done")


def follow_comparison(events: Iterable[ComparisonEvent], stream: TextIO | None = None) -> Comparison:
    """Draw every record of a comparison and return what the last one holds."""
    from sharpzo_mlx.comparison.record import Comparison

    try:
        with open_painter(stream) as draw:
            for event in events:
                if isinstance(event, Comparison):
                    return event
                draw(event)
    except KeyboardInterrupt:
        print("note: the same command continues where this one stopped", file=stream or sys.stderr)
        raise
    raise AssertionError("compare_steps ends with the comparison")


@contextmanager
def open_painter(stream: TextIO | None = None) -> Iterator[Callable[[Record], None]]:
    """Yield a function that draws one record on `stream`; None for stderr."""
    stream = stream or sys.stderr
    if not is_screen(stream):
        yield Lines(stream).draw
        return
    with make_progress(stream) as progress:
        yield Bars(progress).draw


def is_screen(stream: TextIO) -> bool:
    """Return whether bars can be drawn on a stream: a terminal that can move its cursor (TERM=dumb cannot)."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def make_progress(stream: TextIO, *, results: bool = False) -> Progress:
    """Return rich's bars on a terminal, with the columns that all commands have.

    Args:
        stream: the terminal.
        results: whether results are written to stdout meanwhile, which is then left alone; the bars go away at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(file=stream)
    bar = bar_width(console)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=_cut_column(widest_name(console))),
        BarColumn(bar_width=bar, table_column=Column(min_width=bar)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("{task.fields[words]}", markup=False, table_column=_cut_column()),
    )
    return Progress(*columns, console=console, transient=results, redirect_stdout=not results)


def widest_name(console: Console) -> int:
    """Return the columns that the name of a bar may take; the end of a longer one is shown."""
    return max(8, console.width // 4)


def bar_width(console: Console) -> int:
    """Return the columns of a bar."""
    return 20 if console.width >= WIDE else 10


def room_for_words(console: Console, total: int) -> int:
    """Return the columns that are left for words behind name, bar, count and time, with a blank between them."""
    return console.width - widest_name(console) - bar_width(console) - max(9, 2 * len(f"{total}") + 1) - 5 - 4


def _cut_column(max_width: int | None = None) -> Column:
    """Return a column that gives way on a narrow screen; the bar, the count and the time left stay."""
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis", max_width=max_width)


class Painter(ABC):
    """The base of the two classes that draw records."""

    def draw(self, record: Record) -> None:
        """Draw one record, or skip it shortly after another one."""
        from sharpzo_mlx.comparison.dataset_runner import Finished, Working
        from sharpzo_mlx.evaluation.folders import FolderProgress
        from sharpzo_mlx.tuning.encoding import Encoding
        from sharpzo_mlx.tuning.pipeline import Drawn, Plan
        from sharpzo_mlx.tuning.search import TuneStep

        if isinstance(record, TuneStep):
            self.draw_step(record)
        elif isinstance(record, Drawn):
            self.write_line(describe_drawn(record))
        elif isinstance(record, Plan):
            self.write_line(describe_plan(record))
        elif isinstance(record, Encoding):
            self.draw_images(f"{record.split} images", record)
        elif isinstance(record, FolderProgress):
            self.draw_images(str(record.path), record)
        elif isinstance(record, Working):
            self.draw_working(record)
        elif isinstance(record, Finished):
            self.draw_finished(record)

    @abstractmethod
    def draw_step(self, step: TuneStep) -> None:
        """Draw a step of a stage."""

    @abstractmethod
    def draw_images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Draw how many images of a folder or split are read."""

    @abstractmethod
    def draw_working(self, record: Working) -> None:
        """Draw the progress of a method in a comparison."""

    def draw_finished(self, record: Finished) -> None:
        """Draw a result of a comparison."""
        self.write_line(f"{record.done} of {record.total}: {describe_result(record)}")

    @abstractmethod
    def write_line(self, words: str) -> None:
        """Write one line."""


class Lines(Painter):
    """A painter for a pipe or a log: writes a line for a new stage, for a new best, and after each silence."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream = stream
        self._clock = clock
        self._last = clock()
        self._best = -1.0
        self._stage = 0

    def draw_step(self, step: TuneStep) -> None:
        """Write a line for a new stage, a new best, the last step, or after a silence."""
        news = step.best_val > self._best and self._is_due(NEWS_SECONDS)
        if news or step.stage != self._stage or step.step == step.of or self._is_due(QUIET_SECONDS):
            self._stage, self._best = step.stage, step.best_val
            where = f"stage {step.stage}, {step.step} of {step.of}"
            self.write_line(f"{where}: {describe_step(step)}, {duration(step.seconds)}")

    def draw_images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Write a line at the end and after a silence."""
        if progress.done == progress.total or self._is_due(QUIET_SECONDS):
            self.write_line(f"{name}: {progress.done} of {progress.total} read{describe_images(progress)}")

    def draw_working(self, record: Working) -> None:
        """Write a line after a silence."""
        if self._is_due(QUIET_SECONDS):
            self.write_line(f"{record.dataset}, seed {record.seed}, {record.method}: {describe_working(record)}")

    def write_line(self, words: str) -> None:
        """Write a line now."""
        self._last = self._clock()
        print(escape(words), file=self._stream, flush=True)

    def _is_due(self, seconds: float) -> bool:
        return self._clock() - self._last >= seconds


class Bars(Painter):
    """A painter for a terminal: shows a bar per split or folder and a bar per stage."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def draw_step(self, step: TuneStep) -> None:
        """Move the stage's bar."""
        describe = describe_step if self._progress.console.width >= WIDE else describe_step_shortly
        self._move(f"stage {step.stage}", step.step, step.of, describe(step))

    def draw_images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Move the bar of these images."""
        self._move(name, progress.done, progress.total, describe_images(progress).lstrip(", "))

    def draw_working(self, record: Working) -> None:
        """Move the bar of the method that runs."""
        words = f"{record.method}, seed {record.seed}, {describe_working(record)}"
        self._move(record.dataset, record.progress.queries, record.budget, words)

    def draw_finished(self, record: Finished) -> None:
        """Move the bar of the whole comparison."""
        super().draw_finished(record)
        self._move("results", record.done, record.total, describe_helpers().lstrip(", "))

    def write_line(self, words: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(escape(words), highlight=False, markup=False)

    def _move(self, name: str, done: int, total: int, words: str) -> None:
        if name not in self._tasks:
            shown = shorten(escape(name), widest_name(self._progress.console))
            self._tasks[name] = self._progress.add_task(shown, total=total, words="")
        fitting = cut_words(words, room_for_words(self._progress.console, total))
        self._progress.update(self._tasks[name], completed=done, total=total, words=fitting)
