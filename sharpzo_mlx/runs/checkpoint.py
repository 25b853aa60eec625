"""The checkpoints of a run that is not finished: all arrays and numbers of its search, in one safetensors file each.

The last two are kept, so that a run whose last one is damaged continues from the one before, and repeats what came
after with the same numbers. A digest in the file tells a damaged one.

>>> arrays, facts = load_checkpoint(Path("runs/photo-m-0/checkpoint.safetensors"))  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path
from sharpzo_mlx.reading import parse_json

CHECKPOINT = "checkpoint.safetensors"
BEFORE = "checkpoint-before.safetensors"
CHECKPOINTS = (CHECKPOINT, BEFORE)  # in the order in which they are tried
LARGEST = 1 << 32  # bytes; a full covariance of the most dimensions takes a fraction

Saved = tuple[dict[str, mx.array], dict[str, Any]]  # arrays by name, and plain numbers


def save_checkpoint(folder: Path, arrays: Mapping[str, mx.array], facts: Mapping[str, Any]) -> None:
    """Write the state of a search, and keep the one before.

    Args:
        folder: the run's folder.
        arrays: by name.
        facts: numbers as plain values; they are written as JSON into the file's metadata.
    """
    words = json.dumps(dict(facts), allow_nan=False)
    metadata = {"facts": words, "digest": _digest(arrays, words)}
    with atomic_path(folder / CHECKPOINT) as temporary:
        mx.save_safetensors(str(temporary), dict(arrays), metadata=metadata)
        if (folder / CHECKPOINT).exists():
            os.replace(folder / CHECKPOINT, folder / BEFORE)


def load_checkpoint(path: Path) -> Saved:
    """Return what `save_checkpoint` wrote into a file; its arrays and numbers are as they were, but not checked.

    Raises:
        UserError: the file is damaged; the message names it and says what is wrong.
    """
    header = read_header(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        loaded: Any = mx.load(str(path), format="safetensors")
        mx.eval(loaded)  # every thread may use what was read
        facts = parse_json(header.metadata["facts"])
        if not isinstance(facts, dict):
            raise ValueError("its numbers are no object")
        if header.metadata.get("digest", "") not in ("", _digest(loaded, header.metadata["facts"])):
            raise ValueError("its content is not what was written")
    except KeyError as error:
        raise UserError(f"{path}: damaged ({error} is missing)") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error
    return loaded, facts


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run, which are needed no longer once it is finished."""
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)


def _digest(arrays: Mapping[str, mx.array], words: str) -> str:
    """Return a digest of the names, types, shapes and content of arrays, and of a text."""
    digest = hashlib.sha256(words.encode())
    for name in sorted(arrays):
        array = np.array(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "replace"))
        digest.update(array.tobytes())
    return digest.hexdigest()
