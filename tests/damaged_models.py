"""Model folders with damage, for tests of what a stranger's file may do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from sharpzo_mlx.clip.checkpoint import WEIGHTS, load_config
from sharpzo_mlx.clip.fingerprint import fingerprint_of
from sharpzo_mlx.clip.safetensors_file import read_header, read_tensors

NORM = "vision_model.post_layernorm.weight"


def copy(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder))


def poke(folder: Path, name: str, data: bytes) -> Path:
    """Overwrite the first bytes of a tensor; the fingerprint in the file stays."""
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    begin, _ = read_header(path).places[name]
    content[begin : begin + len(data)] = data
    path.write_bytes(content)
    return folder


def replace_tensor(folder: Path, name: str, value: mx.array, *, signed: bool = True) -> Path:
    """Write the weights anew with another tensor, with the fingerprint of the new weights or with none."""
    weights = {key: mx.array(array) for key, array in read_tensors(folder / WEIGHTS).items()} | {name: value}
    mx.eval(weights)
    metadata = {"fingerprint": fingerprint_of(load_config(folder), weights)} if signed else {}
    mx.save_safetensors(str(folder / WEIGHTS), weights, metadata=metadata)
    return folder


def unsign(folder: Path) -> Path:
    """Take the fingerprint out of the weights file, so that another config.json may lie beside it."""
    weights = {name: mx.array(array) for name, array in read_tensors(folder / WEIGHTS).items()}
    mx.eval(weights)
    mx.save_safetensors(str(folder / WEIGHTS), weights, metadata={"format": "mlx"})
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place; a change that returns something replaces the whole."""
    content = json.loads(path.read_text())
    replaced = change(content)
    path.write_text(json.dumps(content if replaced is None else replaced))
