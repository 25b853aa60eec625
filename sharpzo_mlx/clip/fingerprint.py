"""Identify a model's features by a digest of its weights, and refuse a file that differs from the digest it holds.

`save_model` writes the digest into the file's metadata. A file is hashed once, a gigabyte in about a second, and an
empty file in the folder `checked/` of the cache then stands for its state: its description, its digest, and its size,
times and place on the disk. As long as these stay the file is not hashed again.

>>> fingerprint("m")  # doctest: +SKIP
'a31a3215068dda3ef5c4a1edcef50d5a7081023deadb3e7d1ac5a956847e29ec'
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.safetensors_file import DTYPES, Header, read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import cache_folder, open_regular

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1 << 20  # bytes that are read at once


def checked_folder() -> Path:
    """Return the folder of the empty files that stand for checked weights; it can be deleted at any time."""
    return cache_folder() / "checked"


def fingerprint_of(config: CLIPConfig, weights: Mapping[str, mx.array]) -> str:
    """Return the SHA-256 of the network's description and of every weight's name, shape, dtype and bytes.

    The description counts because equal weights with another activation or epsilon give other features. The image
    preprocessing does not count; the feature cache records it separately.
    """
    digest = _begin(config)
    for name in sorted(weights):
        weight = weights[name]
        digest.update(_line(name, weight.shape, weight.dtype))
        digest.update(np.array(mx.contiguous(weight).reshape(-1).view(mx.uint8)).data)
    return digest.hexdigest()


def fingerprint_of_file(path: Path, config: CLIPConfig) -> str:
    """Return the fingerprint of a model folder's weights, which is compared with the one in the file's metadata.

    Args:
        path: the safetensors file; a file without a fingerprint is hashed at each call.
        config: the configuration beside it.

    Raises:
        UserError: the file is missing or damaged, or its weights or `config` are not those that the fingerprint in it
            was made of.
    """
    header = read_header(path)
    written = header.metadata.get("fingerprint")
    try:
        with open_regular(path) as file:
            mark = checked_folder() / _name_state(os.fstat(file.fileno()), config, written)
            if written is not None and mark.exists():
                return written
            found = _hash(file, header, config)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); convert the checkpoint again") from error
    if written is None:
        return found
    if written != found:
        raise UserError(
            f"{path}: damaged or changed: its weights or config.json are not those that its fingerprint was made of; "
            "convert the checkpoint again"
        )
    with suppress(OSError):  # without a cache the file is hashed by every process
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return written


def _begin(config: CLIPConfig) -> _Hash:
    described = {key: value for key, value in config.to_dict().items() if key != "preprocessor"}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode())


def _line(name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> bytes:
    return f"{name} {list(shape)} {dtype}\n".encode()


def _hash(file: BinaryIO, header: Header, config: CLIPConfig) -> str:
    """Return what `fingerprint_of` gives for the weights of an open file, of which one block is in memory."""
    digest = _begin(config)
    for name in sorted(header.places):
        digest.update(_line(name, header.shapes[name], DTYPES[header.dtypes[name]]))
        begin, end = header.places[name]
        file.seek(begin)
        while begin < end and (block := file.read(min(BLOCK, end - begin))):
            digest.update(block)
            begin += len(block)
    return digest.hexdigest()


def _name_state(status: os.stat_result, config: CLIPConfig, written: str | None) -> str:
    """Return a name for the state of a file; its time of change differs even where a copy kept that of writing."""
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, written)
    digest = _begin(config)
    digest.update(repr(state).encode())
    return digest.hexdigest()
