"""Evaluate a run on folders of images: accuracy after tuning beside zero-shot.

Only the image tower is needed: the run holds the tuned and the zero-shot classifier as class features. A folder may
hold a subset of the tuned classes; a class that was not tuned is an error. Features come from the cache that tuning
fills, so an evaluation that was cut off continues there. Images are evaluated a chunk at a time and a few bytes of
each are kept, so memory does not grow with their number. A run with a head also answers "none of them" and with sets of
labels, at stated rates; foreign folders show what it says of images that belong to none of its classes.

>>> report = evaluate("runs/photo-m-0", ["sketch/"])  # doctest: +SKIP
>>> report.folders[0].tuned - report.folders[0].zero_shot  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.evaluation_sets import AUTO, EvaluationSet, recognise
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.answered import AnswerOutcomes, answer_images, join_answers, measure_answers
from sharpzo_mlx.evaluation.foreign import ForeignResult, find_images, measure_foreign, report_own_images
from sharpzo_mlx.evaluation.metrics import (
    Outcomes,
    compare_classes,
    difference_interval,
    find_outcomes,
    join_outcomes,
    measure,
)
from sharpzo_mlx.evaluation.overlap import UsedImages, images_used_by
from sharpzo_mlx.evaluation.reports import FolderResult, PartResult, Report, keep_evaluations
from sharpzo_mlx.features.digests import report_cloud_only
from sharpzo_mlx.features.extract import check_readable, encode_steps, relay
from sharpzo_mlx.files import expand, is_inside
from sharpzo_mlx.heads.answers import Answers, make_answers
from sharpzo_mlx.hub.runs import load_run
from sharpzo_mlx.images.stored import read_order
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.helpers import count_helpers, helped_at

CHUNK = 512  # images whose features are in memory at once, for each helper


@dataclass(frozen=True)
class FolderProgress:
    """Images of one folder are being encoded: `done` of `total`."""

    path: Path
    done: int
    total: int


def evaluate(
    run: Run | str | Path,
    folders: str | Path | Sequence[str | Path],
    *,
    clip: Clip | None = None,
    scope: str = AUTO,
    mapping: str | Path | None = None,
    foreign: str | Path | Sequence[str | Path] = (),
    reject: float | None = None,
    coverage: float | None = None,
    cluster: str | None = None,
) -> Report:
    """Measure a run and zero-shot on folders of images, and keep the results in the run's `evaluations.json`.

    Args:
        run: the run or its folder.
        folders: one or several; each a folder of class folders, or a tree of corruptions.
        clip: the checkpoint; None loads the one that the run names.
        scope: which classes compete: "own", "all", or "auto", see `sharpzo_mlx.datasets.evaluation_sets`.
        mapping: a file that says which tuned classes a class folder stands for.
        foreign: one or several folders of images that belong to none of the classes, however they are arranged, or
            files that list or store some.
        reject: the stated rate of wrong rejections, between 0 and 1; None for 0.05.
        coverage: the stated coverage of sets of labels, between 0 and 1; None for 0.95.
        cluster: workers that help: `local:N` or an address, as `open_cluster` takes it; None for no others.

    Returns:
        The results of each folder and their means.

    Raises:
        UserError: a folder cannot be used, or holds classes that were not tuned; one of the last three is given, and
            the run has no head; or a rate is not between 0 and 1.
    """
    steps = evaluate_steps(
        run, folders, clip=clip, scope=scope, mapping=mapping, foreign=foreign, reject=reject, coverage=coverage
    )
    with helped_at(cluster):
        for event in steps:
            if isinstance(event, Report):
                return event
    raise AssertionError("evaluate_steps ends with the report")


def evaluate_steps(
    run: Run | str | Path,
    folders: str | Path | Sequence[str | Path],
    *,
    clip: Clip | None = None,
    scope: str = AUTO,
    mapping: str | Path | None = None,
    foreign: str | Path | Sequence[str | Path] = (),
    reject: float | None = None,
    coverage: float | None = None,
) -> Iterator[FolderProgress | FolderResult | ForeignResult | Report]:
    """Do what `evaluate` does, a record at a time.

    Yields:
        FolderProgress for each batch, FolderResult or ForeignResult for each folder, and the Report at the end.
    """
    run = run if isinstance(run, Run) else load_run(run)
    folders, foreign = _as_list(folders), _as_list(foreign)
    if not folders:
        raise UserError("no folder to evaluate: name at least one folder of class folders")
    answers = _make_answers(run, reject, coverage, asked=bool(foreign))
    prompt, clip = run.prompt, open_model(run, clip)
    table = None if mapping is None else Path(mapping)
    # all folders are checked before the first image is decoded
    sets = [
        (Path(folder), recognise(folder, prompt.class_names, prompt.folders, scope=scope, mapping=table))
        for folder in folders
    ]
    strangers = [(Path(folder), find_images(folder)) for folder in foreign]
    listed = [*(part.images for _, parts in sets for part in parts), *(images for _, images in strangers)]
    report_cloud_only(path for images in listed for path in images.paths)
    for folder, images in strangers:
        report_own_images(run, (part.images for _, parts in sets for part in parts), images, path=folder)
    results = []
    for folder, parts in sets:
        results.append((yield from _evaluate_folder(clip, run, folder, parts, answers)))
        yield results[-1]
    found = [] if answers is None else (yield from _measure_foreign(clip, answers, strangers, results))
    report = Report.of(results, found)
    keep_evaluations(run, report)
    yield report


def _as_list(folders: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [folders] if isinstance(folders, (str, Path)) else folders


def _make_answers(run: Run, reject: float | None, coverage: float | None, *, asked: bool) -> Answers | None:
    """Return the answers at stated rates; None for a run without a head of which nothing of the kind is asked."""
    asked = asked or reject is not None or coverage is not None
    if run.prompt.head is None and not asked:
        return None
    return make_answers(run.prompt, run.folder, reject, coverage)


def _measure_foreign(
    clip: Clip, answers: Answers, sets: Sequence[tuple[Path, ImageSet]], results: Sequence[FolderResult]
) -> Generator[FolderProgress | ForeignResult, None, list[ForeignResult]]:
    """Measure foreign folders beside the images in distribution, or beside all if none is in distribution."""
    chosen = [result for result in results if result.in_distribution] or results
    own = np.concatenate([result.distances for result in chosen if result.distances is not None])
    found = []
    for folder, images in sets:
        steps = measure_foreign(clip, answers, images, own, path=folder, chunk=CHUNK)
        place = FolderProgress(folder, 0, len(images))
        found.append((yield from relay(steps, lambda done, place=place: replace(place, done=done))))  # type: ignore[misc]
        yield found[-1]
    return found


@dataclass(frozen=True)
class _SetOutcomes:
    """What is kept of the images of one set: a few bytes each."""

    labels: np.ndarray  # [N]
    zero_shot: Outcomes
    tuned: Outcomes
    answers: AnswerOutcomes | None  # None without a head
    skipped: tuple[tuple[Path, str], ...]  # unreadable files with the reason
    seen: int  # images that the run was trained or validated on


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates sets of images of one folder."""

    clip: Clip
    prompt: Prompt
    answers: Answers | None
    used: UsedImages

    def evaluate_set(
        self, images: EvaluationSet, before: FolderProgress
    ) -> Generator[FolderProgress, None, _SetOutcomes]:
        """Evaluate one set, a chunk of images at a time; `before` is the progress of the folder so far."""
        parts = []
        places = read_order(images.images.paths)
        order = sorted(range(len(places)), key=places.__getitem__)
        most = CHUNK * count_helpers()
        for start in range(0, len(order), most):
            rows = order[start : start + most]
            chunk = replace(images, images=images.images.take(rows))
            parts.append((yield from self._evaluate_chunk(chunk, replace(before, done=before.done + start))))
        found = _join(parts)
        check_readable(images.images, found.labels, found.skipped)
        return found

    def _evaluate_chunk(
        self, chunk: EvaluationSet, before: FolderProgress
    ) -> Generator[FolderProgress, None, _SetOutcomes]:
        steps = encode_steps(self.clip, chunk.images, whole=False, chunk=CHUNK)
        features = yield from relay(steps, lambda step: replace(before, done=before.done + step.done))
        x, labels = features.embeddings, features.labels
        logits = np.array(self.prompt.logits(x))
        return _SetOutcomes(
            labels=labels,
            zero_shot=find_outcomes(np.array(self.prompt.zero_shot_logits(x)), labels, chunk),
            tuned=find_outcomes(logits, labels, chunk),
            answers=None if self.answers is None else answer_images(self.answers, x, logits, labels, chunk),
            skipped=features.skipped,
            seen=self.used.count(features.paths),
        )


def _join(parts: Sequence[_SetOutcomes]) -> _SetOutcomes:
    return _SetOutcomes(
        np.concatenate([part.labels for part in parts]),
        join_outcomes([part.zero_shot for part in parts]),
        join_outcomes([part.tuned for part in parts]),
        join_answers([part.answers for part in parts]),
        tuple(one for part in parts for one in part.skipped),
        sum(part.seen for part in parts),
    )


def _evaluate_folder(
    clip: Clip, run: Run, folder: Path, sets: list[EvaluationSet], answers: Answers | None
) -> Generator[FolderProgress, None, FolderResult]:
    """Evaluate a folder: one set of images, or a set for each corruption and severity of a tree."""
    evaluator = _Evaluator(clip, run.prompt, answers, images_used_by(run))
    total, done, parts = sum(len(images.images) for images in sets), 0, []
    for images in sets:
        parts.append((yield from evaluator.evaluate_set(images, FolderProgress(folder, done, total))))
        done += len(images.images)
    whole = _join(parts)
    evaluator.used.report(folder, whole.seen, len(whole.labels))
    labels, zero_shot, tuned = whole.labels, whole.zero_shot, whole.tuned
    return FolderResult(
        path=folder,
        images=len(labels),
        unreadable=len(whole.skipped),
        seen=whole.seen,
        kind=sets[0].kind if sets[0].part is None else f"a tree of corruptions ({len(sets)} folders), {sets[0].kind}",
        in_distribution=is_inside(expand(folder), run.record.dataset),
        zero_shot_metrics=measure(zero_shot, labels),
        tuned_metrics=measure(tuned, labels),
        interval=difference_interval(zero_shot, tuned),
        classes=compare_classes(zero_shot, tuned, labels, sets[0].images.class_names),
        parts=tuple(
            PartResult(*images.part, len(part.labels), part.zero_shot.accuracy, part.tuned.accuracy)
            for images, part in zip(sets, parts, strict=True)
            if images.part is not None
        ),
        answers=measure_answers(whole.answers, answers) if answers and whole.answers else None,
        changes=tuned.correct.astype(np.int8) - zero_shot.correct.astype(np.int8),
        distances=whole.answers.distance if whole.answers else None,
    )
