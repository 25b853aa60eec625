"""Fit the head of a prompt: a closed-form classifier of the training images, joined with the tuned words.

    logits = a * s <f_img, f_txt(k; w)> + b * (weights_k f_img + bias_k)

The classifier is fitted to the training images. The shares a and b are those of the lowest cross-entropy on the
validation images (arXiv 2402.04087, eq. 8, sets a = 1 and chooses b by accuracy, which depends on chance where there
are few images). Either share may be 0, so each part alone is a possible choice. Test images are not used.

>>> prompt = join_head(prompt, "gda", train, val)  # doctest: +SKIP
>>> prompt.head.text_share, prompt.head.image_share  # doctest: +SKIP
(0.31, 0.12)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import mlx.core as mx
import numpy as np

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.closed_form import Fit, Linear, fit_discriminant
from sharpzo_mlx.heads.ensemble import Shares, choose_shares_by_loss, join_classifiers
from sharpzo_mlx.prompts.prompt import Prompt

FITS: Mapping[str, Fit] = MappingProxyType({"gda": fit_discriminant})


@dataclass(frozen=True)
class Head:
    """A linear classifier of image features whose logits are added to those of the text.

    It may contain a multiple of the text classifier as well: with `text_share` 0 the two cancel, and the classifier
    that was fitted to images decides alone.

    Attributes:
        kind: the name of the classifier, as the option `head` has it.
        weight: [K, D] float32.
        bias: [K] float32.
        text_share: the weight of the text's logits in the sum.
        image_share: the weight of the logits of the classifier that was fitted to images.
    """

    kind: str
    weight: mx.array
    bias: mx.array
    text_share: float
    image_share: float

    def add_to(self, text: mx.array, embeddings: mx.array) -> mx.array:
        """Return text logits [N, K] plus the head's logits of image features [N, D]."""
        return text + embeddings @ self.weight.T + self.bias


def join_head(prompt: Prompt, kind: str, train: Features, val: Features) -> Prompt:
    """Return the prompt joined with a classifier of the training images.

    Args:
        prompt: the tuned prompt; a head that it has is replaced.
        kind: "none", or a name of FITS.
        train: the images to which the classifier is fitted, every class present.
        val: the images on which the shares are chosen.
    """
    if kind == "none":
        return replace(prompt, head=None)
    fitted = FITS[kind](np.array(train.embeddings), train.labels, len(prompt.class_names))
    text = np.array(prompt.text_logits(val.embeddings))
    shares = choose_shares_by_loss(text, fitted.logits(np.array(val.embeddings)), val.labels)
    return replace(prompt, head=make_head(prompt, kind, fitted, shares))


def make_head(prompt: Prompt, kind: str, fitted: Linear, shares: Shares) -> Head:
    """Return the head that, added to the text's own logits, gives the sum with these shares.

    Args:
        prompt: the tuned prompt.
        kind: the name of the fitted classifier.
        fitted: the classifier of image features.
        shares: the weights of both classifiers in the sum.
    """
    text = prompt.logit_scale * np.array(prompt.class_features, np.float64)
    both = join_classifiers(text, fitted, shares)
    return Head(
        kind=kind,
        weight=mx.array((both.weights - text).astype(np.float32)),
        bias=mx.array(both.bias.astype(np.float32)),
        text_share=shares.text,
        image_share=shares.image,
    )
