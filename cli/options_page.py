"""Write the reference page of all settings from their declarations: `python -m sharpzo_mlx.cli.options_page`.

>>> page().splitlines()[0]
'# Settings'
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sharpzo_mlx.config import GROUPS, OPTIMISER, group_type, names
from sharpzo_mlx.optimisers.params import STAGE2
from sharpzo_mlx.options import NONE, Limits, Option
from sharpzo_mlx.presets import PAPER

BAR = "\\|"  # within a table
HEADER = """# Settings

This page is made from the code: `python -m sharpzo_mlx.cli.options_page > docs/reference/options.md`.

`sharpzo-mlx tune --list-settings` shows the same names in a terminal.

What most people choose is an option of `sharpzo-mlx tune` and a field of `TuneConfig`. Every other setting has a name
with its group in front and is reached in three ways:

    sharpzo-mlx tune photos/ --set stage2.draws=48 --set sharpness.rho=0     # one by one
    sharpzo-mlx tune photos/ --config settings.toml                          # from a TOML file
    sz.TuneConfig(shots=16).with_settings({"stage2.draws": 48})              # in Python

Every run writes all of its settings to `config.toml` in its folder, so that `--config RUN/config.toml` repeats it.
`none` stands for a missing value. A preset (`--preset NAME`) changes many settings at once; `--set` and the options of
the command line change it further. The presets are `default`, `paper`, and `paper:` followed by one of
PAPER.

[The study of the defaults](../results/defaults.md) shows what each setting changes, and that most change little.
"""


def page() -> str:
    """Return the page as Markdown."""
    paper = ", ".join(f"`{name}`" for name in PAPER)
    parts = [
        HEADER.replace("PAPER", paper),
        "## Options of `tune`",
        _table((n, one) for n, one in names() if "." not in n),
    ]
    for group in GROUPS:
        if group == "stage2":
            parts += _stage2()
        else:
            own = ((name, one) for name, one in names() if name.startswith(f"{group}."))
            parts += [f"## `{group}`", _summary(group_type(group)), _table(own)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def list_settings() -> str:
    """Return all settings as plain text: name, default and meaning, a line each."""
    rows = [(name, one) for name, one in names() if "." in name]
    own = [
        (f"{name} ({optimiser})", one)
        for optimiser in STAGE2
        for name, one in names(optimiser)
        if name[:7] == "stage2."
    ]
    rows = [row for row in rows if not row[0].startswith("stage2.")] + own
    width = max(len(name) for name, _ in rows)
    lines = [f"{OPTIMISER:<{width}}  {' | '.join(STAGE2)}"]
    for name, one in rows:
        default = NONE if one.default is None else one.default
        words = f" ({', '.join(one.choices)})" if one.choices else ""
        lines.append(f"{name:<{width}}  {default!s:<14}  {one.limits.help}{words}")
    return "\n".join(lines)


def _stage2() -> Iterator[str]:
    yield "## `stage2`"
    choices = ", ".join(f"`{name}`" for name in STAGE2)
    yield f"`{OPTIMISER}` chooses the optimiser of stage 2, and with it the settings of this group: {choices}."
    for optimiser, owner in STAGE2.items():
        yield f"### `{OPTIMISER}={optimiser}`"
        yield _summary(owner)
        yield _table((name, one) for name, one in names(optimiser) if name.startswith("stage2."))


def _summary(owner: type) -> str:
    return (owner.__doc__ or "").strip().splitlines()[0]


def _table(rows: Iterator[tuple[str, Option]]) -> str:
    lines = ["| name | value | default | meaning |", "|---|---|---|---|"]
    for name, one in rows:
        shown = f"`{name}`" if "." in name else f"`--{one.flag}`"
        default = (
            "-" if one.default is None and "." not in name else f"`{NONE if one.default is None else one.default}`"
        )
        lines.append(
            f"| {shown} | {_values(one, named='.' in name)} | {default} | {one.limits.help.replace('|', BAR)} |"
        )
    return "\n".join(lines)


def _values(one: Option, *, named: bool) -> str:
    if one.choices:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    kind = {int: "whole number", float: "number", str: "text"}[one.kind]
    kind = {"bytes": "size (512MB)", "seconds": "time (5m)"}.get(one.limits.unit or "", kind)
    words = [kind, *_bounds(one.limits)] + ([f"or `{NONE}`"] if one.optional and named else [])
    return ", ".join(words)


def _bounds(limits: Limits) -> Iterator[str]:
    bounds = (
        ("at least", limits.minimum),
        ("above", limits.above),
        ("at most", limits.maximum),
        ("below", limits.below),
    )
    return (f"{words} {bound:g}" for words, bound in bounds if bound is not None)


if __name__ == "__main__":
    sys.stdout.write(page())
