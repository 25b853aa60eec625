"""Methods beside each other: the same splits, features and budget for all, a cell for each data set, seed and method.

For every seed the split is drawn as `tune` draws it and encoded once; every method gets the training and validation
images and the query budget, and what it returns is measured on the test split, and on shifted folders, when it has
ended. Each cell is a file of its own: a comparison that was interrupted goes on where it stopped, and a method that
fails leaves its message while the rest goes on.

>>> comparison = compare(clip, ["photos/"], methods="sharpzo,bbt", seeds=3)  # doctest: +SKIP
>>> [(row.title, row.test.mean) for row in comparison.datasets[0].rows]  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sharpzo_mlx import memory
from sharpzo_mlx.cells import CURVE, Cell, CellFolder, Figures, Key, finite
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.datasets.variants import ScoredSet, recognise
from sharpzo_mlx.encoder import Clip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features import Features
from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.methods import registry
from sharpzo_mlx.methods.method import Method, Predictor, Progress, Task
from sharpzo_mlx.rundata import versions, with_template
from sharpzo_mlx.standings import Row, mean_rows, rows
from sharpzo_mlx.tuning import Encoding, check_classes, encode_split

COMPARISONS = Path("comparisons")
RECORD = "comparison.json"
SEEDS, QUERIES = 5, 5000
TUNED, PUBLISHED, TRIALS = "tuned", "published", "trials"
SPLITS = ("train", "val", "test")
VARIANTS = (TUNED, PUBLISHED, TRIALS)


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
class Comparison:
    """What a comparison found; `comparison.json` in its folder holds the same.

    Attributes:
        folder: where its files lie.
        config: what all methods shared; its seed is that of no cell.
        datasets: one result each.
    """

    folder: Path
    config: TuneConfig
    datasets: tuple[DatasetResult, ...]

    @property
    def mean(self) -> list[Row]:
        """The table over all data sets."""
        return mean_rows([dataset.cells for dataset in self.datasets])

    @property
    def failed(self) -> list[Cell]:
        """The cells without figures."""
        return [cell for dataset in self.datasets for cell in dataset.cells if cell.figures is None]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves, as plain values."""
        return {
            "config": self.config.to_dict(),
            "versions": versions(),
            "datasets": [
                {
                    "name": dataset.name,
                    "path": str(dataset.path),
                    "classes": dataset.classes,
                    "images": dataset.images,
                    "rows": [row.to_dict() for row in dataset.rows],
                    "cells": [_plain(cell) for cell in dataset.cells],
                }
                for dataset in self.datasets
            ],
            "mean": [row.to_dict() for row in self.mean],
        }


def _plain(cell: Cell) -> dict[str, Any]:
    figures = cell.figures and {name: value for name, value in vars(cell.figures).items() if name != "curve"}
    return {**vars(cell), "figures": figures}


Event = Encoding | Working | Finished | Comparison


def compare(
    clip: Clip, datasets: str | Path | Sequence[str | Path], config: TuneConfig | None = None, **options: Any
) -> Comparison:
    """Run methods beside each other; see `compare_steps` for the options.

    Returns:
        The comparison, with a table for each data set.
    """
    for event in compare_steps(clip, datasets, config, **options):
        if isinstance(event, Comparison):
            return event
    raise AssertionError("compare_steps ends with the comparison")


def compare_steps(
    clip: Clip,
    datasets: str | Path | Sequence[str | Path],
    config: TuneConfig | None = None,
    *,
    methods: str = registry.ALL,
    seeds: int = SEEDS,
    variants: Sequence[str] = (TUNED,),
    shift: Sequence[str | Path] = (),
    output: str | Path | None = None,
) -> Iterator[Event]:
    """As `compare`, a record at a time.

    Args:
        clip: the checkpoint.
        datasets: folders as `tune` takes them.
        config: shots, query budget and template, and what else methods share; its seed is not used.
        methods: a comma list of names and groups; zero-shot is always one of them.
        seeds: how many, from 0.
        variants: "tuned", "published", "trials": which of a method's options are run.
        shift: further folders with the data sets' classes, where every result is measured too.
        output: the folder; None: `comparisons/<datasets>-<model>`. What lies there already is not computed again.

    Yields:
        Encoding, Working, a Finished for each cell, and the Comparison.

    Raises:
        UserError: what the user gave cannot be used. A method's own failure is part of its cell.
    """
    paths = [Path(path).expanduser() for path in ([datasets] if isinstance(datasets, (str, Path)) else datasets)]
    contestants = _contestants(methods, variants)
    if seeds < 1 or not paths:
        raise UserError(f"seeds {seeds}: at least 1" if seeds < 1 else "no data set: name at least one folder")
    config = config or TuneConfig()
    config = replace(config, query_budget=config.query_budget or QUERIES)
    places = [
        _Place(name, path, with_template(config, path), _labelled(shift)) for name, path in _labelled(paths).items()
    ]
    for place in places:  # all folders are looked at before the first image is decoded
        place.parts(0)
    folder = Path(output).expanduser() if output else _default_folder(places, clip)
    total = len(places) * seeds * len(contestants)
    results: list[DatasetResult] = []
    for place in places:
        before = sum(len(result.cells) for result in results)
        arena = _Arena(clip, place, CellFolder(folder), contestants)
        results.append((yield from arena.steps(seeds, done=before, total=total)))
    comparison = Comparison(folder, config, tuple(results))
    atomic_write(folder / RECORD, json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n")
    yield comparison


@dataclass(frozen=True)
class _Contestant:
    """A method with one variant of its options."""

    method: Method
    variant: str
    options: Mapping[str, Any]


def _contestants(methods: str, variants: Sequence[str]) -> list[_Contestant]:
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise UserError(f"variant {unknown[0]!r}: choose among {', '.join(VARIANTS)}")
    found = []
    for name in registry.chosen_names(f"{registry.REFERENCE},{methods}" if methods.strip() else methods):
        method = registry.method(name)
        if TUNED in variants or name == registry.REFERENCE:
            found.append(_Contestant(method, TUNED, method.tuned))
        if PUBLISHED in variants and method.published:
            found.append(_Contestant(method, PUBLISHED, method.published))
        if TRIALS in variants:
            found += [_Contestant(method, f"trial-{n}", options) for n, options in enumerate(method.trials, 1)]
    return found


def _labelled(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Short names for folders: their own, with the parent's in front where two are alike."""
    places = list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    taken = [*(place.name for place in places), *SPLITS]
    return {
        f"{place.parent.name}-{place.name}" if taken.count(place.name) > 1 else place.name: place for place in places
    }


def _default_folder(places: Sequence[_Place], clip: Clip) -> Path:
    return COMPARISONS / f"{'+'.join(place.name for place in places)}-{clip.folder.resolve().name}"


@dataclass(frozen=True)
class _Place:
    """A data set on disk and what it is shared by."""

    name: str
    path: Path
    config: TuneConfig
    shift: dict[str, Path]

    def parts(self, seed: int) -> tuple[dict[str, ScoredSet], dict[str, list[ScoredSet]]]:
        """The split of a seed, and the shifted folders' images; nothing is decoded."""
        split = draw_split(self.path, shots=self.config.shots, seed=seed)
        count = np.arange(len(split.train.folders))
        drawn = {
            name: ScoredSet(images, count, count, name)
            for name, images in zip(SPLITS, (split.train, split.val, split.test), strict=True)
            if images is not None
        }
        names, folders = split.train.class_names, split.train.folders
        return drawn, {name: recognise(folder, names, folders) for name, folder in self.shift.items()}


@dataclass(frozen=True)
class _Judge:
    """Images that a result is measured on, and how."""

    scored: ScoredSet
    features: Features

    def right(self, predictor: Predictor) -> int:
        """Images whose class comes first."""
        logits = np.array(predictor.logits(self.features))
        chosen = self.scored.candidates
        said = self.scored.owner[chosen[logits[:, chosen].argmax(axis=1)]]
        return int((said == self.features.labels).sum())


Judges = Mapping[str, Sequence[_Judge]]  # "test" and the shifted folders by name


class _Arena:
    """One data set, on which all meet."""

    def __init__(self, clip: Clip, place: _Place, cells: CellFolder, contestants: Sequence[_Contestant]) -> None:
        self.clip, self.place, self.cells, self.contestants = clip, place, cells, contestants
        self.held: dict[str, _Judge] = {}  # the test images are mostly the same for all seeds

    def steps(self, seeds: int, *, done: int, total: int) -> Generator[Event, None, DatasetResult]:
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
        config = replace(self.place.config, seed=seed)
        task = Task(self.clip, train, val, config, cast(int, config.query_budget))
        return task, judges, _digest(train, val, judges)

    def _judge(self, name: str, scored: ScoredSet) -> Generator[Encoding, None, _Judge]:
        held = self.held.get(name)
        if held is None or held.scored.images != scored.images:
            self.held[name] = held = _Judge(scored, (yield from encode_split(self.clip, scored.images, name)))
        return held

    def _cell(
        self, contestant: _Contestant, task: Task, judges: Judges, data: str
    ) -> Generator[Working, None, tuple[Cell, bool]]:
        """The cell, and whether it was there already."""
        method, seed = contestant.method, task.config.seed
        settings = {
            "options": dict(contestant.options),
            "config": task.config.to_dict(),
            "model": self.clip.fingerprint,
            "data": data,
            "version": versions()["sharpzo-mlx"],
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
        self.cells.save(key, cell, traceback=trace, versions=versions(), path=str(self.place.path))
        return cell, False

    def _run(self, contestant: _Contestant, task: Task, judges: Judges) -> Generator[Working, None, Figures]:
        memory.reset_mlx_peak()
        steps = contestant.method.start(task, contestant.options)
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
        return _figures(told, seconds, peak, {name: _accuracy(parts, predictor) for name, parts in judges.items()})


def _accuracy(parts: Sequence[_Judge], predictor: Predictor) -> float:
    return sum(judge.right(predictor) for judge in parts) / sum(len(judge.features.paths) for judge in parts)


def _figures(
    told: Sequence[tuple[Progress, float]], seconds: float, peak: int, measured: Mapping[str, float]
) -> Figures:
    last = told[-1][0]
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
        curve=dict(zip(CURVE, map(list, zip(*(_point(*entry) for entry in told), strict=True)), strict=True)),
    )


def _point(progress: Progress, seconds: float) -> tuple[float | None, ...]:
    """A row of the curve, as CURVE names it."""
    now, best = progress.score, progress.best
    costs = progress.queries, progress.backward_passes, round(seconds, 3)
    return (*costs, now.accuracy, finite(now.loss), best.accuracy, finite(best.loss))


def _digest(train: Features, val: Features, judges: Judges) -> str:
    """Of what all images hold, of their classes, and of what is measured under which name."""
    parts: list[Any] = [_content(train), _content(val), list(train.class_names), list(train.folders)]
    for name, own in judges.items():
        parts += [name, *([_content(judge.features), judge.scored.candidates.tolist()] for judge in own)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content(features: Features) -> list[Any]:
    return [features.content, features.labels.tolist()]
