"""`sharpzo-mlx export RUN --to FORMAT`: writes the tuned classifier for other programs.

>>> sharpzo-mlx export runs/pets-clip-0 --to onnx --output pets.onnx  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.exporting.options import DTYPES, FORMATS, PIXELS

if TYPE_CHECKING:
    from sharpzo_mlx.exporting.formats import ExportReport

NEXT = {
    "onnx": "next: run it with onnxruntime; page Export of the documentation has a script",
    "coreml": "next: drag it into Xcode; page Export of the documentation has Swift for it",
    "bundle": "next: page Export of the documentation has Swift and JavaScript that use it",
    "web": "next: python -m http.server --directory {path}, then open http://localhost:8000",
}


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.option("--to", required=True, type=click.Choice(FORMATS), help="Format.")
@click.option("--output", type=PATH, help="File or folder to make  [the run's name in the current folder]")
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--head-only", is_flag=True, help="Leave the image tower out: take image features.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(DTYPES), help="Stored weights.")
@click.option(
    "--input", "pixels", default="uint8", show_default=True, type=click.Choice(PIXELS), help="Bytes or floats 0..1."
)
@click.option("--reject", type=float, metavar="RATE", help="Share of the labelled kind that may be turned away  [0.05]")
@click.option("--runtime", type=PATH, help="Of --to web: folder or npm archive of onnxruntime-web  [fetched by npm]")
@click.option("--accept-licence", is_flag=True, help="You have read the model's licence and keep to it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def export_command(
    run_folder: Path, *, to: str, output: Path | None, model: Path | None, as_json: bool, **given: Any
) -> None:
    """Write the classifier of the run RUN, a folder or the name OWNER/NAME of a run on the hub, for other programs.

    onnx: one graph from pictures to labels, probabilities and "none of them". coreml: the same as a package for apps
    on Apple's systems. bundle: two plain files for image features that you have already. web: a page that classifies
    images in the browser, without a network.
    """
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.exporting.formats import export
    from sharpzo_mlx.exporting.options import ExportOptions

    clip = None if model is None else handle.load(model)
    report = export(run_folder, to, output, options=ExportOptions(**given), clip=clip)
    if as_json:
        wording.echo_json(as_record(report))
    else:
        for line in (*describe(report), NEXT[to].format(path=shlex.quote(str(report.path)))):
            click.echo(wording.escape(line))


def as_record(report: ExportReport) -> dict[str, Any]:
    """Return the report as plain values."""
    checked = report.checked and {"images": report.checked.images, "difference": report.checked.difference}
    files = [{"name": name, "bytes": size} for name, size in report.files]
    licence = {"licence": report.licence, "classes": report.classes}
    return {"path": str(report.path), "files": files, **licence, "checked": checked}


def describe(report: ExportReport) -> list[str]:
    """Return lines that say what was written, under which licence, and how its answers differ from this program's."""
    checked, total = report.checked, wording.amount(sum(size for _, size in report.files))
    count = "" if len(report.files) == 1 else f"{len(report.files)} files, "
    lines = [f"{report.path}: {count}{total}, {report.classes} classes"]
    lines.append(f"licence of the model: {report.licence or 'not named'}")
    if checked is not None:
        lines.append(f"checked on {checked.images} images: probabilities differ by {checked.difference:.1e} at most")
    return lines
