"""The model card: what a converted folder is, where it comes from, and the command that made it.

Front matter first (the hub reads licence and base model from it), then a few sentences for a person.
Nothing in it depends on the time or the machine, so that converting twice gives equal folders.

>>> print(write("clip-tiny", dtype=None, licence=None, on_hub=False).splitlines()[0])
---
"""

from __future__ import annotations


def write(source: str, *, dtype: str | None, licence: str | None, on_hub: bool) -> str:
    """Write the card.

    Args:
        source: the hub's name of the checkpoint, or the last part of its folder.
        dtype: what the weights were converted to; None for the checkpoint's own.
        licence: of the checkpoint, as its own card names it.
        on_hub: whether `source` is a name on the hub.

    Returns:
        Markdown with YAML front matter.
    """
    front = [f"license: {licence}"] if licence else []
    front += ["library_name: mlx", "tags: [clip, mlx, sharpzo-mlx]"]
    front += [f"base_model: {source}"] if on_hub else []
    name = source.rpartition("/")[2]
    command = f"sharpzo-mlx convert {source}" + (f" --dtype {dtype}" if dtype else "")
    where = f"the hub's `{source}`" if on_hub else f"a local folder, `{source}`"
    kept = f"converted to {dtype}" if dtype else "as the checkpoint has them"
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
