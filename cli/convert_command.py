"""`sharpzo-mlx convert [SOURCE]`: make a model folder from a CLIP checkpoint.

Says what was written and the next command to type, or prints one object with `--json`. Without a SOURCE
it makes the default model, in the place where the other commands find it without being told.

>>> sharpzo-mlx convert openai/clip-vit-base-patch16 --output m  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.files import default_model_folder

if TYPE_CHECKING:
    from sharpzo_mlx.convert import ConvertReport

DTYPES = ("float32", "float16", "bfloat16")


@click.command("convert")
@click.argument("source", required=False)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make (default: <source>-mlx here).")
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the weights (default: the checkpoint's own).")
@click.option("--force", is_flag=True, help="Replace an output that is a model folder of sharpzo-mlx.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def convert_command(source: str | None, output: Path | None, *, dtype: str | None, force: bool, as_json: bool) -> None:
    """Make a model folder from the CLIP checkpoint SOURCE.

    SOURCE is a folder in Hugging Face's layout, a weights file in one, or a name on the hub; without it,
    openai/clip-vit-base-patch16 is made the default model.
    """
    from sharpzo_mlx.convert import convert

    bars = sys.stderr.isatty() and not as_json
    report = convert(source, output, dtype=dtype, force=force, progress=bars)
    if as_json:
        wording.echo_json(as_record(report))
    else:
        click.echo(summary(report))


def as_record(report: ConvertReport) -> dict[str, Any]:
    """What was made, for a script; sizes in bytes."""
    return {
        "folder": str(report.folder),
        "source": report.source,
        "parameters": report.parameters,
        "dtype": report.dtype,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
    }


def summary(report: ConvertReport) -> str:
    """What was made, and what to type next."""
    default = report.folder == default_model_folder()
    model = "" if default else f" --model {shlex.quote(str(report.folder))}"
    return "\n".join(
        [
            f"{report.source} -> {report.folder}" + (" (the default model)" if default else ""),
            f"{report.parameters / 1e6:.1f} million parameters, {report.dtype}, "
            f"{wording.amount(report.bytes_after)} (checkpoint: {wording.amount(report.bytes_before)})",
            f"next: sharpzo-mlx tune DATASET{model}",
        ]
    )
