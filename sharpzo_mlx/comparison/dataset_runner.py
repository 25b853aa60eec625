"""One data set of a comparison, on which all methods meet: its splits, the cells, the clock.

For a seed the split is drawn as `tune` draws it and encoded once; each method gets the same task, and what it returns
is measured when it has ended. Cells that are there already are taken as they are.

    arena = Arena(clip, place, CellFolder(folder), contestants)
    result = yield from arena.steps(seeds, done=0, total=total)
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.methods.method import Method, Predictor, Progress, Task
from sharpzo_mlx.comparison.results import CURVE, Cell, CellFolder, Figures, Key, finite, source_digest
from sharpzo_mlx.comparison.tables import Row, rows
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet, recognise
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.overlap import UsedImages
from sharpzo_mlx.features.extract import Features, cache_name
from sharpzo_mlx.runs.versions import versions
from sharpzo_mlx.runtime import memory
from sharpzo_mlx.tuning.encoding import Encoding, check_classes, encode_split

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Contestant:
    """A method with one variant of its options."""

    method: Method
    variant: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Working:
    """A method is at work on a cell."""

    dataset: str
    method: str  # its title
    variant: str
    seed: int
    budget: int
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """A cell is there: computed now, or found from before."""

    cell: Cell
    found: bool
    done: int
    total: int


@dataclass(frozen=True)
class DatasetResult:
    """All cells of one data set.

    Attributes:
        name: in tables.
        path: the folder.
        classes: how many.
        images: by split, of the last seed.
        cells: seed by seed.
    """

    name: str
    path: Path
    classes: int
    images: dict[str, int]
    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[Row]:
        """The table."""
        return rows(self.cells)


@dataclass(frozen=True)
class Place:
    """A data set on disk and what it is shared by."""

    name: str
    path: Path
    config: TuneConfig
    shift: dict[str, Path]

    def parts(self, seed: int) -> tuple[dict[str, EvaluationSet], dict[str, list[EvaluationSet]]]:
        """The split of a seed, and the shifted folders' images; nothing is decoded."""
        split = draw_split(self.path, shots=self.config.shots, seed=seed)
        count = np.arange(len(split.train.folders))
        drawn = {
            name: EvaluationSet(images, count, count, name)
            for name, images in zip(SPLITS, (split.train, split.val, split.test), strict=True)
            if images is not None
        }
        names, folders = split.train.class_names, split.train.folders
        return drawn, {name: recognise(folder, names, folders) for name, folder in self.shift.items()}


@dataclass(frozen=True)
class _Judge:
    """Images that a result is measured on, and how."""

    scored: EvaluationSet
    features: Features

    def right(self, predictor: Predictor) -> int:
        """Images whose class comes first."""
        logits = np.array(predictor.logits(self.features))
        chosen = self.scored.candidates
        said = self.scored.owner[chosen[logits[:, chosen].argmax(axis=1)]]
        return int((said == self.features.labels).sum())


Judges: TypeAlias = Mapping[str, Sequence[_Judge]]  # "test" and the shifted folders by name


class Arena:
    """One data set, on which all meet."""

    def __init__(self, clip: Clip, place: Place, cells: CellFolder, contestants: Sequence[Contestant]) -> None:
        self.clip, self.place, self.cells, self.contestants = clip, place, cells, contestants
        self.held: dict[str, _Judge] = {}  # the test images are mostly the same for all seeds
        self.reported: set[str] = set()  # shifted folders of which was said that they hold images of the data set

    def steps(
        self, seeds: int, *, done: int, total: int
    ) -> Generator[Encoding | Working | Finished, None, DatasetResult]:
        """Every cell of every seed."""
        found: list[Cell] = []
        task: Task | None = None
        for seed in range(seeds):
            task, judges, data = yield from self._prepare(seed)
            for contestant in self.contestants:
                cell, known = yield from self._cell(contestant, task, judges, data)
                found.append(cell)
                yield Finished(cell, known, done + len(found), total)
        assert task is not None, "there is at least one seed"
        images = {"train": len(task.train.paths), "val": len(task.val.paths)}
        if "test" in judges:
            images["test"] = sum(len(judge.features.paths) for judge in judges["test"])
        return DatasetResult(self.place.name, self.place.path, len(task.train.class_names), images, tuple(found))

    def _prepare(self, seed: int) -> Generator[Encoding, None, tuple[Task, Judges, str]]:
        """The task of a seed, what results are measured on, and a digest of all images."""
        split, shifted = self.place.parts(seed)
        train = yield from encode_split(self.clip, split["train"].images, "train")
        check_classes(train)
        val = yield from encode_split(self.clip, split["val"].images, "val")
        judges: dict[str, list[_Judge]] = {}
        measured = {"test": [split["test"]] if "test" in split else [], **shifted}
        for name, parts in measured.items():
            if parts:
                judges[name] = []
            for number, scored in enumerate(parts):
                judges[name].append((yield from self._judge(f"{name}{number or ''}", scored)))
        self.clip.release_vision()
        self._report_seen(
            UsedImages(f"what is tuned on {self.place.name} (seed {seed})", (*train.paths, *val.paths)), judges
        )
        config = replace(self.place.config, seed=seed)
        task = Task(self.clip, train, val, config, cast(int, config.query_budget))
        return task, judges, _digest(train, val, judges)

    def _judge(self, name: str, scored: EvaluationSet) -> Generator[Encoding, None, _Judge]:
        held = self.held.get(name)
        if held is None or held.scored.images != scored.images:
            self.held[name] = held = _Judge(scored, (yield from encode_split(self.clip, scored.images, name)))
        return held

    def _report_seen(self, seen: UsedImages, judges: Judges) -> None:
        """One line for each shifted folder that holds images which methods learn from."""
        for name, folder in self.place.shift.items():
            paths = [path for judge in judges[name] for path in judge.features.paths]
            if name not in self.reported and (count := seen.count(paths)):
                self.reported.add(name)
                seen.report(folder, count, len(paths))

    def _cell(
        self, contestant: Contestant, task: Task, judges: Judges, data: str
    ) -> Generator[Working, None, tuple[Cell, bool]]:
        """The cell, and whether it was there already."""
        method, seed = contestant.method, task.config.seed
        settings = {
            "options": dict(contestant.options),
            "config": task.config.to_json(),
            "model": cache_name(self.clip),  # its weights and how it prepares images
            "data": data,
            "versions": versions(),
            "sources": source_digest(),
        }
        key = Key(self.place.name, method.name, contestant.variant, seed, settings)
        if known := self.cells.find(key):
            return known, True
        trace = None
        try:
            figures = yield from self._run(contestant, task, judges)
            cell = Cell(key.dataset, key.method, key.variant, seed, figures)
        except Exception as error:  # whatever it is: the other methods go on
            trace = traceback.format_exc()
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            cell = Cell(key.dataset, key.method, key.variant, seed, None, " ".join(reason.split()))
        finally:
            self.clip.release_text()
            self.clip.release_vision()
        self.cells.save(key, cell, traceback=trace, path=str(self.place.path))
        return cell, False

    def _run(self, contestant: Contestant, task: Task, judges: Judges) -> Generator[Working, None, Figures]:
        memory.reset_mlx_peak()
        steps = contestant.method.begin(task, contestant.options, contestant.variant)
        told: list[tuple[Progress, float]] = []
        seconds = 0.0
        with memory.wired_limit():
            while True:
                started = time.monotonic()
                try:
                    progress = next(steps)
                except StopIteration as end:
                    predictor: Predictor = end.value
                    break
                finally:
                    seconds += time.monotonic() - started
                told.append((progress, seconds))
                names = contestant.method.title, contestant.variant
                yield Working(self.place.name, *names, task.config.seed, task.query_budget, progress)
        # the test images are no part of tuning, though they lie in the same memory
        peak = memory.mlx_peak() - sum(judge.features.embeddings.nbytes for judge in self.held.values())
        measured = {name: _accuracy(parts, predictor) for name, parts in judges.items()}
        return _figures(told, _kept_accuracies([progress for progress, _ in told], judges), seconds, peak, measured)


def _accuracy(parts: Sequence[_Judge], predictor: Predictor) -> float:
    return sum(judge.right(predictor) for judge in parts) / sum(len(judge.features.paths) for judge in parts)


def _kept_accuracies(told: Sequence[Progress], judges: Judges) -> list[float | None]:
    """On the test split, of what was kept at each record; a candidate is measured once."""
    found: list[float | None] = []
    for number, progress in enumerate(told):
        known = number > 0 and progress.best == told[number - 1].best
        found.append(found[-1] if known else _accuracy(judges["test"], progress.kept()) if "test" in judges else None)
    return found


def _figures(
    told: Sequence[tuple[Progress, float]],
    tests: Sequence[float | None],
    seconds: float,
    peak: int,
    measured: Mapping[str, float],
) -> Figures:
    last = told[-1][0]
    points = (_point(*entry, test) for entry, test in zip(told, tests, strict=True))
    return Figures(
        test=measured.get("test"),
        val=last.best.accuracy,
        val_loss=finite(last.best.loss),
        shift={name: accuracy for name, accuracy in measured.items() if name != "test"},
        queries=last.queries,
        image_passes=last.image_passes,
        backward_passes=last.backward_passes,
        seconds=round(seconds, 3),
        peak_memory_mb=round(peak / 2**20, 1),
        curve=dict(zip(CURVE, map(list, zip(*points, strict=True)), strict=True)),
    )


def _point(progress: Progress, seconds: float, test: float | None) -> tuple[float | None, ...]:
    """A row of the curve, as CURVE names it."""
    now, best = progress.score, progress.best
    costs = progress.queries, progress.backward_passes, round(seconds, 3)
    return (*costs, now.accuracy, finite(now.loss), best.accuracy, finite(best.loss), test)


def _digest(train: Features, val: Features, judges: Judges) -> str:
    """Of what all images hold, of their classes, and of what is measured under which name."""
    parts: list[Any] = [_content(train), _content(val), list(train.class_names), list(train.folders)]
    for name, own in judges.items():
        parts += [name, *([_content(judge.features), judge.scored.candidates.tolist()] for judge in own)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content(features: Features) -> list[Any]:
    return [features.content, features.labels.tolist()]
