"""Steps that tune: the demonstration from its pictures to its predictions, the same again, and under a time budget.

>>> tune_demo(workspace).numbers["tuned_dusk_test"]  # doctest: +SKIP
0.91
"""

from __future__ import annotations

import numpy as np

import sharpzo_mlx as sz
from sharpzo_mlx import demo
from sharpzo_mlx.demo.render import DATASET
from sharpzo_mlx.doctor.steps import Answer, Number
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.report.formatting import duration, percent
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.tuning.pipeline import tune

BUDGET = 10.0  # seconds of a tuning under a time budget, in units of a third of the sizes' seconds
LATE = 1.5  # times its budget that a tuning may take


def tune_demo(workspace: Workspace) -> Answer:
    """Tune on painted pictures, evaluate under shift, and predict, all with the defaults."""
    root = workspace.pictures
    (finished,) = (
        record for record in demo.show(root, amounts=workspace.sizes.painted) if isinstance(record, demo.Finished)
    )
    results, rows = finished.run.results, {row.path.name: row for row in finished.report.folders}
    numbers: dict[str, Number] = {
        "seconds": results.seconds,
        "queries": results.queries,
        "mlx_peak_mb": results.peak_memory_mb,
        "process_peak_mb": results.process_memory_mb,
    }
    for name, row in rows.items():
        numbers |= {f"zero_shot_{name}": row.zero_shot, f"tuned_{name}": row.tuned}
    test = rows["test"]
    words = f"zero-shot {percent(test.zero_shot)}, tuned {percent(test.tuned)}, {duration(results.seconds)} of search"
    return Answer(words, numbers, test.tuned >= test.zero_shot)


def repeat_tuning(workspace: Workspace) -> Answer:
    """Tune the same twice without a head; on the CPU the words have to be the same to the last bit."""
    config = sz.TuneConfig(head="none", shots=workspace.sizes.painted.train, generations=5, steps=5)
    one, other = (tune_painted(workspace, f"repeat-{number}", config) for number in range(2))
    features = [np.array(run.prompt.class_features) for run in (one, other)]
    equal, difference = bool(np.array_equal(features[0], features[1])), float(np.abs(features[0] - features[1]).max())
    words = "the same to the last bit" if equal else f"class features differ by {difference:.0e}"
    return Answer(words, {"equal": equal, "difference": difference}, equal or not on_cpu())


def keep_time(workspace: Workspace) -> Answer:
    """Tune under a time budget without a head, and compare the time of the search with it."""
    budget = BUDGET * workspace.sizes.seconds / 3
    config = sz.TuneConfig(head="none", shots=workspace.sizes.painted.train, time_budget=budget)
    seconds = tune_painted(workspace, "timed", config).results.seconds
    numbers: dict[str, Number] = {"budget": budget, "seconds": seconds}
    return Answer(f"{duration(seconds)} for a budget of {duration(budget)}", numbers, seconds <= LATE * budget + 1)


def tune_painted(workspace: Workspace, name: str, config: sz.TuneConfig) -> Run:
    """Tune on the painted pictures; the run's folder has that name."""
    images = workspace.pictures / "images" / DATASET
    return tune(sz.load(demo.MODEL_FOLDER), images, config, output=workspace.folder / "runs" / name)
