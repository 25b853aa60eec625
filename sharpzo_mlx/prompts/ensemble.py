"""Average the class features of several templates into the zero-shot classifier of CLIP's authors.

The row of a class is the mean of the unit-norm text features of all templates with its name, brought to unit norm again
(Radford et al., arXiv 2103.00020, section 3.1.4). The text tower computes in float32, a batch of texts at a time.

>>> template_features(clip, ("a photo of a {}.", "art of the {}."), ("cat", "dog")).shape  # doctest: +SKIP
(2, 512)
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import TEXT_BATCH, Clip
from sharpzo_mlx.clip.model import CLIPModel, unit_norm
from sharpzo_mlx.clip.tokenizer import Tokenizer


def template_features(clip: Clip, templates: Sequence[str], class_names: Sequence[str]) -> mx.array:
    """Return the mean over templates of each class's text features.

    Args:
        clip: the checkpoint; its text tower is read anew and not kept.
        templates: one or more texts with one `{}` each.
        class_names: the names of K classes.

    Returns:
        [K, D], float32, unit norm, evaluated.

    Raises:
        UserError: a template with a class name in it is longer than the model reads; the error shows the text.
    """
    tower = load_model(clip.folder, towers=("text",), dtype=mx.float32)
    total = mx.zeros((len(class_names), clip.config.projection_dim))
    for template in templates:
        total = total + _encode(tower, clip.tokenizer, _fill(template, class_names))
        mx.eval(total)  # the graph of one template at a time
    features = unit_norm(total)  # the mean has the same direction
    mx.eval(features)
    del tower
    mx.clear_cache()
    return features


def check_lengths(tokenizer: Tokenizer, templates: Sequence[str], class_names: Sequence[str]) -> None:
    """Check that the model can read every template with every class name.

    Raises:
        UserError: a text is too long; the error shows it.
    """
    for template in templates:
        for text in _fill(template, class_names):
            tokenizer.encode(text)


def _fill(template: str, class_names: Sequence[str]) -> list[str]:
    return [template.replace("{}", name) for name in class_names]


def _encode(tower: CLIPModel, tokenizer: Tokenizer, texts: Sequence[str]) -> mx.array:
    """Return the features [n, D] of n texts, each batch evaluated before the next."""
    rows = []
    for start in range(0, len(texts), TEXT_BATCH):
        rows.append(tower.text_features(tokenizer(texts[start : start + TEXT_BATCH])))
        mx.eval(rows[-1])
    return mx.concatenate(rows)
