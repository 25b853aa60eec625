"""Measure the gain of a default `tune`: test accuracy against zero-shot over data sets and seeds, with its cost.

The script pools the images of a data set's train/, val/ and test/, and each seed draws new splits: 16 training and 4
validation images per class; the rest is the test split. It runs `tune` once per seed, with the defaults unless options
are given, prints a table in Markdown and writes the numbers to a JSON file.

    python benchmarks/accuracy.py --model m --testbed ../shared/testbed --output accuracy.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import sharpzo_mlx as sz
from sharpzo_mlx.tuning.pipeline import tune

SETS = ("pacs/photo", "pacs/sketch", "tiny-superclasses", "caltech101")
SPLITS = ("train", "val", "test")


def pool_images(dataset: Path, target: Path) -> Path:
    """Make a folder of class folders with links to the images of all splits, and return it."""
    roots = [dataset / split for split in SPLITS if (dataset / split).is_dir()] or [dataset]
    for root in roots:
        for image in sorted(root.glob("*/*")):
            link = target / image.parent.name / f"{root.name}-{image.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.resolve())
    return target


def measure(clip: sz.Clip, dataset: Path, seed: int, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Tune once and return the run's results."""
    run = tune(clip, dataset, sz.TuneConfig(shots=16, seed=seed, head="none").with_settings(options), output=folder)
    return {"seed": seed, **run.results.to_json()}


def format_row(name: str, runs: list[dict[str, Any]]) -> str:
    """Return a line of the table: means and standard deviations over the seeds."""

    def spread(values: list[float]) -> str:
        return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1 if len(values) > 1 else 0):.1f}"

    zero, test = ([run[key] for run in runs] for key in ("zero_shot", "test"))
    gains = [b - a for a, b in zip(zero, test, strict=True)]
    cells = [name, spread(zero), spread(test), spread(gains), f"{100 * min(gains):+.1f}"]
    cells += [f"{np.mean([run[key] for run in runs]):.0f}" for key in ("queries", "seconds", "peak_memory_mb")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted model folder")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--sets", nargs="+", default=SETS, help="data sets below the testbed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--options", type=json.loads, default={}, help='settings of tune as JSON: {"sharpness.rho": 0}')
    parser.add_argument("--output", type=Path, default=Path("accuracy.json"))
    given = parser.parse_args()
    clip, results = sz.load(given.model), {}
    print("| data set | zero-shot | tuned | gain | worst | queries | seconds | MLX MB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            dataset = pool_images(given.testbed / name, Path(scratch) / "images")
            runs = [measure(clip, dataset, s, given.options, Path(scratch) / f"run-{s}") for s in given.seeds]
        results[name] = runs
        print(format_row(name, runs), flush=True)
    given.output.write_text(json.dumps({"options": given.options, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
