"""Write the reference page of all commands from their declarations: `python -m sharpzo_mlx.cli.commands_page`.

>>> page().splitlines()[0]
'# Commands'
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import click

from sharpzo_mlx.cli.main import COMMANDS, cli

HEADER = """# Commands

This page is made from the code: `python -m sharpzo_mlx.cli.commands_page > docs/reference/commands.md`.

`sharpzo-mlx COMMAND --help` shows the same in a terminal. [Exit codes](environment.md) are the same for all.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEADER]
    context = click.Context(cli, info_name="sharpzo-mlx")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts += _describe(command, click.Context(command, context, name), "##")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _describe(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    yield f"{level} `{context.command_path.removeprefix('sharpzo-mlx ')}`"
    yield f"```text\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```"
    paragraphs = (command.help or "").replace("\b\n", "\b").split("\n\n")
    yield "\n\n".join(_as_markdown(words) for words in paragraphs)
    rows = [row for one in command.get_params(context) if (row := _row(one, context)) is not None]
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _describe(inner, click.Context(inner, context, name), f"{level}#")


def _as_markdown(paragraph: str) -> str:
    if paragraph.startswith("\b"):  # lines that stand as they are
        return "\n".join(f"    {line}" for line in paragraph[1:].splitlines())
    return _escape(" ".join(paragraph.split()))


def _row(one: click.Parameter, context: click.Context) -> str | None:
    record = one.get_help_record(context) if isinstance(one, click.Option) else None
    if record is None or "--help" in one.opts:  # an argument is in the usage
        return None
    name, words = record
    return f"| `{name.replace('|', chr(92) + '|')}` | {_escape(' '.join(words.split()))} |"


def _escape(words: str) -> str:
    """Return words for Markdown: what looks like a tag or a border of a table stands as it is; code stays code."""
    parts = re.split(r"(`[^`]*`)", words)
    plain = [re.sub(r"([<*_\[])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts)]
    return "".join(plain).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
