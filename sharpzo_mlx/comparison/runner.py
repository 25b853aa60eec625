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
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.dataset_runner import SPLITS, Arena, Contestant, DatasetResult, Finished, Place, Working
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.method import PUBLISHED, affordable
from sharpzo_mlx.comparison.results import Cell, CellFolder, holds_cells
from sharpzo_mlx.comparison.tables import Row, mean_rows
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_write, check_place, refuse_empty
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runs.resume import with_template
from sharpzo_mlx.runs.versions import versions
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import check_arguments

COMPARISONS = Path("comparisons")
RECORD = "comparison.json"
SEEDS, QUERIES = 5, 5000
LONGEST_NAME = 200  # bytes of a folder's name that we choose; file systems take 255, and some less
TUNED, TRIALS = "tuned", "trials"
VARIANTS = (TUNED, PUBLISHED, TRIALS)


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
            "config": self.config.to_json(),
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


Event: TypeAlias = Encoding | Working | Finished | Comparison


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
    check_arguments(clip, config)
    datasets = [datasets] if isinstance(datasets, (str, Path)) else datasets
    refuse_empty(*datasets, *shift)
    paths = [Path(path).expanduser() for path in datasets]
    contestants = _contestants(methods, variants)
    if seeds < 1 or not paths:
        raise UserError(f"seeds {seeds}: at least 1" if seeds < 1 else "no data set: name at least one folder")
    config = config or TuneConfig()
    if config.time_budget:
        raise UserError("time-budget: methods are compared at equal queries; give a query budget instead")
    config = replace(config, query_budget=config.query_budget or QUERIES)
    places = [
        Place(name, path, with_template(config, path), _labelled(shift)) for name, path in _labelled(paths).items()
    ]
    for place in places:  # all folders are looked at before the first image is decoded
        drawn, _ = place.parts(0)
        tokenise_prompts(clip.tokenizer, place.config.template or PLAIN, drawn["train"].images.class_names)
    _check_budget(contestants, config)
    folder = Path(output).expanduser() if output else _default_folder(places, clip)
    _check_folder(folder)
    total = len(places) * seeds * len(contestants)
    results: list[DatasetResult] = []
    for place in places:
        before = sum(len(result.cells) for result in results)
        arena = Arena(clip, place, CellFolder(folder), contestants)
        results.append((yield from arena.steps(seeds, done=before, total=total)))
    comparison = Comparison(folder, config, tuple(results))
    atomic_write(folder / RECORD, json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n")
    yield comparison


def _contestants(methods: str, variants: Sequence[str]) -> list[Contestant]:
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise UserError(f"variant {unknown[0]!r}: choose among {', '.join(VARIANTS)}")
    found = []
    for name in registry.chosen_names(f"{registry.REFERENCE},{methods}" if methods.strip() else methods):
        method = registry.method(name)
        if TUNED in variants or name == registry.REFERENCE:
            found.append(Contestant(method, TUNED, method.tuned))
        if PUBLISHED in variants and method.published:
            found.append(Contestant(method, PUBLISHED, method.published))
        if TRIALS in variants:
            found += [Contestant(method, f"trial-{n}", options) for n, options in enumerate(method.trials, 1)]
    return found


def _check_budget(contestants: Sequence[Contestant], config: TuneConfig) -> None:
    """Refuse a query budget that is too small for every method with a price; one alone fails in its own cells."""
    reasons = []
    priced = [one for one in contestants if one.method.check is not affordable]
    for one in priced:
        try:
            one.method.check(config, one.options)
        except UserError as error:
            reasons.append(f"{one.method.name} ({one.variant}): {error}")
    if reasons and len(reasons) == len(priced):
        raise UserError(reasons[0])


def _labelled(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Short names for folders: their own, with as many parents' in front as tell them apart."""
    places = list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    shown = dict.fromkeys(places, 1)  # parts of its path in a name

    def name(place: Path) -> str:
        joined = "-".join(place.parts[1:][-shown[place] :])
        return joined.encode("utf-8", "replace").decode()  # what is no letter becomes a question mark

    while True:
        taken = [*map(name, places), *SPLITS]
        alike = [place for place in places if taken.count(name(place)) > 1 and shown[place] < len(place.parts) - 1]
        if not alike:
            break
        shown |= {place: shown[place] + 1 for place in alike}
    labelled = {name(place): place for place in places}
    if lost := [place for place in places if place not in labelled.values()]:
        raise UserError(f"{lost[0]}: another folder would have the name {name(lost[0])} too; rename one")
    return labelled


def _default_folder(places: Sequence[Place], clip: Clip) -> Path:
    """`comparisons/<datasets>-<model>`; of names too many for a file's name the first letters and a digest."""
    name = f"{'+'.join(place.name for place in places)}-{clip.folder.resolve().name}"
    whole = os.fsencode(name)
    if len(whole) > LONGEST_NAME:
        name = f"{whole[: LONGEST_NAME - 13].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"
    return COMPARISONS / name


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a comparison, or that cannot be written to."""
    check_place(folder)
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.is_dir() else []
    if visible and not (folder / RECORD).is_file() and not holds_cells(folder):
        raise UserError(f"{folder}: holds files but no comparison; choose another --output")
