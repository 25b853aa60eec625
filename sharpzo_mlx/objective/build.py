"""Build the objective, its validation and the prompt that a run saves from a checkpoint and encoded images.

problem = build_problem(clip, train, val, template="a photo of a {}.", space=config.space, seed=0)
problem.objective.losses(w); problem.validate(w[0])
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective.fallback import coarse_products
from sharpzo_mlx.objective.loss import Score, check_offsets, score_calibrated
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.objective.recipe import Recipe, build_objective
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.prompts.space import SpaceOptions
from sharpzo_mlx.runtime.threads import mlx_threads


@dataclass(frozen=True)
class Problem:
    """What a search needs, and what turns its result into a prompt.

    Attributes:
        objective: the training loss L(w).
        val: the validation images.
        val_offsets: logits [N, K] that are added to those of the validation images, or None.
        logit_scale: the checkpoint's own factor from cosines to logits, whatever the objective's is.
        class_names: the names of the K classes in the prompts.
        folders: the names of the K class folders.
        template: the text with one `{}`.
        coarse: why products on this device are too coarse for finite differences of losses, or None.
        logit_bias: the summand of a SigLIP's logits; None for a CLIP.
    """

    objective: Objective
    val: Features
    val_offsets: mx.array | None
    logit_scale: float
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    template: str
    coarse: str | None
    logit_bias: float | None

    def validate(self, w: mx.array) -> Score:
        """Return the accuracy of w [d] on the validation images, and its loss at the best temperature.

        It takes one pass of the text tower.
        """
        return score_calibrated(self.val_logits(w), mx.array(self.val.labels))

    def val_logits(self, w: mx.array) -> mx.array:
        """Return the logits [N, K] of the validation images under w [d]."""
        return self.objective.logits(w, self.val.embeddings, self.val_offsets)

    def prompt(self, w: mx.array) -> Prompt:
        """Return the prompt that w [d] stands for, with its class features and the zero-shot ones."""
        context = self.objective.space.contexts(w[None])[0]
        mx.eval(context)
        return Prompt(
            context=context,
            w=w,
            class_features=self.objective.class_features(w),
            zero_shot_features=self.objective.class_features(mx.zeros_like(w)),
            class_names=self.class_names,
            folders=self.folders,
            logit_scale=self.logit_scale,
            template=self.template,
            logit_bias=self.logit_bias,
        )


def build_problem(
    clip: Clip,
    train: Features,
    val: Features,
    *,
    template: str,
    space: SpaceOptions,
    seed: int,
    memory_budget: int | None = None,
    directions: int = 0,
    logit_scale: float | None = None,
    offsets: mx.array | None = None,
    val_offsets: mx.array | None = None,
) -> Problem:
    """Specialise the text tower to the classes and set up the objective on the training images.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept whole.
        train: the training images.
        val: the validation images, of the same classes.
        template: a text with one `{}` and words before it.
        space: the size and the scale of the searched space.
        seed: the run's seed, for the projection.
        memory_budget: bytes that a chunk's activations may take; None: a fixed default.
        directions: directions of a step that uses the linearised loss; 0: there is none.
        logit_scale: the factor from cosines to logits of losses and scores; None: the checkpoint's.
        offsets: logits [N, K] that are added to those of the training images, or None.
        val_offsets: the same for the validation images.

    Raises:
        UserError: a template or a class name that does not work, or a memory budget below one candidate's need.
        ValueError: offsets of another shape.
    """
    val_offsets = check_offsets(val_offsets, len(val.labels), len(train.class_names))
    recipe = Recipe(
        template=template,
        class_names=list(train.class_names),
        dimension=space.dimension,
        relative_scale=space.relative_scale,
        projection_std=space.projection_std,
        seed=seed,
        embeddings=train.embeddings,
        labels=train.labels.tolist(),
        logit_scale=clip.logit_scale if logit_scale is None else logit_scale,
        offsets=offsets,
        memory_budget=memory_budget,
        directions=directions,
        threads=mlx_threads(),
    )
    objective, tower = build_objective(clip, recipe)
    coarse = coarse_products(tower, objective.backend.piece_sizes is not None)
    del tower
    mx.clear_cache()  # frees the token table: from here on only the prompts' rows are needed
    names, folders = train.class_names, train.folders
    scale, bias = clip.logit_scale, clip.logit_bias
    return Problem(objective, val, val_offsets, scale, names, folders, template, coarse, bias)
