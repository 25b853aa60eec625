"""Find out what a model folder was made of: its repository on the hub, the command that makes it again, its licence.

The card that `convert` wrote says it, and for a model in the cache its place does. Nothing of a card is passed on but
what has the form of a name, a licence or our own command.

>>> find_origin(Path("m"), load_config("m")).base  # doctest: +SKIP
'openai/clip-vit-base-patch16'
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import CARD
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model_card import read_licence
from sharpzo_mlx.convert import mobileclip
from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.files import models_folder
from sharpzo_mlx.reading import read_text
from sharpzo_mlx.runs.record import SOURCE

LARGEST_CARD = 1 << 20  # bytes
_BASE = re.compile(r"^base_model:[ \t]*([^\s#]+)[ \t]*$", re.MULTILINE)
_COMMAND = re.compile(rf"^    sharpzo-mlx convert ({SOURCE})$", re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """What a model was made of.

    Attributes:
        base: the repository on the hub; None where it is not known.
        source: the words behind `sharpzo-mlx convert` that make the model again; None without a base.
        licence: the licence of the weights, as the hub spells it; None where it is not known.
    """

    base: str | None
    source: str | None
    licence: str | None

    @property
    def settings(self) -> str:
        """The options that change the weights, such as "--dtype float16"; empty for none."""
        return (self.source or "").partition(" ")[2]

    def with_base(self, base: str | None) -> Origin:
        """Return it with a base that the user names; None changes nothing.

        Raises:
            UserError: it is no name on the hub.
        """
        if base is None:
            return self
        name = catalog.resolve(base)
        if not re.fullmatch(SOURCE, name):
            raise UserError(f"--base {one_line(base)!r}: write the name of the model on the hub, OWNER/NAME")
        known = catalog.find(name)
        settings = f" {self.settings}" if self.settings and name == self.base else ""
        licence = self.licence or (known.licence if known else None) or None
        return replace(self, base=name, source=name + settings, licence=licence)


def find_origin(folder: Path, config: CLIPConfig) -> Origin:
    """Return what the model in a folder was made of, as far as its card and its place say it."""
    try:
        card = read_text(folder / CARD, LARGEST_CARD)
    except (OSError, ValueError):  # no card, or none that can be read
        card = ""
    named, command = _BASE.search(card), _COMMAND.search(card)
    base = named[1] if named and re.fullmatch(SOURCE, named[1]) else None
    if base is None and folder.parent == models_folder() and re.fullmatch(SOURCE, name := catalog.name_of(folder)):
        base = name
    source = command[1] if command and command[1].split()[0] == base else base
    known = catalog.find(base) if base else None
    licence = read_licence(folder / CARD) or (known.licence if known else "") or None
    if mobileclip.find_terms(config.vision, licence):
        licence = mobileclip.LICENCE
    return Origin(base, source, licence)
