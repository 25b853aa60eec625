"""What a run's head says of images, by its definition in NumPy, and images that are of none of its classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.heads.head import Head


def head_of(run: sz.Run) -> Head:
    assert isinstance(run.prompt.head, Head)
    return run.prompt.head


def features(run: sz.Run, paths: list[Path]) -> np.ndarray:
    return np.array(sz.load(run.model_folder).encode_images(paths), np.float64)


def distances(run: sz.Run, paths: list[Path]) -> np.ndarray:
    """Least distance to a class mean, by the definition."""
    white = features(run, paths) @ np.array(head_of(run).guard.whitening, np.float64)
    found: np.ndarray = np.linalg.norm(white[:, None] - np.array(head_of(run).guard.means), axis=2).min(axis=1)
    return found


def probabilities(run: sz.Run, paths: list[Path]) -> np.ndarray:
    x, head = features(run, paths), head_of(run)
    far = (distances(run, paths) - head.guard.centre) / head.guard.spread
    opening = (1 / (1 + np.exp((far - 2) / 0.5)))[:, None]
    zero_shot = run.prompt.logit_scale * x @ np.array(run.prompt.zero_shot_features).T
    logits = (1 - opening) * zero_shot + opening * (x @ np.array(head.weight).T + np.array(head.bias))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def paint_strangers(root: Path) -> Path:
    """Images that are none of the classes, some of them in folders that are no classes, and a broken one."""
    rng = np.random.default_rng(4)
    for number in range(11):
        path = root / ("" if number < 5 else "deep/er") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (18, 18, 3), dtype=np.uint8)).save(path)
    (root / "deep" / "broken.png").write_bytes(b"no image")
    return root
