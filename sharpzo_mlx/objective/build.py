"""From a checkpoint and encoded images to the objective, its validation and the prompt that is saved.

The text tower is read for this alone: what stays in memory is its layers and the token rows that the prompts use
(SharpZO, arXiv 2506.20990, section 3). It computes in float32, whatever its weights are stored in. Where products are
coarse even so (a device that rounds float32 operands, or products with quantised matrices) finite differences of losses
are mostly noise, and the estimators are replaced by forward-mode derivatives, which have no cancellation.

    problem = make_problem(clip, train, val, config)
    problem.objective.losses(w); problem.validate(w[0])
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective.objective import Objective, Score, score
from sharpzo_mlx.prompts.prompt import Prompt, make_space, tokenise_prompts
from sharpzo_mlx.prompts.shared_prefix import specialise
from sharpzo_mlx.runtime import precision

_log = logging.getLogger("sharpzo_mlx")


@dataclass(frozen=True)
class Problem:
    """What the search needs, and what turns its result into a prompt."""

    config: TuneConfig  # as it is carried out: estimators that the precision allows
    objective: Objective
    val: Features
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    template: str

    def validate(self, w: mx.array) -> Score:
        """Accuracy and loss of w [d] on the validation images; one pass of the text tower."""
        return score_features(self.objective.class_features(w), self.val, self.objective.logit_scale)

    def prompt(self, w: mx.array) -> Prompt:
        """The prompt that w [d] stands for, with its classifier and the zero-shot one."""
        context = self.objective.space.contexts(w[None])[0]
        mx.eval(context)
        return Prompt(
            context=context,
            w=w,
            class_features=self.objective.class_features(w),
            zero_shot_features=self.objective.class_features(mx.zeros_like(w)),
            class_names=self.class_names,
            folders=self.folders,
            logit_scale=self.objective.logit_scale,
            template=self.template,
        )


def score_features(class_features: mx.array, features: Features, logit_scale: float) -> Score:
    """How a classifier [K, D] does on encoded images."""
    return score(class_features, features.embeddings, mx.array(features.labels), logit_scale)


def make_problem(clip: Clip, train: Features, val: Features, config: TuneConfig) -> Problem:
    """Specialise the text tower to the classes and set up the objective on the training images.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept whole.
        train: the training images.
        val: the validation images, of the same classes.
        config: the options.

    Raises:
        UserError: a template or class name that does not work, or a memory budget below one candidate's need.
    """
    template = config.template or PLAIN
    tokens = tokenise_prompts(clip.tokenizer, template, train.class_names)
    tower = load_model(clip.folder, towers=("text",), dtype=mx.float32)  # differences of losses are taken
    space = make_space(
        tower.text_model,
        tokens,
        dimension=config.space.dimension,
        relative_scale=config.space.relative_scale,
        projection_std=config.space.projection_std,
        seed=config.seed,
    )
    text = specialise(tower.text_model, tower.text_projection, tokens)
    objective = Objective(
        text,
        space,
        train.embeddings,
        train.labels.tolist(),
        logit_scale=clip.logit_scale,
        memory_budget=config.memory_budget,
        directions=config.stage2.draws if config.most_steps and config.stage2.optimiser == "gauss-newton" else 0,
    )
    safe = _safe_estimators(config, tower.text_model, on_host=text.host is not None)
    del tower
    mx.clear_cache()  # the token table: only the prompts' rows are needed from here on
    return Problem(safe, objective, val, train.class_names, train.folders, template)


def _safe_estimators(config: TuneConfig, text_model: TextModel, *, on_host: bool) -> TuneConfig:
    """The configuration with forward-mode derivatives in place of differences, where products are coarse."""
    reason = _coarse(text_model, on_host)
    if not reason:
        return config
    changed = safe_settings(config)
    if changed:
        told = ", ".join(f"{name} {value}" for name, value in changed.items() if value)
        _log.warning(f"{reason}: differences of losses would be noise; used instead: {told}")
    return config.with_settings(changed)


def safe_settings(config: TuneConfig) -> dict[str, Any]:
    """Return the settings that replace differences of losses by forward-mode derivatives."""
    changed: dict[str, Any] = {}
    sharpness, mask, dimension = config.sharpness, config.pruning, config.space.dimension
    if sharpness.rho and sharpness.estimator in ("cge", "rge"):
        count = _directions(sharpness.estimator, sharpness.directions, dimension)
        changed |= {"sharpness.estimator": "forward", "sharpness.directions": count}
    if config.most_steps and config.stage2.estimator == "rge":
        changed["stage2.estimator"] = "forward"
    if config.most_steps and mask.keep < 1 and mask.metric in ("zscore-squared", "zscore-fisher", "gradient"):
        if mask.metric == "zscore-fisher":  # it is made from differences of single images' losses
            changed["pruning.metric"] = "zscore-squared"
        if config.stage2.optimiser != "gauss-newton" and mask.estimator != "forward":
            count = _directions(mask.estimator, mask.directions, dimension)
            changed |= {"pruning.estimator": "forward", "pruning.directions": count}
    return changed


def _directions(kind: str, given: int | None, dimension: int) -> int | None:
    """Return as many directions as the replaced estimate took: None, all coordinates, in place of CGE."""
    return None if kind == "cge" else given or max(1, dimension // 10)


def _coarse(text_model: TextModel, on_host: bool) -> str | None:
    """Why products are coarser than float32, or None where they are not (docs/precision.md has the figures).

    Args:
        text_model: its matrices may be quantised.
        on_host: whether NumPy multiplies, which rounds nothing.
    """
    if not on_host and any(_rounds(module) for module in text_model.modules()):
        return "this device rounds products with the text tower's quantised matrices"
    if precision.products_are_coarse():
        return "this device rounds the operands of float32 products"
    return None


def _rounds(module: nn.Module) -> bool:
    if not isinstance(module, nn.QuantizedLinear):
        return False
    return precision.quantised_products_are_coarse(module.bits, module.group_size)
