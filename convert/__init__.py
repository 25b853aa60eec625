"""Read a foreign CLIP checkpoint once and write a model folder that loads without transformation.

Sources are folders in Hugging Face's, open_clip's and MLX's layout, OpenAI's archives, and names on the hub. The
weights may be safetensors, npz or torch's pickles; pickles are read without torch and without running them. Import the
package as `sharpzo_mlx.convert`; it uses `sharpzo_mlx.clip` and the folders below it.

>>> from sharpzo_mlx.convert import convert
>>> convert("openai/clip-vit-base-patch16", "m").parameters  # doctest: +SKIP
149620737
"""

from __future__ import annotations

from sharpzo_mlx.clip.catalog import KNOWN

from .architectures import ACTIVATIONS, Told
from .conversion import ConvertReport, convert
from .quantisation import Quantisation
from .weights import DTYPES

__all__ = ["ACTIVATIONS", "DTYPES", "KNOWN", "ConvertReport", "Quantisation", "Told", "convert"]
