"""The command `sharpzo-mlx convert [SOURCE]`: make a model folder from a CLIP checkpoint.

It prints what was written and the next command to type, or one JSON object with `--json`. Without a SOURCE it makes the
default model, in the folder where the other commands look for it.

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
from sharpzo_mlx.files import default_model_folder, models_folder

if TYPE_CHECKING:
    from sharpzo_mlx.convert import ConvertReport

DTYPES = ("float32", "float16", "bfloat16")
ACTIVATIONS = ("gelu", "quick_gelu")


@click.command("convert")
@click.argument("source", required=False)
@click.option("--list", "listing", is_flag=True, help="List names that are known to work, and stop.")
@click.option(
    "--output",
    type=PATH,
    help="Folder to make [of a name: its place in the cache; of a file or folder: its own name with -mlx, here].",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the weights [the checkpoint's own].")
@click.option("--arch", metavar="NAME", help="Network of a training checkpoint, as open_clip calls it, or a JSON file.")
@click.option("--activation", type=click.Choice(ACTIVATIONS), help="Activation of a training checkpoint.")
@click.option("--quantize", type=click.Choice(("8", "4")), help="Quantize the text layers' matrices to so many bits.")
@click.option("--group-size", type=click.Choice(("32", "64", "128")), help="Numbers that share one factor [64].")
@click.option("--quantize-vision", is_flag=True, help="Quantize the image layers' matrices too.")
@click.option("--force", is_flag=True, help="Replace the output if it is a model folder of sharpzo-mlx.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def convert_command(
    source: str | None,
    output: Path | None,
    *,
    listing: bool,
    dtype: str | None,
    arch: str | None,
    activation: str | None,
    quantize: str | None,
    group_size: str | None,
    quantize_vision: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a model folder from the CLIP checkpoint SOURCE.

    SOURCE is one of: a folder in Hugging Face's, open_clip's or MLX's layout; a weights file in such a folder; an
    archive of OpenAI's (ViT-B-16.pt); a training checkpoint of open_clip (epoch_32.pt); a name on the Hugging Face hub;
    a short name (siglip2-base, RN50: `sharpzo-mlx models` lists them). Without SOURCE, openai/clip-vit-base-patch16 is
    downloaded and becomes the default model.
    """
    if listing:
        _print_list(as_json)
        return
    from sharpzo_mlx.convert import Quantisation, Told, convert

    if quantize is None and (group_size or quantize_vision):
        raise UserError("--group-size and --quantize-vision need --quantize 8 or 4")
    quantise = Quantisation(int(quantize), int(group_size or 64), quantize_vision) if quantize else None
    bars = sys.stderr.isatty() and not as_json
    told = Told(arch, activation)
    report = convert(source, output, dtype=dtype, quantise=quantise, told=told, force=force, progress=bars)
    if as_json:
        wording.echo_json(as_record(report))
    else:
        click.echo(summary(report))


def _print_list(as_json: bool) -> None:
    from sharpzo_mlx.clip.catalog import KNOWN

    if as_json:
        wording.echo_json({"models": [dataclasses.asdict(known) for known in KNOWN]})
        return
    rows = [("name", "short", "files", "parameters")]
    for known in KNOWN:
        size = f"{known.parameters / 1e6:.1f} M" if known.parameters else "-"
        rows.append((known.name, known.alias or "-", known.form, size))
    click.echo(wording.aligned(rows))


def as_record(report: ConvertReport) -> dict[str, Any]:
    """Return the report as a JSON object; sizes are in bytes."""
    return dataclasses.asdict(report) | {"folder": str(report.folder)}


def summary(report: ConvertReport) -> str:
    """Return the report in words, and the command to type next."""
    default = report.folder == default_model_folder()
    stored = report.folder.parent == models_folder()  # a name is enough
    name = report.source if stored else str(report.folder)
    model = "" if default else f" --model {wording.escape(shlex.quote(name))}"
    lines = [
        wording.escape(f"{report.source} -> {report.folder}") + (" (the default model)" if default else ""),
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
