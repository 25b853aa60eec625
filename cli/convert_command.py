"""`sharpzo-mlx convert [SOURCE]`: make a model folder from a CLIP checkpoint.

Says what was written and the next command to type, or prints one object with `--json`. Without a SOURCE
it makes the default model, in the place where the other commands find it without being told.

>>> sharpzo-mlx convert openai/clip-vit-base-patch16 --output m  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import default_model_folder

if TYPE_CHECKING:
    from sharpzo_mlx.convert import ConvertReport

DTYPES = ("float32", "float16", "bfloat16")


@click.command("convert")
@click.argument("source", required=False)
@click.option("--list", "listing", is_flag=True, help="Names known to work.")
@click.option("--output", type=PATH, help="Folder to make (default: <source>-mlx here).")
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the weights (default: the checkpoint's own).")
@click.option(
    "--quantize", type=click.Choice(("8", "4")), help="Bits of the text layers' matrices (default: not at all)."
)
@click.option("--group-size", type=click.Choice(("32", "64", "128")), help="Neighbours that share a factor [64].")
@click.option("--quantize-vision", is_flag=True, help="Quantize the image layers too.")
@click.option("--force", is_flag=True, help="Replace an output that is a model folder of sharpzo-mlx.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def convert_command(
    source: str | None,
    output: Path | None,
    *,
    listing: bool,
    dtype: str | None,
    quantize: str | None,
    group_size: str | None,
    quantize_vision: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a model folder from the CLIP checkpoint SOURCE.

    SOURCE is a folder in Hugging Face's, open_clip's or MLX's layout, a weights file in one, an archive of OpenAI's
    (ViT-B-16.pt), a name on the hub, or a short name (ViT-B/16, RN50); without it, openai/clip-vit-base-patch16 is
    made the default model.
    """
    if listing:
        _print_list(as_json)
        return
    from sharpzo_mlx.convert import Quantisation, convert

    if quantize is None and (group_size or quantize_vision):
        raise UserError("--group-size and --quantize-vision need --quantize 8 or 4")
    quantise = Quantisation(int(quantize), int(group_size or 64), quantize_vision) if quantize else None
    bars = sys.stderr.isatty() and not as_json
    report = convert(source, output, dtype=dtype, quantise=quantise, force=force, progress=bars)
    if as_json:
        wording.echo_json(as_record(report))
    else:
        click.echo(summary(report))


def _print_list(as_json: bool) -> None:
    from sharpzo_mlx.convert import KNOWN

    if as_json:
        wording.echo_json({"models": [dataclasses.asdict(known) for known in KNOWN]})
        return
    rows = [("name", "short", "files", "parameters")]
    for known in KNOWN:
        size = f"{known.parameters / 1e6:.1f} M" if known.parameters else "-"
        rows.append((known.name, known.alias or "-", known.form, size))
    click.echo(wording.aligned(rows))


def as_record(report: ConvertReport) -> dict[str, Any]:
    """What was made, for a script; sizes in bytes."""
    return dataclasses.asdict(report) | {"folder": str(report.folder)}


def summary(report: ConvertReport) -> str:
    """What was made, and what to type next."""
    default = report.folder == default_model_folder()
    model = "" if default else f" --model {shlex.quote(str(report.folder))}"
    lines = [
        f"{report.source} -> {report.folder}" + (" (the default model)" if default else ""),
        f"{report.parameters / 1e6:.1f} million parameters, {report.dtype}, {report.bits_per_weight:.1f} bits a "
        f"weight, {wording.amount(report.bytes_after)} (checkpoint: {wording.amount(report.bytes_before)})",
    ]
    for kind, cosines in (("text", report.text_cosines), ("image", report.image_cosines)):
        if cosines:
            lines.append(
                f"{kind} features against those before quantising: cosine {cosines.mean:.5f}, "
                f"lowest {cosines.lowest:.5f}"
            )
    return "\n".join([*lines, f"next: sharpzo-mlx tune DATASET{model}"])
