"""`sharpzo-mlx serve RUN`: a page on which images are dropped and labelled, and an HTTP API, until Ctrl-C.

>>> sharpzo-mlx serve runs/pets-clip-0 --open  # doctest: +SKIP
"""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH

HOST_HELP = "Address to listen on; 0.0.0.0 lets other machines in, with a token."
ALLOW_HELP = "A further name by which the server may be called, such as photos.example.org. Repeatable."


@click.command("serve")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help=HOST_HELP)
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True, help=ALLOW_HELP)
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
def serve_command(
    run_folder: Path, *, port: int, host: str, hosts: tuple[str, ...], model: Path | None, opens: bool
) -> None:
    """Label images with the run RUN, a folder or the name OWNER/NAME of a run on the hub, on a page and over HTTP.

    Ctrl-C ends it.

    It needs: pip install "sharpzo-mlx[serve]"
    """
    from sharpzo_mlx.serving import check_extra

    check_extra()
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.serving.server import serve

    def show(address: str) -> None:
        click.echo(f"serving {wording.escape(str(run_folder))}; Ctrl-C ends it\n{wording.escape(address)}")
        if opens:
            # a browser in the terminal does not return before it has read the page
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    clip = None if model is None else handle.load(model)
    serve(run_folder, port=port, host=host, clip=clip, hosts=hosts, ready=show)
