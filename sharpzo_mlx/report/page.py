"""One HTML page about a run that needs nothing else: no network, no script; light and dark, for a phone and for paper.

Plots are inline SVG, images small JPEGs inside the page. If the images or the model are gone, their parts are left out
with a notice. The page shows the folders that `evaluate` has measured for this run.

>>> write_report(Run.load("runs/photo-m-0"))  # doctest: +SKIP
PosixPath('runs/photo-m-0/report.html')
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.evaluation.foreign import ForeignEntry
from sharpzo_mlx.evaluation.reports import EVALUATIONS, EvaluationEntry, read_entries
from sharpzo_mlx.files import atomic_write, check_place, expand, is_inside, root_of
from sharpzo_mlx.images.load import open_image
from sharpzo_mlx.images.thumbnail import as_data_url
from sharpzo_mlx.options import NONE
from sharpzo_mlx.report.analysis import ChangedImage, RunAnalysis, analyse_run
from sharpzo_mlx.report.head_words import describe_head, describe_words
from sharpzo_mlx.report.plots import as_svg, choose_classes, draw_all, save_png
from sharpzo_mlx.runs.checkpoint import CHECKPOINTS
from sharpzo_mlx.runs.labelled import LABELLED
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import PROMPT, RECORD, Run
from sharpzo_mlx.runs.settings_file import SETTINGS
from sharpzo_mlx.runs.step_log import STEPS, StepRecord, read_steps

PAGE = "report.html"
RUN_FILES = (RECORD, PROMPT, LABELLED, STEPS, *CHECKPOINTS, SETTINGS, EVALUATIONS)  # a page may not replace these
TEMPLATE = Path(__file__).with_name("page.html.j2")
THUMBNAIL = 120  # pixels
CONFUSED = 10  # pairs of classes that are named


def write_report(
    run: Run | str | Path,
    *,
    clip: Clip | None = None,
    output: str | Path | None = None,
    png: bool = False,
    landscape: bool = True,
) -> Path:
    """Write the page of a run.

    `tune` writes the page too, without the landscape.

    Args:
        run: the run or its folder.
        clip: the checkpoint; None loads the one that the run names.
        output: a file, if it is there or its name ends in .html, or else a folder for `report.html`; None for the
            run's own folder.
        png: also write the plots as PNG files beside the page.
        landscape: compute the loss around the result, some 150 queries.

    Returns:
        The file.

    Raises:
        UserError: there is no such run, it has no prompt so far, `clip` is not its model, or the page cannot be
            written there.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    if run.name is not None and output is None:
        raise UserError(f"{run.name}: its folder is the hub's cache; name a place for the page (--output)")
    _ = run.results, run.prompt  # each refuses a run that was stopped before it had them
    path = _choose_path(run, output)
    analysis = _analyse(run, clip, landscape=landscape)
    steps = _read_steps(run)
    figures = draw_all(run, steps, analysis)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points}
    environment.filters |= {"describe_head": describe_head, "describe_words": describe_words}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    atomic_write(path, template.render(page=_collect(run, steps, analysis, figures)))
    if png:
        save_png(figures, path.parent)
    return path


@dataclass(frozen=True)
class _Thumbnail:
    """One changed image as the page shows it."""

    change: ChangedImage
    name: str
    source: str  # a data URL


@dataclass(frozen=True)
class _Page:
    """What the template fills in; the names are those of page.html.j2."""

    run: Run
    name: str
    dataset: str
    images: dict[str, int]  # by split
    evaluations: list[EvaluationEntry]
    answers: list[EvaluationEntry]  # those that a run with a head has
    foreign: list[ForeignEntry]
    command: str
    staged: bool  # whether there was a stage 1
    switched: bool  # whether stage 2 began
    plots: dict[str, str]  # SVG by name
    analysis: RunAnalysis | None
    shown_classes: int
    confused: list[tuple[str, str, int]]  # (class, predicted class, images)
    changed: list[tuple[str, list[_Thumbnail]]]  # (heading, images)


def _choose_path(run: Run, output: str | Path | None) -> Path:
    """Return the file to write, after checking that it may be written there."""
    path = expand(output) if output else run.folder
    of_run = path.name.casefold() in RUN_FILES and Run.exists(path.parent)
    if path.is_dir() or not (of_run or path.is_file() or path.suffix.casefold() in (".html", ".htm")):
        path /= PAGE
    if of_run:
        raise UserError(f"{path}: a file of the run itself; choose another --output, such as {path.with_name(PAGE)}")
    check_place(path.parent)
    return path


def _analyse(run: Run, clip: Clip | None, *, landscape: bool) -> RunAnalysis | None:
    """Return the analysis, or None with a notice if the images or the model are gone."""
    if clip is not None:
        open_model(run, clip)  # another model than the run's is the caller's mistake: it is raised
    try:
        return analyse_run(run, open_model(run, clip), landscape=landscape)
    except UserError as error:
        logging.getLogger("sharpzo_mlx").warning(f"classes and images are left out of the page: {error}")
        return None


def _read_steps(run: Run) -> list[StepRecord]:
    """Return the steps of a run, or none with a notice if they cannot be read."""
    try:
        steps = read_steps(run.folder)
    except UserError as error:
        notify(f"the curves are left out of the page: {error}")
        return []
    if not steps and run.results.val_queries > 1:
        notify(f"the curves are left out of the page: {run.folder / STEPS} has no steps")
    return steps


def _collect(run: Run, steps: list[StepRecord], analysis: RunAnalysis | None, figures: dict[str, Figure]) -> _Page:
    entries = read_entries(run)
    evaluations = [entry for entry in entries if isinstance(entry, EvaluationEntry)]
    return _Page(
        run=run,
        name=run.folder.resolve().name,
        dataset=Path(run.record.dataset).name,
        images=_count_images(run),
        evaluations=evaluations,
        answers=[entry for entry in evaluations if entry.rejected is not None],
        foreign=[entry for entry in entries if isinstance(entry, ForeignEntry)],
        command=_command(run),
        staged=bool(steps) and steps[0].stage == 1,
        switched=len({step.stage for step in steps}) > 1,
        plots={name.replace("-", "_"): as_svg(figure) for name, figure in figures.items()},
        analysis=analysis,
        shown_classes=len(choose_classes(analysis)) if analysis else 0,
        confused=_most_confused(run, analysis) if analysis else [],
        changed=_changed_images(run, analysis) if analysis else [],
    )


def _count_images(run: Run) -> dict[str, int]:
    """Return the number of images by split, and of those that were added later."""
    found = {split: len(rows) for split, rows in run.record.images.by_split().items()}
    return found if run.record.images.added is None else {**found, "added": len(run.record.images.added)}


def _command(run: Run) -> str:
    """Return the command line that repeats the run, with every setting that is not the default."""
    words = ["sharpzo-mlx", "tune", run.record.dataset, "--model", str(run.model_folder)]
    plain = TuneConfig().settings()
    for name, value in run.config.settings().items():
        if "." not in name and (value != plain[name] or name == "seed"):
            words += ["--" + name.replace("_", "-"), str(value)]
        elif "." in name and (name not in plain or value != plain[name]):
            words += ["--set", f"{name}={NONE if value is None else value}"]
    return shlex.join(words)


def _most_confused(run: Run, analysis: RunAnalysis) -> list[tuple[str, str, int]]:
    """Return the pairs (class, predicted class) with the most images, and their numbers."""
    counts = analysis.confusion.copy()
    np.fill_diagonal(counts, 0)
    names = run.prompt.class_names
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSED].tolist()
    pairs = [divmod(place, len(names)) for place in order]
    return [(names[row], names[column], int(counts[row, column])) for row, column in pairs if counts[row, column]]


def _changed_images(run: Run, analysis: RunAnalysis) -> list[tuple[str, list[_Thumbnail]]]:
    """Return the pictures of the page: of the data set's own images only, because a page is passed on."""
    changed = (*analysis.gained, *analysis.lost)
    outside = {image.path for image in changed if not is_inside(image.path, root_of(run.record.dataset))}
    if outside:
        notify(f"{min(outside)}: outside of the data set {run.record.dataset}, so the page does not show such images")
    groups = (("More probable now", analysis.gained), ("Less probable now", analysis.lost))
    shown = ((title, [image for image in images if image.path not in outside]) for title, images in groups)
    return [(title, [_thumbnail(image) for image in images]) for title, images in shown if images]


def _thumbnail(image: ChangedImage) -> _Thumbnail:
    return _Thumbnail(image, image.path.name, as_data_url(open_image(image.path), THUMBNAIL))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
