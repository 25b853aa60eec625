"""Read the small files beside a checkpoint's weights: JSON, the preprocessing, the tokenizer.

>>> has_own_tokenizer({"config.json", "tokenizer.json"}, None)
True
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
CLIP_WORDS = 49408


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file that holds one object.

    Raises:
        UserError: the file is missing, unreadable, too large, or holds something else.
    """
    try:
        found = reading.read_json(path)
    except OSError as error:
        why = reading.reason(error)
        raise UserError(f"{path}: cannot be read ({why}); give a folder that has this file") from error
    except ValueError as error:
        raise UserError(f"{path}: {reading.reason(error)}; download the file again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; download the file again")
    return found


def read_preprocessor(folder: Path, here: Collection[str]) -> dict[str, Any] | None:
    """Return the description of the preprocessing: transformers 5 writes it into the processor's own file."""
    whole = read_json(folder / PROCESSOR) if PROCESSOR in here else {}
    inside = whole.get("image_processor")
    if isinstance(inside, dict):
        return inside
    return read_json(folder / PREPROCESSOR) if PREPROCESSOR in here else None


def has_own_tokenizer(here: Collection[str], description: Mapping[str, Any] | None) -> bool:
    """Tell whether a folder's tokenizer is to be used, not CLIP's own vocabulary.

    Args:
        here: the names in the folder.
        description: open_clip's description of the network; None for another kind of checkpoint.
    """
    if description is not None and not _needs_own_tokenizer(description):
        return False
    return any(set(files) <= set(here) for files in TOKENIZERS)


def _needs_own_tokenizer(description: Mapping[str, Any]) -> bool:
    """Tell whether open_clip's file names another vocabulary than CLIP's, or one of another size."""
    text = description["model_cfg"]["text_cfg"]
    return bool(text.get("hf_tokenizer_name")) or text.get("vocab_size", CLIP_WORDS) != CLIP_WORDS
