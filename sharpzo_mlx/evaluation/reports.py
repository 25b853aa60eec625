"""What `evaluate` measured: the results of each folder, and the file in the run's folder that keeps them.

Folders inside the dataset that was tuned on are in distribution, all others are shifted; the two are never mixed in
one mean.

>>> report.shifted_mean, report.shift_per_point  # doctest: +SKIP
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharpzo_mlx.errors import why
from sharpzo_mlx.evaluation.answered import AnswerMetrics
from sharpzo_mlx.evaluation.foreign import ForeignEntry, ForeignResult
from sharpzo_mlx.evaluation.metrics import ClassResult, Metrics
from sharpzo_mlx.files import atomic_write, expand, identify
from sharpzo_mlx.reading import read_json, reason
from sharpzo_mlx.runs.json_record import Amount, Change, Count, JsonRecord, PathText, Share, Text
from sharpzo_mlx.runs.run import Run

_log = logging.getLogger("sharpzo_mlx")

EVALUATIONS = "evaluations.json"


@dataclass(frozen=True)
class PartResult(JsonRecord):
    """One corruption and severity in a tree of them; accuracies are 0..1."""

    corruption: Text
    severity: Text
    images: Count
    zero_shot: Share
    tuned: Share


@dataclass(frozen=True)
class EvaluationEntry(JsonRecord):
    """One folder's results as JSON holds them, in evaluations.json and on standard output.

    The fields are those of FolderResult; both classifiers' metrics are named in full. The six before the last are those
    of AnswerMetrics, and None for a run without a head. The last is the run's version; None before it had several.
    """

    path: PathText
    images: Count
    zero_shot: Share
    tuned: Share
    kind: Text
    in_distribution: bool
    unreadable: Count
    seen: Count
    interval: tuple[Change, Change]
    zero_shot_top5: Share
    zero_shot_per_class: Share
    zero_shot_ece: Share
    zero_shot_interval: tuple[Share, Share]
    tuned_top5: Share
    tuned_per_class: Share
    tuned_ece: Share
    tuned_interval: tuple[Share, Share]
    classes: tuple[ClassResult, ...]
    parts: tuple[PartResult, ...]
    rejected: Share | None = None
    stated_rejection: Share | None = None
    coverage: Share | None = None
    stated_coverage: Share | None = None
    set_size: Amount | None = None
    opening: Share | None = None
    version: Count | None = None


@dataclass(frozen=True)
class FolderResult:
    """How a run does on one folder; accuracies are 0..1.

    Attributes:
        path: the folder.
        images: how many could be read.
        unreadable: how many could not.
        seen: how many of the images the run was trained or validated on, which makes the accuracies too high.
        kind: what the folder was recognised as, in words.
        in_distribution: whether it lies in the dataset that was tuned on.
        zero_shot_metrics: before tuning.
        tuned_metrics: after it.
        interval: 95 % interval of tuned minus zero-shot accuracy.
        classes: both accuracies on each class, the lowest after tuning first.
        parts: both accuracies on each corruption and severity of a tree; the metrics are over all images of it.
        answers: the share that was turned away, and the coverage of sets of labels; None for a run without a head.
        changes: [images] int8: 1 where only the tuned prompt is right, -1 where only zero-shot is, else 0.
        distances: [images] float32, the guard's; None for a run without a head.
    """

    path: Path
    images: int
    unreadable: int
    seen: int
    kind: str
    in_distribution: bool
    zero_shot_metrics: Metrics
    tuned_metrics: Metrics
    interval: tuple[float, float]
    classes: tuple[ClassResult, ...]
    parts: tuple[PartResult, ...] = ()
    answers: AnswerMetrics | None = None
    changes: np.ndarray | None = field(default=None, repr=False, compare=False)
    distances: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def zero_shot(self) -> float:
        """Accuracy before tuning."""
        return self.zero_shot_metrics.top1

    @property
    def tuned(self) -> float:
        """Accuracy after tuning."""
        return self.tuned_metrics.top1

    def to_entry(self, path: Path | None = None) -> EvaluationEntry:
        """Return the result as JSON holds it, with another spelling of its path if one is given."""
        before, after = self.zero_shot_metrics, self.tuned_metrics
        return EvaluationEntry(
            path=str(path or self.path),
            images=self.images,
            zero_shot=self.zero_shot,
            tuned=self.tuned,
            kind=self.kind,
            in_distribution=self.in_distribution,
            unreadable=self.unreadable,
            seen=self.seen,
            interval=self.interval,
            zero_shot_top5=before.top5,
            zero_shot_per_class=before.per_class,
            zero_shot_ece=before.ece,
            zero_shot_interval=before.interval,
            tuned_top5=after.top5,
            tuned_per_class=after.per_class,
            tuned_ece=after.ece,
            tuned_interval=after.interval,
            classes=self.classes,
            parts=self.parts,
            **(vars(self.answers) if self.answers else {}),
        )


@dataclass(frozen=True)
class Report:
    """The results of every folder, in the order asked.

    Attributes:
        folders: one result each.
        zero_shot: plain mean of the accuracies before tuning.
        tuned: plain mean of the accuracies after it.
        foreign: one result for each folder of images that belong to none of the classes.
    """

    folders: tuple[FolderResult, ...]
    zero_shot: float
    tuned: float
    foreign: tuple[ForeignResult, ...] = ()

    @classmethod
    def of(cls, folders: Sequence[FolderResult], foreign: Sequence[ForeignResult] = ()) -> Report:
        """Return the report on some folders, at least one, and on foreign ones."""
        before, after = mean([f.zero_shot for f in folders]), mean([f.tuned for f in folders])
        return cls(tuple(folders), before, after, tuple(foreign))

    @property
    def shifted(self) -> tuple[FolderResult, ...]:
        """The folders outside the dataset that was tuned on."""
        return tuple(folder for folder in self.folders if not folder.in_distribution)

    @property
    def shifted_mean(self) -> tuple[float, float] | None:
        """Mean zero-shot and mean tuned accuracy of the shifted folders; None where there is none."""
        shifted = self.shifted
        return (mean([f.zero_shot for f in shifted]), mean([f.tuned for f in shifted])) if shifted else None

    @property
    def shift_per_point(self) -> float | None:
        """Points gained on the shifted folders for each point gained in distribution; None without such a gain."""
        inside = [folder.tuned - folder.zero_shot for folder in self.folders if folder.in_distribution]
        gain = mean(inside) if inside else 0.0
        both = self.shifted_mean
        return (both[1] - both[0]) / gain if both and gain > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, as `evaluate --json` prints it."""
        both = self.shifted_mean
        return {
            "folders": [result.to_entry().to_json() for result in self.folders],
            "mean": {"zero_shot": self.zero_shot, "tuned": self.tuned},
            "shifted_mean": {"zero_shot": both[0], "tuned": both[1]} if both else None,
            "shift_per_point": self.shift_per_point,
            "foreign": [result.to_entry().to_json() for result in self.foreign],
        }


def keep_evaluations(run: Run, report: Report) -> None:
    """Write a report into evaluations.json of the run, in place of earlier results on the same folders.

    A run in a place that cannot be written to gets a notice. The folder of a run from the hub belongs to the hub's
    cache and is left as it is.
    """
    if run.name:
        return
    entries: dict[tuple[bool, object], EvaluationEntry | ForeignEntry] = {}
    for entry in read_entries(run):
        entries[isinstance(entry, ForeignEntry), identify(entry.path)] = entry
    version = run.record.version
    results: tuple[FolderResult | ForeignResult, ...] = (*report.folders, *report.foreign)
    for result in results:
        path = expand(result.path).resolve()
        entry = replace(result.to_entry(path), version=version.number if version else None)
        entries[isinstance(result, ForeignResult), identify(path)] = entry
    text = json.dumps([entry.to_json() for entry in entries.values()], indent=1)
    try:
        atomic_write(run.folder / EVALUATIONS, text + "\n")
    except OSError as error:
        _log.warning(
            f"{run.folder}: cannot be written to ({why(error)}), so `report` will not show what was measured now"
        )


def read_evaluations(run: Run) -> list[EvaluationEntry]:
    """Return the folders that `keep_evaluations` wrote; damaged entries are left out with a notice."""
    return [entry for entry in read_entries(run) if isinstance(entry, EvaluationEntry)]


def read_entries(run: Run) -> list[EvaluationEntry | ForeignEntry]:
    """Return the folders that `keep_evaluations` wrote, foreign ones too; damaged ones are left out with a notice."""
    path = run.folder / EVALUATIONS
    try:
        content = read_json(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning(f"{path}: damaged ({reason(error)}); what is missing comes back with `evaluate`")
        return []
    whole: list[EvaluationEntry | ForeignEntry] = []
    damage: list[str] = []
    for place, one in enumerate(content if isinstance(content, list) else [content]):
        try:
            whole.append(_read_entry(one, f"[{place}]"))
        except ValueError as error:
            damage.append(str(error))
    if damage:
        _log.warning(f"{path}: damaged in part ({damage[0]}); what is missing comes back with `evaluate`")
    return whole


def _read_entry(content: object, name: str) -> EvaluationEntry | ForeignEntry:
    foreign = isinstance(content, dict) and "foreign" in content
    return ForeignEntry.from_json(content, name) if foreign else EvaluationEntry.from_json(content, name)


def mean(values: Sequence[float]) -> float:
    """Return the plain mean."""
    return float(np.mean(values))
