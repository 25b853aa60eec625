"""Train the small CLIP of `sharpzo-mlx demo` from random weights, on pictures that this repository paints.

Pictures of twenty-four things are painted in several styles and captioned by templates; both towers are trained from
random weights by CLIP's symmetric contrastive loss (Radford et al., arXiv 2103.00020, section 2.3) with MLX's
automatic differentiation on the CPU. The pictures show no photographs of animals and plants; the
demonstration closes that gap by tuning the prompt.

    python benchmarks/train_demo_model.py                        # ten minutes on two idle cores, more on busy ones
    python benchmarks/train_demo_model.py --steps 50 --pictures 2000 --output /tmp/model
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sharpzo_mlx  # noqa: F401  (before mlx: it loads OpenBLAS)

# isort: split
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import tokenizers
from demo_pictures import IMAGE, Subject, caption, paint_all, shrink
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_unflatten

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.tower_config import TextConfig, VisionConfig
from sharpzo_mlx.clip.vocabulary import BOS, END_OF_WORD, EOS, Vocabulary
from sharpzo_mlx.demo import LIVING, MODEL_FOLDER
from sharpzo_mlx.demo.painting import DRAWN_STYLES, UNSEEN_STYLES, paint
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.rng import generator_for, key_for

PICTURES, STEPS, BATCH, RATE = 20_000, 2500, 64, 1.5e-3
PATCH, POSITIONS = 8, 32

CARD = """---
license: mit
library_name: mlx
tags: [clip, mlx, sharpzo-mlx]
---

# The demonstration's CLIP

A very small CLIP ({parameters} parameters, float16) for `sharpzo-mlx demo`. It was trained from random weights by

    python benchmarks/train_demo_model.py

on {pictures} pictures of twenty-four things that the repository itself paints, in {steps} steps of {batch}: drawings,
posters and sketches of everything, imitation photographs of man-made things only. No image and no text of anybody
else went into it. It knows about a hundred words and is good for nothing but the demonstration and tests.
"""


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    pictures: int
    steps: int
    batch: int
    rate: float
    seed: int
    output: Path


def byte_symbols() -> list[str]:
    """Return the 256 symbols of byte-level BPE, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def make_tokenizer(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Make a tokenizer whose vocabulary has CLIP's order: bytes, bytes that end a word, merges, marks."""
    symbols = byte_symbols()
    ends = [symbol + END_OF_WORD for symbol in symbols]
    tokens = dict.fromkeys([*symbols, *ends, *(first + second for first, second in merges), BOS, EOS])
    vocabulary = Vocabulary(
        tokens={token: index for index, token in enumerate(tokens)},
        merges=tuple(merges),
        bos=BOS,
        eos=EOS,
        pad=EOS,
        unk=EOS,
        added=tuple({"content": mark, "special": True, "normalized": False} for mark in (BOS, EOS)),
        context_length=POSITIONS,
    )
    return Tokenizer(vocabulary)


def learn_tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """Learn merges from captions, so that each of their words becomes one token."""
    learner = tokenizers.Tokenizer.from_str(make_tokenizer([]).to_json())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2048, end_of_word_suffix=END_OF_WORD, initial_alphabet=byte_symbols(), show_progress=False
    )
    learner.train_from_iterator(sentences, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    return make_tokenizer([(first, second) for first, second in learned])


def make_config(tokenizer: Tokenizer) -> CLIPConfig:
    """Return the shape of the network, which has about half a million parameters."""
    text = TextConfig(
        hidden_size=64,
        intermediate_size=256,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=POSITIONS,
        vocab_size=tokenizer.eos_id + 1,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    vision = VisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_attention_heads=4,
        num_hidden_layers=4,
        image_size=IMAGE,
        patch_size=PATCH,
    )
    return CLIPConfig(text, vision, projection_dim=64, preprocessor=PreprocessorConfig.for_size(IMAGE))


def parameters(model: CLIPModel) -> dict[str, mx.array]:
    """Return all weights by their paths in the attribute tree."""
    return dict(tree_flatten(model.parameters(), destination={}))


def initialise(model: CLIPModel, seed: int) -> None:
    """Draw normal weights, narrower in the residual branches, and set CLIP's first logit scale of 1 / 0.07."""

    def draw(path: str, weight: mx.array) -> mx.array:
        if path == "logit_scale":
            return mx.array(math.log(1 / 0.07))
        if "norm" in path or path.endswith("bias"):
            return weight
        std = math.prod(weight.shape[1:]) ** -0.5
        if path.endswith("_embedding.weight") and "patch" not in path:
            std = 0.2 if "vision" in path else 0.1
        if "out_proj" in path or "fc2" in path:
            std *= 8**-0.5
        drawn: mx.array = std * mx.random.normal(weight.shape, key=key_for(seed, "weights", path))
        return drawn

    drawn = [(path, draw(path, weight)) for path, weight in parameters(model).items()]
    model.update(tree_unflatten(drawn))


def contrastive_loss(model: CLIPModel, pixels: mx.array, ids: mx.array, same: mx.array) -> mx.array:
    """Return CLIP's symmetric cross-entropy; equal captions of a batch are equally right.

    Args:
        model: both towers.
        pixels: [B, IMAGE, IMAGE, 3], prepared.
        ids: [B, T] token ids.
        same: [B, B], each row sums to 1 over the captions that equal its own.
    """
    logits = mx.exp(model.logit_scale) * model.image_features(pixels) @ model.text_features(ids).T
    losses = [nn.losses.cross_entropy(way, same, reduction="mean") for way in (logits, logits.T)]
    return (losses[0] + losses[1]) / 2


@dataclass(frozen=True)
class Batch:
    """The pictures and captions of one step; shapes as in `contrastive_loss`."""

    pixels: mx.array
    ids: mx.array
    same: mx.array


def prepare(pixels: npt.NDArray[np.uint8], config: PreprocessorConfig) -> mx.array:
    """Rescale and normalise pixels [B, IMAGE, IMAGE, 3] as the model's own preprocessor does."""
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return mx.array((pixels.astype(np.float32) / 255 - mean) / std)


@dataclass(frozen=True)
class Pictures:
    """The training set: subjects, and pixels [N, IMAGE, IMAGE, 3]."""

    subjects: Sequence[Subject]
    pixels: npt.NDArray[np.uint8]


def batches(pictures: Pictures, tokenizer: Tokenizer, options: Options, config: CLIPConfig) -> Iterator[Batch]:
    """Draw pictures without repetition within an epoch, and a fresh caption each time one is shown."""
    order: list[int] = []
    for step in range(options.steps):
        rng = generator_for(options.seed, "batch", step)
        if len(order) < options.batch:
            order = [int(index) for index in rng.permutation(len(pictures.subjects))]
        chosen, order = order[: options.batch], order[options.batch :]
        sentences = [caption(pictures.subjects[index], rng) for index in chosen]
        same = np.array([[one == other for other in sentences] for one in sentences], np.float32)
        yield Batch(
            prepare(pictures.pixels[chosen], config.preprocessor),
            tokenizer(sentences),
            mx.array(same / same.sum(1, keepdims=True)),
        )


def train(model: CLIPModel, examples: Iterator[Batch], *, steps: int, rate: float) -> Iterator[tuple[int, float]]:
    """Train with AdamW, a warm-up and a cosine schedule; yield (step, loss)."""
    warm = max(1, steps // 20)
    schedule = optimizers.join_schedules(
        [optimizers.linear_schedule(0, rate, warm), optimizers.cosine_decay(rate, steps - warm)], [warm]
    )
    optimiser = optimizers.AdamW(learning_rate=schedule, weight_decay=0.05, betas=[0.9, 0.98])
    step_gradient = nn.value_and_grad(model, contrastive_loss)
    for step, example in enumerate(examples):
        loss, gradient = step_gradient(model, example.pixels, example.ids, example.same)
        gradient, _ = optimizers.clip_grad_norm(gradient, 1.0)
        optimiser.update(model, gradient)
        mx.eval(model.parameters(), optimiser.state, loss)
        yield step, float(loss.item())


def save(model: CLIPModel, config: CLIPConfig, tokenizer: Tokenizer, *, output: Path, options: Options) -> None:
    """Write the model folder with weights in float16."""
    weights = {path: weight.astype(mx.float16) for path, weight in parameters(model).items()}
    count = sum(weight.size for weight in weights.values())
    facts = {"pictures": options.pictures, "steps": options.steps, "batch": options.batch}
    card = CARD.format(parameters=f"{count:,}", **facts)
    save_model(output, config, weights, tokenizer.to_json(), card)


def read_options() -> Options:
    """Read the command line; its defaults made the bundled model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    return Options(**vars(parser.parse_args()))


def check(folder: Path, seed: int) -> Iterator[tuple[str, float]]:
    """Yield each style and the saved model's zero-shot accuracy on new pictures of living things in it."""
    clip = load(folder)
    texts = clip.encode_texts([f"a photo of a {name}." for name in LIVING])
    for style in (*DRAWN_STYLES, "photo", *UNSEEN_STYLES):
        right = 0
        for label, name in enumerate(LIVING):
            rngs = [generator_for(seed, "check", style, name, index) for index in range(20)]
            pixels = np.stack([shrink(paint(name, style, rng).image) for rng in rngs])
            features = clip.encode_pixels(prepare(pixels, clip.config.preprocessor))
            right += int(np.sum(np.array(mx.argmax(features @ texts.T, axis=-1)) == label))
        yield style, right / (20 * len(LIVING))


def main() -> None:
    """Paint the pictures, then train, save and check the model."""
    options, started = read_options(), time.monotonic()
    subjects, pixels = paint_all(options.pictures, options.seed)
    print(f"{options.pictures} pictures painted, {time.monotonic() - started:.0f} s", flush=True)
    rng = generator_for(options.seed, "captions")
    tokenizer = learn_tokenizer([caption(subject, rng) for subject in subjects])
    config = make_config(tokenizer)
    model = CLIPModel(config)
    initialise(model, options.seed)
    examples = batches(Pictures(subjects, pixels), tokenizer, options, config)
    for step, loss in train(model, examples, steps=options.steps, rate=options.rate):
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    save(model, config, tokenizer, output=options.output, options=options)
    for style, accuracy in check(options.output, options.seed):
        print(f"{style}: {accuracy:.3f} zero-shot on living things")


if __name__ == "__main__":
    main()
