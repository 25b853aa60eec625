"""An objective on the tiny model with random image features, for the tests of losses and of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.space import make_space
from sharpzo_mlx.prompts.tokens import tokenise_prompts

NAMES = ("cat", "dog", "barn owl", "ox")
BACKENDS: tuple[BackendName, ...] = ("graph", "numpy")
SCALE = 12.0


@dataclass
class Images:
    """Image features [N, D] of unit norm and their class indices."""

    embeddings: mx.array
    labels: list[int]


def draw_images() -> Images:
    """Thirty random features of four classes."""
    x = mx.random.normal((30, 24), key=mx.random.key(3))
    return Images(x / mx.linalg.norm(x, axis=-1, keepdims=True), [n % 4 for n in range(30)])


def draw_offsets() -> mx.array:
    """Random logits for these images, as large as those of the cosines."""
    return 3.0 * mx.random.normal((30, 4), key=mx.random.key(8))


def make_objective(
    folder: Path,
    *,
    backend: BackendName | None = None,
    memory_budget: int | None = None,
    offsets: mx.array | None = None,
) -> Objective:
    """The objective of these images under a checkpoint, with a space of 16 dimensions."""
    half, images = load_model(folder, towers=("text",)), draw_images()
    tokens = tokenise_prompts(load(folder).tokenizer, "a photo of a {}.", NAMES)
    space = make_space(half.text_model, tokens, dimension=16, relative_scale=20.0, projection_std=None, seed=1)
    return Objective(
        SharedPrefixText(half.text_model, half.text_projection, tokens),
        space,
        images.embeddings,
        images.labels,
        logit_scale=SCALE,
        offsets=offsets,
        memory_budget=memory_budget,
        backend=backend,
    )


def read_least_budget(error: UserError) -> int:
    """The bytes that the refusal of a memory budget says are needed."""
    return int(str(error).split("needs ")[1].split("MB")[0]) * 10**6
