"""The list of methods by name and group; a method's module is imported when the method is asked for.

Each module of this package has its methods in `METHODS`. This module maps each name to its module, so that the command
line can list the names without loading anything.

>>> chosen_names("pruning, zero-shot")
('zero-shot', 'szo-magnitude', 'szo-gradient', 'szo-random', 'szo-zscore')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.comparison.methods.method import Method

ALL = "all"
REFERENCE = "zero-shot"  # gains are differences from it
HOMES: dict[str, dict[str, str]] = {  # group -> name -> module, in the order of tables
    "reference": {REFERENCE: "searches"},
    "plain": {"bbt": "searches", "zo": "searches"},
    "pruning": dict.fromkeys(("szo-magnitude", "szo-gradient", "szo-random", "szo-zscore"), "searches"),
    "sharpness": {"sam-cma": "searches", "sharpzo": "searches", "sharpzo-sgd": "searches"},
    "paper": {"sharpzo-paper": "searches"},
    "black-box": {"zip": "zip_tuning", "blackvip": "blackvip"},
    "closed-forms": dict.fromkeys(("ncm", "ridge", "gda-alone", "gda", "sharpzo-gda"), "closed_forms"),
    "heads": dict.fromkeys(("head-unguarded", "head", "default"), "guarded_heads"),
    "backpropagation": {"coop": "coop"},
}


def names() -> tuple[str, ...]:
    """Return the names of all methods, in the order of tables."""
    return tuple(name for group in HOMES.values() for name in group)


def chosen_names(words: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list of methods and groups, each once, in the order of tables.

    Raises:
        UserError: a name is unknown, or there is none; the message lists the names.
    """
    wanted: set[str] = set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        if word != ALL and word not in HOMES and word not in names():
            raise UserError(
                f"method {word!r}: choose among {', '.join(names())}; or a group: {', '.join((ALL, *HOMES))}"
            )
        wanted |= set(names() if word == ALL else HOMES.get(word, (word,)))
    if not wanted:
        raise UserError(f"no method named: choose among {', '.join(names())}, or {ALL}")
    return tuple(name for name in names() if name in wanted)


def method(name: str) -> Method:
    """Return the method of a name that `names` has."""
    home = next(group[name] for group in HOMES.values() if name in group)
    found: tuple[Method, ...] = import_module(f"sharpzo_mlx.comparison.methods.{home}").METHODS
    return next(one for one in found if one.name == name)
