"""The head of a prompt: a closed-form classifier of the training images, joined with the tuned words.

    logits = a * s <f_img, f_txt(k; w)> + b * (weights_k f_img + bias_k)

It is fitted to the training images; the shares a and b are those of the lowest cross-entropy on the validation
images (arXiv 2402.04087, eq. 8, sets a = 1 and chooses b by accuracy, which few images tell by chance). Either may be
0, so that each part alone is among the choices. The test images play no part.

>>> prompt = with_head(prompt, "gda", train, val)  # doctest: +SKIP
>>> prompt.head.text_share, prompt.head.image_share  # doctest: +SKIP
(0.31, 0.12)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import mlx.core as mx
import numpy as np

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.closed_form import Fit, Linear, discriminant
from sharpzo_mlx.heads.ensemble import Shares, by_loss, joined
from sharpzo_mlx.prompts.prompt import Head, Prompt

FITS: Mapping[str, Fit] = MappingProxyType({"gda": discriminant})


def with_head(prompt: Prompt, kind: str, train: Features, val: Features) -> Prompt:
    """The prompt joined with a classifier of the training images.

    Args:
        prompt: the tuned words; a head that it has is replaced.
        kind: "none", or a name of FITS.
        train: what the classifier is fitted to, every class present.
        val: what chooses the shares.
    """
    if kind == "none":
        return replace(prompt, head=None)
    fitted = FITS[kind](np.array(train.embeddings), train.labels, len(prompt.class_names))
    text = np.array(prompt.text_logits(val.embeddings))
    shares = by_loss(text, fitted.logits(np.array(val.embeddings)), val.labels)
    return replace(prompt, head=joined_head(prompt, kind, fitted, shares))


def joined_head(prompt: Prompt, kind: str, fitted: Linear, shares: Shares) -> Head:
    """What is added to the text's own logits, which count once, so that the sum has these shares."""
    text = prompt.logit_scale * np.array(prompt.class_features, np.float64)
    both = joined(text, fitted, shares)
    return Head(
        kind=kind,
        weight=mx.array((both.weights - text).astype(np.float32)),
        bias=mx.array(both.bias.astype(np.float32)),
        text_share=shares.text,
        image_share=shares.image,
    )
