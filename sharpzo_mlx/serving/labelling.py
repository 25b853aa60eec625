"""Label batches of pictures with a run, each as its request asked: how many labels, at which rate of rejection.

The labels are those of `predict`: features from the same image tower, answers from the same `Choice`.

>>> labeller = Labeller.of(Run.load("runs/photo-m-0"))  # doctest: +SKIP
>>> labeller.label([Question(labeller.read(content), Wish(top=1))])[0].labels  # doctest: +SKIP
(('dog', 0.91),)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.evaluation.labels import Choice
from sharpzo_mlx.heads.answers import REJECTION, Answers, make_answers
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.images.load import fixed_size, make_batches, read_picture
from sharpzo_mlx.runs.history import present_version
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.serving.neighbours import Neighbour, Neighbours


@dataclass(frozen=True)
class Wish:
    """What a request wants to know of its images.

    Attributes:
        top: labels of an image.
        reject: the rate of wrong rejections; None calls no image none of the classes.
        neighbours: nearest labelled images.
    """

    top: int = 1
    reject: float | None = None
    neighbours: int = 0


@dataclass(frozen=True)
class Question:
    """A picture [H, W, 3] of bytes in the model's size, and what is to be known of it."""

    picture: np.ndarray
    wish: Wish


@dataclass(frozen=True)
class Answer:
    """The labels of a picture, the most probable first; whether it is none of them; the nearest labelled images."""

    labels: tuple[tuple[str, float], ...]
    rejected: bool
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, eq=False)
class Labeller:
    """A run with its model and its labelled images."""

    run: Run
    clip: Clip
    neighbours: Neighbours

    @classmethod
    def of(cls, run: Run, clip: Clip | None = None) -> Labeller:
        """Open a run's model, and pass one black picture, so that the first request does not wait.

        Raises:
            UserError: `predict` could not use the run.
        """
        clip = open_model(run, clip)
        labeller = cls(run, clip, Neighbours.of(run, clip))
        labeller.label([Question(np.zeros((*fixed_size(clip.config.preprocessor), 3), np.uint8), Wish())])
        return labeller

    def renewed(self, run: Run) -> Labeller:
        """Return the same with another version of the run; UserError if it is of another model."""
        clip = open_model(run, self.clip)
        return Labeller(run, clip, Neighbours.of(run, clip))

    @property
    def version(self) -> int:
        """The number of the run's version, 1 as it was tuned."""
        return present_version(self.run).number

    @property
    def default_rate(self) -> float | None:
        """The rate at which the page calls an image none of the classes; None where the run cannot."""
        head = self.run.prompt.head
        return REJECTION if isinstance(head, Head) and math.isfinite(Answers(head).farthest) else None

    def check(self, wish: Wish) -> list[str]:
        """Return remarks about a wish that can be fulfilled in part only.

        Raises:
            UserError: it cannot be fulfilled: no head, or a rate that is not between 0 and 1.
        """
        answers = self._answers(wish.reject)
        return [] if answers is None else answers.find_remarks(rejecting=True, covering=False)

    def read(self, content: bytes) -> np.ndarray | str:
        """Return the picture of an image file's content, or the reason why there is none."""
        return read_picture(content, self.clip.config.preprocessor)

    def label(self, questions: list[Question]) -> list[Answer]:
        """Answer questions in one pass of the image tower."""
        features = self._encode([question.picture for question in questions])
        answers: dict[int, Answer] = {}
        for wish in dict.fromkeys(question.wish for question in questions):
            rows = [place for place, question in enumerate(questions) if question.wish == wish]
            answers.update(zip(rows, self._answer(mx.array(features[rows]), wish), strict=True))
        return [answers[place] for place in range(len(questions))]

    def _encode(self, pictures: list[np.ndarray]) -> np.ndarray:
        size = self.clip.image_batch
        batches = make_batches(enumerate(pictures), self.clip.config.preprocessor, size)
        return np.concatenate([np.array(rows) for _, rows in self.clip.encode_batches(batches, size)])

    def _answer(self, embeddings: mx.array, wish: Wish) -> list[Answer]:
        choice = Choice(self.run.prompt, wish.top, self._answers(wish.reject), None)
        near = self.neighbours.nearest(embeddings, wish.neighbours)
        return [Answer(*given, rows) for given, rows in zip(choice.answer(embeddings), near, strict=True)]

    def _answers(self, rate: float | None) -> Answers | None:
        return None if rate is None else make_answers(self.run.prompt, "reject", rate, None)
