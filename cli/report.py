"""`sharpzo-mlx report RUN`: writes one self-contained HTML page about a run; with `--png` its plots as PNG as well.

>>> sharpzo-mlx report runs/pets-clip-0 --png  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH


@click.command("report")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.option("--output", type=PATH, help="The page, or a folder for it  [RUN/report.html]")
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--png", is_flag=True, help="Also write the plots as PNG files.")
@click.option("--landscape/--no-landscape", default=True, help="Compute the loss around the result, some 150 queries.")
def report_command(run_folder: Path, *, output: Path | None, model: Path | None, png: bool, landscape: bool) -> None:
    """Write one HTML page about the run RUN: accuracy, curves, classes, images, shift and cost.

    The page shows the folders that `evaluate` has measured for this run; write it again after evaluating.
    """
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.report import page

    clip = None if model is None else handle.load(model)
    written = page.write_report(run_folder, clip=clip, output=output, png=png, landscape=landscape)
    click.echo(wording.escape(str(written)))
