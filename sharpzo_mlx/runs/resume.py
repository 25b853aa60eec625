"""Open the folder of a run: begin a new run and draw its images, or continue one with the images that it drew.

A run remembers its dataset, images, configuration and the fingerprint of its model. Going on with others would give a
result that belongs to neither, so every difference is an error that names it.

>>> run, images = open_run(clip, Path("dataset"), TuneConfig(shots=16), folder=folder, resume=False)  # doctest: +SKIP
>>> images["train"].paths  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import OPTIMISER, TuneConfig
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.splits import Split, draw_split
from sharpzo_mlx.datasets.templates import PLAIN, read_templates, standard_template
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, content_of
from sharpzo_mlx.files import identify, root_of
from sharpzo_mlx.images.stored import is_there
from sharpzo_mlx.options import NONE
from sharpzo_mlx.runs.checkpoint import remove_checkpoints
from sharpzo_mlx.runs.record import DrawnImages, ImageRows, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import PROMPT, Run
from sharpzo_mlx.runs.versions import versions

_log = logging.getLogger("sharpzo_mlx")

RUNS = Path("runs")
CHANGEABLE = ("time_budget", "memory_budget")  # options that may differ when a run is continued


def run_folder(clip: Clip, dataset: Path, config: TuneConfig | None, *, output: Path | None, resume: bool) -> Path:
    """Return the folder given, or the default folder of this dataset, model and seed."""
    return output or default_folder(clip.folder, dataset, (config or TuneConfig()).seed, resume=resume)


def default_folder(model: Path, dataset: Path, seed: int, *, resume: bool) -> Path:
    """Return `runs/<dataset>-<model>-<seed>`; for a new run with the first free number behind it, if it is taken."""
    place = dataset.resolve()
    name = f"{place.stem if place.is_file() else place.name}-{model.resolve().name}-{seed}"
    folder, number = RUNS / name, 2
    while not resume and folder.exists():
        folder, number = RUNS / f"{name}-{number}", number + 1
    return folder


def open_run(
    clip: Clip, dataset: Path, config: TuneConfig | None, *, folder: Path, resume: bool
) -> tuple[Run, dict[str, ImageSet]]:
    """Open the run in a folder that this process holds.

    Args:
        clip: the checkpoint.
        dataset: the folder of images.
        config: the configuration; None for the defaults, or for that of the run in the folder.
        folder: the folder of the run.
        resume: continue the run that is in the folder.

    Returns:
        The run, and its images by split: "train", "val" (empty if no image is left for it and the head needs none) and,
        where there are any, "test".

    Raises:
        UserError: the folder is taken, or the run in it was made with something else.
    """
    if Run.exists(folder):
        if not resume:
            raise UserError(f"{folder}: a run is here already; add --resume to continue it, or choose another --output")
        return _continue(Run.load(folder), clip, dataset, config and with_template(config, dataset))
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder}: holds files but no run; choose another --output")
    config = with_template(config or TuneConfig(), dataset)
    templates = all_templates(config)
    split = draw_split(dataset, shots=config.shots, seed=config.seed, needs_validation=config.head == "none")
    images = {"train": split.train, "val": split.val}
    if split.test is not None:
        images["test"] = split.test
    return Run(folder, config, _begin_record(clip, dataset, split, templates)), images


def with_template(config: TuneConfig, dataset: Path) -> TuneConfig:
    """Return the configuration with a template: its own, that of a known dataset, or the plain one."""
    if config.template is not None:
        return config
    standard = standard_template(dataset)
    if standard not in (None, PLAIN):
        _log.warning(f"{dataset}: a known data set, so its own template is used: {standard!r}")
    return replace(config, template=standard or PLAIN)


def all_templates(config: TuneConfig) -> tuple[str, ...]:
    """Return the configuration's template and, after it, those of its list; empty if it names no list.

    Raises:
        UserError: the list cannot be read.
    """
    if config.templates is None:
        return ()
    return tuple(dict.fromkeys((config.template or PLAIN, *read_templates(config.templates))))


def check_content(run: Run, *sets: Features) -> None:
    """Record the digest of the images when a run begins, and refuse images of other content later.

    Raises:
        UserError: an image of the run has changed since it began.
    """
    content = _digest(features.content for features in sets)
    if run.record.content is None:
        run.record = replace(run.record, content=content)
    if run.record.content != content:
        raise UserError(f"{run.folder}: its images in {run.record.dataset} have changed since it began; tune anew")


def _digest(contents: Iterable[str]) -> str:
    return hashlib.sha256("".join(contents).encode()).hexdigest()


def _continue(run: Run, clip: Clip, dataset: Path, config: TuneConfig | None) -> tuple[Run, dict[str, ImageSet]]:
    if run.record.model.fingerprint != clip.fingerprint:
        raise UserError(f"{run.folder}: tuned {run.record.model.folder}, not {clip.folder}; name that --model")
    if run.finished:
        _check_dataset(run, dataset)
        _tidy_finished(run)
    if config is not None:
        run.config = _check_options(run, config)
    images = {name: restore_images(dataset, run.record, rows) for name, rows in run.record.images.by_split().items()}
    if run.finished:
        _log.warning(f"{run.folder}: finished already, its result is as it was; for more, choose another --output")
    else:
        for split in images.values():
            _check_present(split, run)
        run.record = replace(run.record, status="running", dataset=os.path.abspath(dataset))
        _report_other_versions(run)
    return run, images


def _tidy_finished(run: Run) -> None:
    """Remove what a process left that was killed at its very end; refuse a run that has lost its prompt."""
    remove_checkpoints(run.folder)
    if not run.prompt_path.is_file():
        raise UserError(f"{run.folder}: finished, but its {PROMPT} is missing; choose another --output to tune again")


def _check_dataset(run: Run, dataset: Path) -> None:
    """Refuse another dataset than that of a finished run; a copy with the same images is accepted."""
    own, drawn = run.record.dataset, run.record.images
    if identify(dataset) == identify(own):
        return
    tuned = [restore_images(dataset, run.record, rows).paths for rows in (drawn.train, drawn.val)]
    there = all(is_there(path) for paths in tuned for path in paths)
    if not there or run.record.content != _digest(map(content_of, tuned)):
        raise UserError(f"{run.folder}: tuned on {own}, not {dataset}; name that data set, or choose another --output")


def _check_options(run: Run, config: TuneConfig) -> TuneConfig:
    """Return the configuration to continue with; refuse one that differs in what may not change."""
    before, now = run.config.settings(), config.settings()
    for item in dict.fromkeys((OPTIMISER, *now, *before)):  # another optimiser is named before its settings
        old, new = before.get(item), now.get(item)
        if old == new:
            continue
        name = item if "." in item else item.replace("_", "-")
        old, new = (NONE if value is None else value for value in (old, new))
        if run.finished:
            raise UserError(
                f"{run.folder}: finished with {name} {old}, not {new}, and a finished run cannot be prolonged; "
                "choose another --output for a new one"
            )
        if item not in CHANGEABLE:
            raise UserError(
                f"{run.folder}: was begun with {name} {old}, not {new}; "
                "leave it out (it may come from a preset or a file) to continue, or choose another --output"
            )
    return config


def _check_present(images: ImageSet, run: Run) -> None:
    missing = next((path for path in images.paths if not is_there(path)), None)
    if missing:
        raise UserError(
            f"{missing}: gone, but drawn for {run.folder}; put it back, name the folder it is in, or tune anew"
        )


def _begin_record(clip: Clip, dataset: Path, split: Split, templates: tuple[str, ...]) -> RunRecord:
    root = str(root_of(dataset))
    return RunRecord(
        status="running",
        model=ModelRecord(str(clip.folder.resolve()), clip.fingerprint),
        dataset=os.path.abspath(dataset),
        shots=split.shots,
        class_names=tuple(split.train.class_names),
        class_folders=tuple(split.train.folders),
        images=DrawnImages(
            _rows(split.train, root), _rows(split.val, root), None if split.test is None else _rows(split.test, root)
        ),
        versions=versions(),
        templates=templates,
    )


def _rows(images: ImageSet, root: str) -> ImageRows:
    return list_rows(images.paths, images.labels, root)


def list_rows(paths: Iterable[Path], labels: Iterable[int], root: str) -> ImageRows:
    """Return images as a run's record holds them: relative to the dataset `root` where they lie in it."""
    return tuple((_relative(path, root), label) for path, label in zip(paths, labels, strict=True))


def _relative(path: Path, root: str) -> str:
    # links are not followed: their targets may lie anywhere
    full = Path(os.path.abspath(path))
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(full)


def restore_images(dataset: Path, record: RunRecord, rows: ImageRows) -> ImageSet:
    """Return images of a run's record, in the folder that its dataset is in now."""
    return ImageSet(
        paths=tuple(root_of(dataset) / path for path, _ in rows),
        labels=tuple(label for _, label in rows),
        class_names=record.class_names,
        folders=record.class_folders,
    )


def _report_other_versions(run: Run) -> None:
    now = versions()
    changed = [f"{name} {old} -> {now.get(name)}" for name, old in run.record.versions.items() if now.get(name) != old]
    if changed:
        _log.warning(f"{run.folder} was begun with other software, its numbers may differ: {', '.join(changed)}")
