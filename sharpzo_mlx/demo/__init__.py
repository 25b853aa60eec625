"""The demonstration: a very small CLIP, a painter of images, and the whole path from tuning to a shift table.

The model was trained by `benchmarks/train_demo_model.py` on pictures by the same painter: drawings of everything,
photographs of things only. `show` then does with photographs of animals and plants what anybody does with their own
images, by the public functions alone.

>>> for record in show(Path("demo"), seed=0): ...  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import sharpzo_mlx as sz
from sharpzo_mlx.demo.render import DATASET, LIVING, SHIFTED, Amounts, Rendered, render

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.prediction import Prediction
    from sharpzo_mlx.evaluation.reports import Report
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.tuning.pipeline import Event

__all__ = ["LIVING", "MODEL_FOLDER", "Amounts", "Finished", "Rendered", "Shown", "show"]

MODEL_FOLDER = Path(__file__).parent / "model"
AMOUNTS = Amounts()
CONFIG = sz.TuneConfig(steps=60)  # half of the default, so that slow machines take less than a minute too
SHOWN = LIVING[::2]  # classes whose first test picture is shown with its labels


@dataclass(frozen=True)
class Shown:
    """A picture with what it shows and what the tuned prompt calls it."""

    truth: str
    prediction: Prediction


@dataclass(frozen=True)
class Finished:
    """What the demonstration ends with: pictures a class to tune on, the run, the shift table, a few pictures."""

    shots: int
    run: Run
    report: Report
    shown: tuple[Shown, ...]


def may_go_on(root: Path, seed: int) -> bool:
    """Whether a folder is empty, or holds nothing but what a demonstration of this seed leaves when it is cut off."""
    images, run = root / "images", root / "run"
    painted = _names(images) if images.is_dir() else set()
    if not _names(root) <= {images.name, run.name} or not painted <= {DATASET, *SHIFTED}:
        return False
    return sz.Run.load(run).config.seed == seed if sz.Run.exists(run) else not run.exists()


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}


def show(root: Path, *, seed: int = 0, amounts: Amounts | None = None) -> Iterator[Rendered | Event | Finished]:
    """Paint, tune, evaluate and predict.

    Args:
        root: where the images (`images/`) and the run (`run/`) go; one that was cut off there goes on.
        seed: of the images and of the tuning.
        amounts: pictures of one class; None for AMOUNTS.

    Yields:
        A record a picture, what `tune_steps` yields, and Finished.

    Raises:
        UserError: `root` holds a run of another kind.
    """
    images, amounts = root / "images", amounts or AMOUNTS
    yield from render(images, seed=seed, amounts=amounts)
    clip = sz.load(MODEL_FOLDER)
    yield from sz.tune_steps(
        clip, images / DATASET, replace(CONFIG, shots=amounts.train, seed=seed), output=root / "run", resume=True
    )
    run = sz.Run.load(root / "run")
    tests = [images / DATASET / "test", *(images / name for name in SHIFTED)]
    report = sz.evaluate(run, tests, clip=clip)
    paths = [tests[0] / name / "000.png" for name in SHOWN]
    predictions = sz.predict(run, paths, top=2, clip=clip)
    shown = tuple(Shown(name, prediction) for name, prediction in zip(SHOWN, predictions, strict=True))
    yield Finished(amounts.train, run, report, shown)
