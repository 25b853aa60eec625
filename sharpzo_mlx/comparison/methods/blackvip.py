"""BlackVIP: search the parameters of a small network that paints a prompt on each image, by SPSA-GC.

The coordinator computes from an image's feature what is added to its pixels. SPSA with gradient correction searches its
parameters on one minibatch a step (Oh et al., "BlackVIP: Black-Box Visual Prompting for Robust Transfer Learning", CVPR
2023, arXiv 2303.14773). A query is the loss of the minibatch and passes each of its images through the image tower.
Ours: the coordinator's encoder is CLIP's own image tower, whose features are cached (the paper's is another pretrained
network); a minibatch has 16 images, not augmented (the paper's has 128); the search begins at zero-shot.

>>> for progress in start(task, METHODS[0].tuned):  # doctest: +SKIP
...     print(progress.queries, progress.image_passes, progress.best.accuracy)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from sharpzo_mlx.comparison.methods.coordinator import Coordinator
from sharpzo_mlx.comparison.methods.method import AVERAGING, Method, Steps, Task
from sharpzo_mlx.comparison.methods.painted_images import MinibatchLoss, PaintedClassifier, PaintedImages, Painter
from sharpzo_mlx.comparison.methods.spsa_search import Descent, check_draws, descend
from sharpzo_mlx.optimisers.spsa import SPSAParams
from sharpzo_mlx.rng import generator_for, key_for


@dataclass(frozen=True)
class BlackVIPOptions:
    """BlackVIP's own options; the defaults are those of its code, except for the minibatch, which is 128 there.

    Attributes:
        learning_rate: a of SPSA's gains.
        mu: c of SPSA's gains.
        draws: estimates that are averaged in a step.
        momentum: beta of SPSA-GC.
        weight: p_eps, the factor of the prompt.
        minibatch: training images of a step.
        silent_start: whether the decoder's last layer starts at 0, so that the search begins at zero-shot.
        averaging: largest weight of the old average in the average of the iterates.
        validate_every: steps between two validations.
    """

    learning_rate: float = 0.01
    mu: float = 0.01
    draws: int = 5
    momentum: float = 0.9
    weight: float = 1.0
    minibatch: int = 16
    silent_start: bool = False
    averaging: float = 0.0
    validate_every: int = 20


def start(task: Task, options: Mapping[str, Any]) -> Steps:
    """Return the generator of the search; see `method.Method`."""
    chosen = BlackVIPOptions(**options)
    clip, seed = task.clip, task.config.seed
    plain = task.problem()
    words = mx.zeros(plain.objective.dimension)
    classifier = plain.objective.class_features(words)
    coordinator = Coordinator(clip.config.vision.image_size, int(task.train.embeddings.shape[1]))
    painter = Painter(clip, coordinator, chosen.weight)
    train, val = (PaintedImages(painter, features, classifier) for features in (task.train, task.val))
    first = coordinator.draw_parameters(key_for(seed, "blackvip"))
    silent = coordinator.silence(first)

    def minibatch(step: int) -> MinibatchLoss:
        draw = generator_for(seed, "minibatch", step)
        return MinibatchLoss(train, mx.array(draw.permutation(len(train))[: chosen.minibatch]))

    search = Descent(
        params=SPSAParams(
            learning_rate=chosen.learning_rate,
            mu=chosen.mu,
            draws=chosen.draws,
            momentum=chosen.momentum,
            averaging=chosen.averaging,
        ),
        start=silent if chosen.silent_start else first,
        zero_shot=(silent, plain.validate(words)),
        loss_at=minibatch,
        validate=val.score,
        predictor=lambda w: PaintedClassifier(painter, w, classifier),
        validate_every=chosen.validate_every,
        image_passes=lambda: train.passes + val.passes,
    )
    return (yield from descend(task, search))


OURS: Mapping[str, Any] = {"silent_start": True, "averaging": AVERAGING}
METHODS: tuple[Method, ...] = (
    Method(
        name="blackvip",
        title="BlackVIP",
        source="Oh et al., CVPR 2023, arXiv 2303.14773",
        start=start,
        check=lambda config, options: check_draws(config.query_budget, BlackVIPOptions(**options).draws),
        published=dataclasses.asdict(BlackVIPOptions()),
        tuned={**OURS, "learning_rate": 0.003},
        trials=tuple({**OURS, "learning_rate": rate} for rate in (0.001, 0.003, 0.01, 0.03)),
        reads_images=True,
    ),
)
