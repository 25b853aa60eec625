"""Open a run's folder: a new one with its images drawn, or one that goes on with the images it drew.

A run remembers its dataset, its images, its model's fingerprint and its options; going on with others would give a
result that belongs to neither, so every difference is an error that names it.

    run, images = open_run(clip, Path("dataset"), TuneConfig(shots=16), folder=folder, resume=False)
    images["train"].paths
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import OPTIMISER, TuneConfig
from sharpzo_mlx.datasets.folder import ImageSet
from sharpzo_mlx.datasets.splits import Split, draw_split
from sharpzo_mlx.datasets.templates import PLAIN, standard_template
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, content_of
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime import startup

_log = logging.getLogger("sharpzo_mlx")

RUNS = Path("runs")
CHANGEABLE = ("time_budget",)  # options that may differ when a run goes on


def run_folder(clip: Clip, dataset: Path, config: TuneConfig | None, *, output: Path | None, resume: bool) -> Path:
    """The folder named, or a default place for this dataset, model and seed."""
    return output or default_folder(clip.folder, dataset, (config or TuneConfig()).seed, resume=resume)


def open_run(
    clip: Clip, dataset: Path, config: TuneConfig | None, *, folder: Path, resume: bool
) -> tuple[Run, dict[str, ImageSet]]:
    """The run in a folder that this process holds, and its images by split ("train", "val" and maybe "test").

    Args:
        clip: the checkpoint.
        dataset: the folder of images.
        config: the options; None for the defaults or those of the run that goes on.
        folder: the run's.
        resume: go on with the run that is there.

    Raises:
        UserError: the folder is taken, or the run there was made with something else.
    """
    if Run.exists(folder):
        if not resume:
            raise UserError(f"{folder}: a run is here already; add --resume to go on, or choose another --output")
        return _go_on(Run.load(folder), clip, dataset, config and with_template(config, dataset))
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder}: holds files but no run; choose another --output")
    config = with_template(config or TuneConfig(), dataset)
    split = draw_split(dataset, shots=config.shots, seed=config.seed)
    images = {"train": split.train, "val": split.val}
    if split.test is not None:
        images["test"] = split.test
    return Run(folder, config, _record(clip, dataset, images, split)), images


def with_template(config: TuneConfig, dataset: Path) -> TuneConfig:
    """The options with a template: the one given, the known data set's own, or the plain one."""
    if config.template is not None:
        return config
    standard = standard_template(dataset)
    if standard not in (None, PLAIN):
        _log.warning(f"{dataset}: a known data set, so its own template is used: {standard!r}")
    return dataclasses.replace(config, template=standard or PLAIN)


def check_content(run: Run, *sets: Features) -> None:
    """Note what the images hold when a run begins; refuse to go on with others.

    Raises:
        UserError: an image of the run was changed in the meantime.
    """
    content = _joined(features.content for features in sets)
    if run.record.setdefault("content", content) != content:
        raise UserError(f"{run.folder}: its images in {run.record['dataset']} have changed since it began; tune anew")


def _joined(contents: Iterable[str]) -> str:
    return hashlib.sha256("".join(contents).encode()).hexdigest()


def default_folder(model: Path, dataset: Path, seed: int, *, resume: bool) -> Path:
    """`runs/<dataset>-<model>-<seed>`; a new run gets a number behind it where that is taken."""
    name = f"{dataset.resolve().name}-{model.resolve().name}-{seed}"
    folder, number = RUNS / name, 2
    while not resume and folder.exists():
        folder, number = RUNS / f"{name}-{number}", number + 1
    return folder


def _go_on(run: Run, clip: Clip, dataset: Path, config: TuneConfig | None) -> tuple[Run, dict[str, ImageSet]]:
    if run.record["model"]["fingerprint"] != clip.fingerprint:
        raise UserError(f"{run.folder}: tuned {run.record['model']['folder']}, not {clip.folder}; name that --model")
    if run.finished:
        _check_dataset(run, dataset)
    if config is not None:
        run.config = _same_options(run, config)
    images = {name: _restore(dataset, run.record, rows) for name, rows in run.record["images"].items()}
    if run.finished:
        _log.warning(f"{run.folder}: finished already, its result is as it was; for more, choose another --output")
    else:
        for split in images.values():
            _check_present(split, run)
        run.record |= {"status": "running", "dataset": os.path.abspath(dataset)}
        _compare_versions(run)
    return run, images


def _check_dataset(run: Run, dataset: Path) -> None:
    """Refuse another data set than that of a finished run; a copy that holds the same images is none."""
    own = run.record["dataset"]
    if os.path.realpath(dataset) == os.path.realpath(own):
        return
    tuned = [_restore(dataset, run.record, run.record["images"][name]).paths for name in ("train", "val")]
    there = all(path.is_file() for paths in tuned for path in paths)
    if not there or run.record.get("content") != _joined(map(content_of, tuned)):
        raise UserError(f"{run.folder}: tuned on {own}, not {dataset}; name that data set, or choose another --output")


def _same_options(run: Run, config: TuneConfig) -> TuneConfig:
    before, now = run.config.settings(), config.settings()
    for item in dict.fromkeys((OPTIMISER, *now, *before)):  # another optimiser is named before its settings
        old, new = before.get(item), now.get(item)
        if old == new:
            continue
        name = item if "." in item else item.replace("_", "-")
        if run.finished:
            raise UserError(
                f"{run.folder}: finished with {name} {old}, not {new}, and a finished run cannot be prolonged; "
                "choose another --output for a new one"
            )
        if item not in CHANGEABLE:
            raise UserError(
                f"{run.folder}: was begun with {name} {old}, not {new}; "
                "leave the option out to go on, or choose another --output"
            )
    return config


def _check_present(images: ImageSet, run: Run) -> None:
    missing = next((path for path in images.paths if not path.is_file()), None)
    if missing:
        raise UserError(
            f"{missing}: gone, but drawn for {run.folder}; put it back, name the folder it is in, or tune anew"
        )


def _record(clip: Clip, dataset: Path, images: dict[str, ImageSet], split: Split) -> dict[str, Any]:
    root = os.path.abspath(dataset)
    return {
        "status": "running",
        "model": {"folder": str(clip.folder.resolve()), "fingerprint": clip.fingerprint},
        "dataset": root,
        "shots": split.shots,
        "class_names": list(images["train"].class_names),
        "class_folders": list(images["train"].folders),
        "images": {
            name: [[_relative(path, root), label] for path, label in zip(s.paths, s.labels, strict=True)]
            for name, s in images.items()
        },
        "versions": versions(),
    }


def _relative(path: Path, root: str) -> str:
    # by its letters: a link's target may lie anywhere
    full = Path(os.path.abspath(path))
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(full)


def _restore(dataset: Path, record: dict[str, Any], rows: list[tuple[str, int]]) -> ImageSet:
    return ImageSet(
        paths=tuple(Path(os.path.abspath(dataset), path) for path, _ in rows),
        labels=tuple(label for _, label in rows),
        class_names=tuple(record["class_names"]),
        folders=tuple(record["class_folders"]),
    )


def _compare_versions(run: Run) -> None:
    now = versions()
    changed = [f"{name} {old} -> {now[name]}" for name, old in run.record["versions"].items() if now[name] != old]
    if changed:
        _log.warning(f"{run.folder} was begun with other software, its numbers may differ: {', '.join(changed)}")


def versions() -> dict[str, str]:
    """The software that figures depend on."""
    return {
        "sharpzo-mlx": metadata.version("sharpzo-mlx"),
        "mlx": metadata.version("mlx"),
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "device": str(mx.default_device()),
        "blas": startup.blas,
    }
