"""`sharpzo-mlx completion zsh|bash|fish`: prints the lines that let the shell complete commands and options.

>>> eval "$(sharpzo-mlx completion zsh)"  # doctest: +SKIP
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sharpzo_mlx.errors import UserError

PROGRAM, VARIABLE = "sharpzo-mlx", "_SHARPZO_MLX_COMPLETE"  # click reads the variable
SHELLS = ("zsh", "bash", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion of commands and options for SHELL.

    \b
    zsh:   eval "$(sharpzo-mlx completion zsh)"      in ~/.zshrc, after compinit
    bash:  eval "$(sharpzo-mlx completion bash)"     in ~/.bashrc, bash 4.4 or newer
    fish:  sharpzo-mlx completion fish | source      in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"completion {shell}: this version of click does not know it; pip install --upgrade click")
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
