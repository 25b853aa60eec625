"""Choose how a text tower computes the class features of many contexts: with a shared prefix, or in full.

text = specialise_text_tower(text_model, text_projection, tokens)
features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from sharpzo_mlx.prompts.full_text import FullText
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText

if TYPE_CHECKING:
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.cpu_pieces import PiecePlan, PieceSizes, Share
    from sharpzo_mlx.prompts.tokens import PromptTokens


class CPUText(Protocol):
    """Class features in NumPy."""

    @property
    def piece_sizes(self) -> PieceSizes:
        """The sizes that the memory of a piece of work follows from."""
        ...

    @property
    def plan(self) -> PiecePlan:
        """How the work is cut."""
        ...

    def class_features(self, contexts: np.ndarray, share: Share | None = None) -> np.ndarray:
        """Return the class features of contexts, or of a share of them, [P, n, m] -> [P, K, D] float32."""
        ...


class TextFeatures(Protocol):
    """A text tower that is specialised to the prompts of K classes.

    Attributes:
        classes: K.
        tokens: tokens that are computed for one context.
        rows: the same with the unused places of the layout; memory depends on these.
    """

    classes: int
    tokens: int
    rows: int

    @property
    def cpu(self) -> CPUText | None:
        """The same computation in NumPy, or None where there is none."""
        ...

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts as a lazy graph, [P, n, m] -> [P, K, D] float32 of unit norm."""
        ...

    def stages(self) -> list[Callable[[mx.array], mx.array]]:
        """Return `class_features` in parts, to be applied one after the other."""
        ...


def specialise_text_tower(text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> TextFeatures:
    """Specialise a text tower to the prompts of K classes.

    Args:
        text_model: any text tower.
        projection: the text tower's projection into the space of image features.
        tokens: the prompts.

    Returns:
        SharedPrefixText where the tower is causal, FullText where every token sees all others.
    """
    if text_model.config.causal:
        return SharedPrefixText(text_model, projection, tokens)
    return FullText(text_model, projection, tokens)
