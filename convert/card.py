"""Write the model card of a converted folder: its content, its source, and the command that made it.

The card begins with front matter, from which the hub reads licence and base model; a few sentences for a person follow.
Nothing in it depends on the time or the machine, so that converting twice gives equal folders.

>>> print(write("clip-tiny", dtype=None, quantise=None, licence=None, on_hub=False).splitlines()[0])
---
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .quantisation import Quantisation


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
    name = source.rpartition("/")[2]
    command = f"sharpzo-mlx convert {source}" + (f" --dtype {dtype}" if dtype else "") + _options(quantise)
    where = f"the hub's `{source}`" if on_hub else f"a local folder, `{source}`"
    kept = f"converted to {dtype}" if dtype else "as the checkpoint has them"
    if quantise:
        kept += f", the matrices of the {' and '.join(quantise.towers)} layers quantised to {quantise.bits} bits"
    terms = f"`{licence}`, as its card says" if licence else "not named by the checkpoint: ask its source"
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {name} for sharpzo-mlx",
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


def _options(quantise: Quantisation | None) -> str:
    if quantise is None:
        return ""
    group = "" if quantise.group_size == 64 else f" --group-size {quantise.group_size}"
    return f" --quantize {quantise.bits}{group}" + (" --quantize-vision" if quantise.vision else "")
