"""L(w): the mean cross-entropy of the training images under the prompt w, for many w at once.

    L(w) = mean_i CE(s * <f_i, f_txt(k; w)>_k + o_ik, y_i)         (SharpZO, arXiv 2506.20990, section 3)

The offsets o are not the paper's: they are the logits of a fixed classifier that words are tuned beside. Without them
L is the paper's.

The image features f_i are computed once and do not depend on w, so one query is one pass of the text tower over the K
prompts and an N x K product. Candidates are evaluated in chunks that fit a memory budget (`chunks`). Losses and softmax
are float32 whatever type the weights have. Each L counts as one query, each directional derivative as two. Values
come from a backend (`backend`); derivatives are the graph's in either case.

    objective = Objective(text, space, embeddings, labels, logit_scale=100.0)
    losses = objective.losses(w)            # [P, d] -> [P]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from sharpzo_mlx.objective import chunks, spreading
from sharpzo_mlx.objective.backend import BackendName, allowed_memory, choose_backend, make_backend
from sharpzo_mlx.objective.calls import DERIVATIVES, Call
from sharpzo_mlx.objective.linearised import LinearisedLoss, linearise
from sharpzo_mlx.objective.loss import LabelledImages, check_offsets, compute_logits, mean_losses
from sharpzo_mlx.prompts.cpu_pieces import Share
from sharpzo_mlx.prompts.space import PromptSpace
from sharpzo_mlx.prompts.text_features import TextFeatures
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.helpers import Origin
from sharpzo_mlx.runtime.limits import begin


class Objective:
    """The training loss as a function of vectors w; it counts its queries.

    Args:
        text: the text tower, specialised to the classes.
        space: the map from w to contexts.
        embeddings: image features [N, D], float32, unit norm.
        labels: class indices [N].
        logit_scale: s, the factor that turns cosines into logits; the checkpoint's, as a rule.
        offsets: o [N, K], logits that are added to each image's own; None: none are.
        memory_budget: bytes that a chunk's activations may take; None: a fixed default.
        directions: directions of a step that uses the linearised loss, whose memory is planned for; 0: none.
        backend: the computation of values; None: the faster one on this device.
        origin: what helpers build the same objective from; None: all is computed here.

    Raises:
        UserError: the budget is too small for a single candidate.
        ValueError: the offsets have another shape.
    """

    def __init__(
        self,
        text: TextFeatures,
        space: PromptSpace,
        embeddings: mx.array,
        labels: Sequence[int],
        *,
        logit_scale: float,
        offsets: mx.array | None = None,
        memory_budget: int | None = None,
        directions: int = 0,
        backend: BackendName | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.origin = origin
        self.text, self.space, self.logit_scale = text, space, logit_scale
        self.embeddings = embeddings.astype(mx.float32)
        self.labels = mx.array(list(labels), dtype=mx.int32)
        mx.eval(self.embeddings, self.labels)  # every thread may use the objective
        offsets = check_offsets(offsets, len(labels), text.classes)
        self.images = LabelledImages(self.embeddings, self.labels, logit_scale, offsets)
        self.queries, self.budget = 0, memory_budget
        self.sizes = measure_sizes(text, space, self.embeddings)
        self.backend_name = backend or choose_backend()
        self.on_cpu = on_cpu()  # the graph's memory depends on the device, whichever backend computes the values
        allowed = allowed_memory(memory_budget)
        self.backend = make_backend(self.backend_name, text, self.images, sizes=self.sizes, budget=allowed)
        plan = chunks.plan_chunks(
            self.sizes,
            budget=memory_budget,
            on_cpu=self.on_cpu,
            directions=directions,
            piece=self.backend.piece_sizes,
        )
        self.chunk, self.jvp_chunk = plan.candidates, plan.derivatives

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        return self.space.dimension

    def losses(self, w: mx.array) -> mx.array:
        """Return L of a batch of vectors, [P, d] -> [P]; P queries."""
        return self._call("losses", w)[0]

    def image_losses(self, w: mx.array) -> mx.array:
        """Return the loss of every image, [P, d] -> [P, N]; P queries."""
        return self._call("image_losses", w)[0]

    def features(self, w: mx.array) -> mx.array:
        """Return the class features of a batch of vectors, [P, d] -> [P, K, D]; P queries."""
        return self._call("features", w)[0]

    def class_features(self, w: mx.array) -> mx.array:
        """Return the class features of one vector, [d] -> [K, D]; not counted, because validation counts its passes."""
        features = self._lazy_class_features(w)
        mx.eval(features)
        return features

    def logits(self, w: mx.array, embeddings: mx.array, offsets: mx.array | None = None) -> mx.array:
        """Return the logits [N, K] of any images [N, D] under one vector w [d], lazily; not counted either.

        Args:
            w: [d].
            embeddings: image features [N, D] of unit norm.
            offsets: [N, K], added to the images' own logits, or None.
        """
        return compute_logits(self._lazy_class_features(w), embeddings, self.logit_scale, offsets)

    def _lazy_class_features(self, w: mx.array) -> mx.array:
        return self.backend.class_features(self.space.contexts(w[None]))[0]

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Return losses and exact directional derivatives by forward-mode differentiation; two queries each.

        Args:
            w: points [P, d].
            u: directions [P, d].

        Returns:
            L(w) [P] and <grad L(w), u> [P].

        Raises:
            UserError: the memory budget is too small for a single derivative.
        """
        losses, slopes = self._call("jvp", w, u)
        return losses, slopes

    def feature_slopes(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Return the class features of w [d] and their exact derivatives along u [q, d]; 2q queries.

        Returns:
            [K, D] and [q, K, D].

        Raises:
            UserError: the memory budget is too small for a single derivative.
        """
        features, slopes = self._call("feature_slopes", mx.broadcast_to(w, u.shape), u)
        return features[0], slopes

    def linearised(self, features: mx.array, slopes: mx.array) -> LinearisedLoss:
        """Return L over class features [K, D] + sum_j a_j slopes_j [q, K, D] as a function of a; no query."""
        return linearise(features, slopes, self.images, backend=self.backend_name)

    def compute(self, call: Call, *rows: mx.array, share: Share | None = None) -> tuple[mx.array, ...]:
        """Compute one chunk, or a share of it; no query is counted.

        Args:
            call: what is computed.
            rows: points [P, d], and for derivatives directions [P, d].
            share: the rows whose results are returned; None: all. Derivatives are always those of all.

        Returns:
            Losses [p], losses of images [p, N] or class features [p, K, D]; of "jvp" losses and derivatives; of
            "feature_slopes", where all points are one, its class features [1, K, D] and their derivatives [P, K, D].
        """
        if call == "jvp":
            return self._differentiate(*rows, stages=[*self.text.stages(), lambda x: mean_losses(x, self.images)])
        if call == "feature_slopes":
            features, slopes = self._differentiate(*rows, stages=self.text.stages())
            return features[:1], slopes
        backend = self.backend if share is None else self.backend.of(share)
        contexts = self.space.contexts(rows[0])
        if call == "losses":
            return (backend.losses(contexts),)
        if call == "image_losses":
            return (backend.image_losses(contexts),)
        return (backend.class_features(contexts),)

    def _differentiate(
        self, w: mx.array, u: mx.array, *, stages: list[Callable[[mx.array], mx.array]]
    ) -> tuple[mx.array, mx.array]:
        """Apply the stages one after the other to contexts of w [P, d] and to their derivatives along u [P, d]."""
        for stage in (self.space.contexts, *stages):
            (w,), (u,) = mx.jvp(stage, [w], [u])
            begin(w, u)  # frees the memory of a stage before the next begins
        return w, u

    def _call(self, call: Call, *rows: mx.array) -> tuple[mx.array, ...]:
        """Compute rows in chunks, here or by helpers, and count them; one chunk alone stays one lazy graph."""
        count, derivative = int(rows[0].shape[0]), call in DERIVATIVES
        if derivative:
            one = chunks.derivative_bytes(self.sizes, on_cpu=self.on_cpu)
            needed = chunks.derivative_block_bytes(self.sizes) + one
            chunks.check_budget(self.budget, needed, "one forward-mode derivative")
        self.queries += 2 * count if derivative else count
        parts = chunks.cut(count, self.jvp_chunk if derivative else self.chunk)
        if (found := spreading.compute_with_helpers(self, call, rows, parts)) is not None:
            return found
        if len(parts) == 1:
            return self.compute(call, *rows)
        results = []
        for part in parts:
            results.append(self.compute(call, *(row[part] for row in rows)))
            begin(*results[-1])  # holds the activations of one chunk at a time
        return tuple(mx.concatenate(list(values)) for values in zip(*results, strict=True))


def measure_sizes(text: TextFeatures, space: PromptSpace, embeddings: mx.array) -> chunks.Sizes:
    """Return the sizes that the memory plan follows from."""
    images, features = embeddings.shape
    return chunks.Sizes(
        classes=text.classes,
        images=images,
        features=features,
        tokens=text.rows,
        width=int(space.initial.shape[1]),
        context=space.initial.size,
    )
