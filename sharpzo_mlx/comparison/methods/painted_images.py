"""Images with BlackVIP's prompts painted on them: their pixels, features, losses and classifier.

A `Painter` adds the coordinator's prompt to normalised pixels. `PaintedImages` holds images in memory and encodes them
under any parameters of the coordinator; `MinibatchLoss` is the loss of some of them, `PaintedClassifier` labels images
from their files (Oh et al., arXiv 2303.14773).

>>> images = PaintedImages(Painter(clip, coordinator, 1.0), features, class_features)  # doctest: +SKIP
>>> MinibatchLoss(images, rows).losses(parameters[None])  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.batches import IMAGE_BATCH
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.model import normalise_on_device
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.coordinator import Coordinator
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.images.load import normalise, stream
from sharpzo_mlx.objective.loss import Score, compute_logits, cross_entropies, score_calibrated


class Painter:
    """Paints prompts on images.

    Args:
        clip: the checkpoint.
        coordinator: computes the prompts.
        weight: p_eps, the factor of a prompt.
    """

    def __init__(self, clip: Clip, coordinator: Coordinator, weight: float) -> None:
        self.clip, self.coordinator, self.weight = clip, coordinator, weight
        black, white = normalise(np.array([[0] * 3, [255] * 3], np.uint8), clip.config.preprocessor)
        self.darkest, self.brightest = mx.array(black), mx.array(white)

    def paint(self, parameters: mx.array, pixels: mx.array, features: mx.array) -> mx.array:
        """Add the prompts of the features [B, D] to normalised pixels [B, H, W, 3], clipped to black and white."""
        painted = pixels + self.weight * self.coordinator.make_prompts(parameters, features)
        return mx.clip(painted, self.darkest, self.brightest)


class PaintedImages:
    """Images whose pixels are held in memory, to be encoded under any parameters of the coordinator.

    Args:
        painter: paints on them.
        features: features of the images without a prompt.
        classifier: zero-shot class features [K, D].

    Attributes:
        passes: images that were passed through the image tower so far.
    """

    def __init__(self, painter: Painter, features: Features, classifier: mx.array) -> None:
        self.painter, self.classifier = painter, classifier
        self.features, self.labels = features.embeddings, mx.array(features.labels)
        self.pixels = mx.concatenate(list(_read(painter.clip, features.paths)))
        self.passes = 0
        mx.eval(self.pixels)

    def __len__(self) -> int:
        return len(self.features)

    def encode(self, parameters: mx.array, rows: mx.array) -> mx.array:
        """Return the features [P, B, D] of the painted images at `rows` [B], for parameters [P, d]."""
        self.passes += len(parameters) * len(rows)
        together = max(1, IMAGE_BATCH // len(rows))  # parameter vectors whose images fill a batch
        groups = [parameters[first : first + together] for first in range(0, len(parameters), together)]
        parts = [rows[first : first + IMAGE_BATCH] for first in range(0, len(rows), IMAGE_BATCH)]
        return mx.concatenate(
            [mx.concatenate([self._encode_batch(group, part) for part in parts], axis=1) for group in groups]
        )

    def _encode_batch(self, group: mx.array, rows: mx.array) -> mx.array:
        """Return the same features by one pass of the image tower."""
        pixels, features = self.pixels[rows], self.features[rows]
        painted = mx.concatenate([self.painter.paint(parameters, pixels, features) for parameters in group])
        return self.painter.clip.encode_pixels(painted).reshape(len(group), len(rows), -1)

    def score(self, parameters: mx.array) -> Score:
        """Return accuracy and loss, at the best temperature, of all images under parameters [d]."""
        (encoded,) = self.encode(parameters[None], mx.arange(len(self)))
        logits = compute_logits(self.classifier, encoded, self.painter.clip.logit_scale)
        return score_calibrated(logits, self.labels)


@dataclass(frozen=True)
class MinibatchLoss:
    """The mean loss of some training images, as a function of the coordinator's parameters."""

    images: PaintedImages
    rows: mx.array

    def losses(self, w: mx.array) -> mx.array:
        """Return the losses [P] at parameters [P, d]: P queries, each of as many image passes as there are rows."""
        scale, labels = self.images.painter.clip.logit_scale, self.images.labels[self.rows]
        classifier = self.images.classifier[None]
        encoded = self.images.encode(w, self.rows)
        return mx.concatenate([mx.mean(cross_entropies(classifier, x, labels, scale), axis=1) for x in encoded])


@dataclass(frozen=True)
class PaintedClassifier:
    """A predictor that reads images from their files again and paints on them."""

    painter: Painter
    parameters: mx.array
    class_features: mx.array

    def logits(self, features: Features) -> mx.array:
        """Return the logits [N, K]; each image passes the image tower once more."""
        clip, encoded, done = self.painter.clip, [], 0
        for pixels in _read(clip, features.paths):
            known = features.embeddings[done : done + len(pixels)]
            painted = self.painter.paint(self.parameters, pixels, known)
            encoded.append(clip.encode_pixels(painted))
            done += len(pixels)
        painted_features = dataclasses.replace(features, embeddings=mx.concatenate(encoded))
        return CosineClassifier(self.class_features, clip.logit_scale).logits(painted_features)


def _read(clip: Clip, paths: tuple[Path, ...]) -> Iterator[mx.array]:
    """Yield the preprocessed pixels of image files in order.

    Raises:
        UserError: a file that could be read when its features were computed cannot be read now.
    """
    for batch in stream(paths, clip.config.preprocessor, batch_size=IMAGE_BATCH):
        for index, reason in batch.failed:
            raise UserError(f"{paths[index]}: {reason}; it could be read when its features were made, so put it back")
        yield normalise_on_device(mx.array(batch.pictures), clip.config.preprocessor)
