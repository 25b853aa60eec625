"""Compute the class features of further class names under a context that was tuned.

>>> context_features(clip, prompt.template, prompt.context, ("red panda",)).shape  # doctest: +SKIP
(1, 512)
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.checkpoint import WEIGHTS, load_model
from sharpzo_mlx.clip.finite import check_rows
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runtime.limits import bounded_cache


def context_features(clip: Clip, template: str, context: mx.array, class_names: Sequence[str]) -> mx.array:
    """Return the class features of names behind a context, in place of the template's words.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept.
        template: a text with one `{}` and words before it.
        context: the vectors in front of the class names [n, m].
        class_names: the names of K classes.

    Returns:
        [K, D], float32, unit norm, evaluated.

    Raises:
        UserError: a prompt is longer than the model reads, or the weights give features that are not finite.
    """
    tokens = tokenise_prompts(clip.tokenizer, template, class_names)
    tower = load_model(clip.folder, towers=("text",), dtype=mx.float32)
    text = specialise_text_tower(tower.text_model, tower.text_projection, tokens)
    with bounded_cache():
        if text.cpu is not None:
            features = mx.array(text.cpu.class_features(np.array(context)[None])[0])
        else:
            features = text.class_features(context[None])[0]
        mx.eval(features)
    check_rows(features, clip.folder / WEIGHTS)
    del tower
    mx.clear_cache()
    return features
