"""open_clip's MobileCLIP2-S0 with random weights, and the comparison of a converted folder with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobileclip_towers import randomise

import sharpzo_mlx as sz

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2, "no_causal_mask": True}
VISION = {"timm_model_name": "fastvit_mci0", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": None}
VISION |= {"timm_drop": 0.0, "timm_drop_path": 0.0, "image_size": 256}
TEXTS = ["a photo of a tench.", "two dogs!"]


def load_oracle() -> Any:
    """Return open_clip; skip the test where it or timm is not installed."""
    import oracle_open_clip

    library = oracle_open_clip.load()
    pytest.importorskip("timm")
    return library


def draw_pixels(side: int) -> np.ndarray:
    """Return three random images [3, side, side, 3] of different mean colours."""
    draw = np.random.default_rng(1)
    return (draw.normal(size=(3, side, side, 3)) + 3 * draw.normal(size=(3, 1, 1, 3))).astype(np.float32)


def make_clip(oracle: Any) -> Any:
    """open_clip's MobileCLIP2-S0 with random weights and a small text tower."""
    return randomise(oracle.CustomTextCLIP(embed_dim=64, vision_cfg=VISION, text_cfg=TEXT))


def check_features(folder: Path, model: Any) -> None:
    """Compare images' and texts' features, and the cosines between them."""
    import torch

    clip = sz.load(folder)
    pixels = draw_pixels(256)
    ids = np.array(clip.tokenizer(TEXTS))
    ids = np.pad(ids, ((0, 0), (0, 77 - ids.shape[1]))).astype(np.int64)
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)), normalize=True).numpy()
        texts = model.encode_text(torch.tensor(ids), normalize=True).numpy()
    ours = np.array(clip.encode_pixels(pixels)), np.array(clip.encode_texts(TEXTS))
    np.testing.assert_allclose(ours[0], images, atol=1e-4)
    np.testing.assert_allclose(ours[1], texts, atol=1e-4)
    np.testing.assert_allclose(ours[0] @ ours[1].T, images @ texts.T, atol=1e-4)
    assert np.abs(images[0] - images[1]).max() > 1e-3
    assert np.abs(texts[0] - texts[1]).max() > 1e-3
