"""The checkpoint of a run that is not finished: all arrays and numbers of its search, in one safetensors file.

>>> arrays, facts = load_checkpoint(Path("runs/photo-m-0"))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(folder: Path, arrays: Mapping[str, mx.array], facts: Mapping[str, Any]) -> None:
    """Write the state of a search.

    Args:
        folder: the run's folder.
        arrays: by name.
        facts: numbers as plain values; they are written as JSON into the file's metadata.
    """
    with atomic_path(folder / CHECKPOINT) as temporary:
        mx.save_safetensors(str(temporary), dict(arrays), metadata={"facts": json.dumps(dict(facts))})


def load_checkpoint(folder: Path) -> tuple[dict[str, mx.array], dict[str, Any]] | None:
    """Return what `save_checkpoint` wrote, or None where there is no checkpoint.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        loaded = mx.load(str(path), return_metadata=True)
        arrays, metadata = cast("tuple[dict[str, mx.array], dict[str, str]]", loaded)
        mx.eval(arrays)  # every thread may use what was read
        return arrays, json.loads(metadata["facts"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged; delete it to start this run again") from error
