"""Networks of published sizes with random weights: cost, memory and rounding do not depend on what a network knows.

>>> make_objective("tiny", classes=3, shots=2).losses(mx.zeros((1, 512))).shape
(1,)
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from sharpzo_mlx.clip.checkpoint import TOKENIZER, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tower_config import ResNetConfig, TextConfig, VisionConfig
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


# text tower, image tower, joint width
SIZES: dict[str, tuple[TextConfig, VisionConfig | ResNetConfig, int]] = {
    "ViT-B/16": (_text(512, 12, 8), _vision(768, 12, 12, 224, 16), 512),
    "ViT-B/32": (_text(512, 12, 8), _vision(768, 12, 12, 224, 32), 512),
    "RN50": (_text(512, 12, 8), ResNetConfig(), 1024),
    "tiny": (_text(64, 2, 2), _vision(64, 2, 2, 32, 16), 32),
    "tiny-RN": (_text(64, 2, 2), ResNetConfig((1, 1, 1, 1), 8, 4, 64), 32),
}


def make_text_tower(name: str) -> CLIPModel:
    """Return the text half of a network in float32; contexts are as large in it as in a trained one."""
    text, vision, joint = SIZES[name]
    config = CLIPConfig(text, vision, joint, PreprocessorConfig.for_size(vision.image_size))
    mx.random.seed(0)
    model = CLIPModel(config, towers=("text",))
    table = model.text_model.embeddings.token_embedding
    table.weight = 0.5 * table.weight
    mx.eval(model.parameters())
    return model


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
    draw, model = np.random.default_rng(0), make_text_tower(name)
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
    weights = dict(tree_flatten(tree_map(lambda weight: weight.astype(mx.float16), CLIPModel(config).parameters())))
    tokenizer = (MODEL_FOLDER / TOKENIZER).read_text(encoding="utf-8")
    save_model(folder, config, weights, tokenizer, "Random weights, made by doctor.\n")
