"""`sharpzo-mlx worker ADDRESS`: lets this machine help commands that were given `--cluster ADDRESS`, until Ctrl-C.

>>> sharpzo-mlx worker mac-a.local:8786 --certificate cluster.pem  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.cluster_options import CERTIFICATE_HELP, INSECURE_HELP
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.units import parse_bytes

if TYPE_CHECKING:
    from sharpzo_mlx.clip.handle import Clip

MODEL_HELP = "A model that this machine has; repeatable.  [the default of `convert`, and the leader's folder if seen]"
LIMIT_HELP = "Memory of the process above which it takes no further work, such as 8GB.  [the machine's]"
MAKE_HELP = "Write a new key with its certificate to this file, and exit."


@click.command("worker")
@click.argument("address", required=False)
@click.option("--model", "models", type=PATH, multiple=True, help=MODEL_HELP)
@click.option("--memory-limit", metavar="SIZE", help=LIMIT_HELP)
@click.option("--certificate", type=PATH, metavar="FILE", help=CERTIFICATE_HELP)
@click.option("--insecure", is_flag=True, help=INSECURE_HELP)
@click.option("--once", is_flag=True, help="End when the first command has ended.")
@click.option("--make-certificate", "new", type=PATH, metavar="FILE", help=MAKE_HELP)
def worker_command(
    address: str | None,
    *,
    models: tuple[Path, ...],
    memory_limit: str | None,
    certificate: Path | None,
    insecure: bool,
    once: bool,
    new: Path | None,
) -> None:
    """Help commands with `--cluster ADDRESS` (HOST:PORT), one after the other, until Ctrl-C.

    It needs: pip install "sharpzo-mlx[cluster]"
    """
    from sharpzo_mlx.cluster import check_extra
    from sharpzo_mlx.cluster.address import read_address

    check_extra()
    if new is not None:
        _make(new)
        return
    if address is None:
        raise UserError("no address: name the one of the command to help, such as mac-a.local:8786")
    where = read_address(address, certificate=certificate, insecure=insecure)
    if where.workers:
        raise UserError(f"{address}: the command with this --cluster starts its workers itself")
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    from sharpzo_mlx.cluster.worker import WorkerSettings, serve

    serve(where, _load(models), WorkerSettings(limit, once=once), say=lambda line: click.echo(wording.escape(line)))


def _make(path: Path) -> None:
    from sharpzo_mlx.cluster.certificates import make_certificate

    make_certificate(path)
    click.echo(wording.escape(f"{path}: copy it to every machine; whoever has it can give work to them"))


def _load(models: tuple[Path, ...]) -> list[Clip]:
    """Return the models that are named, or the default one if it is here."""
    from sharpzo_mlx.clip.handle import load
    from sharpzo_mlx.files import default_model_folder

    named: list[Path | None] = list(models) or ([None] if default_model_folder().is_dir() else [])
    return [load(model) for model in named]
