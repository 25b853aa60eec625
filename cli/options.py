"""Options of the command line that are made from the declarations of TuneConfig, and the types they share.

A field `query_budget` is `--query-budget`. An option that is not given stays unset, so that a preset's value is not
replaced by a default; ranges are checked by TuneConfig itself.

>>> @cloup.command()
... @cloup.option_group("Data", *config_options("shots", "seed"))
... def show(**given): ...
>>> [parameter.name for parameter in show.params]
['shots', 'seed']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import click
import cloup

from sharpzo_mlx.config import TuneConfig, read_value
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.options import Option, declared

Decorator: TypeAlias = Callable[[Any], Any]
_METAVARS = {"bytes": "SIZE", "seconds": "TIME"}


class GivenPath(click.Path):
    """A path that is not empty: an empty one would be the current folder, and mostly is a variable that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raise a UserError that names the argument or option if it is empty."""
        if value == "":
            option = param.opts[0] if isinstance(param, click.Option) else None
            name = option or (param.human_readable_name.rstrip(".") if param else "path")
            raise UserError(f"{name} is empty: name a path, or . for the current folder")
        return super().convert(value, param, ctx)


PATH = GivenPath(path_type=Path)


def at_most_one(**flags: object) -> str | None:
    """Return the name of the flag that was given, or None if none was.

    Raises:
        UserError: two were given, which contradict each other.
    """
    given = [name for name, value in flags.items() if value]
    if len(given) > 1:
        shown = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"{shown} contradict each other; give one of them")
    return given[0] if given else None


def config_options(*names: str) -> list[Decorator]:
    """Return decorators that add some fields of TuneConfig to a command as options, unset unless given."""
    known = {one.name: one for one in declared(TuneConfig)}
    return [_option(known[name]) for name in names]


def read_assignments(words: Iterable[str]) -> dict[str, str]:
    """Return the settings of words such as `stage2.draws=48`.

    Raises:
        UserError: a word has no `=` or no name.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {word!r}: write NAME=VALUE, such as stage2.draws=48")
        if name.strip() in found:
            raise UserError(f"--set {name.strip()}: is there twice; keep one")
        found[name.strip()] = value.strip()
    return found


def _option(one: Option) -> Decorator:
    default = "" if one.default is None else f"  [{one.default}]"
    return cloup.option(
        f"--{one.flag}",
        one.name,
        default=None,
        type=click.Choice(one.choices) if one.choices else _reader(one) if one.limits.unit else one.kind,
        help=one.limits.help[0].upper() + one.limits.help[1:] + default,
        metavar=None if one.choices else _METAVARS.get(one.limits.unit or "", _metavar(one.kind)),
    )


def _reader(one: Option) -> Callable[[str], Any]:
    return lambda text: read_value(one, text, one.name)


def _metavar(kind: type) -> str:
    return {int: "N", float: "X"}.get(kind, "TEXT")
