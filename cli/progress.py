"""Draws the records that the library yields: bars on a terminal, plain lines at a limited rate in a pipe.

The library yields records and never prints. Everything goes to stderr, so stdout stays free for results. `follow` runs
a tuning to its end.

>>> run = follow(tuning.tune_steps(clip, "photos/", config))  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sharpzo_mlx.cli.wording import amount, duration, percent

if TYPE_CHECKING:
    from rich.progress import Progress

    from sharpzo_mlx.comparison.dataset_runner import Finished, Working
    from sharpzo_mlx.comparison.record import Comparison
    from sharpzo_mlx.comparison.runner import Event as ComparisonEvent
    from sharpzo_mlx.evaluation.folders import FolderProgress
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.tuning.encoding import Encoding
    from sharpzo_mlx.tuning.pipeline import Event, Plan
    from sharpzo_mlx.tuning.search import TuneStep

    Record = Event | FolderProgress | Working | Finished

QUIET_SECONDS = 10.0  # the longest time without a line in a pipe
NEWS_SECONDS = 1.0  # the shortest time between two lines about a new best


def follow(events: Iterable[Event], stream: TextIO | None = None) -> Run:
    """Draw every record of a tuning and return the run that the last one holds.

    Args:
        events: what `tune_steps` yields; it is closed at the end, which saves a run that is stopped.
        stream: where to draw; None for stderr. A terminal gets bars.
    """
    from sharpzo_mlx.tuning.pipeline import Done, Plan

    folder: Path | None = None
    try:
        with drawing(stream) as draw:
            for event in events:
                if isinstance(event, Done):
                    return event.run
                folder = event.run if isinstance(event, Plan) else folder
                draw(event)
    except KeyboardInterrupt:
        if folder is not None:
            command_end = f"--output {shlex.quote(str(folder))} --resume"
            print(f"note: the same command with {command_end} continues the run", file=stream or sys.stderr)
        raise
    finally:
        if isinstance(events, Generator):
            events.close()
    raise AssertionError("tune_steps ends with Done")


def follow_comparison(events: Iterable[ComparisonEvent], stream: TextIO | None = None) -> Comparison:
    """Draw every record of a comparison and return what the last one holds."""
    from sharpzo_mlx.comparison.record import Comparison

    try:
        with drawing(stream) as draw:
            for event in events:
                if isinstance(event, Comparison):
                    return event
                draw(event)
    except KeyboardInterrupt:
        print("note: the same command continues where this one stopped", file=stream or sys.stderr)
        raise
    raise AssertionError("compare_steps ends with the comparison")


@contextmanager
def drawing(stream: TextIO | None = None) -> Iterator[Callable[[Record], None]]:
    """Provide a function that draws one record on `stream`; None for stderr."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream).draw
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bars(progress).draw


def describe_step(step: TuneStep) -> str:
    """Return loss, validation accuracy, queries and memory of one step in words."""
    now = "" if step.val_accuracy is None else f"{percent(step.val_accuracy)}, "
    memory = amount(step.peak_memory_mb * 2**20)
    validation = f"validation {now}kept {percent(step.best_val)}"
    return f"loss {step.loss:.3f}, {validation}, {step.queries} queries, {memory}"


def describe_plan(plan: Plan) -> str:
    """Return in words what a search will do, and how long it takes at most."""
    return (
        f"{plan.classes} classes, {plan.train_images} training and {plan.val_images} validation images; "
        f"zero-shot {percent(plan.zero_shot_val)} on validation; "
        f"at most {plan.queries} queries, about {duration(plan.seconds)}"
    )


def describe_result(finished: Finished) -> str:
    """Return in words what a method reached, and its cost."""
    result = finished.result
    variant = "" if result.variant == "tuned" else f" ({result.variant})"
    name = f"{result.dataset}, seed {result.seed}, {result.method}{variant}"
    if result.measurements is None:
        return f"{name}: failed: {result.error}"
    found = result.measurements
    test = "" if found.test is None else f"test {percent(found.test)}, "
    known = ", known already" if finished.found else ""
    return f"{name}: {test}validation {percent(found.val)}, {found.queries} queries, {duration(found.seconds)}{known}"


class Painter(ABC):
    """Draws records; the way is up to the classes below."""

    def draw(self, record: Record) -> None:
        """Draw one record, or leave it out if the last one was drawn a moment ago."""
        from sharpzo_mlx.comparison.dataset_runner import Finished, Working
        from sharpzo_mlx.evaluation.folders import FolderProgress
        from sharpzo_mlx.tuning.encoding import Encoding
        from sharpzo_mlx.tuning.pipeline import Plan
        from sharpzo_mlx.tuning.search import TuneStep

        if isinstance(record, TuneStep):
            self.step(record)
        elif isinstance(record, Plan):
            self.line(describe_plan(record))
        elif isinstance(record, Encoding):
            self.images(f"{record.split} images", record)
        elif isinstance(record, FolderProgress):
            self.images(str(record.path), record)
        elif isinstance(record, Working):
            self.working(record)
        elif isinstance(record, Finished):
            self.finished(record)

    @abstractmethod
    def step(self, step: TuneStep) -> None:
        """Draw a step of a stage."""

    @abstractmethod
    def images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Draw how many images of a folder or split are read."""

    @abstractmethod
    def working(self, record: Working) -> None:
        """Draw where a method of a comparison stands."""

    def finished(self, record: Finished) -> None:
        """Draw a result of a comparison."""
        self.line(f"{record.done} of {record.total}: {describe_result(record)}")

    @abstractmethod
    def line(self, words: str) -> None:
        """Draw a line to read once."""


class Lines(Painter):
    """Writes plain lines for a pipe or a log: a new stage, a new best, and a line after each silence."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream = stream
        self._clock = clock
        self._last = clock()
        self._best = -1.0
        self._stage = 0

    def step(self, step: TuneStep) -> None:
        """Write a line for a new stage, a new best, the last step, or after a silence."""
        news = step.best_val > self._best and self._due(NEWS_SECONDS)
        if news or step.stage != self._stage or step.step == step.of or self._due(QUIET_SECONDS):
            self._stage, self._best = step.stage, step.best_val
            where = f"stage {step.stage}, {step.step} of {step.of}"
            self.line(f"{where}: {describe_step(step)}, {duration(step.seconds)}")

    def images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Write a line at the end and after a silence."""
        if progress.done == progress.total or self._due(QUIET_SECONDS):
            self.line(f"{name}: {progress.done} of {progress.total} read{_cached(progress)}")

    def working(self, record: Working) -> None:
        """Write a line after a silence."""
        if self._due(QUIET_SECONDS):
            self.line(f"{record.dataset}, seed {record.seed}, {record.method}: {_working_words(record)}")

    def line(self, words: str) -> None:
        """Write a line now."""
        self._last = self._clock()
        print(words, file=self._stream, flush=True)

    def _due(self, seconds: float) -> bool:
        return self._clock() - self._last >= seconds


class Bars(Painter):
    """Shows a bar for each split or folder and one for each stage, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def step(self, step: TuneStep) -> None:
        """Move the stage's bar."""
        self._move(f"stage {step.stage}", step.step, step.of, describe_step(step))

    def images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Move the bar of these images."""
        self._move(name, progress.done, progress.total, _cached(progress).lstrip(", "))

    def working(self, record: Working) -> None:
        """Move the bar of the method that runs."""
        words = f"{record.method}, seed {record.seed}, {_working_words(record)}"
        self._move(record.dataset, record.progress.queries, record.budget, words)

    def finished(self, record: Finished) -> None:
        """Move the bar of the whole comparison."""
        super().finished(record)
        self._move("results", record.done, record.total, "")

    def line(self, words: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(words, highlight=False, markup=False)

    def _move(self, name: str, done: int, total: int, words: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, words="")
        self._progress.update(self._tasks[name], completed=done, total=total, words=words)


def _working_words(record: Working) -> str:
    now, best = record.progress.score, record.progress.best
    validation = f"validation {percent(now.accuracy)}, kept {percent(best.accuracy)}"
    backwards = record.progress.backward_passes
    return f"{validation}, {record.progress.queries} queries" + (f", {backwards} gradients" if backwards else "")


def _cached(progress: Encoding | FolderProgress) -> str:
    known = getattr(progress, "cached", 0)
    return f", {known} known already" if known else ""
