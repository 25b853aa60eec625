"""The classifier record: what every export format is made from, but for the image tower (`exporting.tower`).

Its formulas are those of `heads.head` and `heads.guard`, for an image feature f of unit norm:

    words(f) = words_k f                                       the plain words times the logit scale
    d(f) = min_k | f A - m_k |                                 the guard's distance
    g(f) = 1 / (1 + exp(-(threshold - (d(f) - centre) / spread) / softness))
    logits(f) = (1 - g) words(f) + g (weight_k f + bias_k)
    none of the classes, if d(f) > farthest

Without a head, the logits are those of the words, which then are the tuned ones, and no image is turned away.

>>> describe_run(Run.load("runs/photo-m-0"), clip).names  # doctest: +SKIP
('cat', 'dog')
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from PIL.Image import Resampling

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import CARD
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.model_card import read_card_entry, read_licence
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.heads.answers import REJECTION, Answers
from sharpzo_mlx.heads.guard import SOFTNESS, THRESHOLD
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.images.load import fixed_size
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.runs.run import Run

FORMAT = "sharpzo-mlx classifier 1"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadRecord:
    """A head: what was learned from images, its guard, and from where on an image is none of the classes.

    Attributes:
        weight: [K, D] float32.
        bias: [K] float32.
        whitening: A [D, D] float32, a root of the Gaussians' precision.
        means: the class means times A [K, D] float32.
        centre, spread: mean and standard deviation of the distances of left-out images.
        rate: the stated rate of wrong rejections.
        farthest: the distance above which an image is none of the classes; infinity where none is turned away.
    """

    weight: Array
    bias: Array
    whitening: Array
    means: Array
    centre: float
    spread: float
    rate: float
    farthest: float

    @property
    def arrays(self) -> dict[str, Array]:
        """The tensors by the names that files give them."""
        return {"weight": self.weight, "bias": self.bias, "whitening": self.whitening, "means": self.means}

    @property
    def slope(self) -> float:
        """The factor of the distance in the guard: g = sigmoid(slope d + start)."""
        return -1 / (self.spread * SOFTNESS)

    @property
    def start(self) -> float:
        """The summand of the guard."""
        return (THRESHOLD + self.centre / self.spread) / SOFTNESS


@dataclass(frozen=True)
class ModelName:
    """The checkpoint: its name on the hub or of its folder, the digest of its weights, its licence or None."""

    name: str
    fingerprint: str
    licence: str | None


@dataclass(frozen=True)
class ClassifierRecord:
    """A tuned classifier of image features.

    Attributes:
        names: K class names.
        folders: K names of the class folders.
        template: the text that the names stood in.
        words: the plain words, without a head the tuned ones, times the logit scale [K, D] float32.
        head: what was learned from images, or None.
        preprocessor: how an image becomes pixels.
        size: (height, width) of the pixels.
        model: the checkpoint.
    """

    names: tuple[str, ...]
    folders: tuple[str, ...]
    template: str
    words: Array
    head: HeadRecord | None
    preprocessor: PreprocessorConfig
    size: tuple[int, int]
    model: ModelName

    @property
    def arrays(self) -> dict[str, Array]:
        """The tensors by the names that files give them."""
        return {"words": self.words} | ({} if self.head is None else self.head.arrays)

    def to_json(self) -> dict[str, Any]:
        """Return all that is no tensor, as docs/reference/classifier-files.md describes it; an infinity is null."""
        guard = rejection = None
        if self.head is not None:
            guard = {"centre": self.head.centre, "spread": self.head.spread}
            guard |= {"threshold": THRESHOLD, "softness": SOFTNESS}
            farthest = self.head.farthest if math.isfinite(self.head.farthest) else None
            rejection = {"rate": self.head.rate, "distance": farthest}
        return {
            "format": FORMAT,
            "names": list(self.names),
            "folders": list(self.folders),
            "template": self.template,
            "width": self.words.shape[1],
            "guard": guard,
            "rejection": rejection,
            "preprocessing": _describe_preprocessing(self.preprocessor, self.size),
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "licence": self.model.licence,
            "made_by": f"sharpzo-mlx {version('sharpzo-mlx')}",
        }

    def to_metadata(self, takes: str) -> dict[str, str]:
        """Return the fields of `to_json`, each as JSON under its name, and what the file takes as `input`."""
        fields = {**self.to_json(), "input": takes}
        return {name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}


def describe_run(run: Run, clip: Clip, reject: float | None = None) -> ClassifierRecord:
    """Return the classifier of a run.

    Args:
        run: the run.
        clip: the checkpoint that it was tuned on.
        reject: the rate of wrong rejections, between 0 and 1; None for 0.05.

    Raises:
        UserError: a rate is given that is not between 0 and 1, or for a run without a head.
    """
    prompt = run.prompt
    if reject is not None and prompt.head is None:
        raise UserError(
            f"{run.name or run.folder}: --reject needs a head, and this run has none; tune with the default --head"
        )
    features = prompt.class_features if prompt.head is None else prompt.zero_shot_features
    return ClassifierRecord(
        names=prompt.class_names,
        folders=prompt.folders,
        template=prompt.template,
        words=_as_array(prompt.logit_scale * features),
        head=_describe_head(run, reject),
        preprocessor=clip.config.preprocessor,
        size=fixed_size(clip.config.preprocessor),
        model=_name_model(clip),
    )


def _describe_head(run: Run, reject: float | None) -> HeadRecord | None:
    head = run.prompt.head
    if head is None:
        return None
    assert isinstance(head, Head), "a run's file holds no other kind"
    answers = Answers(head, REJECTION if reject is None else reject)
    for remark in answers.find_remarks(rejecting=True, covering=False):
        notify(f"{run.name or run.folder}: {remark}")
    return HeadRecord(
        weight=_as_array(head.weight),
        bias=_as_array(head.bias),
        whitening=_as_array(head.guard.whitening),
        means=_as_array(head.guard.means),
        centre=head.guard.centre,
        spread=head.guard.spread,
        rate=answers.rejection,
        farthest=answers.farthest,
    )


def _name_model(clip: Clip) -> ModelName:
    """Return the checkpoint's name, which is no path of this machine, and its licence."""
    card = Path(clip.folder) / CARD
    name = read_card_entry(card, "base_model") or Path(clip.folder).resolve().name
    known = catalog.find(name)
    licence = read_licence(card) or (known.licence if known else None) or None
    return ModelName(name, clip.fingerprint, licence)


def _describe_preprocessing(config: PreprocessorConfig, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "resize": list(config.resize) if isinstance(config.resize, tuple) else config.resize,
        "crop": config.crop and list(config.crop),
        "filter": Resampling(config.resample).name.lower(),
        "size": list(size),
        "rescale": config.rescale_factor,
        "mean": config.mean and list(config.mean),
        "std": config.std and list(config.std),
    }


def _as_array(array: mx.array) -> Array:
    return np.array(array.astype(mx.float32))
