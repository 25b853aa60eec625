"""Study tuning's options: configurations x data sets x seeds, resumable, compared pairwise on the same draws.

A plan is a JSON file with the data sets, the seeds, the query budgets, and configurations by name; each configuration
lists the options that it changes from the first one, the reference. Every seed pools a data set's images, draws classes
(if the plan asks for fewer than there are), 16 images per class for training and 4 for validation, and tests on the
rest, and on the plan's folders of shifted images (`shift`). A cell is one search on one draw; the script appends it as
one line of JSON and does not run it again. The plan's entries alone identify a cell, so begin a new file after a change
of the program or its defaults. Gains are compared cell by cell, so that differences between draws cancel.

    python benchmarks/study.py run plan.json cells.jsonl          # --only NAME ..., --part 1/2
    python benchmarks/study.py table plan.json cells.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz  # isort: skip  (it loads OpenBLAS, before MLX)

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.folder import read_folder, split_folders
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.objective.loss import score_features
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.problem import make_problem
from sharpzo_mlx.tuning.search import Search

SHOTS, VALIDATION = 16, 4


@dataclass(frozen=True)
class Source:
    """The images of a data set, as its entry in the plan names them.

    Attributes:
        model: a converted checkpoint.
        folder: class folders of images, or train/, val/ and test/ with such folders.
        classes: the number of classes that each seed draws; None for all.
        shift: folders with shifted images of the same classes, for further tests.
    """

    model: Path
    folder: Path
    classes: int | None = None
    shift: tuple[Path, ...] = ()

    @classmethod
    def read(cls, model: str, folder: str, classes: int | None = None, shift: tuple[str, ...] = ()) -> Source:
        """Make a source from an entry of the plan."""
        return cls(Path(model), Path(folder), classes, tuple(map(Path, shift)))


@dataclass(frozen=True)
class Cell:
    """One search under one budget: a configuration on one draw of a data set; `source` is the plan's entry."""

    configuration: str
    options: dict[str, Any]
    dataset: str
    source: dict[str, Any]
    seed: int
    budget: int

    @property
    def key(self) -> str:
        """Return a text that is equal for equal cells: everything except the configuration's name."""
        return json.dumps([self.options, self.dataset, self.source, self.seed, self.budget], sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """The plan of a study; `read` makes it from a JSON file."""

    sources: dict[str, dict[str, Any]]
    seeds: list[int]
    budgets: list[int]
    configurations: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan from a file; each configuration changes the options of the first one."""
        given = json.loads(path.read_text())
        base = next(iter(given["configurations"].values()))
        return cls(
            given["sets"],
            given["seeds"],
            given["budgets"],
            {name: {**base, **options} for name, options in given["configurations"].items()},
        )

    @property
    def reference(self) -> str:
        """Return the name of the first configuration, with which the others are compared."""
        return next(iter(self.configurations))

    def cells(self, only: list[str] | None = None) -> Iterator[Cell]:
        """Yield all cells, one configuration after another, so that an interrupted study has complete rows."""
        for budget in self.budgets:
            for name in only or self.configurations:
                for seed in self.seeds:
                    for dataset in self.sources:
                        yield Cell(name, self.configurations[name], dataset, self.sources[dataset], seed, budget)


@cache
def checkpoint(model: Path) -> Clip:
    """Load a model once and return its handle."""
    return sz.load(model)


@cache
def pool(model: Path, folder: Path) -> Features:
    """Encode all images of a data set, from all splits."""
    parts = [encode(checkpoint(model), read_folder(root)) for root in (split_folders(folder) or {"": folder}).values()]
    first = parts[0]
    assert all(part.folders == first.folders for part in parts), f"{folder}: splits of different classes"
    return Features(
        mx.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.labels for part in parts]),
        first.class_names,
        first.folders,
        tuple(path for part in parts for path in part.paths),
    )


def draw(source: Source, dataset: str, seed: int) -> tuple[Features, Features, Features]:
    """Draw the training, validation and test images of one seed."""
    images, random = pool(source.model, source.folder), generator_for(seed, "study", dataset)
    count = len(images.folders)
    chosen = sorted(random.permutation(count)[: source.classes or count].tolist())
    train, val, test = [], [], []
    for label in chosen:
        order = random.permutation(np.flatnonzero(images.labels == label)).tolist()
        train += order[:SHOTS]
        val += order[SHOTS : SHOTS + VALIDATION]
        test += order[SHOTS + VALIDATION :]
    return _among(images, train, chosen), _among(images, val, chosen), _among(images, test, chosen)


def shifted(source: Source, folders: tuple[str, ...]) -> Iterator[Features]:
    """Yield the images of the drawn classes from each folder of shifted images."""
    for path in source.shift:
        images = pool(source.model, path)
        chosen = [images.folders.index(folder) for folder in folders]  # rising, because folders are sorted everywhere
        yield _among(images, np.flatnonzero(np.isin(images.labels, chosen)).tolist(), chosen)


def _among(images: Features, rows: list[int], chosen: list[int]) -> Features:
    """Return the given images with labels that number the chosen classes."""
    taken = images.take(rows)
    return Features(
        taken.embeddings,
        np.searchsorted(chosen, taken.labels).astype(np.int32),
        tuple(images.class_names[label] for label in chosen),
        tuple(images.folders[label] for label in chosen),
        taken.paths,
    )


def measure(cell: Cell) -> dict[str, Any]:
    """Run one cell: search from zero-shot, and evaluate the result on the test images."""
    source = Source.read(**cell.source)
    train, val, test = draw(source, cell.dataset, cell.seed)
    config = sz.TuneConfig(seed=cell.seed, head="none", query_budget=cell.budget).with_settings(cell.options)
    problem = make_problem(checkpoint(source.model), train, val, config)
    started = time.process_time()
    search = Search(problem.config, problem.objective, problem.validate)
    for _ in search.steps():
        pass
    results = {
        "queries": problem.objective.queries,
        "val_queries": search.now.val_queries,
        "cpu_seconds": time.process_time() - started,
        "val": search.best_score.accuracy,
        "test_images": len(test.paths),
    }
    last = search.descent.average if search.now.stage == 2 else search.cma.mean
    others = list(shifted(source, test.folders))
    for name, w in {"zero_shot": mx.zeros_like(last), "test": search.best_w, "last": last}.items():
        classifier = problem.objective.class_features(w)
        score, *away = (score_features(classifier, x, problem.objective.logit_scale) for x in (test, *others))
        results |= {name: score.accuracy, f"{name}_loss": score.loss}
        if away:
            results[f"{name}_shift"] = float(np.mean([one.accuracy for one in away]))
    return results


def run(plan: Plan, output: Path, *, only: list[str] | None, part: tuple[int, int]) -> None:
    """Run this process's part of the cells that are not in the file."""
    known = {_read_key(line) for line in _lines(output)}
    for number, cell in enumerate(plan.cells(only)):
        if number % part[1] != part[0] - 1 or cell.key in known:
            continue
        record = {**cell.__dict__, **measure(cell)}
        with output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        known.add(cell.key)


def _lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def _read_key(record: dict[str, Any]) -> str:
    return Cell(*(record.get(name) for name in ("configuration", "options", "dataset", "source", "seed", "budget"))).key


def table(plan: Plan, output: Path) -> Iterator[str]:
    """Yield a Markdown table: mean gain over zero-shot, and paired difference to the reference with standard error."""
    found = {_read_key(record): record for record in _lines(output)}
    names = list(plan.sources)
    for budget in plan.budgets:
        yield f"\n{budget} queries\n"
        heads = ["configuration", "cells", "gain", "against the reference", *names, "test loss", "last iterate", "s"]
        away = all(source.get("shift") for source in plan.sources.values())
        heads += ["gain under shift", "against the reference"] if away else []
        yield f"| {' | '.join(heads)} |"
        yield "|" + "---|" * len(heads)
        for name in plan.configurations:
            pairs = [
                (found[mine.key], found[other.key])
                for mine, other in zip(plan.cells([name]), plan.cells([plan.reference]), strict=True)
                if mine.budget == budget and mine.key in found and other.key in found
            ]
            yield from [_row(name, pairs, names, away=away)] if pairs else []


def _row(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], datasets: list[str], *, away: bool) -> str:
    def gains(key: str, dataset: str | None = None) -> np.ndarray:
        chosen = [mine for mine, _ in pairs if dataset in (None, mine["dataset"])]
        return np.array([100 * (record[key] - record[key.replace("test", "zero_shot")]) for record in chosen])

    def difference(key: str, scale: float, digits: int) -> str:
        values = np.array([scale * (mine[key] - other[key]) for mine, other in pairs])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        return f"{values.mean():+.{digits}f} ± {error:.{digits}f}"

    cells = [name, str(len(pairs)), f"{gains('test').mean():.1f}", difference("test", 100, 1)]
    cells += [f"{gains('test', dataset).mean():.1f}" if len(gains("test", dataset)) else "-" for dataset in datasets]
    cells += [difference("test_loss", 1, 3), difference("last", 100, 1)]
    cells += [f"{np.mean([mine['cpu_seconds'] for mine, _ in pairs]):.0f}"]
    cells += [f"{gains('test_shift').mean():.1f}", difference("test_shift", 100, 1)] if away else []
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run or summarise a study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("plan", type=Path)
    parser.add_argument("cells", type=Path, help="JSON lines, appended to")
    parser.add_argument("--only", nargs="+", help="configurations to run")
    parser.add_argument("--part", default="1/1", help="part of the cells to run, such as 1/2 and 2/2 in two processes")
    given = parser.parse_args()
    plan = Plan.read(given.plan)
    if given.action == "run":
        share, of = map(int, given.part.split("/"))
        run(plan, given.cells, only=given.only, part=(share, of))
    else:
        print("\n".join(table(plan, given.cells)))


if __name__ == "__main__":
    main()
