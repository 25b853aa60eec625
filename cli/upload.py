"""`sharpzo-mlx upload RUN|MODEL --to OWNER/NAME`: shows what would be sent to the Hugging Face hub, asks, and sends it.

>>> sharpzo-mlx upload runs/pets-clip-0 --to ann/pets --dry-run  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.sharing.parcel import Parcel

LEFT_HERE = {
    "run": "images, their names and places, log, page, and evaluations",
    "model": "other files of the folder, and its own card",
}
SHOWN = 12  # classes that the plan names


@click.command("upload")
@click.argument("source", metavar="RUN|MODEL", type=PATH)
@click.option("--to", "repository", required=True, metavar="OWNER/NAME", help="Repository on the hub.")
@click.option("--public", is_flag=True, help="Let everybody see it; a new repository is private otherwise.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, with the card, and send nothing.")
@click.option("--output", type=PATH, help="Write what would be sent into this folder, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--model", type=PATH, help="Model folder of a run, if it has moved since tuning.")
@click.option("--base", metavar="OWNER/NAME", help="Name of the model on the hub, where its card lacks it.")
@click.option("--licence", metavar="NAME", help="Licence of the weights, such as mit, where their card lacks it.")
@click.option("--licence-file", type=PATH, help="The licence's text, which is sent along.")
def upload_command(
    source: Path,
    *,
    repository: str,
    public: bool,
    dry_run: bool,
    output: Path | None,
    yes: bool,
    model: Path | None,
    base: str | None,
    licence: str | None,
    licence_file: Path | None,
) -> None:
    """Send a run or a model folder to the Hugging Face hub.

    A run is sent without images and without their names, a model as it lies in its folder. Others use them by name:
    `sharpzo-mlx predict OWNER/NAME image.jpg`, or `sharpzo-mlx convert OWNER/NAME` for a model.
    """
    from sharpzo_mlx.sharing.packing import Told, pack

    parcel = pack(source, repository, model=model, told=Told(base, licence, licence_file))
    click.echo(describe(source, parcel, public=public))
    if dry_run or output is not None:
        if output is not None:
            parcel.write(output)
        click.echo(wording.escape(f"written to {output}") if output else "\n" + _indent(parcel.card))
        click.echo("nothing was sent")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{repository}: not sent, for nobody can be asked here; add --yes")
        click.confirm("Send this?", abort=True)
    from sharpzo_mlx.sharing.sending import send

    click.echo(wording.escape(send(parcel, public=public, progress=sys.stderr.isatty())))


def describe(source: Path, parcel: Parcel, *, public: bool) -> str:
    """Return in words what is sent, where, and what is not."""
    rows = [("file", "size"), *((item.name, wording.amount(item.bytes)) for item in parcel.items)]
    lines = [
        wording.escape(f"{source} -> {parcel.repository} ({'public' if public else 'private'}), a {parcel.kind}"),
        wording.aligned([*rows, ("together", wording.amount(parcel.bytes))]),
        f"base model: {parcel.base or 'not known; --base names it'}",
        f"licence: {parcel.licence or 'not known; --licence names it'}",
    ]
    if parcel.class_names:
        more = f", and {len(parcel.class_names) - SHOWN} more" if len(parcel.class_names) > SHOWN else ""
        names = ", ".join(wording.escape(name) for name in parcel.class_names[:SHOWN])
        lines.append(f"classes, by name: {names}{more}")
    return "\n".join([*lines, f"not sent: {LEFT_HERE[parcel.kind]}"])


def _indent(card: str) -> str:
    return "".join(f"    {wording.escape(line)}".rstrip() + "\n" for line in card.splitlines())
