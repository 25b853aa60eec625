"""What a comparison found: the results of every dataset, and the tables made of them.

>>> [(row.title, row.test.mean) for row in comparison.datasets[0].rows]  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpzo_mlx.comparison.results import MethodResult
from sharpzo_mlx.comparison.tables import Row, make_mean_rows, make_rows
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.runs.versions import versions


@dataclass(frozen=True)
class DatasetResult:
    """All results on one dataset.

    Attributes:
        name: its name in tables.
        path: its folder.
        classes: how many.
        images: how many, by split, of the last seed.
        results: seed by seed.
    """

    name: str
    path: Path
    classes: int
    images: dict[str, int]
    results: tuple[MethodResult, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows of its table."""
        return make_rows(self.results)

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len({result.seed for result in self.results})

    def to_json(self) -> dict[str, Any]:
        """Return everything but the curves as plain values."""
        return {
            "name": self.name,
            "path": str(self.path),
            "classes": self.classes,
            "images": self.images,
            "rows": [row.to_json() for row in self.rows],
            "results": [_plain_result(result) for result in self.results],
        }


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: the folder of its files.
        config: the configuration that all methods shared; each result has a seed of its own.
        datasets: the results on each.
    """

    folder: Path
    config: TuneConfig
    datasets: tuple[DatasetResult, ...]

    @property
    def mean(self) -> list[Row]:
        """The rows of the table over all datasets."""
        return make_mean_rows([dataset.results for dataset in self.datasets])

    @property
    def failed(self) -> list[MethodResult]:
        """The results without measurements."""
        return [result for dataset in self.datasets for result in dataset.results if result.measurements is None]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the curves as plain values, as comparison.json holds them."""
        return {
            "config": self.config.to_json(),
            "versions": versions(),
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "mean": [row.to_json() for row in self.mean],
        }


def _plain_result(result: MethodResult) -> dict[str, Any]:
    content = result.to_json()
    if content["measurements"] is not None:
        del content["measurements"]["curve"]
    return content
