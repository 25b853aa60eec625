"""The inputs of SigLIP's golden files: two images, two texts, and strings for its tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
IDS = [[40, 300, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0], [40, 81, 590, 91, 92, 3, 1, 0, 0, 0, 0, 0]]
STRINGS = [
    "",
    " ",
    "A photo of a tench.",
    "- dash",
    "ＡBC ½ \ufb01sh",
    "cafe\u0301 ¨x",
    "x </s> y",
    "日本語 & 한국",
    "it's ▁ two",
]


def pixels(side: int) -> np.ndarray:
    """Two images of waves, the same on every machine: [2, side, side, 3]."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * ((k % 3 + 1) * x + (k // 3 + 1) * y) + k) for k in range(6)]
    return np.stack(waves, axis=-1).reshape(side, side, 2, 3).transpose(2, 0, 1, 3).astype(np.float32) * 2
