"""Demonstrate the package without network: paint images, tune a very small CLIP on them, evaluate and predict.

The bundled model was trained by `benchmarks/train_demo_model.py` on pictures by the same painter: drawings of all
figures, photographs of man-made things only. `show` tunes a prompt on photographs of animals and plants, and uses the
public functions only, as a user does with their own images.

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
CONFIG = sz.TuneConfig()
SHOWN = LIVING[::2]  # the first test picture of these classes is shown with its predicted labels


@dataclass(frozen=True)
class Shown:
    """A picture: its true class, and the prediction of the tuned prompt."""

    truth: str
    prediction: Prediction


@dataclass(frozen=True)
class Finished:
    """The result: training pictures of each class, the run, its evaluation under shift, and some predictions."""

    shots: int
    run: Run
    report: Report
    shown: tuple[Shown, ...]


def can_continue(root: Path, seed: int) -> bool:
    """Return whether a folder is empty, or holds only what an interrupted demonstration of this seed left."""
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
        root: the folder for the images (`images/`) and the run (`run/`); an interrupted demonstration continues there.
        seed: the seed of the images and of the tuning.
        amounts: the number of pictures of one class; None for AMOUNTS.

    Yields:
        A record for each picture, the records of `tune_steps`, and Finished.

    Raises:
        UserError: `root` holds a run with another configuration.
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
