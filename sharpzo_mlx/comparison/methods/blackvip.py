"""BlackVIP: a visual prompt that a small network paints on each image, its parameters searched by SPSA-GC.

The coordinator reads the image's feature and paints what is added to the pixels; its parameters are estimated by SPSA
with gradient correction, on a minibatch a step (Oh et al., "BlackVIP: Black-Box Visual Prompting for Robust Transfer
Learning", CVPR 2023, arXiv 2303.14773). A query is the loss of the minibatch: so many passes through the image tower.
Ours: the coordinator's encoder is CLIP's own image tower (the paper's is another pretrained network), so that the
features which are cached anyway are its input; 16 images a minibatch in place of 128, not augmented; the search
begins at zero-shot.

>>> for progress in start(task, METHODS[0].tuned):  # doctest: +SKIP
...     print(progress.queries, progress.image_passes, progress.best.accuracy)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import IMAGE_BATCH, Clip
from sharpzo_mlx.comparison.methods.coordinator import Coordinator
from sharpzo_mlx.comparison.methods.method import AVERAGING, CosineClassifier, Method, Steps, Task
from sharpzo_mlx.comparison.methods.spsa_search import Descent, check_draws, descend
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.images.load import Batch, normalise, stream
from sharpzo_mlx.objective.loss import Score, cross_entropies, score, score_features
from sharpzo_mlx.optimisers.spsa import SPSAParams
from sharpzo_mlx.rng import generator_for, key_for


@dataclass(frozen=True)
class BlackVIPOptions:
    """BlackVIP's own options; the defaults are those of its code, but for the minibatch, which is 128 there.

    Attributes:
        learning_rate: a of SPSA's gains.
        mu: c of SPSA's gains.
        draws: estimates that are averaged in a step.
        momentum: beta of SPSA-GC.
        weight: p_eps, of the prompt.
        minibatch: training images of a step's losses.
        silent_start: whether the decoder's last layer starts at 0, so that the search begins at zero-shot.
        averaging: weight of the past in the average of the iterates.
        validate_every: steps between validations.
    """

    learning_rate: float = 0.01
    mu: float = 0.01
    draws: int = 5
    momentum: float = 0.9
    weight: float = 1.0
    minibatch: int = 16
    silent_start: bool = False
    averaging: float = 0.0
    validate_every: int = 20


class Painter:
    """Images with a prompt on them.

    Args:
        clip: the checkpoint.
        coordinator: what draws the prompts.
        weight: p_eps.
    """

    def __init__(self, clip: Clip, coordinator: Coordinator, weight: float) -> None:
        self.clip, self.coordinator, self.weight = clip, coordinator, weight
        black, white = normalise(np.array([[0] * 3, [255] * 3], np.uint8), clip.config.preprocessor)
        self.darkest, self.brightest = mx.array(black), mx.array(white)

    def paint(self, parameters: mx.array, pixels: mx.array, features: mx.array) -> mx.array:
        """Normalised pixels [B, H, W, 3] with the prompts of their features [B, D], held to what a picture can show."""
        painted = pixels + self.weight * self.coordinator.prompts(parameters, features)
        return mx.clip(painted, self.darkest, self.brightest)


class PaintedImages:
    """Encoded images, their pixels in memory, and how they do under a coordinator's parameters.

    Args:
        painter: what paints and encodes.
        features: the images as they are.
        classifier: [K, D] unit class features, the zero-shot ones.
    """

    def __init__(self, painter: Painter, features: Features, classifier: mx.array) -> None:
        self.painter, self.classifier = painter, classifier
        self.features, self.labels = features.embeddings, mx.array(features.labels)
        batches = _read(painter.clip, features.paths)
        self.pixels = mx.concatenate([mx.array(batch.pixels) for batch in batches])
        self.passes = 0
        mx.eval(self.pixels)

    def __len__(self) -> int:
        return len(self.features)

    def encode(self, parameters: mx.array, rows: mx.array) -> mx.array:
        """Features [P, B, D] of the painted images at `rows`, for parameters [P, d]."""
        self.passes += len(parameters) * len(rows)
        together = max(1, IMAGE_BATCH // len(rows))  # vectors whose images fill a batch
        groups = [parameters[first : first + together] for first in range(0, len(parameters), together)]
        parts = [rows[first : first + IMAGE_BATCH] for first in range(0, len(rows), IMAGE_BATCH)]
        return mx.concatenate(
            [mx.concatenate([self._encoded(group, part) for part in parts], axis=1) for group in groups]
        )

    def _encoded(self, group: mx.array, rows: mx.array) -> mx.array:
        pixels, features = self.pixels[rows], self.features[rows]
        painted = mx.concatenate([self.painter.paint(parameters, pixels, features) for parameters in group])
        return self.painter.clip.encode_pixels(painted).reshape(len(group), len(rows), -1)

    def score(self, parameters: mx.array) -> Score:
        """Accuracy and loss of all of them, under parameters [d]."""
        (encoded,) = self.encode(parameters[None], mx.arange(len(self)))
        return score(self.classifier, encoded, self.labels, self.painter.clip.logit_scale)


@dataclass(frozen=True)
class MinibatchLoss:
    """The mean loss of some training images over the coordinator's parameters."""

    images: PaintedImages
    rows: mx.array

    def losses(self, w: mx.array) -> mx.array:
        """Parameters [P, d] -> [P]; P queries of as many image passes as there are rows."""
        scale, labels = self.images.painter.clip.logit_scale, self.images.labels[self.rows]
        classifier = self.images.classifier[None]
        encoded = self.images.encode(w, self.rows)
        return mx.concatenate([mx.mean(cross_entropies(classifier, x, labels, scale), axis=1) for x in encoded])


@dataclass(frozen=True)
class PaintedClassifier:
    """What labels images by painting on them first; they are read anew from their files."""

    painter: Painter
    parameters: mx.array
    class_features: mx.array

    def logits(self, features: Features) -> mx.array:
        """[N, K], one more pass of the image tower an image."""
        clip, encoded, done = self.painter.clip, [], 0
        for batch in _read(clip, features.paths):
            known = features.embeddings[done : done + len(batch.pixels)]
            painted = self.painter.paint(self.parameters, mx.array(batch.pixels), known)
            encoded.append(clip.encode_pixels(painted))
            done += len(batch.pixels)
        painted_features = dataclasses.replace(features, embeddings=mx.concatenate(encoded))
        return CosineClassifier(self.class_features, clip.logit_scale).logits(painted_features)


def _read(clip: Clip, paths: tuple[Path, ...]) -> Iterator[Batch]:
    """The prepared pixels of image files that could be read before, in order."""
    for batch in stream(paths, clip.config.preprocessor, batch_size=IMAGE_BATCH):
        for index, reason in batch.failed:
            raise UserError(f"{paths[index]}: {reason}; it could be read when it was encoded, put it back")
        yield batch


def start(task: Task, options: Mapping[str, Any]) -> Steps:
    """The search; see `method.Method`."""
    chosen = BlackVIPOptions(**options)
    clip, seed = task.clip, task.config.seed
    plain = task.problem().objective
    classifier = plain.class_features(mx.zeros(plain.dimension))
    coordinator = Coordinator(clip.config.vision.image_size, int(task.train.embeddings.shape[1]))
    painter = Painter(clip, coordinator, chosen.weight)
    train, val = (PaintedImages(painter, features, classifier) for features in (task.train, task.val))
    first = coordinator.start(key_for(seed, "blackvip"))
    silent = coordinator.silenced(first)

    def minibatch(step: int) -> MinibatchLoss:
        draw = generator_for(seed, "minibatch", step)
        return MinibatchLoss(train, mx.array(draw.permutation(len(train))[: chosen.minibatch]))

    search = Descent(
        params=SPSAParams(
            learning_rate=chosen.learning_rate,
            mu=chosen.mu,
            draws=chosen.draws,
            momentum=chosen.momentum,
            averaging=chosen.averaging,
        ),
        start=silent if chosen.silent_start else first,
        zero_shot=(silent, score_features(classifier, task.val, clip.logit_scale)),
        loss_at=minibatch,
        validate=val.score,
        predictor=lambda w: PaintedClassifier(painter, w, classifier),
        validate_every=chosen.validate_every,
        image_passes=lambda: train.passes + val.passes,
    )
    return (yield from descend(task, search))


OURS: Mapping[str, Any] = {"silent_start": True, "averaging": AVERAGING}
METHODS: tuple[Method, ...] = (
    Method(
        name="blackvip",
        title="BlackVIP",
        source="Oh et al., CVPR 2023, arXiv 2303.14773",
        start=start,
        check=lambda config, options: check_draws(config.query_budget, BlackVIPOptions(**options).draws),
        published=dataclasses.asdict(BlackVIPOptions()),
        tuned={**OURS, "learning_rate": 0.003},
        trials=tuple({**OURS, "learning_rate": rate} for rate in (0.001, 0.003, 0.01, 0.03)),
    ),
)
