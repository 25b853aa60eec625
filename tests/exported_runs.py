"""Small random models of every kind of image tower, runs tuned on them, and pictures to compare exports on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mobileclip_towers
import numpy as np
from mlx.utils import tree_flatten
from siglip_checkpoint import write_siglip

import sharpzo_mlx as sz
from sharpzo_mlx.clip.checkpoint import build_model, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import convert

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
VISIONS: dict[str, dict[str, Any]] = {
    "vit quick": {"image_size": 20, "patch_size": 6},  # the last pixels fill no patch
    "vit gelu": {"image_size": 16, "patch_size": 8, "hidden_act": "gelu"},
    "vit tanh": {"image_size": 16, "patch_size": 8, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
}
RESNET = {
    "model_type": "clip_resnet_model",
    "layers": [1, 2, 1, 1],
    "width": 8,
    "num_attention_heads": 4,
    "image_size": 64,
}
ROTARY = TOWER | {"model_type": "clip_vision_rotary_model", "image_size": 24, "patch_size": 8, "num_pooling_heads": 2}
KINDS = (*VISIONS, "rotary", "resnet", *mobileclip_towers.NAMES, "siglip")
PICTURES = 200
BIAS = "visual_projection.bias"


def describe(kind: str) -> dict[str, Any]:
    """The `config.json` of a model of our own layout, with CLIP's preprocessing."""
    if kind in mobileclip_towers.NAMES:
        return mobileclip_towers.describe(kind)
    others = {"resnet": RESNET, "rotary": ROTARY}
    vision = others[kind] if kind in others else TOWER | VISIONS[kind]
    return {"model_type": "clip", "projection_dim": 24, "text_config": TOWER | WORDS, "vision_config": vision}


def write_model(folder: Path, kind: str, tokenizer: str) -> Path:
    """Write a model with random weights, whose images differ."""
    if kind == "siglip":
        convert(str(write_siglip(folder.with_name(f"{folder.name}-source"))), folder)
        return folder
    config = CLIPConfig.from_dict(describe(kind))
    shapes: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    draw = np.random.default_rng(3)
    weights = {name: mx.array(_draw(name, one.shape, draw)) for name, one in sorted(shapes.items())}
    weights |= {"logit_scale": mx.array(2.5)}
    if BIAS in weights:
        weights[BIAS] = weights[BIAS] - 0.8 * _mean_feature(config, weights)
    save_model(folder, config, weights, tokenizer, "A random CLIP for tests.\n")
    return folder


def _mean_feature(config: CLIPConfig, weights: dict[str, mx.array]) -> mx.array:
    """What a random network says of every picture; without most of it, features of different pictures differ."""
    model = build_model(config, weights, ("vision",))
    side = config.vision.image_size
    pixels = mx.random.normal((16, 1, 1, 3), key=mx.random.key(0)) + mx.zeros((16, side, side, 3))
    return mx.mean(model.visual_projection(model.vision_model(pixels)), axis=0)


def _draw(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    normal = draw.standard_normal(shape)
    if name.endswith("running_var") or "scale" in name:
        found = draw.uniform(0.5, 1.5, shape)
    elif len(shape) > 1 and "n_embedding" not in name:
        found = normal * 1.3 / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight") and "embedding" not in name:
        found = 1 + 0.2 * normal
    else:
        found = 0.3 * normal
    return np.asarray(found, np.float32)


def tune(model: Path, photos: Path, output: Path, **settings: Any) -> sz.Run:
    """Tune briefly; with `head="none"` the words alone."""
    config = sz.TuneConfig(shots=6, generations=2, steps=2, **settings).with_settings({"space.dimension": 8})
    return sz.tune(sz.load(model), photos, config, output=output, report=False)


def draw_pictures(run: sz.Run) -> np.ndarray:
    """Pictures like the labelled ones and foreign ones, as bytes in the model's size [200, H, W, 3]."""
    draw = np.random.default_rng(5)
    side = sz.load(run.model_folder).config.vision.image_size
    colours = np.array([(200, 60, 40), (40, 180, 70), (50, 60, 220)])
    known = colours[draw.integers(0, 3, PICTURES // 2)][:, None, None, :]
    known = known + draw.integers(-40, 40, (PICTURES // 2, side, side, 3))
    foreign = draw.integers(0, 256, (PICTURES - len(known), side, side, 3)) * draw.choice([0.2, 1.0], (1, 1, 1, 3))
    pictures: np.ndarray = np.clip(np.concatenate([known, foreign]), 0, 255).astype(np.uint8)
    return pictures
