"""The plots of a run, drawn with matplotlib: as SVG for the page, as PNG for a paper.

Lines and letters of the SVG take the colour of the text around them, so one drawing suits a light and a dark page.

>>> plots = draw_all(run, read_steps(run.folder), analysis)  # doctest: +SKIP
>>> as_svg(plots["curves"])[:4]  # doctest: +SKIP
'<svg'
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpzo_mlx.errors import notify
from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.report.analysis import RunAnalysis
from sharpzo_mlx.report.landscape import Landscape
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.step_log import StepRecord

INK = "#010203"  # in SVG it becomes the colour of the text around
BEFORE, AFTER = "#8a8f98", "#2f7ed8"
MOST_CLASSES = 30  # in a confusion matrix and a chart of classes
LONGEST_LABEL = 36  # characters of a class name on an axis
STYLE: Any = {  # matplotlib types its keys one by one
    "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "sharpzo-mlx", "axes.spines.top": False,
    "text.parse_math": False,  # class names are no formulas
    "axes.spines.right": False, "font.family": "sans-serif", "axes.grid": True, "grid.alpha": 0.2,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": INK for part in ("label", "edge")},
}  # fmt: skip


# families with the letters that matplotlib's own font lacks, of macOS and of Linux; asked in this order
FONTS = (
    *(
        "Hiragino Sans",
        "PingFang SC",
        "PingFang TC",
        "Apple SD Gothic Neo",
        "Arial Unicode MS",
        "Thonburi",
        "Kohinoor Devanagari",
    ),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAexGothic", "NanumGothic"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew", "Noto Sans Arabic", "Unifont"),
)


def choose_fonts() -> list[str]:
    """Return the font families for a PNG: matplotlib's own, and those of `FONTS` that this machine has."""
    here = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FONTS if name in here)]


def draw_all(run: Run, steps: Sequence[StepRecord], analysis: RunAnalysis | None) -> dict[str, Figure]:
    """Draw every plot that there are data for.

    Args:
        run: the run.
        steps: its steps so far; may be empty.
        analysis: its images and classes; None if they could not be read.

    Returns:
        Figures by name, some of "curves", "curves-seconds", "confusion", "classes" and "landscape".
    """
    drawers: dict[str, Callable[[], Figure]] = {}
    if steps:
        drawers |= {"curves": lambda: _curves(steps, "queries"), "curves-seconds": lambda: _curves(steps, "seconds")}
    if analysis is not None:
        if analysis.images and len(run.prompt.class_names) <= MOST_CLASSES:
            drawers["confusion"] = lambda: _confusion(analysis.confusion, run.prompt.class_names)
        if analysis.images:
            drawers["classes"] = lambda: _classes(analysis, run.prompt.class_names)
        if (plane := analysis.landscape) is not None:
            drawers["landscape"] = lambda: _landscape(plane)
    with matplotlib.rc_context(STYLE):
        return {name: draw() for name, draw in drawers.items()}


def as_svg(figure: Figure) -> str:
    """Return one `<svg>` element that scales with its place and takes the colour of the text."""
    data, _ = _render(figure, format="svg", transparent=True, metadata={"Date": None})
    text = data.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="([^"]*)"', r'\1 style="max-width: \2"', text, count=1)
    return text.replace(INK, "currentColor")


def save_png(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write every plot as a PNG of 200 dots an inch; return the files."""
    paths, lacking, families = list[Path](), list[Path](), choose_fonts()
    for name, figure in figures.items():
        with _letters_of(figure, families):
            data, complete = _render(figure, format="png", dpi=200, facecolor="white")
        paths.append(folder / f"{name}.png")
        atomic_write(paths[-1], data)
        if not complete:
            lacking.append(paths[-1])
    if lacking:
        names = ", ".join(path.name for path in lacking)
        notify(f"{lacking[0].parent}: {names}: no font here has some characters of the names; the SVG shows them")
    return paths


@contextmanager
def _letters_of(figure: Figure, families: list[str]) -> Iterator[None]:
    """Let all texts of a figure be written with some font families: the first that has a letter."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    before = [text.get_fontfamily() for text in texts]
    try:
        for text in texts:
            text.set_fontfamily(families)
        yield
    finally:
        for text, own in zip(texts, before, strict=True):
            text.set_fontfamily(own)


def _render(figure: Figure, **options: Any) -> tuple[bytes, bool]:
    """Return a figure as a file's bytes, and whether the font has every character."""
    out = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        figure.savefig(out, **options)
    return out.getvalue(), not any("missing from font" in str(warning.message) for warning in found)


def _curves(steps: Sequence[StepRecord], axis: str) -> Figure:
    """Draw loss, validation accuracy and stage 1's sigma against queries or seconds, and mark the switch to stage 2."""
    heights = (2, 2, 1) if steps[0].stage == 1 else (2, 2)
    figure = Figure(figsize=(7, 1.12 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _line(panels[0], steps, axis, "loss", colour=AFTER)
    panels[0].set_ylabel("training loss")
    _line(panels[1], steps, axis, "val_accuracy", colour=AFTER, scale=100)
    _line(panels[1], steps, axis, "best_val", colour=BEFORE, scale=100)
    panels[1].set_ylabel("validation, %")
    panels[1].legend(["at this step", "kept"], frameon=False, loc="lower right")
    if steps[0].stage == 1:
        _line(panels[2], steps, axis, "sigma", colour=AFTER)
        panels[2].set_ylabel("sigma")
    panels[-1].set_xlabel(axis)
    switch = next((getattr(step, axis) for step in steps if step.stage == 2), None)
    if switch is not None and steps[0].stage == 1:
        for panel in panels:
            panel.axvline(switch, color=INK, linestyle=":", linewidth=1)
        panels[0].annotate("stage 2", (switch, 1), xycoords=("data", "axes fraction"), xytext=(4, -10),
                           textcoords="offset points")  # fmt: skip
    return figure


def _line(axes: Axes, steps: Sequence[StepRecord], axis: str, name: str, *, colour: str, scale: float = 1) -> None:
    """Draw one field of the steps against another, where it is known and finite."""
    values = [(getattr(step, axis), getattr(step, name)) for step in steps]
    known = [(x, scale * y) for x, y in values if y is not None and math.isfinite(y)]
    axes.plot([x for x, _ in known], [y for _, y in known], color=colour, linewidth=1.2)


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the numbers of images by class and prediction, coloured by their share of the class."""
    size = max(4.0, 0.42 * len(names) + 1.6)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    labels = [_shorten(name) for name in names]
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    axes.grid(visible=False)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def _shorten(name: str) -> str:
    """Return a class name for an axis, which would leave no room to the plot if it were long."""
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"


def choose_classes(analysis: RunAnalysis) -> list[int]:
    """Return the classes that the chart shows, in the order of their change.

    These are all classes that have images, or the MOST_CLASSES that changed most.
    """
    change = np.nan_to_num(analysis.after - analysis.before)
    present = np.flatnonzero(~np.isnan(analysis.after)).tolist()
    if len(present) > MOST_CLASSES:
        changed = [k for k in present if change[k]] or present
        present = sorted(changed, key=lambda k: -abs(change[k]))[:MOST_CLASSES]
    return sorted(present, key=lambda k: change[k])


def _classes(analysis: RunAnalysis, names: Sequence[str]) -> Figure:
    """Draw the accuracy on each class before and after tuning."""
    shown = choose_classes(analysis)
    figure = Figure(figsize=(7, 0.28 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(shown))
    before, after = 100 * analysis.before[shown], 100 * analysis.after[shown]
    axes.hlines(places, before, after, color=AFTER, linewidth=2)
    axes.plot(before, places, "o", color=BEFORE, label="zero-shot", markersize=5)
    axes.plot(after, places, "o", color=AFTER, label="tuned", markersize=5)
    axes.set_yticks(places, [_shorten(names[k]) for k in shown])
    axes.set_xlabel("accuracy, %")
    axes.set_xlim(-2, 102)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _landscape(plane: Landscape) -> Figure:
    """Draw the loss on the plane through zero-shot and the result."""
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    drawn = axes.contourf(plane.along, plane.across, plane.losses, levels=16, cmap="viridis")
    figure.colorbar(drawn, ax=axes, label="training loss")
    axes.plot([0], [0], "*", color="white", markersize=12)
    axes.annotate("tuned", (0, 0), xytext=(6, 5), textcoords="offset points", color="white")
    if plane.length:
        axes.plot([-plane.length], [0], "o", color="white", markersize=6)
        axes.annotate("zero-shot", (-plane.length, 0), xytext=(6, 5), textcoords="offset points", color="white")
    axes.set_xlabel("distance from zero-shot towards the result")
    axes.set_ylabel("distance along a random direction")
    axes.grid(visible=False)
    return figure
