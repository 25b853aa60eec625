"""Choose how class features and losses are computed: as MLX's lazy graph (GPU), or in NumPy (CPU).

>>> choose_backend()  # on a Mac  # doctest: +SKIP
'graph'
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import mlx.core as mx

from sharpzo_mlx.objective.chunks import Sizes, default_budget
from sharpzo_mlx.objective.graph_backend import GraphBackend
from sharpzo_mlx.objective.loss import LabelledImages
from sharpzo_mlx.objective.numpy_backend import NumPyBackend
from sharpzo_mlx.prompts.cpu_pieces import PieceSizes, Share
from sharpzo_mlx.prompts.text_features import TextFeatures
from sharpzo_mlx.runtime.device import on_cpu

BackendName: TypeAlias = Literal["graph", "numpy"]


class Backend(Protocol):
    """Class features and losses of P contexts at once; derivatives are those of the graph."""

    @property
    def piece_sizes(self) -> PieceSizes | None:
        """The sizes of NumPy's pieces of work, None where MLX evaluates the graph."""
        ...

    def edges(self, count: int, cores: int) -> list[int]:
        """Return where a batch of contexts that is cut for so many cores falls into shares, from 0 to `count`."""
        ...

    def of(self, share: Share) -> Backend:
        """Return the backend whose results are those of a share of the contexts, to the bits of the whole batch's."""
        ...

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts, [P, n, m] -> [P, K, D] float32 of unit norm."""
        ...

    def losses(self, contexts: mx.array) -> mx.array:
        """Return the mean loss of the training images, [P, n, m] -> [P] float32."""
        ...

    def image_losses(self, contexts: mx.array) -> mx.array:
        """Return the loss of each training image, [P, n, m] -> [P, N] float32."""
        ...


def choose_backend() -> BackendName:
    """Return the backend that is faster on MLX's default device."""
    return "numpy" if on_cpu() else "graph"


def allowed_memory(budget: int | None) -> int:
    """Return the bytes that a chunk may take: the user's memory budget, or the default on MLX's default device."""
    return budget or default_budget(on_cpu=on_cpu())


def make_backend(
    name: BackendName, text: TextFeatures, images: LabelledImages, *, sizes: Sizes, budget: int
) -> Backend:
    """Make the backend of that name; a text tower without a NumPy version always gets the graph.

    Args:
        name: the backend's name.
        text: the text tower, specialised to the classes.
        images: the training images.
        sizes: the problem's sizes, for the memory of the graph.
        budget: the memory budget in bytes.
    """
    if name == "numpy" and text.cpu is not None:
        return NumPyBackend(text, text.cpu, images)
    return GraphBackend(text, images, sizes=sizes, budget=budget)
