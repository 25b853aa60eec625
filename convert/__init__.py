"""Read a foreign CLIP checkpoint once and write a model folder that loads without transformation.

Sources are folders in Hugging Face's, open_clip's and MLX's layout, OpenAI's archives, and names on the hub;
safetensors, npz and torch's pickles are read, the latter without torch and without running them. Imported as
`sharpzo_mlx.convert`; it needs `sharpzo_mlx.clip` and nothing above it.

>>> from sharpzo_mlx.convert import convert
>>> convert("openai/clip-vit-base-patch16", "m").parameters  # doctest: +SKIP
149620737
"""

from __future__ import annotations

from .catalog import KNOWN
from .conversion import DTYPES, ConvertReport, convert
from .quantisation import Quantisation

__all__ = ["DTYPES", "KNOWN", "ConvertReport", "Quantisation", "convert"]
