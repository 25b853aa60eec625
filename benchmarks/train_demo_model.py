"""Train the small CLIP of `sharpzo-mlx demo` from nothing, on pictures that this repository paints.

Pictures of twenty-four things are painted in several styles and captioned by templates; both towers are trained from
random weights by CLIP's symmetric contrastive loss (Radford et al., arXiv 2103.00020, section 2.3) with MLX's
automatic differentiation on the CPU. Animals and plants are never shown as photographs: that gap is what the
demonstration closes by tuning the prompt.

    python benchmarks/train_demo_model.py                        # about ten minutes on two cores
    python benchmarks/train_demo_model.py --steps 50 --pictures 2000 --output /tmp/model
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import sharpzo_mlx  # noqa: F401  (before mlx: it loads OpenBLAS)

# isort: split
import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_unflatten
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig, TextConfig, VisionConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.preprocessor import PreprocessorConfig
from sharpzo_mlx.demo import LIVING, MODEL_FOLDER
from sharpzo_mlx.demo.figures import FIGURES
from sharpzo_mlx.demo.painting import COLOURS, DRAWN_STYLES, GROUNDS, paint
from sharpzo_mlx.random import numpy_stream, stream

IMAGE = 32
OPENINGS = {
    "drawing": "drawing",
    "poster": "poster",
    "sketch": "sketch",
    "photo": "photo",
}
PATCH, WIDTH, POSITIONS = 8, 96, 32
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's own
)


@dataclass(frozen=True)
class Subject:
    """What is on one training picture, as far as captions may say it."""

    name: str
    style: str
    colour: str
    ground: str | None
    small: bool


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(subject: Subject, rng: np.random.Generator) -> str:
    """A sentence about a picture; each of its attributes is told or left out by chance."""
    words = subject.name
    if rng.random() < 0.4:
        words = f"{subject.colour} {words}"
    if subject.small and rng.random() < 0.5:
        words = f"small {words}"
    opening = OPENINGS[subject.style] if rng.random() < 0.7 else "picture"
    where = f" on {subject.ground}" if subject.ground and rng.random() < 0.3 else ""
    return f"{_article(opening)} of {_article(words)}{where}."


def choose(rng: np.random.Generator) -> tuple[str, str]:
    """A thing and a style to paint it in; no photograph of anything that lives."""
    name = str(rng.choice(list(FIGURES)))
    styles = DRAWN_STYLES if name in LIVING else (*DRAWN_STYLES, "photo", "photo")
    return name, str(rng.choice(styles))


def paint_one(index: int, seed: int) -> tuple[Subject, npt.NDArray[np.uint8]]:
    """Training picture number `index`: what it shows, and its pixels [IMAGE, IMAGE, 3]."""
    rng = numpy_stream(seed, "training picture", index)
    name, style = choose(rng)
    picture = paint(name, style, rng)
    pixels = np.asarray(picture.image.resize((IMAGE, IMAGE), Image.Resampling.BICUBIC))
    return Subject(name, style, picture.colour, picture.ground, picture.small), pixels


def paint_all(count: int, seed: int) -> tuple[list[Subject], npt.NDArray[np.uint8]]:
    """All training pictures, painted by every core: subjects, and pixels [count, IMAGE, IMAGE, 3]."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        painted = pool.map(partial(paint_one, seed=seed), range(count), chunksize=64)
    return [subject for subject, _ in painted], np.stack([pixels for _, pixels in painted])


def byte_symbols() -> list[str]:
    """The 256 symbols of byte-level BPE, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def text_pipeline(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's text pipeline around a byte-level BPE with word ends marked by </w>."""
    model = models.BPE(
        vocab=vocabulary,
        merges=list(merges),
        unk_token=END,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """Learn merges from the captions, then lay the vocabulary out as CLIP's is: bytes, word ends, merges, marks."""
    learner = text_pipeline({END: 0}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=1024, end_of_word_suffix="</w>", initial_alphabet=byte_symbols(), show_progress=False
    )
    learner.train_from_iterator(sentences, trainer)
    merges = [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(first + second for first, second in merges)]
    tokens = [*dict.fromkeys(tokens), START, END]
    tokenizer = text_pipeline({token: index for index, token in enumerate(tokens)}, merges)
    tokenizer.add_special_tokens([START, END])
    start, end = ((mark, tokens.index(mark)) for mark in (START, END))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return tokenizer


def make_config(tokenizer: Tokenizer) -> CLIPConfig:
    """The shape of the network: about 0.7 million parameters."""
    sizes = {"intermediate_size": 4 * WIDTH, "hidden_size": WIDTH, "num_attention_heads": 4}
    end = tokenizer.token_to_id(END)
    text = TextConfig(
        **sizes,
        num_hidden_layers=2,
        max_position_embeddings=POSITIONS,
        vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=tokenizer.token_to_id(START),
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = VisionConfig(**sizes, num_hidden_layers=4, image_size=IMAGE, patch_size=PATCH)
    return CLIPConfig(text, vision, projection_dim=64, preprocessor=PreprocessorConfig.for_size(IMAGE))


@mx.compile
def _sigmoid(x: mx.array) -> mx.array:
    """sigmoid(1.702 x) to 1e-4 by a rational tanh: exp is twenty times as slow as this on MLX's CPU backend."""
    z = mx.clip(0.851 * x, -4.97, 4.97)
    s = z * z
    tanh = z * (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + 28 * s)))
    return 0.5 + 0.5 * tanh


@mx.compile
def _slope(x: mx.array, sigmoid: mx.array) -> mx.array:
    return sigmoid * (1 + 1.702 * x * (1 - sigmoid))


@mx.custom_function
def fast_quick_gelu(x: mx.array) -> mx.array:
    """quick_gelu for training; the model that is saved names quick_gelu and is checked with it."""
    return x * _sigmoid(x)


@fast_quick_gelu.vjp
def _fast_quick_gelu_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * _slope(x, _sigmoid(x))


def initialise(model: CLIPModel, seed: int) -> None:
    """CLIP's initial weights: normal, narrower in the residual branches, and a logit scale of 1 / 0.07."""

    def draw(path: str, weight: mx.array) -> mx.array:
        if path == "logit_scale":
            return mx.array(math.log(1 / 0.07))
        if "norm" in path or path.endswith("bias"):
            return weight
        std = math.prod(weight.shape[1:]) ** -0.5
        if path.endswith("_embedding.weight") and "patch" not in path:
            std = 0.2 if "vision" in path else 0.02
        if "out_proj" in path or "fc2" in path:
            std *= 8**-0.5
        return std * mx.random.normal(weight.shape, key=stream(seed, "weights", path))

    model.update(tree_unflatten([(path, draw(path, weight)) for path, weight in tree_flatten(model.parameters())]))


def contrastive_loss(model: CLIPModel, pixels: mx.array, ids: mx.array, same: mx.array) -> mx.array:
    """CLIP's symmetric cross-entropy; equal captions of a batch share the right answer.

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
    """One step's pictures and captions; shapes as in `contrastive_loss`."""

    pixels: mx.array
    ids: mx.array
    same: mx.array


def prepare(pixels: npt.NDArray[np.uint8], config: PreprocessorConfig) -> mx.array:
    """Rescale and normalise [B, IMAGE, IMAGE, 3] as the shipped preprocessor says."""
    return (mx.array(pixels) / 255 - mx.array(config.mean)) / mx.array(config.std)


def batches(
    subjects: Sequence[Subject],
    pixels: npt.NDArray[np.uint8],
    encode: Callable[[list[str]], mx.array],
    *,
    steps: int,
    batch: int,
    config: CLIPConfig,
    seed: int,
) -> Iterator[Batch]:
    """Draw pictures without repetition within an epoch, and a fresh caption each time one is shown."""
    order: list[int] = []
    for step in range(steps):
        rng = numpy_stream(seed, "batch", step)
        if len(order) < batch:
            order = [int(index) for index in rng.permutation(len(subjects))]
        chosen, order = order[:batch], order[batch:]
        sentences = [caption(subjects[index], rng) for index in chosen]
        same = np.array([[a == b for b in sentences] for a in sentences], np.float32)
        mirrored = [pixels[index][:, ::-1] if rng.random() < 0.5 else pixels[index] for index in chosen]
        yield Batch(
            prepare(np.stack(mirrored), config.preprocessor),
            encode(sentences),
            mx.array(same / same.sum(1, keepdims=True)),
        )


def train(model: CLIPModel, examples: Iterator[Batch], *, steps: int, rate: float) -> Iterator[tuple[int, float]]:
    """AdamW with warm-up and a cosine; yields (step, loss)."""
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


def use_activation(model: CLIPModel, function: Callable[[mx.array], mx.array]) -> None:
    """Give every MLP of both towers this activation."""
    for tower in (model.text_model, model.vision_model):
        for layer in tower.encoder.layers:
            layer.mlp.activation = function
