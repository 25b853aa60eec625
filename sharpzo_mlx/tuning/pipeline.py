"""Tune CLIP's prompt to a folder of images: `tune_steps` yields a record a step, `tune` runs it to the end.

Images are drawn and encoded once. A head is fitted to their features, and a search looks for words that add to it; with
`head="none"` the search is SharpZO alone, through both stages (arXiv 2506.20990), and the prompt with the best
validation accuracy is kept. The test split is read when the search is over, not before. The run's folder is
written as the search proceeds: a run that is stopped, by Ctrl-C or by force, continues with `resume=True` to the same
result.

>>> run = tune(clip, "dataset/", TuneConfig(shots=16, seed=0))  # doctest: +SKIP
>>> run.results.test, run.results.zero_shot  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import notify
from sharpzo_mlx.features.digests import report_cloud_only
from sharpzo_mlx.features.extract import Features, relay
from sharpzo_mlx.files import expand, refuse_empty
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.objective.loss import score_logits
from sharpzo_mlx.prompts.ensemble import check_lengths, template_features
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runs.checkpoint import remove_checkpoints
from sharpzo_mlx.runs.record import HeadResult, RunResults
from sharpzo_mlx.runs.resume import check_content, open_run, run_folder
from sharpzo_mlx.runs.run import PROMPT, Run, locked
from sharpzo_mlx.runtime import limits, memory
from sharpzo_mlx.tuning.beside_head import (
    choose_words,
    count_views,
    encode_all_views,
    make_problem_beside_head,
)
from sharpzo_mlx.tuning.budget import check_budget
from sharpzo_mlx.tuning.checkpointing import Recorder, costs
from sharpzo_mlx.tuning.encoding import Encoding, check_classes, encode_split, encode_test, keep_labelled
from sharpzo_mlx.tuning.problem import TuningProblem, make_problem
from sharpzo_mlx.tuning.search import Search, TuneStep
from sharpzo_mlx.tuning.timing import measure_seconds, plan_queries, plan_seconds


@dataclass(frozen=True)
class Drawn:
    """The images of a run are chosen; none is read so far.

    Attributes:
        classes: how many.
        images: images to learn from.
        prompt: the prompt of the first class, before tuning.
    """

    classes: int
    images: int
    prompt: str


@dataclass(frozen=True)
class Plan:
    """What the search will do.

    Attributes:
        run: the run's folder.
        classes: how many.
        train_images: images to learn from.
        val_images: images that choose the best candidate.
        queries: evaluations of the training loss at most.
        seconds: time at most.
        zero_shot_val: accuracy before tuning, 0..1: on the validation images, or with a head on all labelled images.
        head: whether a head learns from all of them.
    """

    run: Path
    classes: int
    train_images: int
    val_images: int
    queries: int
    seconds: float
    zero_shot_val: float
    head: bool = False


@dataclass(frozen=True)
class Done:
    """The run has ended."""

    run: Run


Event = Drawn | Encoding | Plan | TuneStep | Done


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
    """Tune a prompt; yield a record at a time.

    Args:
        clip: the checkpoint.
        dataset: a folder of class folders of images, or of train/, val/ and test/ with such folders.
        config: the options; None for the defaults, or for those of the run that is resumed.
        output: the run's folder; None: `runs/<dataset>-<model>-<seed>`, with a number behind it if that is taken.
        resume: continue the run in that folder; begin it if there is none.

    Yields:
        Drawn, Encoding, Plan, TuneStep for every generation and step, Encoding for the test images, and Done.

    Raises:
        UserError: what the user gave cannot be used; nothing is left behind.
        TypeError: `clip` is no Clip, or `config` no TuneConfig.
    """
    check_arguments(clip, config)
    refuse_empty(dataset)
    dataset, place = expand(dataset), expand(output) if output else None
    folder = run_folder(clip, dataset, config, output=place, resume=resume)
    with locked(folder):
        run, images = open_run(clip, dataset, config, folder=folder, resume=resume)
        run.hold()
        with limits.bounded_cache(allowed_memory(run.config.memory_budget)):
            yield from _carry_out(clip, run, images) if not run.finished else (Done(run),)


def check_arguments(clip: object, config: object) -> None:
    """Say what is expected if a path is given as the model, or a dictionary as the configuration.

    Raises:
        TypeError: `clip` is no Clip, or `config` no TuneConfig.
    """
    if not isinstance(clip, Clip):
        raise TypeError(f"clip {clip!r}: give the model that load({str(clip)!r}) opens")
    if config is not None and not isinstance(config, TuneConfig):
        raise TypeError(f"config {config!r}: give a TuneConfig, such as TuneConfig(shots=16)")


def _carry_out(clip: Clip, run: Run, images: dict[str, ImageSet]) -> Iterator[Event]:
    check_budget(run.config)
    names = images["train"].class_names
    template = run.config.template or PLAIN
    tokenise_prompts(clip.tokenizer, template, names)  # refused before work
    check_lengths(clip.tokenizer, run.record.templates, names)
    yield Drawn(len(names), len(images["train"]), template.replace("{}", names[0]))
    report_cloud_only(path for split in images.values() for path in split.paths)
    train = yield from encode_split(clip, images["train"], "train")
    check_classes(train)
    val = yield from encode_split(clip, images["val"], "val")
    check_content(run, train, val)
    problem = yield from _make_problem(clip, run, train, val)
    search = Search(problem.config, problem.objective, problem.validate)
    seconds = measure_seconds(problem, search)
    search.step_seconds = seconds.step
    check_budget(problem.config)
    with Recorder(run, problem, search) as recorder:
        yield Plan(
            run=run.folder,
            classes=len(problem.class_names),
            train_images=len(train.paths),
            val_images=len(val.paths),
            queries=plan_queries(problem, search),
            seconds=plan_seconds(problem, search, seconds),
            zero_shot_val=run.record.zero_shot_val or 0.0,
            head=problem.head is not None,
        )
        yield from recorder.steps()
    results = costs(search.state(), run)  # what is chosen is chosen before the test images are read
    results = results if problem.head is None else _choose_words(run, problem, search, results)
    test = (yield from encode_test(clip, run, images["test"])) if "test" in images else None
    clip.release_vision()
    keep_labelled(run, train, val, problem.head, () if test is None else test.digests)
    _finish(run, results, test)
    yield Done(run)


def _make_problem(clip: Clip, run: Run, train: Features, val: Features) -> Generator[Encoding, None, TuningProblem]:
    """Return what the run searches, beside its head where it has one."""
    config, templates = run.config, run.record.templates
    views = None
    if config.head != "none":
        steps = encode_all_views(clip, train, val, count_views(config, train, val))
        views = yield from relay(steps, lambda progress: Encoding.of("views of", progress))
    clip.release_vision()
    memory.reset_mlx_peak()  # from here on the peak is that of tuning
    if config.head != "none":
        return make_problem_beside_head(clip, train, val, config, templates=templates, views=views)
    zero_shot = template_features(clip, templates, train.class_names) if templates else None
    return make_problem(clip, train, val, config, zero_shot=zero_shot)


def _choose_words(run: Run, problem: TuningProblem, search: Search, results: RunResults) -> RunResults:
    """Keep the tuned words if they add to the head, else the plain ones; return the results of the whole classifier."""
    chosen = choose_words(problem, search.best_w)
    w, gain = chosen.w, chosen.gain
    prompt, fitted = problem.prompt_with_head(w)
    run.keep_prompt(prompt)
    assert fitted is not None, "the problem has a head"
    head = fitted.head
    result = HeadResult(
        kind=head.kind,
        text=head.text_share,
        image=head.image_share,
        named=head.named_share,
        words_kept=bool(mx.any(w != 0).item()),
        words_gain=gain.mean if gain else None,
        words_error=gain.error if gain else None,
    )
    return replace(
        results,
        zero_shot=fitted.zero_shot_accuracy,
        zero_shot_val=fitted.zero_shot_accuracy,
        val=fitted.accuracy,
        head=result,
    )


def _finish(run: Run, results: RunResults, test: Features | None) -> None:
    """Write the results; the checkpoints are needed no longer."""
    prompt = run.prompt
    _report_no_gain(run, results)
    if test is not None:
        results = replace(
            results, zero_shot=_accuracy(prompt.zero_shot_logits, test), test=_accuracy(prompt.logits, test)
        )
        if results.head is not None:
            results = replace(results, test_text=_accuracy(prompt.text_logits, test))
    run.current_results = results
    run.record = replace(run.record, status="finished")
    if not (run.folder / PROMPT).is_file():  # somebody has removed it
        run.keep_prompt(prompt)
    run.save()
    remove_checkpoints(run.folder)


def _report_no_gain(run: Run, results: RunResults) -> None:
    """Notify the user of a result that is not above zero-shot, or that nothing can tell."""
    if results.head is not None and not run.leaves_out:
        notify(f"{run.folder}: with one image a class none can be left out, so no image tells how good it is")
    elif results.val <= results.zero_shot_val:
        notify(
            f"{run.folder}: not above zero-shot on images it had not seen ({100 * results.val:.1f} %, zero-shot "
            f"{100 * results.zero_shot_val:.1f} %); more images a class are the surest remedy"
        )


def _accuracy(classifier: Callable[[mx.array], mx.array], images: Features) -> float:
    return score_logits(classifier(images.embeddings), mx.array(images.labels)).accuracy
