"""A run as one HTML page that needs nothing else: no network, no script, light and dark, for a phone and for paper.

Plots are inline SVG, images small JPEGs inside the page; what the images or the model are gone for is left out, and
said so. The page shows the folders that `evaluate` has measured for this run.

>>> write_report(Run.load("runs/photo-m-0"))  # doctest: +SKIP
PosixPath('runs/photo-m-0/report.html')
"""

from __future__ import annotations

import base64
import io
import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.reports import EVALUATIONS, read_evaluations
from sharpzo_mlx.files import atomic_write, check_place
from sharpzo_mlx.images.load import open_image
from sharpzo_mlx.options import NONE
from sharpzo_mlx.report.analysis import ChangedImage, Findings, look_at
from sharpzo_mlx.report.plots import as_svg, draw_all, save_png, shown_classes
from sharpzo_mlx.runs.checkpoint import CHECKPOINT
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import PROMPT, RECORD, Run
from sharpzo_mlx.runs.step_log import STEPS, read_steps

PAGE = "report.html"
OF_RUNS = (RECORD, PROMPT, STEPS, CHECKPOINT, EVALUATIONS)  # names that no page takes in a run's folder
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

    Args:
        run: the run or its folder.
        clip: the checkpoint; None reads the one that the run names.
        output: the file, or a folder for `report.html` in it; None for the run's own folder.
        png: whether the plots are written as PNG beside the page, too.
        landscape: whether the loss around the result is computed, some 150 queries.

    Returns:
        The file.

    Raises:
        UserError: there is no such run, it has no prompt so far, `clip` is not its model, or the page cannot be
            written there.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    _ = run.results, run.prompt  # each refuses a run that was stopped before it had them
    path = _page(run, output)
    findings = _findings(run, clip, landscape=landscape)
    steps = read_steps(run.folder)
    figures = draw_all(run, steps, findings)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    plots = {name.replace("-", "_"): as_svg(figure) for name, figure in figures.items()}
    switched = len({step.stage for step in steps}) > 1
    atomic_write(path, template.render(**_content(run, findings), plots=plots, switched=switched))
    if png:
        save_png(figures, path.parent)
    return path


def _page(run: Run, output: str | Path | None) -> Path:
    """The file to write, once it is sure that it may be written there."""
    path = Path(output).expanduser() if output else run.folder
    if path.is_dir():
        path /= PAGE
    if path.name.casefold() in OF_RUNS and Run.exists(path.parent):
        raise UserError(f"{path}: a file of the run itself; choose another --output, such as {path.with_name(PAGE)}")
    check_place(path.parent)
    return path


def _findings(run: Run, clip: Clip | None, *, landscape: bool) -> Findings | None:
    if clip is not None:
        open_model(run, clip)  # one that was named and is another is no reason for a poorer page
    try:
        return look_at(run, open_model(run, clip), landscape=landscape)
    except UserError as error:
        logging.getLogger("sharpzo_mlx").warning(f"classes and images are left out of the page: {error}")
        return None


def _content(run: Run, findings: Findings | None) -> dict[str, Any]:
    return {
        "name": run.folder.resolve().name,
        "finished": run.finished,
        "dataset": Path(run.record.dataset).name,
        "model": run.model_folder.name,
        "classes": len(run.prompt.class_names),
        "images": {split: len(rows) for split, rows in run.record.images.by_split().items()},
        "results": run.results,
        "head": run.prompt.head,
        "template": run.prompt.template,
        "shift": read_evaluations(run),
        "command": _command(run),
        "versions": run.record.versions,
        "fingerprint": run.record.model.fingerprint,
        "findings": findings
        and {
            "split": findings.split,
            "confused": _confused(run, findings),
            "shown": len(shown_classes(findings)),
        },
        "landscape": findings and findings.landscape,
        "changed": _changed(findings) if findings else [],
    }


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


def _confused(run: Run, findings: Findings) -> list[tuple[str, str, int]]:
    """The pairs (class, taken for) with the most images."""
    counts = findings.confusion.copy()
    np.fill_diagonal(counts, 0)
    names = run.prompt.class_names
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSED].tolist()
    pairs = [divmod(place, len(names)) for place in order]
    return [(names[row], names[column], int(counts[row, column])) for row, column in pairs if counts[row, column]]


def _changed(findings: Findings) -> list[dict[str, Any]]:
    groups = (("More probable now", findings.gained), ("Less probable now", findings.lost))
    return [{"title": title, "images": [_shown(image) for image in images]} for title, images in groups if images]


def _shown(image: ChangedImage) -> dict[str, Any]:
    picture = open_image(image.path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=80)
    data = base64.b64encode(out.getvalue()).decode()
    return {**asdict(image), "name": image.path.name, "source": f"data:image/jpeg;base64,{data}"}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
