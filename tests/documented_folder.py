"""The folder in which the commands of the documentation are run: the names that they use, as small painted things.

`photos/` and its kin are the demonstration's pictures of a few classes, `RUN` and the folders in `runs/` are runs of
its model, which is the default model in the cache too. A page that needs another name gets it here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sharpzo_mlx as sz
from sharpzo_mlx.demo import MODEL_FOLDER, Amounts
from sharpzo_mlx.demo.render import render
from sharpzo_mlx.files import default_model_folder

CLASSES = ("bird", "tree", "flower", "cat")
FOREIGN = ("snail", "cactus")
AMOUNTS = Amounts(train=16, val=4, test=4, shifted=2)
MODELS = ("m", "clip-b16", "sharpzo_mlx/demo/model")
RUNS = ("RUN", "runs/photos-m-0", "runs/seed-0", "runs/seed-1", "runs/seed-2")
SETTINGS = "query_budget = 200\n\n[stage2]\ndraws = 48\n\n[stage1]\nsigma = 0.2\n"


def make_folder(root: Path) -> Path:
    """Make the folder, without runs."""
    for _ in render(root / "d" / "images", amounts=AMOUNTS, names=CLASSES):
        pass
    for _ in render(root / "foreign", amounts=Amounts(train=0, val=0, test=0, shifted=4), names=FOREIGN):
        pass
    images = root / "d" / "images"
    for name in ("photos", "PHOTOS"):
        shutil.copytree(images / "dusk", root / name, dirs_exist_ok=True)  # one folder where case does not count
    for name, source in (("sketches", "pencil"), ("paintings", "day"), ("satellite", "night")):
        shutil.copytree(images / source, root / name)
    shutil.move(root / "foreign" / "night", root / "others")
    shutil.rmtree(root / "foreign")
    shutil.copytree(images / "dusk" / "test", root / "new-photos")
    for look in (images / "dusk" / "train", root / "sketches"):
        for name in CLASSES:
            shutil.copytree(look / name, root / "mixed" / name / look.name)
    test = sorted((images / "dusk" / "test").rglob("*.png"))
    for name in ("holiday", "more", "new", "inbox"):
        (root / name).mkdir()
        for number, path in enumerate(test[:6]):
            shutil.copy(path, root / name / f"{number}.png")
    for name in ("new.jpg", "other.png", "photos/1.jpg", "photos/2.jpg"):
        shutil.copy(test[0], root / name)
    for name in CLASSES:
        shutil.copytree(root / "satellite" / name, root / "more" / name)
    (root / "list.csv").write_text("path\nholiday/0.png\nholiday/1.png\n")
    (root / "settings.toml").write_text(SETTINGS)
    for name in MODELS:
        shutil.copytree(MODEL_FOLDER, root / name, symlinks=True)
    return root


def make_runs(root: Path) -> None:
    """Tune once, on `photos`, which must be in the current folder, and give the run all of its names."""
    config = sz.TuneConfig(generations=0, steps=2)
    sz.tune(sz.load("m"), "photos", config, output=root / RUNS[0], report=False)
    for name in RUNS[1:]:
        shutil.copytree(root / RUNS[0], root / name)


def make_default_model() -> None:
    """Put the demonstration's model where the default model is looked for."""
    shutil.copytree(MODEL_FOLDER, default_model_folder())
