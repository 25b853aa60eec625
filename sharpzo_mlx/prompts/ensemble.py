"""Average the class features of several templates into the zero-shot classifier of CLIP's authors.

The row of a class is the mean of the unit-norm text features of all templates with its name, brought to unit norm again
(Radford et al., arXiv 2103.00020, section 3.1.4). The text tower computes in float32. A causal tower computes the words
before the class names once a template (`shared_prefix`). Memory is that of one template and some hundred classes.

>>> template_features(clip, ("a photo of a {}.", "art of the {}."), ("cat", "dog")).shape  # doctest: +SKIP
(2, 512)
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.batches import encode_texts
from sharpzo_mlx.clip.checkpoint import WEIGHTS, load_model
from sharpzo_mlx.clip.finite import check_rows
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.model import CLIPModel, unit_norm
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.limits import bounded_cache

CLASSES_AT_ONCE = 256


def template_features(clip: Clip, templates: Sequence[str], class_names: Sequence[str]) -> mx.array:
    """Return the mean over templates of each class's text features.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept.
        templates: one or more texts with one `{}` each.
        class_names: the names of K classes.

    Returns:
        [K, D], float32, unit norm, evaluated.

    Raises:
        UserError: a template with a class name in it is longer than the model reads; the error shows the text. Or the
            weights give features that are not finite.
    """
    check_lengths(clip.tokenizer, templates, class_names)
    tower = load_model(clip.folder, towers=("text",), dtype=mx.float32)
    with bounded_cache():
        parts = [
            _average(tower, clip.tokenizer, templates, class_names[start : start + CLASSES_AT_ONCE])
            for start in range(0, len(class_names), CLASSES_AT_ONCE)
        ]
        features = mx.concatenate(parts)
        mx.eval(features)
    check_rows(features, clip.folder / WEIGHTS)
    del tower
    mx.clear_cache()
    return features


def check_lengths(tokenizer: Tokenizer, templates: Sequence[str], class_names: Sequence[str]) -> None:
    """Check that the model can read every template with every class name.

    Raises:
        UserError: a text is too long; the error shows it.
    """
    for template in templates:
        for name in class_names:
            tokenizer.encode(template.replace("{}", name))


def _average(tower: CLIPModel, tokenizer: Tokenizer, templates: Sequence[str], names: Sequence[str]) -> mx.array:
    total = mx.zeros((len(names), tower.config.projection_dim))
    for template in templates:
        words = template.split("{}")[0]
        shares_words = words.strip() and words[-1].isspace()
        encode = _encode_prompts if shares_words and tower.text_model.config.causal else _encode_texts
        total = total + encode(tower, tokenizer, template, names)
        mx.eval(total)  # holds the activations of one template at a time
    return unit_norm(total)  # the mean has the same direction


def _encode_prompts(tower: CLIPModel, tokenizer: Tokenizer, template: str, names: Sequence[str]) -> mx.array:
    """Return the features [k, D] of prompts, with the words before the class names computed once."""
    tokens = tokenise_prompts(tokenizer, template, names)
    text = SharedPrefixText(tower.text_model, tower.text_projection, tokens)
    states: mx.array = tower.text_model.embeddings.token_embedding(mx.array(tokens.prefix)[None]).astype(mx.float32)
    if on_cpu():
        return mx.array(text.cpu.class_features(np.array(states))[0])
    for stage in text.stages():
        states = stage(states)
        mx.eval(states)  # holds the activations of one layer at a time
    return states.reshape(text.classes, -1)


def _encode_texts(tower: CLIPModel, tokenizer: Tokenizer, template: str, names: Sequence[str]) -> mx.array:
    """Return the same for any tower and template, from whole texts."""
    return mx.concatenate(encode_texts(tower, tokenizer, [template.replace("{}", name) for name in names]))
