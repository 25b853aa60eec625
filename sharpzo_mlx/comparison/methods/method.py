"""The interface of a method in `compare`: what it is given, what it yields, and what it returns.

A method is a generator over a task. It yields a record at each validation, so that its curve can be drawn and it can be
stopped, and returns a predictor of images. It counts its own queries and image passes; whoever runs it measures time
and memory. A method never sees the test images.

    steps = method.begin(task, method.tuned)
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
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.tuning.problem import TuningProblem, make_problem

AVERAGING = TuneConfig().stage2.averaging  # of the iterates, for every method that makes many small steps
PUBLISHED = "published"  # the variant with the settings of a method's paper


@dataclass(frozen=True)
class Task:
    """One data set, one seed and one budget, the same for every method.

    Attributes:
        clip: the frozen checkpoint; its towers are read when they are first used.
        train: features of the training images.
        val: features of the validation images, which choose the best candidate and are never trained on.
        config: shots, seed, template, the space of w and the rule of choice; the rest are SharpZO's defaults.
        query_budget: largest number of queries. One query is one evaluation of the training loss.
    """

    clip: Clip
    train: Features
    val: Features
    config: TuneConfig
    query_budget: int

    def problem(self, settings: Mapping[str, Any] = MappingProxyType({})) -> TuningProblem:
        """Return the objective over vectors w and its validation, with some settings of `config` changed."""
        return make_problem(self.clip, self.train, self.val, self.config.with_settings(settings))


class Predictor(Protocol):
    """A classifier of images, by their features or by reading their files again."""

    def logits(self, features: Features) -> mx.array:
        """Return the logits [N, K] (float32) of the N images that the features belong to."""
        ...


@dataclass(frozen=True)
class Progress:
    """The record of one validation.

    Attributes:
        queries: queries so far, on all training images or on the method's minibatch. A directional derivative counts
            as two, backpropagation as none.
        score: score of the candidate that was validated.
        best: score of the candidate that is kept so far.
        kept: returns the predictor of that candidate; called after the method has ended, for its test accuracy.
        image_passes: images that were passed through the image tower while tuning.
        backward_passes: backpropagations so far.
    """

    queries: int
    score: Score
    best: Score
    kept: Callable[[], Predictor] = field(compare=False, repr=False)
    image_passes: int = 0
    backward_passes: int = 0


Steps = Generator[Progress, None, Predictor]


def affordable(config: TuneConfig, options: Mapping[str, Any]) -> None:
    """Accept every query budget: the check of methods that make no query."""


@dataclass(frozen=True)
class Method:
    """One method, with its published options and those that are compared.

    Attributes:
        name: its name on the command line.
        title: its name in tables.
        source: its paper.
        start: makes the generator from the task and the options.
        published: options of its paper or its code.
        tuned: options that are compared, the best of the trials; for SharpZO the defaults of `tune`.
        trials: options that `tuned` was chosen from, four for every method that searches.
        check: raises a UserError if the query budget of the shared settings buys no step with the options.
        published_start: makes the generator of the published variant, if that has an implementation of its own.
        backpropagation: whether it needs backpropagation, and so is a ceiling to compare with.
        reads_images: whether it reads image files again, beside their features.
    """

    name: str
    title: str
    source: str
    start: Callable[[Task, Mapping[str, Any]], Steps]
    published: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Mapping[str, Any], ...] = ()
    check: Callable[[TuneConfig, Mapping[str, Any]], None] = affordable
    published_start: Callable[[Task, Mapping[str, Any]], Steps] | None = None
    backpropagation: bool = False
    reads_images: bool = False

    @property
    def makes_queries(self) -> bool:
        """Whether it evaluates training losses, and so has a query budget."""
        return self.check is not affordable

    def begin(self, task: Task, options: Mapping[str, Any], variant: str = "") -> Steps:
        """Return the generator of a variant.

        Args:
            task: the images and the budget.
            options: the method's own options.
            variant: its name; "published" may have an implementation of its own.
        """
        own = self.published_start if variant == PUBLISHED else None
        return (own or self.start)(task, options)
