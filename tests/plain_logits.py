"""The classifier in a run's file by plain NumPy, as docs/reference/files.md describes it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np


def read_file(run: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of the prompt in a run's folder."""
    loaded = mx.load(str(run / "prompt.safetensors"), return_metadata=True)
    arrays, words = cast("tuple[dict[str, mx.array], dict[str, str]]", loaded)
    return {name: np.array(array, np.float64) for name, array in arrays.items()}, words


def openings(run: Path, x: np.ndarray) -> np.ndarray:
    """How much of the learned logits image features [N, D] hear [N], from the file alone."""
    arrays, words = read_file(run)
    white = x.astype(np.float64) @ arrays["guard_whitening"]
    distances = np.array([min(np.linalg.norm(row - mean) for mean in arrays["guard_means"]) for row in white])
    score = (distances - float(words["guard_centre"])) / float(words["guard_spread"])
    result: np.ndarray = 1 / (1 + np.exp(np.clip((score - 2) / 0.5, -500, 500)))
    return result


def classify(run: Path, x: np.ndarray, *, tuned: bool = True) -> np.ndarray:
    """The logits of image features [N, D], from the file alone; those of zero-shot if not `tuned`."""
    arrays, words = read_file(run)
    plain: np.ndarray = float(words["logit_scale"]) * x @ arrays["zero_shot_features"].T
    if not tuned:
        return plain
    if "head" not in words:
        text: np.ndarray = float(words["logit_scale"]) * x @ arrays["class_features"].T
        return text
    opening = openings(run, x)[:, None]
    learned = x @ arrays["head_weight"].T + arrays["head_bias"]
    joined: np.ndarray = (1 - opening) * plain + opening * learned
    return joined
