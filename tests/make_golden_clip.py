"""Make the golden files of tests/golden: two tiny open_clip models, and the features that open_clip gives for them.

They stand in for open_clip where it is not installed. Run it where it is:

    python tests/make_golden_clip.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
GOLDEN = Path(__file__).parent / "golden"
TEXT = {"context_length": 12, "vocab_size": 514, "width": 8, "heads": 2, "layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 2, "head_width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
}
IDS = np.array([[512, 40, 300, 7, 513, 0, 0, 0, 0, 0, 0, 0], [512, 40, 81, 90, 91, 92, 513, 0, 0, 0, 0, 0]])


def pixels(side: int) -> np.ndarray:
    """Two images of waves, the same on every machine: [2, side, side, 3]."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * ((k % 3 + 1) * x + (k // 3 + 1) * y) + k) for k in range(6)]
    return np.stack(waves, axis=-1).reshape(side, side, 2, 3).transpose(2, 0, 1, 3).astype(np.float32) * 2


def main() -> None:
    """Write one file of weights and one of configuration and features for each model."""
    import oracle_open_clip
    import torch
    from safetensors.torch import save_file

    library = oracle_open_clip.load()
    GOLDEN.mkdir(exist_ok=True)
    for name, description in MODELS.items():
        torch.manual_seed(1)
        model = library.CLIP(**description).eval()
        with torch.no_grad():
            for key, value in [*model.named_parameters(), *model.named_buffers()]:
                if key.endswith("running_var"):
                    value.uniform_(0.5, 2.0)
                elif value.ndim == 4:  # narrow rectified layers die out unless their variance is kept
                    value.normal_(0, (2 / value[0].numel()) ** 0.5)
                elif ".bn" in key and key.endswith("bias"):
                    value.fill_(0.3)
                elif value.dtype == torch.float32 and value.ndim and "mask" not in key:
                    value.add_(torch.randn_like(value) * 0.3)
            images = model.encode_image(
                torch.tensor(pixels(model.visual.image_size[0] if name == "vit" else 64)).permute(0, 3, 1, 2),
                normalize=True,
            )
            texts = model.encode_text(torch.tensor(IDS), normalize=True)
        save_file(model.state_dict(), GOLDEN / f"{name}.safetensors")
        expected = {"images": images.tolist(), "texts": texts.tolist(), "made_by": f"open_clip {library.__version__}"}
        described = {"model_cfg": description, "expected": expected}
        (GOLDEN / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
