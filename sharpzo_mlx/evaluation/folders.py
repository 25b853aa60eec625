"""Use a run: accuracy on folders of images beside zero-shot, and labels for single images.

Only the image tower is needed: the run holds the tuned and the zero-shot classifier as class features. Folders may
hold a subset of the tuned classes; a class that was not tuned is an error. Features come from the same cache that
tuning fills, so what was cut off goes on where it was; of each image only a few bytes are kept.

>>> report = evaluate("runs/photo-m-0", ["sketch/"])  # doctest: +SKIP
>>> report.folders[0].tuned - report.folders[0].zero_shot  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.datasets.evaluation_sets import AUTO, ScoredSet, recognise
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.metrics import Judged, by_class, difference_interval, joined, judge, measure
from sharpzo_mlx.evaluation.overlap import Seen, seen_by
from sharpzo_mlx.evaluation.reports import FolderResult, PartResult, Report, mean
from sharpzo_mlx.features.extract import EncodeProgress, check_readable, encode_steps, relayed
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.run import Run

PREDICT_BATCH = 32
CHUNK = 512  # images whose features are in memory at once


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, most probable first; `error` in their place where it cannot be read."""

    path: Path
    labels: tuple[tuple[str, float], ...]
    error: str | None = None


@dataclass(frozen=True)
class FolderProgress:
    """Images of one folder are being encoded."""

    path: Path
    done: int
    total: int


def open_model(run: Run, clip: Clip | None = None) -> Clip:
    """The checkpoint a run was tuned on: the one given, or the run's own folder.

    Raises:
        UserError: it is gone, or it is not the one that was tuned.
    """
    clip = clip or load(run.model_folder)
    if clip.fingerprint != run.record.model.fingerprint:
        raise UserError(f"{clip.folder}: not the model that {run.folder} was tuned on; convert that one again")
    return clip


def evaluate(
    run: Run | str | Path,
    folders: str | Path | Sequence[str | Path],
    *,
    clip: Clip | None = None,
    scope: str = AUTO,
    mapping: str | Path | None = None,
) -> Report:
    """Accuracy of a run and of zero-shot on folders of images.

    Args:
        run: the run or its folder.
        folders: one folder of class folders or tree of corruptions, or several.
        clip: the checkpoint; None reads the one that the run names.
        scope: which classes compete: "own", "all", or "auto" as `sharpzo_mlx.datasets.evaluation_sets` says.
        mapping: a file that says which tuned classes a class folder stands for.

    Returns:
        The report.

    Raises:
        UserError: a folder cannot be used, or holds classes that were not tuned.
    """
    for event in evaluate_steps(run, folders, clip=clip, scope=scope, mapping=mapping):
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
) -> Iterator[FolderProgress | FolderResult | Report]:
    """As `evaluate`, with a record a batch, one a folder, and the report at the end."""
    run = run if isinstance(run, Run) else Run.load(run)
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    if not folders:
        raise UserError("no folder to evaluate: name at least one folder of class folders")
    prompt, clip = run.prompt, open_model(run, clip)
    # all folders are checked before the first image is decoded
    sets = [
        (
            Path(folder),
            recognise(
                folder, prompt.class_names, prompt.folders, scope=scope, mapping=Path(mapping) if mapping else None
            ),
        )
        for folder in folders
    ]
    results = []
    for folder, parts in sets:
        results.append((yield from _measured(clip, run, folder, parts)))
        yield results[-1]
    yield Report(
        folders=tuple(results),
        zero_shot=mean([result.zero_shot for result in results]),
        tuned=mean([result.tuned for result in results]),
    )


@dataclass(frozen=True)
class _Part:
    """What is kept of the images of one set: a few bytes each."""

    labels: np.ndarray
    zero_shot: Judged
    tuned: Judged
    skipped: tuple[tuple[Path, str], ...]
    seen: int  # images that the run was trained or validated on


def _measured(
    clip: Clip, run: Run, folder: Path, sets: list[ScoredSet]
) -> Generator[FolderProgress, None, FolderResult]:
    total, done, parts = sum(len(scored.images) for scored in sets), 0, []
    seen = seen_by(run)
    for scored in sets:
        parts.append((yield from _judged(clip, run.prompt, scored, seen, FolderProgress(folder, done, total))))
        done += len(scored.images)
    whole = _together(parts)
    seen.report(folder, whole.seen, len(whole.labels))
    labels, zero_shot, tuned = whole.labels, whole.zero_shot, whole.tuned
    return FolderResult(
        path=folder,
        images=len(labels),
        zero_shot=float(zero_shot.right.mean()),
        tuned=float(tuned.right.mean()),
        skipped=len(whole.skipped),
        seen=whole.seen,
        kind=sets[0].kind if sets[0].part is None else f"a tree of corruptions ({len(sets)} folders), {sets[0].kind}",
        in_distribution=_inside(folder, run),
        interval=difference_interval(zero_shot, tuned),
        measures=(measure(zero_shot, labels), measure(tuned, labels)),
        classes=by_class(zero_shot, tuned, labels, sets[0].images.class_names),
        changes=tuned.right.astype(np.int8) - zero_shot.right.astype(np.int8),
        parts=tuple(
            PartResult(
                *scored.part, len(part.labels), float(part.zero_shot.right.mean()), float(part.tuned.right.mean())
            )
            for scored, part in zip(sets, parts, strict=True)
            if scored.part is not None
        ),
    )


def _judged(
    clip: Clip, prompt: Prompt, scored: ScoredSet, seen: Seen, before: FolderProgress
) -> Generator[FolderProgress, None, _Part]:
    """Judge one set a chunk of images at a time, so that memory does not grow with their number."""
    parts = []
    for start in range(0, len(scored.images), CHUNK):
        chunk = replace(scored, images=scored.images.take(range(start, min(start + CHUNK, len(scored.images)))))
        parts.append((yield from _judged_at_once(clip, prompt, chunk, seen, replace(before, done=before.done + start))))
    found = _together(parts)
    check_readable(scored.images, found.labels, found.skipped)
    return found


def _judged_at_once(
    clip: Clip, prompt: Prompt, scored: ScoredSet, seen: Seen, before: FolderProgress
) -> Generator[FolderProgress, None, _Part]:
    features = yield from relayed(encode_steps(clip, scored.images, whole=False), partial(_moved, before))
    zero_shot, tuned = (
        judge(np.array(logits(features.embeddings)), features.labels, scored)
        for logits in (prompt.zero_shot_logits, prompt.logits)
    )
    return _Part(features.labels, zero_shot, tuned, features.skipped, seen.count(features.paths))


def _together(parts: Sequence[_Part]) -> _Part:
    return _Part(
        np.concatenate([part.labels for part in parts]),
        joined([part.zero_shot for part in parts]),
        joined([part.tuned for part in parts]),
        tuple(one for part in parts for one in part.skipped),
        sum(part.seen for part in parts),
    )


def _moved(before: FolderProgress, chunk: EncodeProgress) -> FolderProgress:
    return replace(before, done=before.done + chunk.done)


def _inside(folder: Path, run: Run) -> bool:
    """Whether a folder is the run's data set or lies in it."""
    return folder.expanduser().resolve().is_relative_to(Path(run.record.dataset).resolve())


def predict(
    run: Run | str | Path, paths: str | Path | Sequence[str | Path], *, top: int = 1, clip: Clip | None = None
) -> list[Prediction]:
    """Labels and probabilities of image files.

    Args:
        run: the run or its folder.
        paths: one image file, or several.
        top: labels an image, at most the number of classes.
        clip: the checkpoint; None reads the one that the run names.

    Returns:
        One prediction a path, in order; one that cannot be read has `error` set.

    Raises:
        UserError: no image given, or `top` below 1.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if top < 1 or not paths:
        raise UserError(f"top {top}: at least 1" if top < 1 else "no image to predict: name at least one file")
    refuse_empty(*paths)
    prompt, clip = run.prompt, open_model(run, clip)
    found: dict[int, Prediction] = {}
    for batch in stream(paths, clip.config.preprocessor, batch_size=PREDICT_BATCH):
        for index, reason in batch.failed:
            found[index] = Prediction(Path(paths[index]), (), reason)
        if batch.indices:
            probabilities = np.array(mx.softmax(prompt.logits(clip.encode_pixels(batch.pixels)), axis=-1))
            for index, row in zip(batch.indices, probabilities, strict=True):
                found[index] = Prediction(Path(paths[index]), _labels(prompt, row, top))
    return [found[index] for index in range(len(paths))]


def _labels(prompt: Prompt, row: np.ndarray, top: int) -> tuple[tuple[str, float], ...]:
    return tuple((prompt.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top])
