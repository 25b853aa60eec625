"""A classifier of image features as two plain files, for any language: `classifier.json` and `classifier.safetensors`.

docs/reference/classifier-files.md describes them field by field.

>>> write_bundle(Path("photo-bundle"), record)  # doctest: +SKIP
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save

from sharpzo_mlx.exporting.classifier import FORMAT, ClassifierRecord

WORDS, ARRAYS = "classifier.json", "classifier.safetensors"


def write_bundle(folder: Path, record: ClassifierRecord) -> list[Path]:
    """Write the two files into a folder, and return them."""
    tensors = dict(record.arrays)
    (folder / ARRAYS).write_bytes(save(tensors, metadata={"format": FORMAT}))
    return [folder / ARRAYS, write_words(folder, record)]


def write_words(folder: Path, record: ClassifierRecord) -> Path:
    """Write all that is no tensor as JSON into a folder, and return the file."""
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / WORDS).write_text(text + "\n", encoding="utf-8", errors="replace")
    return folder / WORDS
