"""A small random SigLIP in transformers' layout, written without torch or transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from siglip_tokenizers import train_pairs

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel

WORDS, BIAS = 700, -1.5
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG: dict[str, Any] = {
    "model_type": "siglip",
    "text_config": TOWER | {"vocab_size": WORDS, "max_position_embeddings": 24},
    "vision_config": TOWER | {"image_size": 16, "patch_size": 8},
}
PREPROCESSOR = {"size": {"height": 16, "width": 16}, "resample": 2}
PACKED = "vision_model.head.attention"


def random_weights(config: CLIPConfig) -> dict[str, mx.array]:
    """Our name -> a random weight, so large that images and words matter."""
    expected: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    keys = mx.random.split(mx.random.key(7), len(expected))
    weights = {
        name: mx.ones(array.shape)
        if "norm" in name and name.endswith("weight")
        else mx.random.normal(array.shape, key=key) * (0.05 if "n_embedding" in name else 0.3)
        for (name, array), key in zip(sorted(expected.items()), keys, strict=True)
    }
    return weights | {"logit_scale": mx.array(2.5), "logit_bias": mx.array(BIAS)}


def as_hugging_face(weights: dict[str, mx.array]) -> dict[str, np.ndarray]:
    """The same under transformers' names and in its shapes."""
    found: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        array = np.array(weight)
        if array.ndim == 4:
            found[name] = array.transpose(0, 3, 1, 2)
        elif name.startswith(PACKED) and ".out_proj." not in name:
            continue
        elif name == "vision_model.head.probe":
            found[name] = array.reshape(1, 1, -1)
        else:
            found[name.replace("text_projection", "text_model.head")] = array.reshape(array.shape or (1,))
    for kind in ("weight", "bias"):
        parts = [np.array(weights[f"{PACKED}.{letter}_proj.{kind}"]) for letter in "qkv"]
        found[f"{PACKED}.in_proj_{kind}"] = np.concatenate(parts)
    return found


def write_siglip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    train_pairs(folder / "tokenizer.json", WORDS)
    arrays = as_hugging_face(random_weights(CLIPConfig.from_dict(CONFIG)))
    weights = {name: mx.array(np.ascontiguousarray(array)) for name, array in arrays.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    return folder
