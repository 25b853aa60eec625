"""L(w): the mean cross-entropy of the training images under the prompt w, forward only, for many w at once.

    L(w) = mean_i CE(s * <f_i, f_txt(k; w)>_k, y_i)         (SharpZO, arXiv 2506.20990, section 3)

Image features f_i are computed once and do not depend on w, so one query is one pass of the text tower over the K
class prompts and an N x K product. Candidates are evaluated in chunks that fit a memory budget; the chunks follow
from the configuration alone. Losses and softmax are float32 whatever the weights are. Every L is counted as one
query, every directional derivative as two. On MLX's CPU device values come from `host_text`, at once; elsewhere a
batch that fits one chunk is a lazy graph, evaluated layer by layer where a GPU, which holds all arrays of a graph until
it has ended, would hold too much. Derivatives are the graph's on both.

    objective = Objective(text, space, embeddings, labels, logit_scale=100.0)
    losses = objective.losses(w)            # [P, d] -> [P]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.activations import BLOCK
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.linearised import LinearisedLoss, keeps, step_bytes
from sharpzo_mlx.prompts import shared_prefix_cpu
from sharpzo_mlx.prompts.prompt import PromptSpace
from sharpzo_mlx.prompts.shared_prefix import ClassFeatures, Graph, forward_by
from sharpzo_mlx.runtime.threads import workers

DEFAULT_BUDGET = 256 << 20  # bytes of activations a chunk may need; a constant, so that chunks never vary
LIVE_WIDTHS = 45  # activations alive at once, in units of tokens x width x 4 bytes: measured, see the tests
JVP_WIDTHS = 42  # of a directional derivative, which is taken layer by layer
GPU_JVP_WIDTHS = 120  # on a GPU, which lets go of nothing before a layer's end: measured on an H200
GPU_LAYER_WIDTHS = 25  # and what it holds of each layer of a forward: 270 in twelve, measured there too
JVP_BLOCKS = 14  # blocks of an activation alive at once in one
LOGITS_AT_ONCE = 1 << 22  # entries of one block of the N x K logits


@dataclass(frozen=True)
class Score:
    """How one prompt does on one set of images."""

    accuracy: float  # 0..1
    loss: float
    images: int = 0  # behind the accuracy, for its standard error


def cross_entropies(class_features: mx.array, embeddings: mx.array, labels: mx.array, logit_scale: float) -> mx.array:
    """CE of every image under every classifier, float32.

    Args:
        class_features: [P, K, D] of unit norm.
        embeddings: [N, D] of unit norm.
        labels: [N] class indices.
        logit_scale: s.

    Returns:
        [P, N].
    """
    logits = logit_scale * (embeddings @ class_features.swapaxes(-1, -2))  # [P, N, K]
    index = mx.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
    return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, index, axis=-1).squeeze(-1)


def score(class_features: mx.array, embeddings: mx.array, labels: mx.array, logit_scale: float) -> Score:
    """Accuracy and mean loss of one classifier [K, D] on images [N, D]."""
    return score_logits(logit_scale * (embeddings @ class_features.T), labels)


def score_logits(logits: mx.array, labels: mx.array) -> Score:
    """Accuracy and mean loss of what a classifier says [N, K] of images with labels [N]."""
    right = mx.sum(mx.argmax(logits, axis=-1) == labels)
    loss = mx.mean(mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, labels[:, None], axis=-1).squeeze(-1))
    mx.eval(right, loss)
    count = int(labels.shape[0])
    return Score(cast(int, right.item()) / count, cast(float, loss.item()), count)


class Objective:
    """The training loss over vectors w; counts its queries.

    Args:
        text: the text tower specialised to the classes.
        space: from w to contexts.
        embeddings: image features [N, D], float32, unit norm.
        labels: [N] class indices.
        logit_scale: s, the checkpoint's.
        memory_budget: bytes that a chunk's activations may take.
        directions: of a step that asks for features and their slopes; their memory is part of the plan.

    Raises:
        UserError: the budget is too small for a single candidate.
    """

    def __init__(
        self,
        text: ClassFeatures,
        space: PromptSpace,
        embeddings: mx.array,
        labels: Sequence[int],
        *,
        logit_scale: float,
        memory_budget: int | None = None,
        directions: int = 0,
    ) -> None:
        self.text, self.space = text, space
        self.embeddings = embeddings.astype(mx.float32)
        self.labels = mx.array(list(labels), dtype=mx.int32)
        self.logit_scale = logit_scale
        self.queries = 0
        self.budget = memory_budget
        self.chunk, self.jvp_chunk = self._plan(directions)

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        return self.space.dimension

    def losses(self, w: mx.array) -> mx.array:
        """L of a batch of vectors: [P, d] -> [P], P queries."""
        return self._in_chunks(lambda part: (self._forward(part, self._mean_loss, _mean),), (w,), self.chunk)[0]

    def image_losses(self, w: mx.array) -> mx.array:
        """The loss of every image, before its mean: [P, d] -> [P, N], P queries."""
        return self._in_chunks(lambda part: (self._forward(part, self._image_losses, _each),), (w,), self.chunk)[0]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Losses and exact directional derivatives, by forward-mode differentiation: two queries each.

        Args:
            w: points [P, d].
            u: directions [P, d].

        Returns:
            L(w) [P] and <grad L(w), u> [P].

        Raises:
            UserError: the memory budget is too small for a single derivative.
        """
        return self._derivatives(w, u, [*self.text.stages(), self._mean_loss_of])

    def _derivatives(self, w: mx.array, u: mx.array, stages: list[Graph]) -> tuple[mx.array, mx.array]:
        self._check_budget(self._blocks_bytes + self._derivative_bytes, "one forward-mode derivative")

        def derivative(part: mx.array, direction: mx.array) -> tuple[mx.array, ...]:
            for stage in (self.space.contexts, *stages):
                (part,), (direction,) = mx.jvp(stage, [part], [direction])
                mx.eval(part, direction)  # what the stage held is free before the next
            return part, direction

        values, slopes = self._in_chunks(derivative, (w, u), self.jvp_chunk)
        self.queries += int(w.shape[0])  # with _in_chunks' own count: two a row
        return values, slopes

    def features(self, w: mx.array) -> mx.array:
        """The classifiers of a batch of vectors: [P, d] -> [P, K, D], P queries."""
        return self._in_chunks(lambda part: (self._features(part),), (w,), self.chunk)[0]

    def feature_slopes(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """The classifier of w [d], [K, D], and its exact derivatives along u [q, d], [q, K, D]; 2q queries.

        Raises:
            UserError: the memory budget is too small for a single derivative.
        """
        features, slopes = self._derivatives(mx.broadcast_to(w, u.shape), u, self.text.stages())
        return features[0], slopes

    def linearised(self, features: mx.array, slopes: mx.array) -> LinearisedLoss:
        """L over features [K, D] + sum_j a_j slopes_j [q, K, D], as a function of a; no query."""
        keep = self._keeps(int(slopes.shape[0]))
        return LinearisedLoss(features, slopes, self.embeddings, self.labels, logit_scale=self.logit_scale, keep=keep)

    def _keeps(self, directions: int) -> bool:
        images, room = int(self.embeddings.shape[0]), self.budget or DEFAULT_BUDGET
        return keeps(directions, self.text.classes, images=images, room=room)

    def class_features(self, w: mx.array) -> mx.array:
        """The classifier of one vector: [d] -> [K, D]; not counted, for validation counts its own passes."""
        features = self._features(w[None])[0]
        mx.eval(features)
        return features

    def _features(self, w: mx.array) -> mx.array:
        """[P, d] -> [P, K, D], by the fastest way."""
        contexts = self.space.contexts(w)
        return self._graph(contexts) if self.text.host is None else self.text.class_features(contexts)

    def _graph(self, contexts: mx.array) -> mx.array:
        """[P, n, m] -> [P, K, D]: one lazy graph, or where that would hold too much, each layer evaluated by itself."""
        stages = self.text.stages()
        whole = int(contexts.shape[0]) * len(stages) * self._graph_bytes(GPU_LAYER_WIDTHS, 0)
        by_layers = self.text.host is None and whole > (self.budget or DEFAULT_BUDGET)
        for stage in stages:
            contexts = stage(contexts)
            if by_layers:
                mx.eval(contexts)
        return contexts

    def _forward(
        self, w: mx.array, graph: Callable[[mx.array], mx.array], reduce: Callable[[np.ndarray], np.ndarray]
    ) -> mx.array:
        """Losses by the fastest way to their values; their derivatives are the graph's."""
        if self.text.host is None:
            return graph(w)
        host = self.text.host

        def values(x: mx.array) -> np.ndarray:
            features = host.class_features(np.array(self.space.contexts(x), copy=False))
            images, labels = np.array(self.embeddings, copy=False), np.array(self.labels, copy=False)
            return reduce(shared_prefix_cpu.cross_entropies(features, images, labels, self.logit_scale))

        return forward_by(values, graph)(w)

    def _mean_loss(self, w: mx.array) -> mx.array:
        return mx.mean(self._image_losses(w), axis=-1)

    def _image_losses(self, w: mx.array) -> mx.array:
        """The graph of [P, d] -> [P, N]."""
        return self._image_losses_of(self._graph(self.space.contexts(w)))

    def _mean_loss_of(self, features: mx.array) -> mx.array:
        return mx.mean(self._image_losses_of(features), axis=-1)

    def _image_losses_of(self, features: mx.array) -> mx.array:
        """[P, K, D] -> [P, N], without holding more than a block of the logits."""
        block = max(1, LOGITS_AT_ONCE // (self.text.classes * int(features.shape[0])))
        parts = [
            cross_entropies(features, self.embeddings[i : i + block], self.labels[i : i + block], self.logit_scale)
            for i in range(0, self.embeddings.shape[0], block)
        ]
        return mx.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def _in_chunks(
        self, compute: Callable[..., tuple[mx.array, ...]], rows: tuple[mx.array, ...], chunk: int
    ) -> tuple[mx.array, ...]:
        """Apply `compute` to equal slices of the rows; a batch that fits one chunk stays one lazy graph."""
        count = int(rows[0].shape[0])
        self.queries += count
        if count <= chunk:
            return compute(*rows)
        results = []
        size = -(-count // -(-count // chunk))  # as even as can be: no small rest at the end
        for start in range(0, count, size):
            results.append(compute(*(row[start : start + size] for row in rows)))
            mx.eval(results[-1])  # one chunk's activations at a time
        return tuple(mx.concatenate(list(parts)) for parts in zip(*results, strict=True))

    def _plan(self, directions: int) -> tuple[int, int]:
        """Candidates of a chunk, and directional derivatives of one, from sizes and the configuration alone."""
        images, width = self.embeddings.shape
        kept = self._keeps(directions)
        held = step_bytes(directions, self.text.classes, width=width, images=images, kept=kept) if directions else 0
        fixed, candidate = held, self._graph_bytes(LIVE_WIDTHS, 3)
        if self.text.host is not None:
            entries = min(int(self.embeddings.shape[0]) * self.text.classes, shared_prefix_cpu.LOGITS_AT_ONCE)
            fixed += self.text.host.piece_bytes() + 8 * workers() * entries
            features = self.text.classes * int(self.embeddings.shape[1])
            # contexts: A w, its sum with p0, and a spare; 512: what Python keeps of a piece
            candidate = 4 * (features + 3 * self.space.initial.size + int(self.embeddings.shape[0])) + 512
        self._check_budget(fixed + candidate, "one candidate")
        room = self.budget or DEFAULT_BUDGET
        derivatives = (room - held - self._blocks_bytes) // self._derivative_bytes
        return max(1, (room - fixed) // candidate), max(1, derivatives)

    @property
    def _derivative_bytes(self) -> int:
        """Of one directional derivative, but for the blocks of its activations."""
        return self._graph_bytes(JVP_WIDTHS if mx.default_device() == mx.Device(mx.cpu) else GPU_JVP_WIDTHS, 6)

    @property
    def _blocks_bytes(self) -> int:
        """What forward mode holds inside an activation, which the CPU takes in blocks: little where states are."""
        hidden = 4 * self.text.rows * int(self.space.initial.shape[1])
        return 4 * JVP_BLOCKS * min(BLOCK, hidden)

    def _graph_bytes(self, widths: int, logits: int) -> int:
        """What MLX holds of one candidate at once: so many states of all tokens, and blocks of logits."""
        entries = min(int(self.embeddings.shape[0]) * self.text.classes, LOGITS_AT_ONCE)
        return 4 * (widths * self.text.rows * int(self.space.initial.shape[1]) + logits * entries)

    def _check_budget(self, needed: int, what: str) -> None:
        if self.budget and needed > self.budget:
            given, least = self.budget // 10**6, -(-needed // 10**6)
            raise UserError(f"memory-budget {given}MB: {what} needs {least}MB; raise it to that")


def _mean(losses: np.ndarray) -> np.ndarray:
    """Over the images; in float64, for differences of losses are taken of it."""
    means: np.ndarray = np.asarray(losses.mean(axis=-1, dtype=np.float64), np.float32)
    return means


def _each(losses: np.ndarray) -> np.ndarray:
    return losses
