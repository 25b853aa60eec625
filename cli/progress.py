"""Draw the records that the library yields: bars on a terminal, plain lines at a limited rate in a pipe.

The library yields records and never prints. All progress goes to stderr, so that stdout holds only results. `follow`
runs a tuning to its end.

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
from sharpzo_mlx.errors import escape, is_gpu_error

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
    if not stream.isatty():
        yield Lines(stream).draw
        return
    with make_progress(stream) as progress:
        yield Bars(progress).draw


def make_progress(stream: TextIO, *, results: bool = False) -> Progress:
    """Return rich's bars on a terminal, with the columns that all commands have.

    Args:
        stream: the terminal.
        results: whether results are written to stdout meanwhile, which is then left alone; the bars go away at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[words]}", markup=False),
    )
    return Progress(*columns, console=Console(file=stream), transient=results, redirect_stdout=not results)


def describe_step(step: TuneStep) -> str:
    """Return loss, validation accuracy, queries and memory of one step in words."""
    now = "" if step.val_accuracy is None else f"{percent(step.val_accuracy)}, "
    memory = amount(step.peak_memory_mb * 2**20)
    validation = f"validation {now}kept {percent(step.best_val)}"
    return f"loss {step.loss:.3f}, {validation}, {step.queries} queries, {memory}"


def describe_plan(plan: Plan) -> str:
    """Return in words what a search will do, and how long it takes at most."""
    images = f"{plan.train_images} training images, none for validation"
    if plan.val_images:
        images = f"{plan.train_images} training and {plan.val_images} validation images"
    if plan.val_images or plan.head:
        images += f"; zero-shot {percent(plan.zero_shot_val)} on {'them' if plan.head else 'validation'}"
    return f"{plan.classes} classes, {images}; at most {plan.queries} queries, about {duration(plan.seconds)}"


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
    """The base of the two classes that draw records."""

    def draw(self, record: Record) -> None:
        """Draw one record, or skip it shortly after another one."""
        from sharpzo_mlx.comparison.dataset_runner import Finished, Working
        from sharpzo_mlx.evaluation.folders import FolderProgress
        from sharpzo_mlx.tuning.encoding import Encoding
        from sharpzo_mlx.tuning.pipeline import Plan
        from sharpzo_mlx.tuning.search import TuneStep

        if isinstance(record, TuneStep):
            self.draw_step(record)
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
            self.write_line(f"{name}: {progress.done} of {progress.total} read{_describe_cached(progress)}")

    def draw_working(self, record: Working) -> None:
        """Write a line after a silence."""
        if self._is_due(QUIET_SECONDS):
            self.write_line(f"{record.dataset}, seed {record.seed}, {record.method}: {_describe_working(record)}")

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
        self._move(f"stage {step.stage}", step.step, step.of, describe_step(step))

    def draw_images(self, name: str, progress: Encoding | FolderProgress) -> None:
        """Move the bar of these images."""
        self._move(name, progress.done, progress.total, _describe_cached(progress).lstrip(", "))

    def draw_working(self, record: Working) -> None:
        """Move the bar of the method that runs."""
        words = f"{record.method}, seed {record.seed}, {_describe_working(record)}"
        self._move(record.dataset, record.progress.queries, record.budget, words)

    def draw_finished(self, record: Finished) -> None:
        """Move the bar of the whole comparison."""
        super().draw_finished(record)
        self._move("results", record.done, record.total, "")

    def write_line(self, words: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(escape(words), highlight=False, markup=False)

    def _move(self, name: str, done: int, total: int, words: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(escape(name), total=total, words="")
        self._progress.update(self._tasks[name], completed=done, total=total, words=words)


def _describe_working(record: Working) -> str:
    now, best = record.progress.score, record.progress.best
    validation = f"validation {percent(now.accuracy)}, kept {percent(best.accuracy)}"
    backwards = record.progress.backward_passes
    return f"{validation}, {record.progress.queries} queries" + (f", {backwards} gradients" if backwards else "")


def _describe_cached(progress: Encoding | FolderProgress) -> str:
    known, looked_up = getattr(progress, "cached", 0), getattr(progress, "looked_up", 0)
    return f", {known} known already" if known else f", {looked_up} looked up" if looked_up else ""
