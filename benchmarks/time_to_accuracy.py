"""Measure the queries and seconds that a default `tune` needs to reach the accuracy of the paper's schedule.

Three ways to tune one data set: our default, the paper's schedule on our engine (its settings with 100 generations
of stage 1 and CGE: 1064 queries each; SharpZO, arXiv 2506.20990, section 3.1), and that schedule at the price of
computing a query as the released code does, which `torch_oracle.py` times on the same tower. For each,
the script finds when validation accuracy first reaches zero-shot plus 95 % of the lowest final gain of any run on that
data set.

Runs stay in the work folder: an interrupted run continues, and a finished one is only read. Seconds by the clock are
those of `tune` without encoding. The paper's runs take long, so the script also computes their seconds from their
queries and the measured rates; the oracle's column is computed in the same way.

usage: python benchmarks/time_to_accuracy.py --model m --work FOLDER [--parts paper rates default] [--output X.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip
import numpy as np
from oracle import start_oracle

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.step_log import StepRecord, read_steps
from sharpzo_mlx.tuning.pipeline import tune
from sharpzo_mlx.tuning.problem import make_problem

SETS = ("pacs/photo", "tiny-superclasses")
PAPER_SET, GENERATIONS = "pacs/photo", 100
SHARE = 0.95  # of the lowest final gain
TIMED = 200  # queries of the oracle
PARTS = ("paper", "rates", "default")


def configuration(part: str, seed: int) -> sz.TuneConfig:
    """Return the configuration of one run."""
    if part == "default":
        return sz.preset(seed=seed, head="none")
    paper = sz.preset("paper", seed=seed, generations=GENERATIONS, steps=0)
    return paper.with_settings({"stage1.patience": GENERATIONS})


def folder_of(work: Path, part: str, dataset: str, seed: int) -> Path:
    """Return the folder of a run."""
    return work / f"{part}-{dataset.replace('/', '-')}-{seed}"


def rates(clip: sz.Clip, dataset: Path) -> dict[str, float]:
    """Measure the seconds per query on this data set: ours in the batches of both stages, and the oracle's."""
    train, config = encode(clip, read_folder(dataset / "train")), configuration("paper", 0)
    problem = make_problem(clip, train, train, replace(config, template="a photo of a {}."))
    objective, half = problem.objective, load_model(clip.folder, towers=("text",))
    tokens = tokenise_prompts(clip.tokenizer, problem.template, problem.class_names)
    w = 0.1 * mx.random.normal((TIMED, objective.dimension), key=mx.random.key(0))
    found = {"ours_alone": _ours(objective, w, 1), "ours_in_40": _ours(objective, w, 40)}
    with start_oracle(half, tokens, objective, w) as ask:
        ask(0)
        answers = [ask(number) for number in range(TIMED)]
    ours = np.array(objective.losses(w))
    difference = np.max(np.abs(np.array([loss for loss, _, _ in answers]) / ours - 1))
    assert difference < 1e-4, f"the oracle's losses differ by {difference}"
    spent = [seconds for _, seconds, _ in answers]
    return found | {"oracle": float(np.mean(spent)), "difference": float(difference)}


def _ours(objective: Any, w: mx.array, batch: int) -> float:
    """Measure our seconds per query in batches of the given size over all of w, after one batch to warm up."""
    mx.eval(objective.losses(w[:batch]))
    start = time.perf_counter()
    for first in range(0, len(w), batch):
        mx.eval(objective.losses(w[first : first + batch]))
    return (time.perf_counter() - start) / len(w)


def curve(folder: Path) -> list[StepRecord]:
    """Return a run's steps that have a validation accuracy."""
    return [step for step in read_steps(folder) if step.val_accuracy is not None]


def reached(points: Sequence[StepRecord], threshold: float) -> StepRecord | None:
    """Return the first validation at or above the threshold."""
    return next((point for point in points if (point.val_accuracy or 0) >= threshold - 1e-9), None)


def threshold_of(curves: Sequence[Sequence[StepRecord]], zero_shot: float) -> float:
    """Return zero-shot plus 95 % of the lowest final gain of any run."""
    gains = [max(point.val_accuracy or 0 for point in points) - zero_shot for points in curves]
    return zero_shot + SHARE * max(0.0, min(gains))


def summary(work: Path, dataset: str, price: dict[str, float] | None) -> list[dict[str, Any]]:
    """Return a row per run of the data set: queries and seconds to the threshold."""
    runs = sorted(path for path in work.glob(f"*-{dataset.replace('/', '-')}-*") if Run.exists(path))
    if not runs:
        return []
    curves = {path.name: curve(path) for path in runs}
    zero_shot = Run.load(runs[0]).record.zero_shot_val
    threshold, rows = threshold_of(list(curves.values()), zero_shot), []
    for name, points in curves.items():
        point = reached(points, threshold)
        assert point is not None, "the threshold is below what every run ends with"
        queries, validations = point.queries, point.val_queries
        row: dict[str, Any] = {"run": name, "dataset": dataset, "zero_shot": zero_shot, "threshold": threshold}
        row |= {"queries": queries, "seconds": point.seconds, "final": max(p.val_accuracy or 0 for p in points)}
        if price:
            row["seconds_by_queries"] = queries * price["ours_in_40"] + validations * price["ours_alone"]
            row["oracle_seconds"] = (queries + validations) * price["oracle"]
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows, and the ratio of the paper's time at the oracle's price to the default's time."""
    print("| run | zero-shot | threshold | best | queries | s by the clock | s by queries | s at the oracle's price |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        priced = [f"{row[key]:.1f}" if key in row else "" for key in ("seconds_by_queries", "oracle_seconds")]
        cells = [row["run"], f"{row['zero_shot']:.3f}", f"{row['threshold']:.3f}", f"{row['final']:.3f}"]
        print("| " + " | ".join([*cells, str(row["queries"]), f"{row['seconds']:.1f}", *priced]) + " |")
    ours = [row["seconds"] for row in rows if row["run"].startswith("default") and row["dataset"] == PAPER_SET]
    theirs = [row["oracle_seconds"] for row in rows if row["run"].startswith("paper") and "oracle_seconds" in row]
    if ours and theirs:
        print(f"\n{PAPER_SET}: {np.mean(theirs):.0f} s / {np.mean(ours):.2f} s = {np.mean(theirs) / np.mean(ours):.0f}")


def main() -> None:
    """Run the chosen parts and print the table of all runs so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted model folder")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps the runs")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    clip, prices = sz.load(given.model), given.work / "rates.json"
    given.work.mkdir(parents=True, exist_ok=True)
    for part in given.parts:
        if part == "rates":
            prices.write_text(json.dumps(rates(clip, given.testbed / PAPER_SET), indent=4) + "\n")
            continue
        for dataset in SETS if part == "default" else (PAPER_SET,):
            for seed in given.seeds:
                place = folder_of(given.work, part, dataset, seed)
                tune(clip, given.testbed / dataset, configuration(part, seed), output=place, resume=True)
    price = json.loads(prices.read_text()) if prices.is_file() else None
    rows = [row for dataset in SETS for row in summary(given.work, dataset, price if dataset == PAPER_SET else None)]
    table(rows)
    if given.output:
        given.output.write_text(json.dumps({"rates": price, "runs": rows}, indent=4) + "\n")


if __name__ == "__main__":
    main()
