"""Write the golden files of MobileCLIP's image towers: small random weights of timm's, and the features it gave.

usage: python tests/make_golden_mobileclip.py          (needs torch, timm and open_clip)

Each file in tests/golden is `mobileclip-NAME.safetensors`: timm's tensors, and `expected`, the features [2, 16] of
`golden_pixels` without normalisation to unit length.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from mobileclip_towers import NAMES, describe, make_tower, tensors_of

GOLDEN = Path(__file__).parent / "golden"


def golden_pixels(side: int) -> np.ndarray:
    """Return two images of waves, the same on every machine: [2, side, side, 3]."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * ((k % 3 + 1) * x + (k // 3 + 1) * y) + k) for k in range(6)]
    return np.stack(waves, axis=-1).reshape(side, side, 2, 3).transpose(2, 0, 1, 3).astype(np.float32) * 2


def golden_file(name: str) -> Path:
    """Return the file of a tower."""
    return GOLDEN / f"mobileclip-{name.replace(' ', '-')}.safetensors"


def main() -> None:
    """Write one file for each tower."""
    import oracle_open_clip

    oracle_open_clip.load()
    import torch

    for name in NAMES:
        tower = make_tower(name)
        pixels = golden_pixels(describe(name)["vision_config"]["image_size"])
        with torch.no_grad():
            expected = tower(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
        mx.save_safetensors(str(golden_file(name)), tensors_of(tower) | {"expected": mx.array(expected)})


if __name__ == "__main__":
    main()
