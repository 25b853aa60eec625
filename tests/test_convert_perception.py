"""Perception Encoders beside open_clip's: features and logits of random weights, and the shapes of every size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mobileclip_oracle import TEXTS, draw_pixels, load_oracle
from mobileclip_towers import tensors_of
from perception_towers import shake

import sharpzo_mlx as sz
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.convert.open_clip_names import rename

NAMES = ("PE-Core-T-16-384", "PE-Core-S-16-384", "PE-Core-B-16", "PE-Core-L-14-336")


@pytest.fixture(scope="module")
def oracle() -> Any:
    return load_oracle()


@pytest.mark.parametrize("name", NAMES)
def test_every_size_has_open_clips_shapes(oracle: Any, name: str) -> None:
    import torch

    sizes = oracle.get_model_config(name)
    with torch.device("meta"):
        parts = {key: sizes[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        state = oracle.CustomTextCLIP(**parts).state_dict()
    theirs = rename({key: mx.zeros(tuple(value.shape)) for key, value in state.items()})
    config = CLIPConfig.from_dict(translate_config({"model_cfg": sizes}, name=name))
    ours: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    patches = "vision_model.embeddings.patch_embedding.weight"  # channels last in ours
    shapes = {key: array.shape for key, array in theirs.items() if key != patches}
    assert shapes == {key: array.shape for key, array in ours.items() if key != patches}
    known = catalog.find(f"timm/{name}")
    assert known is not None
    assert known.parameters == sum(array.size for array in ours.values())


def test_features_and_logits_equal_those_of_open_clip(oracle: Any, tmp_path: Path) -> None:
    import torch

    sizes = oracle.get_model_config("PE-Core-T-16-384")
    sizes["text_cfg"] |= {"width": 64, "heads": 1, "layers": 2}
    parts = {key: sizes[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    model = shake(oracle.CustomTextCLIP(**parts))
    source = tmp_path / "PE-Core-T-16-384"
    source.mkdir()
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    mx.save_safetensors(str(source / "open_clip_model.safetensors"), tensors_of(model))
    clip = sz.load(convert(source, tmp_path / "m").folder)
    pixels = draw_pixels(384)
    ids = np.array(clip.tokenizer(TEXTS))
    ids = np.pad(ids, ((0, 0), (0, 32 - ids.shape[1]))).astype(np.int64)
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)), normalize=True).numpy()
        texts = model.encode_text(torch.tensor(ids), normalize=True).numpy()
    ours = np.array(clip.encode_pixels(pixels)), np.array(clip.encode_texts(TEXTS))
    np.testing.assert_allclose(ours[0], images, atol=1e-5)
    np.testing.assert_allclose(np.array(clip.vision().image_features(mx.array(pixels))), images, atol=1e-5)
    np.testing.assert_allclose(ours[1], texts, atol=1e-5)
    scale = float(model.logit_scale.detach().exp())
    np.testing.assert_allclose(scale * ours[0] @ ours[1].T, scale * images @ texts.T, atol=1e-4)
    assert min(np.abs(images[0] - images[1]).max(), np.abs(texts[0] - texts[1]).max()) > 1e-2
