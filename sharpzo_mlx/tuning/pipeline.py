"""Tune CLIP's prompt to a folder of images: `tune_steps` yields what happens, `tune` runs it to the end.

Images are drawn and encoded once, the search runs through both stages (SharpZO, arXiv 2506.20990), and the best
prompt by validation accuracy is kept; the test split is first read when the search is over. The run's folder is
written as it goes: a run that is stopped, by Ctrl-C or by force, goes on with `resume=True` to the same result.

>>> run = tune(clip, "dataset/", TuneConfig(shots=16, seed=0))  # doctest: +SKIP
>>> run.results.test, run.results.zero_shot  # doctest: +SKIP
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.folder import ImageSet, notice
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, check_readable, encode_steps, relayed
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.heads.head import join_head
from sharpzo_mlx.objective.loss import score_logits
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runs.checkpoint import CHECKPOINT
from sharpzo_mlx.runs.record import HeadShares
from sharpzo_mlx.runs.resume import check_content, open_run, run_folder
from sharpzo_mlx.runs.run import Run, locked
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.tuning.budget import (
    affordable_generations,
    check_budget,
    generation_cost,
    mask_cost,
    planned_queries,
    step_cost,
)
from sharpzo_mlx.tuning.checkpointing import Recorder, costs
from sharpzo_mlx.tuning.problem import TuningProblem, make_problem
from sharpzo_mlx.tuning.search import Search, TuneStep

LONG_SECONDS = 0.5


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
        TypeError: `clip` is no Clip, or `config` no TuneConfig.
    """
    check_arguments(clip, config)
    refuse_empty(dataset)
    dataset, place = Path(dataset).expanduser(), Path(output).expanduser() if output else None
    folder = run_folder(clip, dataset, config, output=place, resume=resume)
    with locked(folder):
        run, images = open_run(clip, dataset, config, folder=folder, resume=resume)
        yield from _carry_out(clip, run, images) if not run.finished else (Done(run),)


def check_arguments(clip: object, config: object) -> None:
    """Say what is expected where a path stands for a model, or a dictionary for the options.

    Raises:
        TypeError: `clip` is no Clip, or `config` no TuneConfig.
    """
    if not isinstance(clip, Clip):
        raise TypeError(f"clip {clip!r}: give the model that load({str(clip)!r}) opens")
    if config is not None and not isinstance(config, TuneConfig):
        raise TypeError(f"config {config!r}: give a TuneConfig, such as TuneConfig(shots=16)")


def _carry_out(clip: Clip, run: Run, images: dict[str, ImageSet]) -> Iterator[Event]:
    check_budget(run.config)
    tokenise_prompts(clip.tokenizer, run.config.template or PLAIN, images["train"].class_names)  # refused before work
    train = yield from encode_split(clip, images["train"], "train")
    check_classes(train)
    val = yield from encode_split(clip, images["val"], "val")
    check_content(run, train, val)
    clip.release_vision()
    memory.reset_mlx_peak()  # from here on it is tuning's own
    problem = make_problem(clip, train, val, run.config)
    search = Search(problem.config, problem.objective, problem.validate)
    seconds = _Seconds.measure(problem, search)
    search.step_seconds = seconds.step
    check_budget(problem.config)
    with memory.wired_limit(), Recorder(run, problem, search) as recorder:
        yield _plan(run, problem, search, seconds)
        yield from recorder.steps()
    _join_head(run, train, val)
    test = (yield from _encode_test(clip, run, images["test"])) if "test" in images else None
    clip.release_vision()
    _finish(run, search, val=val, test=test)
    yield Done(run)


def encode_split(clip: Clip, images: ImageSet, split: str) -> Generator[Encoding, None, Features]:
    """Encode images, a record a batch under the name of their split; see `encode_steps`."""
    steps = encode_steps(clip, images)
    return (yield from relayed(steps, lambda p: Encoding(split, p.done, p.total, p.cached)))


def _encode_test(clip: Clip, run: Run, images: ImageSet) -> Generator[Encoding, None, Features | None]:
    """The test images; without a readable one the run goes on to its end as one that has none, with a notice."""
    steps = encode_steps(clip, images, whole=False)
    test = yield from relayed(steps, lambda p: Encoding("test", p.done, p.total, p.cached))
    if len(test.labels):
        check_readable(images, test.labels, test.skipped)
        return test
    path, reason = test.skipped[0]
    notice(
        f"{run.folder}: not one of the {len(images)} test images can be read ({path}: {reason}), so accuracies are "
        "those of validation; repair the images and measure them with `evaluate`"
    )
    run.record = replace(run.record, images=replace(run.record.images, test=None))
    return None


def check_classes(train: Features) -> None:
    """Refuse training images that leave a class without one.

    Raises:
        UserError: with the first such class.
    """
    lost = sorted(set(range(len(train.folders))) - set(train.labels.tolist()))
    if lost:
        raise UserError(
            f"{train.folders[lost[0]]}: no readable training image is left in this class; "
            "repair or add images, or remove the folder"
        )


@dataclass(frozen=True)
class _Seconds:
    """What things take, by trying; these passes inform nothing and are not counted."""

    query: float  # in a generation of stage 1
    step: float  # of stage 2, validation included

    @classmethod
    def measure(cls, problem: TuningProblem, search: Search) -> _Seconds:
        c, loss = problem.config, problem.objective
        population = min(c.stage1.population, loss.chunk)
        query = _time(loss, lambda: loss.losses(mx.zeros((population, loss.dimension)))) / population
        validation = _time(loss, lambda: loss.losses(mx.zeros((1, loss.dimension)))) / c.selection.every
        step = _time(loss, search.try_step)
        return cls(query, step + validation + query * mask_cost(c) / c.pruning.interval)


def _time(loss: Objective, work: Callable[[], mx.array]) -> float:
    """Seconds of one batch of candidates; the second pass of two, for the first one warms up."""
    counted, spent = loss.queries, 0.0
    for _ in range(2):
        started = time.monotonic()
        mx.eval(work())
        spent = time.monotonic() - started
        if spent > LONG_SECONDS:  # what takes so long needs no warming up
            break
    loss.queries = counted
    return spent


def _plan(run: Run, problem: TuningProblem, search: Search, seconds: _Seconds) -> Plan:
    c = problem.config
    queries = planned_queries(c, search.step_seconds)
    left = max(0, queries - problem.objective.queries)
    generations = affordable_generations(c) - search.now.step if search.now.stage == 1 else 0
    stage_one = min(left, generations * generation_cost(c))
    estimate = stage_one * seconds.query + (left - stage_one) / step_cost(c) * seconds.step
    return Plan(
        run=run.folder,
        classes=len(problem.class_names),
        train_images=int(problem.objective.labels.shape[0]),
        val_images=len(problem.val.paths),
        queries=left,
        seconds=min(estimate, max(0.0, (c.time_budget or math.inf) - search.now.elapsed)),
        zero_shot_val=run.record.zero_shot_val or 0.0,
    )


def _join_head(run: Run, train: Features, val: Features) -> None:
    """Join the best prompt with the head that was asked for; before the test images are there to be looked at."""
    if run.config.head != "none":
        run.keep_prompt(join_head(run.prompt, run.config.head, train, val))


def _finish(run: Run, search: Search, *, val: Features, test: Features | None) -> None:
    prompt, results = run.prompt, costs(search.state(), run)
    if (head := prompt.head) is not None:
        shares = HeadShares(head.kind, head.text_share, head.image_share)
        results = replace(results, val=_accuracy(prompt.logits, val), val_text=results.val, head=shares)
    if test is not None:
        results = replace(
            results, zero_shot=_accuracy(prompt.zero_shot_logits, test), test=_accuracy(prompt.logits, test)
        )
        if head is not None:
            results = replace(results, test_text=_accuracy(prompt.text_logits, test))
    run.current_results = results
    run.record = replace(run.record, status="finished")
    run.save()
    (run.folder / CHECKPOINT).unlink(missing_ok=True)


def _accuracy(classifier: Callable[[mx.array], mx.array], images: Features) -> float:
    return score_logits(classifier(images.embeddings), mx.array(images.labels)).accuracy
