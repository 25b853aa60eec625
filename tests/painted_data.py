"""A very small random CLIP and painted images on disk, for tests of the command line."""

from __future__ import annotations

import json
import string
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image
from tiny_settings import EIGHT_FLAGS

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel

CLASSES = {"red": (220, 30, 30), "green_leaf": (30, 200, 30), "blue": (30, 30, 220)}
QUICK = ["--query-budget", "60", *EIGHT_FLAGS, "--steps", "10", "--head", "none", "--seed", "0", "--no-report"]


def tokenizer_json() -> str:
    """A tokenizer of CLIP's kind that knows letters and punctuation, and no merges."""
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": []}
    model["end_of_word_suffix"] = "</w>"
    return json.dumps({"version": "1.0", "model": model})


def save_random_clip(folder: Path) -> Path:
    """A CLIP with random weights and its tokenizer, in our layout."""
    vocabulary = len(json.loads(tokenizer_json())["model"]["vocab"])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = tower | {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    vision = tower | {"image_size": 16, "patch_size": 8}
    given = {"model_type": "clip", "text_config": text, "vision_config": vision, "projection_dim": 32}
    config = CLIPConfig.from_dict(given)
    draw = np.random.default_rng(1)
    shapes = sorted(dict(tree_flatten(CLIPModel(config).parameters())).items())
    weights = {name: mx.array(0.2 * draw.standard_normal(w.shape)).astype(mx.float32) for name, w in shapes}
    weights["logit_scale"] = mx.array(3.0)
    save_model(folder, config, weights, tokenizer_json(), "# A model\n")
    return folder


def paint_photos(folder: Path) -> Path:
    """Noisy images of three colours: 4 + 2 + 6 a class, one of them unreadable."""
    draw = np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2), ("test", 6)):
        for name, colour in CLASSES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(-30, 30, (20, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "test" / "blue" / "broken.png").write_bytes(b"no image")
    return folder


def paint_overlapping(folder: Path) -> Path:
    """Three classes of fifteen images that are told apart with errors: colours that overlap."""
    draw = np.random.default_rng(1)
    for name, colour in (("cat", (150, 110, 100)), ("dog", (110, 150, 105)), ("barn owl", (105, 110, 150))):
        (folder / name).mkdir(parents=True)
        for number in range(15):
            pixels = np.array(colour) + draw.integers(-60, 60, 3) + draw.integers(-40, 40, (20, 26, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
