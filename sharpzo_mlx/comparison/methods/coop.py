"""CoOp: tune the context vectors by backpropagation, as a ceiling for methods of forward passes alone.

The n vectors before the class name, shared by all classes, start at the template's words and follow the gradient of
the training loss through the text tower (Zhou et al., IJCV 2022, arXiv 2109.01134). `tune` never does this. Image
features are cached, so training images are not augmented. As with every method the best context by validation is kept,
and as with every method of many small steps the average of the iterates is what is validated.

    steps = start(task, {"optimiser": "adam", "learning_rate": 3e-2, "steps": 3000, "batch": 32, "averaging": 0.9})
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers

from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import AVERAGING, Method, Progress, Steps, Task
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score, compute_logits, cross_entropies, score_calibrated
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.selection import Selection

WARMUP_RATE = 1e-5  # learning rate of the first epoch, as in the authors' configuration
VALIDATIONS = 60  # validations of a run at most


def compute_loss(objective: Objective, context: mx.array, rows: mx.array | None = None) -> mx.array:
    """Compute the mean cross-entropy (0-d) under a context, as a graph that can be differentiated.

    Args:
        objective: the text tower, the training images and their labels.
        context: the vectors before the class name [n, m].
        rows: the images of a minibatch; None takes all.
    """
    embeddings, labels = objective.embeddings, objective.labels
    if rows is not None:
        embeddings, labels = embeddings[rows], labels[rows]
    features = objective.text.class_features(context[None])
    return mx.mean(cross_entropies(features, embeddings, labels, objective.logit_scale))


def start(task: Task, options: Mapping[str, Any]) -> Steps:
    """Descend along the gradient; yield a record at each validation.

    Args:
        task: data and shared settings; its query budget sets no limit, because no query is made.
        options: `optimiser` (sgd, adam), `learning_rate`, `steps` or `epochs`, `batch` (images of a step, None takes
            all), and `averaging` (largest weight of the old average in the average of the iterates).
    """
    problem = task.problem()
    objective = problem.objective
    images = int(objective.labels.shape[0])
    batch = min(options["batch"] or images, images)
    epoch = max(1, images // batch)  # steps of one; the last incomplete batch is dropped
    total = options["steps"] if "steps" in options else epoch * count_epochs(options["epochs"], task.config.shots)
    optimiser = make_optimiser(options, total, epoch)
    gradient = mx.value_and_grad(lambda context, rows: compute_loss(objective, context, rows))

    def validate(context: mx.array) -> tuple[mx.array, Score]:
        features = objective.backend.class_features(context[None])[0]
        logits = compute_logits(features, problem.val.embeddings, objective.logit_scale)
        return features, score_calibrated(logits, mx.array(problem.val.labels))

    context = mean = objective.space.initial
    selection = Selection(problem.config.selection.slack)
    kept, score = validate(context)
    selection.consider(score)
    yield Progress(0, score, selection.best, partial(CosineClassifier, kept, objective.logit_scale))
    every = max(1, total // VALIDATIONS)
    batches = draw_batches(images, batch, task.config.seed)
    for step in range(1, total + 1):
        _, slope = gradient(context, next(batches))
        context = optimiser.apply_gradients({"context": slope}, {"context": context})["context"]
        mean = average(mean, context, count=mx.array(step), share=options["averaging"])
        mx.eval(context, mean, optimiser.state)
        if step % every == 0 or step == total:
            features, score = validate(mean)
            kept = features if selection.consider(score) else kept
            predictor = partial(CosineClassifier, kept, objective.logit_scale)
            yield Progress(0, score, selection.best, predictor, backward_passes=step)
    return CosineClassifier(kept, objective.logit_scale)


def draw_batches(images: int, batch: int, seed: int) -> Iterator[mx.array | None]:
    """Yield the rows of one minibatch after the other, in a new order each epoch; None where a batch is all images."""
    epoch = 0
    while True:
        order = generator_for(seed, "coop", epoch).permutation(images).astype(np.int32)
        for first in range(0, images - batch + 1, batch):
            yield None if batch == images else mx.array(order[first : first + batch])
        epoch += 1


def count_epochs(epochs: int | None, shots: int | None) -> int:
    """Return the number of epochs: the given one, or the authors': 50 for one shot, 100 for less than 8, else 200."""
    shots = shots or 16
    return epochs or (50 if shots == 1 else 100 if shots < 8 else 200)


def make_optimiser(options: Mapping[str, Any], total: int, epoch: int) -> optimizers.Optimizer:
    """Return the optimiser that the options name, its rate on a cosine over all steps.

    Args:
        options: `optimiser` and `learning_rate`; SGD has the authors' momentum, weight decay and first epoch.
        total: number of steps.
        epoch: steps of an epoch.

    Raises:
        UserError: the name is unknown.
    """
    peak: float = options["learning_rate"]

    def rate(step: mx.array) -> mx.array:
        return mx.array(peak) * (1 + mx.cos(math.pi * mx.minimum(step / total, 1.0))) / 2

    if options["optimiser"] == "adam":
        return optimizers.Adam(learning_rate=rate)
    if options["optimiser"] != "sgd":
        raise UserError(f"optimiser {options['optimiser']!r}: choose sgd or adam")
    return optimizers.SGD(
        learning_rate=lambda step: mx.where(step < epoch, WARMUP_RATE, rate(step)), momentum=0.9, weight_decay=5e-4
    )


ADAM: Mapping[str, Any] = {"optimiser": "adam", "steps": 3000, "batch": 32, "averaging": AVERAGING}
METHODS = (
    Method(
        name="coop",
        title="CoOp",
        source="Zhou et al., IJCV 2022, arXiv 2109.01134",
        start=start,
        published={"optimiser": "sgd", "learning_rate": 2e-3, "epochs": None, "batch": 32, "averaging": 0.0},
        tuned={**ADAM, "learning_rate": 3e-2},
        trials=(
            {**ADAM, "learning_rate": 1e-2, "steps": 300},
            {**ADAM, "learning_rate": 1e-2, "steps": 1000},
            {**ADAM, "learning_rate": 1e-2},
            {**ADAM, "learning_rate": 3e-2},
        ),
        backpropagation=True,
    ),
)
