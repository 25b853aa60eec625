"""Read a foreign CLIP checkpoint once and write a model folder that loads without transformation.

Sources are folders in Hugging Face's layout and names on the hub; safetensors and torch's pickles are
read, the latter without torch and without running them. Imported as `sharpzo_mlx.convert`; it needs
`sharpzo_mlx.clip` and nothing above it.

>>> from sharpzo_mlx.convert import convert
>>> convert("openai/clip-vit-base-patch16", "m").parameters  # doctest: +SKIP
149620737
"""

from __future__ import annotations

from .conversion import DTYPES, ConvertReport, convert

__all__ = ["DTYPES", "ConvertReport", "convert"]
