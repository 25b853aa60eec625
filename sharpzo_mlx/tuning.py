"""Tune CLIP's prompt to a folder of images: `tune_steps` yields what happens, `tune` runs it to the end.

Images are drawn and encoded once, the search runs through both stages (SharpZO, arXiv 2506.20990), and the best
prompt by validation accuracy is kept; the test split is first read when the search is over. The run's folder is
written as it goes: a run that is stopped, by Ctrl-C or by force, goes on with `resume=True` to the same result.

>>> run = tune(clip, "dataset/", TuneConfig(shots=16, seed=0))  # doctest: +SKIP
>>> run.results["test"], run.results["zero_shot"]  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from sharpzo_mlx import memory
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.folder import ImageSet
from sharpzo_mlx.encoder import Clip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features import EncodeProgress, Features, encode_steps
from sharpzo_mlx.problem import Problem, make_problem, score_features
from sharpzo_mlx.run import CHECKPOINT, PROMPT, Run, StepLog, load_checkpoint, locked, save_checkpoint
from sharpzo_mlx.rundata import open_run
from sharpzo_mlx.search import Search, TuneStep

CHECKPOINT_SECONDS = 10.0
TIMED_SECONDS = 0.3  # of the estimate before the start


@dataclass(frozen=True)
class Encoding:
    """Images of one split are being encoded."""

    split: str
    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class Plan:
    """What is about to happen, and how long it will take at most."""

    run: Path
    classes: int
    train_images: int
    val_images: int
    queries: int
    seconds: float
    zero_shot_val: float


@dataclass(frozen=True)
class Done:
    """The run, at its end."""

    run: Run


Event = Encoding | Plan | TuneStep | Done


def tune(
    clip: Clip,
    dataset: str | Path,
    config: TuneConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Tune a prompt to a folder of images; see `tune_steps`.

    Returns:
        The run, with its results and its prompt.
    """
    for event in tune_steps(clip, dataset, config, output=output, resume=resume):
        if isinstance(event, Done):
            return event.run
    raise AssertionError("tune_steps ends with Done")


def tune_steps(
    clip: Clip,
    dataset: str | Path,
    config: TuneConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
) -> Iterator[Event]:
    """Tune a prompt, a record at a time.

    Args:
        clip: the checkpoint.
        dataset: a folder of class folders of images, or of train/, val/ and test/ with such folders.
        config: the options; None for the defaults, or for those of the run that is resumed.
        output: the run's folder; None: `runs/<dataset>-<model>-<seed>`, with a number behind where that is taken.
        resume: go on with the run in that folder; begin it where there is none.

    Yields:
        Encoding, Plan, TuneStep for every generation and step, Encoding for the test images, and Done.

    Raises:
        UserError: what the user gave cannot be used; nothing is left behind.
    """
    run, images = open_run(clip, Path(dataset), config, output=output, resume=resume)
    if run.finished:
        yield Done(run)
        return
    with locked(run.folder):
        run.save()
        yield from _carry_out(clip, run, images)


def _carry_out(clip: Clip, run: Run, images: dict[str, ImageSet]) -> Iterator[Event]:
    memory.reset_mlx_peak()
    train = yield from _encode(clip, images, "train")
    val = yield from _encode(clip, images, "val") if images["val"].paths else _nothing(train)
    clip.release_vision()
    problem = make_problem(clip, train, val, run.config)
    search = Search(problem.config, problem.objective, problem.validate)
    zero_shot_val = problem.validate(mx.zeros(problem.objective.dimension)).accuracy
    run.record["zero_shot_val"] = zero_shot_val
    yield _plan(run, problem, search, zero_shot_val, len(train.paths))
    with memory.wired_limit():
        yield from _Recorder(run, problem, search).steps()
    test = (yield from _encode(clip, images, "test")) if "test" in images else None
    clip.release_vision()
    _finish(run, problem, search, test)
    yield Done(run)


def _encode(clip: Clip, images: dict[str, ImageSet], split: str) -> Generator[Encoding, None, Features]:
    steps = encode_steps(clip, images[split])
    while True:
        try:
            progress: EncodeProgress = next(steps)
        except StopIteration as end:
            features: Features = end.value
            return _complete(features, split)
        yield Encoding(split, progress.done, progress.total, progress.cached)


def _complete(features: Features, split: str) -> Features:
    if split == "train":
        lost = sorted(set(range(len(features.folders))) - set(features.labels.tolist()))
        if lost:
            raise UserError(
                f"{features.folders[lost[0]]}: no readable training image is left in this class; "
                "repair or add images, or remove the folder"
            )
    return features


def _nothing(train: Features) -> Generator[Encoding, None, Features]:
    """Without validation images the training images judge; the notice was given when they were drawn."""
    yield from ()
    return train


def _plan(run: Run, problem: Problem, search: Search, zero_shot_val: float, train_images: int) -> Plan:
    queries = search.planned_queries()
    seconds = queries * _seconds_a_query(problem)
    return Plan(
        run=run.folder,
        classes=len(problem.class_names),
        train_images=train_images,
        val_images=len(problem.val.paths),
        queries=queries,
        seconds=min(seconds, run.config.time_budget or seconds),
        zero_shot_val=zero_shot_val,
    )


def _seconds_a_query(problem: Problem) -> float:
    """Time of one query in a batch, by trying; these passes inform nothing and are not counted."""
    objective, batch = problem.objective, 1
    counted = objective.queries
    while True:
        started = time.monotonic()
        mx.eval(objective.losses(mx.zeros((batch, objective.dimension))))
        spent = time.monotonic() - started
        if spent > TIMED_SECONDS or batch >= problem.config.population:
            objective.queries = counted
            return spent / batch
        batch = min(4 * batch, problem.config.population)


class _Recorder:
    """Runs a search and keeps its folder such that it can be cut off at any moment."""

    def __init__(self, run: Run, problem: Problem, search: Search) -> None:
        self.run, self.problem, self.search = run, problem, search
        saved = load_checkpoint(run.folder)
        if saved:
            search.restore(*saved)
        self.log = StepLog(run.folder, saved[1]["log_size"] if saved else 0)
        self.saved_best: mx.array | None = None
        self.snapshot = (search.arrays(), search.facts())

    def steps(self) -> Iterator[TuneStep]:
        written = time.monotonic()
        try:
            for step in self.search.steps():
                self.log.append(dataclasses.asdict(step))
                # what an interrupt in the middle of the next step falls back to
                self.snapshot = (self.search.arrays(), self.search.facts())
                if time.monotonic() - written > CHECKPOINT_SECONDS:
                    self.save()
                    written = time.monotonic()
                yield step
            self.snapshot = (self.search.arrays(), self.search.facts())
        except (KeyboardInterrupt, GeneratorExit):
            self.run.record["status"] = "interrupted"
            raise
        finally:
            self.save()
            self.log.close()

    def save(self) -> None:
        """Write the state after the last whole step, and the best prompt so far."""
        arrays, facts = self.snapshot
        save_checkpoint(self.run.folder, arrays, {**facts, "log_size": self.log.size})
        if facts["best"] and arrays["best_w"] is not self.saved_best:
            self.saved_best = arrays["best_w"]
            self.problem.prompt(self.saved_best).save(self.run.folder / PROMPT)
            self.run.__dict__.pop("prompt", None)
        self.run.results = _costs(facts, self.run)
        self.run.save()


def _costs(facts: dict[str, Any], run: Run) -> dict[str, Any]:
    earlier = run.results.get("peak_memory_mb", 0.0)
    return {
        "zero_shot": run.record["zero_shot_val"],
        "val": facts["best"]["accuracy"] if facts["best"] else None,
        "test": None,
        "zero_shot_val": run.record["zero_shot_val"],
        "queries": facts["queries"],
        "val_queries": facts["val_queries"],
        "seconds": round(facts["elapsed"], 3),
        "peak_memory_mb": round(max(earlier, memory.mlx_peak() / 2**20), 1),
        "process_memory_mb": round(memory.process_peak() / 2**20, 1),
    }


def _finish(run: Run, problem: Problem, search: Search, test: Features | None) -> None:
    results = _costs(search.facts(), run)
    if test is not None:
        scale, prompt = problem.objective.logit_scale, run.prompt
        results["zero_shot"] = score_features(prompt.zero_shot_features, test, scale).accuracy
        results["test"] = score_features(prompt.class_features, test, scale).accuracy
    run.results = results
    run.record["status"] = "finished"
    run.save()
    (run.folder / CHECKPOINT).unlink(missing_ok=True)
