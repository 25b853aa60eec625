"""The options of `tune`, made from the fields of TuneConfig: names, help, choices and defaults live there
alone.

A field `learning_rate` is `--learning-rate` under the heading of its group. Options that were not given stay
unset, so that a preset's value is not overruled by a default; limits are checked by TuneConfig itself.

>>> from sharpzo_mlx.config import TuneConfig
>>> [option.name for option in config_options(TuneConfig)][:2]
['shots', 'seed']
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.units import parse_bytes, parse_seconds


class GivenPath(click.Path):
    """A path that is not empty: an empty one would be the current folder, and mostly is a variable that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a UserError that names the argument or option where it is empty."""
        if value == "":
            option = param.opts[0] if isinstance(param, click.Option) else None
            name = option or (param.human_readable_name.rstrip(".") if param else "path")
            raise UserError(f"{name} is empty: name a path, or . for the current folder")
        return super().convert(value, param, ctx)


PATH = GivenPath(path_type=Path)


def at_most_one(**flags: bool) -> str | None:
    """The flag that was given, by its name without hyphens; None where none was.

    Raises:
        UserError: two were, which contradict each other.
    """
    given = [name for name, on in flags.items() if on]
    if len(given) > 1:
        shown = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"{shown} contradict each other; give one of them")
    return given[0] if given else None


class GroupedOption(click.Option):
    """An option that knows the heading it stands under in the help."""

    def __init__(self, *declarations: Any, heading: str = "Options", **details: Any) -> None:
        super().__init__(*declarations, **details)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose help lists its options under their headings, the plain ones last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a heading, in the order of the first option of each."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def config_options(config_class: type[Any]) -> list[GroupedOption]:
    """One option for each field of a configuration dataclass, unset unless given."""
    return [_option(item) for item in dataclasses.fields(config_class)]


def _option(item: dataclasses.Field[Any]) -> GroupedOption:
    default = "" if item.default is None else f"  [{item.default}]"
    return GroupedOption(
        ["--" + item.name.replace("_", "-"), item.name],
        default=None,
        type=_type(item),
        help=item.metadata["help"] + default,
        heading=item.metadata["group"],
        metavar=None if item.metadata["choices"] else _metavar(item),
    )


def _metavar(item: dataclasses.Field[Any]) -> str:
    unit = item.metadata["unit"]
    return {"bytes": "SIZE", "seconds": "TIME"}.get(unit) or {"int": "N", "float": "X"}.get(_plain(item), "TEXT")


def _type(item: dataclasses.Field[Any]) -> Any:  # click takes a ParamType or a function of the text
    if choices := item.metadata["choices"]:
        return click.Choice(choices)
    if unit := item.metadata["unit"]:
        return {"bytes": parse_bytes, "seconds": parse_seconds}[unit]
    return {"int": int, "float": float, "str": str}[_plain(item)]


def _plain(item: dataclasses.Field[Any]) -> str:
    return str(item.type).replace("| None", "").strip()
