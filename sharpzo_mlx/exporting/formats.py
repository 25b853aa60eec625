"""Export a run's classifier in one of the formats.

    onnx      one ONNX file: pictures to labels, probabilities and "none of them"
    coreml    a Core ML package for apps: the same
    bundle    two plain files for those who have the image features: classifier.json, classifier.safetensors
    web       a folder with a page that classifies images in the browser, without a network

>>> export("runs/photo-m-0", "onnx", "photo.onnx").checked  # doctest: +SKIP
Checked(images=8, difference=1.7e-06)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.exporting import coreml_machine, licence, output, web_runtime
from sharpzo_mlx.exporting.bundle import write_bundle
from sharpzo_mlx.exporting.classifier import ClassifierRecord, describe_run
from sharpzo_mlx.exporting.options import ExportOptions
from sharpzo_mlx.exporting.tower import read_tower
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.hub.runs import load_run
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime import extras

if TYPE_CHECKING:
    from sharpzo_mlx.exporting.sample import Checked

ENDS = {"onnx": ".onnx", "coreml": ".mlpackage"}  # of the names that files get by themselves


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file or folder.
        files: names and bytes of the files; those of a folder by their places in it.
        classes: how many classes it tells apart.
        licence: the model's licence, which the files carry; None where it names none.
        checked: how its answers differ from this program's; None where that was not measured.
    """

    path: Path
    files: tuple[tuple[str, int], ...]
    classes: int
    licence: str | None
    checked: Checked | None


@dataclass(frozen=True)
class _Work:
    """A run that is exported, and how."""

    run: Run
    clip: Clip
    record: ClassifierRecord
    options: ExportOptions


def export(
    run: Run | str | Path,
    to: str,
    path: str | Path | None = None,
    *,
    options: ExportOptions | None = None,
    clip: Clip | None = None,
) -> ExportReport:
    """Write a run's classifier for other programs.

    Args:
        run: the run, its folder, or its name on the hub.
        to: "onnx", "coreml", "bundle" or "web".
        path: the file (onnx), package (coreml) or folder to make; None for the run's name in the current folder.
        options: what is exported and how; None for the defaults.
        clip: the checkpoint; None loads the one that the run names.

    Returns:
        What was written. An ONNX graph is compared with this program on a few images first, if onnxruntime is here,
        and a Core ML package on a Mac.

    Raises:
        UserError: the run or its model cannot be read, the model's licence forbids it or was not accepted, the format
            is unknown or lacks what is asked, a package is missing, or something is at the path.
    """
    refuse_empty(*(() if path is None else (path,)))
    options = options or ExportOptions()
    options.check(to)
    run = run if isinstance(run, Run) else load_run(run)
    place = output.resolve(path if path is not None else _default_path(run, to), folder=to != "onnx")
    clip = open_model(run, clip)
    record = describe_run(run, clip, options.reject)
    licence.check(record.model.licence, accepted=options.accept_licence, source=record.model.name)
    checked = _WRITERS[to](_Work(run, clip, record, options), place)
    parts = [place, place.with_name(f"{place.name}.data")] if place.is_file() else sorted(place.rglob("*"))
    return ExportReport(place, _measure(place, parts), len(record.names), record.model.licence, checked)


def _default_path(run: Run, to: str) -> Path:
    name = run.title.rpartition("/")[2]
    return Path(f"{name}{ENDS[to]}" if to in ENDS else f"{name}-{to}")


def _measure(place: Path, parts: list[Path]) -> tuple[tuple[str, int], ...]:
    root = place.parent if place.is_file() else place
    return tuple((str(one.relative_to(root)), one.stat().st_size) for one in parts if one.is_file())


def _export_bundle(work: _Work, place: Path) -> None:
    with output.make_folder(place) as folder:
        write_bundle(folder, work.record)


def _export_onnx(work: _Work, place: Path) -> Checked | None:
    _need("onnx", "onnx")
    with output.make_file(place) as path:
        return _write_graph(work, path)


def _export_web(work: _Work, place: Path) -> Checked | None:
    from sharpzo_mlx.exporting import web

    _need("onnx", "web")
    web.check(work.record)
    runtime = web_runtime.find(work.options.runtime)
    with output.make_folder(place) as folder:
        checked = _write_graph(work, folder / web.GRAPH)
        web.write_page(folder, work.record, runtime)
        return checked


def _write_graph(work: _Work, path: Path) -> Checked | None:
    """Write the graph, and compare it with this program if onnxruntime is here."""
    from sharpzo_mlx.exporting.onnx_check import check_onnx
    from sharpzo_mlx.exporting.onnx_model import OnnxForm, write_onnx

    form = OnnxForm(half=work.options.dtype == "float16", floats=work.options.pixels == "float")
    write_onnx(path, work.record, None if work.options.head_only else read_tower(work.clip), form)
    if not extras.has("onnxruntime"):
        notify(f"not compared with this program: that needs onnxruntime, {extras.install('onnx')}")
        return None
    return check_onnx(path, work.run, work.clip, work.record, form)


def _export_coreml(work: _Work, place: Path) -> Checked | None:
    if place.suffix != ENDS["coreml"]:
        raise UserError(f"{place}: the name of a Core ML package ends in .mlpackage; choose {place.name}.mlpackage")
    _need("coremltools", "coreml")
    from sharpzo_mlx.exporting.coreml_check import check_coreml
    from sharpzo_mlx.exporting.coreml_model import write_coreml

    half = work.options.dtype == "float16"
    with output.make_file(place) as path:
        write_coreml(path, work.record, None if work.options.head_only else read_tower(work.clip), half=half)
        if (reason := coreml_machine.why_not_here()) is not None:
            notify(f"not compared with this program: {reason}")
            return None
        return check_coreml(path, work.run, work.clip, work.record, half=half)


def _need(package: str, to: str) -> None:
    if not extras.has(package):
        extra = "coreml" if to == "coreml" else "onnx"
        where = " (on Macs and x86-64 Linux, up to Python 3.13)" if to == "coreml" else ""
        raise UserError(f"--to {to}: needs the package {package}; {extras.install(extra)}{where}")


_WRITERS: dict[str, Callable[[_Work, Path], Checked | None]] = {
    "onnx": _export_onnx,
    "coreml": _export_coreml,
    "bundle": _export_bundle,
    "web": _export_web,
}
