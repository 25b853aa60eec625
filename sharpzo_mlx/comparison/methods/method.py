"""What a method of a comparison is, and what it is given: the same images, the same budget, the same rule of choice.

A method is a generator over a task: it yields a record now and then, so that its curve can be drawn and it can be
stopped, and returns what labels images. It reports the queries and the image passes that it spent; the clock and the
memory are read by whoever runs it, the test split is never in its hands.

    steps = method.start(task, method.tuned)
    for progress in steps: ...                      # the generator's value is a Predictor
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import mlx.core as mx

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective.build import Problem
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.tuning.problem import TuningProblem, make_problem

AVERAGING = TuneConfig().stage2.averaging  # of the iterates, for every method that descends in steps


@dataclass(frozen=True)
class Task:
    """One data set, one seed, one budget: what every method of a comparison is given alike.

    Attributes:
        clip: the frozen checkpoint; its towers are read when they are asked for.
        train: the shots, encoded.
        val: the validation images, encoded; for the choice of the best and the curves, never for descent.
        config: shots, seed, template, the space of w and the rule of choice; the rest are SharpZO's defaults.
        query_budget: queries at most; one is one evaluation of the training loss, whatever it is made of.
    """

    clip: Clip
    train: Features
    val: Features
    config: TuneConfig
    query_budget: int

    def problem(self, settings: Mapping[str, Any] = MappingProxyType({})) -> TuningProblem:
        """Return the objective over vectors w and its validation, some settings of `config` changed."""
        return make_problem(self.clip, self.train, self.val, self.config.with_settings(settings))


class Predictor(Protocol):
    """What labels images: a classifier of features, or something that reads the images anew."""

    def logits(self, features: Features) -> mx.array:
        """[N, K] float32, for the images behind N features."""
        ...


@dataclass(frozen=True)
class Progress:
    """Where a method stands.

    Attributes:
        queries: evaluations of the training loss so far, by the whole training set or the method's minibatch;
            two for a directional derivative; none for a pass that is differentiated backwards.
        image_passes: passes of single images through the image tower while tuning.
        score: of the candidate that was validated now.
        best: of the candidate that would be kept if it ended here.
        kept: makes what would label images then; called when the method has ended, for the curve of test accuracy.
    """

    queries: int
    score: Score
    best: Score
    kept: Callable[[], Predictor] = field(compare=False, repr=False)
    image_passes: int = 0
    backward_passes: int = 0


@dataclass(frozen=True)
class CosineClassifier:
    """Unit class features [K, D] against unit image features, times the checkpoint's scale."""

    class_features: mx.array
    logit_scale: float

    @classmethod
    def at(cls, problem: Problem, w: mx.array) -> CosineClassifier:
        """Of the prompt at w [d]; one pass of the text tower, which is not counted as a query."""
        return cls(problem.objective.class_features(w), problem.objective.logit_scale)

    def logits(self, features: Features) -> mx.array:
        """[N, K]."""
        return self.logit_scale * (features.embeddings @ self.class_features.T)


Steps = Generator[Progress, None, Predictor]


def affordable(config: TuneConfig, options: Mapping[str, Any]) -> None:
    """What has no price: every query budget does."""


@dataclass(frozen=True)
class Method:
    """One method, with its published settings and those that are compared.

    Attributes:
        name: on the command line.
        title: in tables.
        source: the paper.
        start: (task, options) -> the generator.
        published: the options that its paper or code gives.
        tuned: the options that are compared: the best of the trials; for SharpZO the defaults of `tune`.
        trials: what `tuned` was chosen from; four for every method that searches.
        check: (shared options, options) -> nothing, or a UserError where the query budget buys no step.
        backpropagation: whether it needs gradients: a ceiling, not a competitor.
    """

    name: str
    title: str
    source: str
    start: Callable[[Task, Mapping[str, Any]], Steps]
    published: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Mapping[str, Any], ...] = ()
    check: Callable[[TuneConfig, Mapping[str, Any]], None] = affordable
    backpropagation: bool = False
