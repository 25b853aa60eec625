"""Write the golden file of the Perception Encoder's image tower: small random weights of timm's, and its features.

usage: python tests/make_golden_perception.py          (needs torch and timm)

The file is tests/golden/perception.safetensors: timm's tensors, and `expected`, the features [2, 16] of
`siglip_golden.pixels` without normalisation to unit length.
"""

from __future__ import annotations

import mlx.core as mx
from mobileclip_towers import tensors_of
from perception_towers import GOLDEN, SIDE, make_tower
from siglip_golden import pixels


def main() -> None:
    """Write the file."""
    import oracle_open_clip

    oracle_open_clip.load()
    import torch

    tower = make_tower()
    with torch.no_grad():
        expected = tower(torch.tensor(pixels(SIDE).transpose(0, 3, 1, 2).copy())).numpy()
    mx.save_safetensors(str(GOLDEN), tensors_of(tower) | {"expected": mx.array(expected)})


if __name__ == "__main__":
    main()
