"""Build an objective from a checkpoint and a record of plain values, in this process or in a helper.

The text tower is read for this alone; its layers and the token embeddings that the prompts use stay in memory (SharpZO,
arXiv 2506.20990, section 3). It computes in float32 whatever type its weights are stored in, because differences of
losses are taken.

>>> objective = build_objective(clip, recipe)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.features.extract import name_model
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.space import make_space
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runtime.helpers import Origin, Shared


@dataclass(frozen=True)
class Recipe:
    """What an objective is made of beside the checkpoint; see `build_problem` for the meaning of each.

    Attributes:
        template: a text with one `{}`.
        class_names: the K names in the prompts.
        dimension, relative_scale, projection_std: of the searched space.
        seed: the run's seed, for the projection.
        embeddings: the training images' features [N, D] float32.
        labels: their class indices [N].
        logit_scale: the factor from cosines to logits.
        offsets: logits [N, K] that are added to the images' own, float32, or None.
        memory_budget: bytes, or None.
        directions: directions of a step that uses the linearised loss; 0: there is none.
        threads: of MLX's BLAS, which the last bits of its products depend on; see `given_threads`.
    """

    template: str
    class_names: list[str]
    dimension: int
    relative_scale: float
    projection_std: float | None
    seed: int
    embeddings: mx.array
    labels: list[int]
    logit_scale: float
    offsets: mx.array | None
    memory_budget: int | None
    directions: int
    threads: int


def build_objective(clip: Clip, recipe: Recipe) -> tuple[Objective, TextModel]:
    """Specialise the text tower to the classes and set up the objective on the training images.

    Returns:
        The objective, and the whole text tower.

    Raises:
        UserError: a template or a class name that does not work, or a memory budget below one candidate's need.
        ValueError: offsets of another shape.
    """
    tokens = tokenise_prompts(clip.tokenizer, recipe.template, recipe.class_names)
    tower = load_model(clip.folder, towers=("text",), dtype=mx.float32)
    space = make_space(
        tower.text_model,
        tokens,
        dimension=recipe.dimension,
        relative_scale=recipe.relative_scale,
        projection_std=recipe.projection_std,
        seed=recipe.seed,
    )
    objective = Objective(
        specialise_text_tower(tower.text_model, tower.text_projection, tokens),
        space,
        recipe.embeddings,
        recipe.labels,
        logit_scale=recipe.logit_scale,
        offsets=recipe.offsets,
        memory_budget=recipe.memory_budget,
        directions=recipe.directions,
        origin=Origin(name_model(clip), Shared(recipe)),
    )
    return objective, tower.text_model
