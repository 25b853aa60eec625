"""Build the problem of a run from its configuration, with the estimators that this device is precise enough for.

problem = make_problem(clip, train, val, config)
problem.objective.losses(w); problem.validate(w[0]); problem.config

With the mean E of several templates as the zero-shot classifier, the search adds to it what w changes in the features T
of the one tuned template: the classifier's rows are E + T(w) - T(0), and w = 0 is E itself. The rows need not have unit
norm. The losses see the same logits, because those of E - T(0) enter them as offsets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.fit import FittedHead
from sharpzo_mlx.objective.build import Problem, build_problem
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.prompts.prompt import Prompt

_log = logging.getLogger("sharpzo_mlx")


@dataclass(frozen=True)
class TuningProblem(Problem):
    """A problem, the configuration as it is carried out, and what stands beside the words of one template.

    Attributes:
        config: with estimators that the device is precise enough for.
        zero_shot: the class features of several templates [K, D], or None.
        head: the head that was fitted to all labelled images, or None.
    """

    config: TuneConfig
    zero_shot: mx.array | None
    head: FittedHead | None = None

    def prompt(self, w: mx.array) -> Prompt:
        """Return the prompt that w [d] stands for, with its head."""
        return self.prompt_with_head(w)[0]

    def prompt_with_head(self, w: mx.array) -> tuple[Prompt, FittedHead | None]:
        """Return the prompt that w [d] stands for, and what left-out images say of its head; None without one.

        With several templates the words are E + T(w) - T(0).
        """
        prompt = super().prompt(w)
        change = prompt.class_features - prompt.zero_shot_features
        if self.zero_shot is not None:
            prompt = replace(prompt, class_features=self.zero_shot + change, zero_shot_features=self.zero_shot)
        head = self._head_beside(w, change)
        return (prompt if head is None else replace(prompt, head=head.head)), head

    def _head_beside(self, w: mx.array, change: mx.array) -> FittedHead | None:
        """Return the head beside the words of w [d], whose class features differ by `change` [K, D] from the plain."""
        tuned = self.head is not None and bool(mx.any(w != 0).item())
        return self.head.with_words(change) if self.head is not None and tuned else self.head

    def validate(self, w: mx.array) -> Score:
        """Return the accuracy and the calibrated loss of w [d] on the validation images.

        Without validation images, where nothing is searched, it is the accuracy of the head on left-out images.
        """
        if len(self.val.labels) or self.head is None:
            return super().validate(w)
        return Score(self.head.accuracy, 0.0, len(self.head.judged))


def make_problem(
    clip: Clip,
    train: Features,
    val: Features,
    config: TuneConfig,
    *,
    zero_shot: mx.array | None = None,
    logit_scale: float | None = None,
    offsets: mx.array | None = None,
    val_offsets: mx.array | None = None,
    head: FittedHead | None = None,
) -> TuningProblem:
    """Build the problem that a configuration describes.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept whole.
        train: the training images.
        val: the validation images, of the same classes.
        config: the options.
        zero_shot: the class features of several templates [K, D], to which the change by w is added; None: the
            template's own.
        logit_scale: the factor from cosines to logits of losses and scores; None: the checkpoint's.
        offsets: logits [N, K] that are added to those of the training images, or None.
        val_offsets: the same for the validation images.
        head: the head that prompts get, or None.

    Raises:
        UserError: a template or a class name that does not work, or a memory budget below one candidate's need.
        ValueError: offsets of another shape.
    """
    template = config.template or PLAIN
    if zero_shot is not None:
        scale = clip.logit_scale if logit_scale is None else logit_scale
        shift = scale * (zero_shot - template_features(clip, (template,), train.class_names))
        offsets, val_offsets = _shift_logits(offsets, train, shift), _shift_logits(val_offsets, val, shift)
    problem = build_problem(
        clip,
        train,
        val,
        template=template,
        space=config.space,
        seed=config.seed,
        memory_budget=config.memory_budget,
        directions=config.stage2.linear_directions if config.most_steps else 0,
        logit_scale=logit_scale,
        offsets=offsets,
        val_offsets=val_offsets,
    )
    changed = replace_differences(config, problem.coarse)
    return TuningProblem(**vars(problem), config=changed, zero_shot=zero_shot, head=head)


def _shift_logits(offsets: mx.array | None, images: Features, weights: mx.array) -> mx.array:
    """Return offsets [N, K], or None, plus the logits of a linear classifier [K, D]."""
    own = images.embeddings @ weights.T
    return own if offsets is None else offsets + own


def replace_differences(config: TuneConfig, reason: str | None) -> TuneConfig:
    """Return the configuration with forward-mode derivatives in place of finite differences, and log a warning.

    Args:
        config: the options.
        reason: why products are too coarse for differences; None: they are not, and the configuration stays.
    """
    if not reason:
        return config
    changed = safe_settings(config)
    if changed:
        words = ", ".join(f"{name} {value}" for name, value in changed.items() if value)
        _log.warning(f"{reason}: differences of losses would be noise; used instead: {words}")
    return config.with_settings(changed)


def safe_settings(config: TuneConfig) -> dict[str, Any]:
    """Return the settings that replace differences of losses by forward-mode derivatives."""
    changed: dict[str, Any] = {}
    sharpness, mask, dimension = config.sharpness, config.pruning, config.space.dimension
    if sharpness.rho and sharpness.estimator in ("cge", "rge"):
        count = _count_directions(sharpness.estimator, sharpness.directions, dimension)
        changed |= {"sharpness.estimator": "forward", "sharpness.directions": count}
    if config.most_steps:
        changed |= {f"stage2.{name}": value for name, value in config.stage2.differences_replaced().items()}
    if config.most_steps and mask.keep < 1 and mask.metric in ("zscore-squared", "zscore-fisher", "gradient"):
        if mask.metric == "zscore-fisher":  # it is made from differences of single images' losses
            changed["pruning.metric"] = "zscore-squared"
        if not config.stage2.sees_gradient and mask.estimator != "forward":
            count = _count_directions(mask.estimator, mask.directions, dimension)
            changed |= {"pruning.estimator": "forward", "pruning.directions": count}
    return changed


def _count_directions(kind: str, given: int | None, dimension: int) -> int | None:
    """Return as many directions as the replaced estimator takes; None, all coordinates, in place of CGE."""
    return None if kind == "cge" else given or max(1, dimension // 10)
