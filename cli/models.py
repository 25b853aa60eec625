"""`sharpzo-mlx models`: list the models that are known by name and those that are here; remove one of these.

>>> sharpzo-mlx models remove siglip2-base --yes  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import models_folder

if TYPE_CHECKING:
    from sharpzo_mlx.clip.catalog import Known
    from sharpzo_mlx.convert.stored import Stored

UNNAMED = "see its card"
NAME_WIDTH = 42  # columns of a name, so that the table fits 80; the folder below has all of it


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_context
def models_command(ctx: click.Context, *, as_json: bool) -> None:
    """List the models that are known by name, and those that are here.

    A model is fetched and converted once with `sharpzo-mlx convert NAME`, and found from then on by
    `--model NAME` from any folder. Files and folders convert as well; they are not listed.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json lists models; leave it out")
        return
    from sharpzo_mlx.clip.catalog import KNOWN
    from sharpzo_mlx.convert.stored import stored_models

    stored = stored_models()
    if as_json:
        wording.echo_json({"folder": str(models_folder()), "models": make_records(KNOWN, stored)})
    else:
        click.echo(format_models(stored))


@models_command.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_command(name: str, *, yes: bool) -> None:
    """Remove the converted model NAME from the cache; what the hub's own cache keeps stays."""
    from sharpzo_mlx.convert.stored import find_stored, remove_stored

    model = find_stored(name)
    what = wording.escape(f"{model.name} ({wording.amount(model.bytes)}, {model.folder})")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{model.name}: not removed, for nobody can be asked here; add --yes")
        click.confirm(f"Remove {what}?", abort=True)
    remove_stored(model)
    click.echo(f"removed {what}")


def make_records(known: tuple[Known, ...], stored: list[Stored]) -> list[dict[str, Any]]:
    """Return a record for every known model and every other one that is here; sizes are in bytes."""
    here = {model.name: model for model in stored}
    records = [_make_record(one.name, one, here.get(one.name)) for one in known]
    names = {one.name for one in known}
    return records + [_make_record(model.name, None, model) for model in stored if model.name not in names]


def _make_record(name: str, known: Known | None, model: Stored | None) -> dict[str, Any]:
    return {
        "name": name,
        "alias": known.alias if known else "",
        "form": known.form if known else None,
        "parameters": known.parameters if known else None,
        "download_bytes": known.bytes if known else None,
        "licence": (model.licence if model else known.licence if known else "") or None,
        "here": model is not None,
        "folder": str(model.folder) if model else None,
        "bytes": model.bytes if model else None,
    }


def format_models(stored: list[Stored]) -> str:
    """Return as text what is here, and what is known, a table for each family."""
    from sharpzo_mlx.clip.catalog import FAMILIES

    lines = [wording.escape(f"here, in {models_folder()}:") + ("" if stored else " none yet")]
    if stored:
        heading, *rows = wording.aligned_whole([("name", "size", "licence"), *map(_make_row_here, stored)]).splitlines()
        lines.append(f"  {heading}")
        for row, model in zip(rows, stored, strict=True):
            lines += [f"  {row}", f"    {wording.escape(model.folder.name)}/"]
    here = {model.name for model in stored}
    for family, known in FAMILIES.items():
        table = wording.aligned([("name", "repository", "size", "licence"), *(_make_row(one, here) for one in known)])
        lines += ["", f"{family}:", table]
    return "\n".join([*lines, "", "next: sharpzo-mlx convert NAME, then sharpzo-mlx tune DATASET --model NAME"])


def _make_row_here(model: Stored) -> tuple[str, ...]:
    licence = wording.shorten(model.licence or UNNAMED, 20)
    return wording.shorten(model.name, NAME_WIDTH), wording.amount(model.bytes), licence


def _make_row(one: Known, here: set[str]) -> tuple[str, ...]:
    size = "here" if one.name in here else wording.amount(one.bytes) if one.bytes else "-"
    return one.alias or "-", one.name, size, one.licence or UNNAMED
