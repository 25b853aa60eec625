"""A small random CLIP in Hugging Face's layout, for tests of the conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel

PATCHES = "vision_model.embeddings.patch_embedding.weight"
LETTERS = "abcdefghijklmnopqrstuvwxyz."
TOKENS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "an</w>", "<|startoftext|>", "<|endoftext|>"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG: dict[str, Any] = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": TOWER | {"vocab_size": len(TOKENS), "bos_token_id": 55, "eos_token_id": 56, "pad_token_id": 56},
    "vision_config": TOWER | {"image_size": 8, "patch_size": 4},
}
PREPROCESSOR = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, "resample": 2}


def random_weights() -> dict[str, mx.array]:
    """Random tensors of every parameter by Hugging Face's names, patches channels first, in float32."""
    mx.random.seed(0)
    ours: dict[str, mx.array] = dict(tree_flatten(CLIPModel(CLIPConfig.from_dict(CONFIG)).parameters()))
    weights = {name: mx.random.normal(value.shape) for name, value in ours.items()}
    return weights | {PATCHES: mx.random.normal((16, 3, 4, 4))}


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\na n</w>\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A CLIP\n")
    mx.save_safetensors(str(folder / "model.safetensors"), random_weights(), metadata={"format": "pt"})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def save_safetensors(weights: dict[str, mx.array], path: Path) -> None:
    mx.save_safetensors(str(path), weights, metadata={"format": "pt"})
