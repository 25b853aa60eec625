"""What was measured on folders of images: the records of `evaluate`, and their place in the run's folder.

Folders inside the data set that was tuned on are in distribution, all others are shifted; the two are never mixed
in one mean. What `evaluate` measured is kept beside the run, so that its page can show it.

>>> report.shifted_mean, report.shift_per_point  # doctest: +SKIP
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sharpzo_mlx.evaluation.metrics import ClassResult, Measures
from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.runs.run import Run

_log = logging.getLogger("sharpzo_mlx")

EVALUATIONS = "evaluations.json"


@dataclass(frozen=True)
class PartResult:
    """One corruption and severity of a tree."""

    corruption: str
    severity: str
    images: int
    zero_shot: float
    tuned: float


@dataclass(frozen=True)
class FolderResult:
    """How a run does on one folder; accuracies are 0..1.

    Attributes:
        path: the folder.
        images: those that could be read.
        zero_shot: top-1 accuracy before tuning.
        tuned: top-1 accuracy after it.
        skipped: unreadable images.
        seen: images of these that the run was trained or validated on, by their paths; they flatter the figures.
        kind: what the folder was recognised as.
        in_distribution: whether it lies in the data set that was tuned on.
        interval: 95 % interval of tuned minus zero-shot.
        measures: zero-shot's and the tuned prompt's other figures.
        classes: each class, the worst first.
        parts: each corruption and severity of a tree; the folder's own figures are over all images of it.
        changes: [images] int8: 1 where only the tuned prompt is right, -1 where only zero-shot is, else 0.
    """

    path: Path
    images: int
    zero_shot: float
    tuned: float
    skipped: int
    seen: int
    kind: str
    in_distribution: bool
    interval: tuple[float, float]
    measures: tuple[Measures, Measures]
    classes: tuple[ClassResult, ...]
    parts: tuple[PartResult, ...] = ()
    changes: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def below_zero_shot(self) -> bool:
        """Whether tuning did harm here."""
        return self.tuned < self.zero_shot

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        figures = {
            f"{name}_{figure}": getattr(found, figure)
            for name, found in zip(("zero_shot", "tuned"), self.measures, strict=True)
            for figure in ("top5", "per_class", "ece", "interval")
        }
        return {
            "path": str(self.path),
            "images": self.images,
            "zero_shot": self.zero_shot,
            "tuned": self.tuned,
            "kind": self.kind,
            "in_distribution": self.in_distribution,
            "unreadable": self.skipped,
            "seen": self.seen,
            "interval": self.interval,
            **figures,
            "classes": [asdict(one) for one in self.classes],
            "parts": [asdict(part) for part in self.parts],
        }


@dataclass(frozen=True)
class Report:
    """Accuracies on every folder, in the order asked, and their plain means."""

    folders: tuple[FolderResult, ...]
    zero_shot: float
    tuned: float

    @property
    def shifted(self) -> tuple[FolderResult, ...]:
        """The folders that do not lie in the data set that was tuned on."""
        return tuple(folder for folder in self.folders if not folder.in_distribution)

    @property
    def shifted_mean(self) -> tuple[float, float] | None:
        """Mean zero-shot and tuned accuracy of the shifted folders, or None where there is none."""
        shifted = self.shifted
        return (mean([f.zero_shot for f in shifted]), mean([f.tuned for f in shifted])) if shifted else None

    @property
    def shift_per_point(self) -> float | None:
        """Points gained on the shifted folders for each gained in distribution, or None where it says nothing."""
        inside = [folder.tuned - folder.zero_shot for folder in self.folders if folder.in_distribution]
        gain = mean(inside) if inside else 0.0
        both = self.shifted_mean
        return (both[1] - both[0]) / gain if both and gain > 0 else None


def remember(run: Run, report: Report) -> None:
    """Keep what was measured in the run's folder, by folder of images: the page of `report` shows it."""
    known = {entry["path"]: entry for entry in remembered(run)}
    for result in report.folders:
        path = str(result.path.expanduser().resolve())
        known[path] = {**result.to_dict(), "path": path}
    try:
        atomic_write(run.folder / EVALUATIONS, json.dumps(list(known.values()), indent=1) + "\n")
    except OSError as error:  # a run in a place that cannot be written to can still be evaluated
        reason = (error.strerror or str(error)).lower()
        _log.warning(f"{run.folder}: cannot be written to ({reason}), so `report` will not show what was measured now")


def remembered(run: Run) -> list[dict[str, Any]]:
    """What `remember` kept; entries that are damaged are left out, and a notice says so."""
    path = run.folder / EVALUATIONS
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = found if isinstance(found, list) else [found]
    except (OSError, ValueError):
        entries = [None]
    good = [entry for entry in entries if _is_whole(entry)]
    if len(good) < len(entries):
        _log.warning(f"{path}: damaged in part; what is missing comes back with `evaluate`")
    return good


def _is_whole(entry: Any) -> bool:
    """Whether an entry is what `remember` writes, as far as the page shows it."""
    try:
        figures = [entry[name] for name in ("images", "zero_shot", "tuned")] + [*entry["interval"]]
        plain = all(isinstance(figure, (int, float)) for figure in figures)
        return plain and len(figures) == 5 and isinstance(entry["path"], str) and "in_distribution" in entry
    except (KeyError, TypeError):
        return False


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return float(np.mean(values))
