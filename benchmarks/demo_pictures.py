"""Paint and caption the training pictures of the demonstration's model; `train_demo_model.py` uses it."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from sharpzo_mlx.demo import LIVING
from sharpzo_mlx.demo.figures import FIGURES
from sharpzo_mlx.demo.painting import DRAWN_STYLES, paint
from sharpzo_mlx.rng import generator_for

IMAGE = 32
OPENINGS = {
    "drawing": "drawing",
    "poster": "poster",
    "sketch": "sketch",
    "photo": "photo",
}


@dataclass(frozen=True)
class Subject:
    """The attributes of one training picture that a caption may mention."""

    name: str
    style: str
    colour: str
    ground: str | None
    small: bool


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(subject: Subject, rng: np.random.Generator) -> str:
    """Return a sentence about a picture that mentions each of its attributes at random."""
    words = subject.name
    if rng.random() < 0.4:
        words = f"{subject.colour} {words}"
    if subject.small and rng.random() < 0.5:
        words = f"small {words}"
    opening = OPENINGS[subject.style] if rng.random() < 0.7 else "picture"
    where = f" on {subject.ground}" if subject.ground and rng.random() < 0.3 else ""
    return f"{_article(opening)} of {_article(words)}{where}."


def choose(rng: np.random.Generator) -> tuple[str, str]:
    """Return a thing and a style to paint it in: any pair but a photograph of a living thing."""
    name = str(rng.choice(list(FIGURES)))
    styles = DRAWN_STYLES if name in LIVING else (*DRAWN_STYLES, "photo", "photo")
    return name, str(rng.choice(styles))


def paint_one(index: int, seed: int) -> tuple[Subject, npt.NDArray[np.uint8]]:
    """Paint training picture number `index`; return its subject and its pixels [IMAGE, IMAGE, 3]."""
    rng = generator_for(seed, "training picture", index)
    name, style = choose(rng)
    picture = paint(name, style, rng)
    return Subject(name, style, picture.colour, picture.ground, picture.small), shrink(picture.image)


def shrink(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Resize a picture as the model's own preprocessing does: pixels [IMAGE, IMAGE, 3]."""
    return np.asarray(image.resize((IMAGE, IMAGE), Image.Resampling.BICUBIC))


def paint_all(count: int, seed: int) -> tuple[list[Subject], npt.NDArray[np.uint8]]:
    """Paint all training pictures on every core; return their subjects and pixels [count, IMAGE, IMAGE, 3]."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        painted = pool.map(partial(paint_one, seed=seed), range(count), chunksize=64)
    return [subject for subject, _ in painted], np.stack([pixels for _, pixels in painted])
