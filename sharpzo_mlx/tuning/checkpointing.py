"""Run a search and keep its folder such that it can be stopped at any moment and continue with the same numbers.

After every step a snapshot of all state is held (arrays never change, so it costs nothing). Every few seconds it is
written, and the best prompt with it. An interrupt in the middle of a step falls back to the snapshot.

    with Recorder(run, problem, search) as recorder:
        for step in recorder.steps():
            print(step.val_accuracy)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.runs.checkpoint import CHECKPOINT, CHECKPOINTS, load_checkpoint, save_checkpoint
from sharpzo_mlx.runs.json_record import Count, checked
from sharpzo_mlx.runs.record import RunResults
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import SETTINGS, as_toml
from sharpzo_mlx.runs.step_log import StepLog
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.tuning.problem import TuningProblem
from sharpzo_mlx.tuning.search import Search, TuneStep
from sharpzo_mlx.tuning.search_state import SearchState

CHECKPOINT_SECONDS = 10.0


class Recorder:
    """Keeps the folder of one run.

    Args:
        run: the run; its folder is held by this process.
        problem: what turns w into a prompt.
        search: a new search; it takes on the checkpoint if there is one.

    Raises:
        UserError: the loss before tuning is not finite.
    """

    def __init__(self, run: Run, problem: TuningProblem, search: Search) -> None:
        self.run, self.problem, self.search = run, problem, search
        log_size = restore(run.folder, search)
        if log_size is None:
            search.begin()
            if not math.isfinite(search.best_score.loss):
                raise UserError(
                    f"{run.record.model.folder}: its loss before tuning is not a finite number; "
                    "the model is damaged: convert the checkpoint again"
                )
        if log_size is None or run.record.zero_shot_val is None:
            # w = 0 is the first candidate, and zero-shot if there is no head
            first = search.selection.state().first
            zero_shot = first if problem.head is None else problem.head.zero_shot_accuracy
            run.record = replace(run.record, zero_shot_val=zero_shot)
        self.kept = log_size or 0
        self.saved_best: mx.array | None = None

    def __enter__(self) -> Recorder:
        """Make the folder a usable run; its prompt is zero-shot until there is a better one."""
        self.run.save()  # first, so that every other file lies in a run
        atomic_write(self.run.folder / SETTINGS, as_toml(self.run.config))
        self.log = StepLog(self.run.folder, self.kept)
        try:
            self._hold()
            self.save()
        except BaseException:
            self.log.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the last state, whether the search ended, failed or was interrupted."""
        if kind is not None:
            self.run.record = replace(self.run.record, status="interrupted")
        try:
            self.save()
        finally:
            self.log.close()

    def steps(self) -> Iterator[TuneStep]:
        """Continue to the search's end; the folder is whole after every record."""
        written = time.monotonic()
        for step in self.search.steps():
            self.log.append(step)
            self._hold()
            if time.monotonic() - written > CHECKPOINT_SECONDS:
                self.save()
                written = time.monotonic()
            yield step
        self._hold()

    def _hold(self) -> None:
        self.snapshot = (self.search.state(), self.log.size)

    def save(self) -> None:
        """Write the state after the last whole step, the best prompt so far, and what it cost."""
        state, log_size = self.snapshot
        self.run.check_place()
        self.log.flush()  # the checkpoint remembers the log's size
        save_checkpoint(self.run.folder, state.arrays(), {**state.to_json(), "log_size": log_size})
        if state.best_w is not self.saved_best:
            self.saved_best = state.best_w
            self.run.keep_prompt(self.problem.prompt(self.saved_best))
        self.run.current_results = costs(state, self.run)
        self.run.save()


def restore(folder: Path, search: Search) -> int | None:
    """Let a search take on the last whole checkpoint of a run; a damaged one is passed over with a notice.

    Args:
        folder: the run's folder.
        search: a new search with the run's settings.

    Returns:
        The size of the log of steps at that time; None if the run has no checkpoint.

    Raises:
        UserError: none of its checkpoints can be continued.
    """
    present = [folder / name for name in CHECKPOINTS if os.path.lexists(folder / name)]
    for place, path in enumerate(present):
        try:
            log_size = _take_on(path, search)
        except UserError as error:
            if place + 1 == len(present):
                names = " and ".join(one.name for one in present)
                raise UserError(f"{error}; delete {names} to begin this run again") from error
            notify(f"{error}; continued from the one before, {present[place + 1].name}")
        else:
            if path.name != CHECKPOINT:
                path.replace(folder / CHECKPOINT)  # the damaged one must not become the one before
            return log_size
    return None


def _take_on(path: Path, search: Search) -> int:
    arrays, facts = load_checkpoint(path)
    try:
        log_size = checked(Count, facts.get("log_size"), "log_size")
        search.restore(arrays, facts)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return log_size


def costs(state: SearchState, run: Run) -> RunResults:
    """Return the results of a run before its test images are read."""
    zero_shot, best = run.record.zero_shot_val, state.selection.best
    assert zero_shot is not None, "w = 0 is validated first"
    assert best is not None, "w = 0 is validated first"
    earlier = run.current_results
    peak, kept = (earlier.peak_memory_mb, earlier.cache_memory_mb) if earlier else (None, None)
    return RunResults(
        zero_shot=zero_shot,
        val=best.accuracy,
        test=None,
        zero_shot_val=zero_shot,
        queries=state.counters.queries,
        val_queries=state.counters.val_queries,
        seconds=round(state.counters.elapsed, 3),
        peak_memory_mb=_raise_to(memory.mlx_peak(), peak),
        process_memory_mb=round(memory.process_peak() / 2**20, 1),
        cache_memory_mb=_raise_to(memory.mlx_cache(), kept),
    )


def _raise_to(size: int, earlier: float | None) -> float:
    """Return bytes as MiB, or what was measured earlier in the run if that is more."""
    return round(max(earlier or 0.0, size / 2**20), 1)
