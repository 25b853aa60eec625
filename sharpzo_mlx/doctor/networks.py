"""Networks of published sizes with random weights: cost, memory and rounding do not depend on what a network knows.

>>> make_objective("tiny", classes=3, shots=2).losses(mx.zeros((1, 512))).shape
(1,)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from sharpzo_mlx.clip.checkpoint import TOKENIZER, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tower_config import (
    ConvStemConfig,
    ImageConfig,
    ResNetConfig,
    SigLIPTextConfig,
    SigLIPVisionConfig,
    TextConfig,
    VisionConfig,
)
from sharpzo_mlx.demo import MODEL_FOLDER
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.space import make_space
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import PromptTokens

VOCABULARY = 1024  # token ids, so that the table is made at once; it is no part of what a query costs
SOS, EOS = VOCABULARY - 2, VOCABULARY - 1
SCALE = 100.0  # published logit scales
DIMENSION = 512
SHOTS = 16


def _text(width: int, layers: int, heads: int) -> TextConfig:
    return TextConfig(width, 4 * width, layers, heads, vocab_size=VOCABULARY, bos_token_id=SOS, eos_token_id=EOS)


def _vision(width: int, layers: int, heads: int, side: int, patch: int) -> VisionConfig:
    return VisionConfig(width, 4 * width, layers, heads, side, patch)


_BASE = _text(512, 12, 8)
_MOBILE = replace(_BASE, hidden_act="gelu", causal=False)  # of the MobileCLIPs S0 to S2
_STEM = ConvStemConfig(hidden_act="gelu", layer_norm_eps=1e-6)

# text tower, image tower, joint width
SIZES: dict[str, tuple[TextConfig, ImageConfig, int]] = {
    "ViT-B/16": (_BASE, _vision(768, 12, 12, 224, 16), 512),
    "ViT-B/32": (_BASE, _vision(768, 12, 12, 224, 32), 512),
    "ViT-L/14": (_text(768, 12, 12), _vision(1024, 24, 16, 224, 14), 768),
    "RN50": (_BASE, ResNetConfig(), 1024),
    "SigLIP-B/16": (SigLIPTextConfig(vocab_size=VOCABULARY), SigLIPVisionConfig(), 768),
    "MobileCLIP2-S0": (_MOBILE, FastViTConfig(), 512),
    "MobileCLIP2-S2": (_MOBILE, FastViTConfig((4, 12, 24, 4), (80, 160, 320, 640)), 512),
    "MobileCLIP2-B": (replace(_BASE, hidden_act="gelu"), _STEM, 512),
    "tiny": (_text(64, 2, 2), _vision(64, 2, 2, 32, 16), 32),
    "tiny-RN": (_text(64, 2, 2), ResNetConfig((1, 1, 1, 1), 8, 4, 64), 32),
    "tiny-FastViT": (_text(64, 2, 2), FastViTConfig((1, 1, 1, 1), (8, 16, 32, 64), image_size=64), 32),
}


def make_config(name: str, vocabulary: int = VOCABULARY) -> CLIPConfig:
    """Return the configuration of a size, a key of SIZES, with that many token ids."""
    text, vision, joint = SIZES[name]
    if vocabulary != VOCABULARY:
        text = replace(text, vocab_size=vocabulary)
        if not text.read_at_the_end:
            text = replace(text, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1)
    return CLIPConfig(text, vision, joint, PreprocessorConfig.for_size(vision.image_size))


def make_tower(name: str, kind: str, *, vocabulary: int = VOCABULARY, dtype: mx.Dtype = mx.float32) -> CLIPModel:
    """Return one tower of a size, "text" or "vision", with random weights and contexts as large as trained ones."""
    mx.random.seed(0)
    model = CLIPModel(make_config(name, vocabulary), towers=(kind,))
    if kind == "text":
        table = model.text_model.embeddings.token_embedding
        table.weight = 0.5 * table.weight
    model.update(_filled(model, dtype))
    mx.eval(model.parameters())
    return model


def _filled(model: CLIPModel, dtype: mx.Dtype) -> dict[str, object]:
    """Return a model's weights with random numbers where a new network has zeros throughout."""

    def fill(weight: mx.array) -> mx.array:
        empty = weight.ndim > 1 and not mx.any(weight).item()
        return (mx.random.normal(weight.shape) / weight[0].size ** 0.5 if empty else weight).astype(dtype)

    filled: dict[str, object] = tree_map(fill, model.parameters())
    return filled


def make_objective(
    name: str,
    *,
    classes: int,
    shots: int = SHOTS,
    memory_budget: int | None = None,
    backend: BackendName | None = None,
    directions: int = 0,
) -> Objective:
    """Return an objective in float32 on random images of unit norm.

    Args:
        name: the size of the text tower, a key of SIZES.
        classes: K; their names have two tokens.
        shots: images of each class.
        memory_budget: as in `Objective`.
        backend: as in `Objective`.
        directions: as in `Objective`.
    """
    draw, model = np.random.default_rng(0), make_tower(name, "text")
    names = draw.integers(1, SOS, (classes, 2)).tolist()
    tokens = PromptTokens(SOS, (2, 3, 5, 2), tuple((*words, 7, EOS) for words in names))  # a photo of a ... .
    images = draw.standard_normal((shots * classes, model.config.projection_dim)).astype(np.float32)
    return Objective(
        specialise_text_tower(model.text_model, model.text_projection, tokens),
        make_space(model.text_model, tokens, dimension=DIMENSION, relative_scale=1.0, projection_std=None, seed=0),
        mx.array(images / np.linalg.norm(images, axis=1, keepdims=True)),
        [index // shots for index in range(shots * classes)],
        logit_scale=SCALE,
        memory_budget=memory_budget,
        directions=directions,
        backend=backend,
    )


def write_image_model(folder: Path, name: str) -> None:
    """Write a model folder with an image tower in float16 and a text tower that is there for the form only."""
    _, vision, joint = SIZES[name]
    config = CLIPConfig(_text(64, 1, 2), vision, joint, PreprocessorConfig.for_size(vision.image_size))
    mx.random.seed(0)
    weights = dict(tree_flatten(_filled(CLIPModel(config), mx.float16)))
    tokenizer = (MODEL_FOLDER / TOKENIZER).read_text(encoding="utf-8")
    save_model(folder, config, weights, tokenizer, "Random weights, made by doctor.\n")
