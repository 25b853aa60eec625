"""Write the model card of a converted folder: its content, its source, and the command that made it.

The card begins with front matter, from which the hub reads licence and base model; a few sentences for a person follow.
Nothing in it depends on the time or the machine, so that converting twice gives equal folders. A name is in one line,
quoted for the shell in the command and as code elsewhere, because the name of a folder may be anything.

>>> print(write("clip-tiny", dtype=None, quantise=None, licence=None, on_hub=False).splitlines()[0])
---
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from sharpzo_mlx.errors import one_line

from . import mobileclip

if TYPE_CHECKING:
    from .quantisation import Quantisation

LONGEST = 200  # characters of a name
PLAIN = re.compile(r"[\w.+-]+")  # names without a meaning in Markdown


def write(source: str, *, dtype: str | None, quantise: Quantisation | None, licence: str | None, on_hub: bool) -> str:
    """Return the text of the card.

    Args:
        source: the checkpoint's name on the hub, or the last part of its folder.
        dtype: the dtype that the weights were converted to; None for the checkpoint's own.
        quantise: how matrices were quantised; None for not at all.
        licence: the checkpoint's licence, as its own card names it; None where it names none.
        on_hub: whether `source` is a name on the hub.

    Returns:
        Markdown with YAML front matter.
    """
    front = [f"license: {licence}"] if licence else []
    front += ["library_name: mlx", "tags: [clip, mlx, sharpzo-mlx]"]
    front += [f"base_model: {source}"] if on_hub else []
    source = one_line(source, LONGEST)
    name = source.rpartition("/")[2]
    command = f"sharpzo-mlx convert {shlex.quote(source)}" + (f" --dtype {dtype}" if dtype else "") + _options(quantise)
    where = f"the hub's {code(source)}" if on_hub else f"a local folder, {code(source)}"
    kept = f"converted to {dtype}" if dtype else "as the checkpoint has them"
    if quantise:
        kept += f", the matrices of the {' and '.join(quantise.towers)} layers quantised to {quantise.bits} bits"
    terms = f"`{licence}`, as its card says" if licence else "not named by the checkpoint: ask its source"
    if licence == mobileclip.LICENCE:
        terms = f"`{licence}`. {mobileclip.TERMS}"
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {name if PLAIN.fullmatch(name) else code(name)} for sharpzo-mlx",
            "",
            f"A CLIP for MLX: both towers, tokenizer and image preprocessing of {where}; the weights {kept}.",
            "Made by",
            "",
            f"    {command}",
            "",
            f"Licence of the weights: {terms}.",
            "",
            "Use: `sharpzo-mlx tune DATASET --model THIS_FOLDER`.",
            "",
        ]
    )


def code(text: str) -> str:
    """Return a text as Markdown's code, in which nothing has a meaning, whatever backticks it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _options(quantise: Quantisation | None) -> str:
    if quantise is None:
        return ""
    group = "" if quantise.group_size == 64 else f" --group-size {quantise.group_size}"
    return f" --quantize {quantise.bits}{group}" + (" --quantize-vision" if quantise.vision else "")
