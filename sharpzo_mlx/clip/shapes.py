"""Compare the sizes in a configuration with those of a file's tensors before a network of these sizes is built.

Only tensors whose first sizes are a field of the configuration are looked at; the others are compared one by one when
the network stands. A tensor that is not there is not missed here.

>>> config = CLIPConfig.from_dict({"model_type": "clip"})
>>> compare_sizes(config, {"vision_model.embeddings.class_embedding": (1024,)})
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: its config.json describes another model: vision_config.hidden_size is 768, but \
vision_model.embeddings.class_embedding in the file has 1024; convert the checkpoint again
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.tower_config import ResNetConfig, SigLIPVisionConfig
from sharpzo_mlx.errors import UserError

LAYER = re.compile(
    r"(text_model\.encoder\.layers|vision_model\.(?:encoder\.layers|layer[1-4]|stages\.\d\.blocks))\.(\d{1,9})\."
)


def compare_sizes(config: CLIPConfig, shapes: Mapping[str, tuple[int, ...]], *, named: str = "") -> None:
    """Compare a configuration with the shapes of a file's tensors.

    Args:
        config: the configuration.
        shapes: attribute path or Hugging Face's name -> shape.
        named: what has named the network, such as "--arch ViT-B-32", where it was no config.json.

    Raises:
        UserError: a size or a number of layers differs; the message names the field and no file.
    """
    for field, value, name in _sizes(config):
        found = shapes.get(name, ())
        if found and found[0] != value:
            _refuse(f"{field} is {value}, but {name} in the file has {found[0]}", named)
    counts = _count_layers(shapes)
    for field, value, stack in _layers(config):
        if stack in counts and counts[stack] != value:
            _refuse(f"{field} is {value}, but the file has {counts[stack]} layers {stack}", named)


def _refuse(difference: str, named: str) -> None:
    if named:
        raise UserError(f"{named} is another network: {difference}; name the one that was trained")
    raise UserError(f"its config.json describes another model: {difference}; convert the checkpoint again")


def _sizes(config: CLIPConfig) -> list[tuple[str, int, str]]:
    """Return fields, their values, and the tensors whose first size they are."""
    text, vision = config.text, config.vision
    words, layer = "text_model.embeddings", "encoder.layers.0.mlp.fc1.bias"
    sizes = [
        ("text_config.vocab_size", text.vocab_size, f"{words}.token_embedding.weight"),
        ("text_config.max_position_embeddings", text.max_position_embeddings, f"{words}.position_embedding.weight"),
        ("text_config.hidden_size", text.hidden_size, "text_model.final_layer_norm.weight"),
        ("text_config.intermediate_size", text.intermediate_size, f"text_model.{layer}"),
    ]
    if isinstance(vision, FastViTConfig):
        return [*sizes, *_fastvit_sizes(vision)]
    if isinstance(vision, ResNetConfig):
        return [*sizes, ("vision_config.width", vision.width, "vision_model.bn3.weight")]
    pooled = isinstance(vision, SigLIPVisionConfig)
    of_width = "post_layernorm.weight" if pooled else "embeddings.class_embedding"
    return [
        *sizes,
        ("vision_config.hidden_size", vision.hidden_size, f"vision_model.{of_width}"),
        ("vision_config.intermediate_size", vision.intermediate_size, f"vision_model.{layer}"),
    ]


def _fastvit_sizes(vision: FastViTConfig) -> list[tuple[str, int, str]]:
    mlp = "vision_model.stages.{}.blocks.0.mlp.{}.bias"
    widths = enumerate(vision.widths)
    middle = ("vision_config.mlp_ratio times widths[0]", vision.mlp_ratio * vision.widths[0], mlp.format(0, "fc1"))
    return [middle, *((f"vision_config.widths[{i}]", width, mlp.format(i, "fc2")) for i, width in widths)]


def _layers(config: CLIPConfig) -> list[tuple[str, int, str]]:
    """Return fields, the numbers of layers that they give, and the beginning of these layers' names."""
    vision = config.vision
    text = ("text_config.num_hidden_layers", config.text.num_hidden_layers, "text_model.encoder.layers")
    if isinstance(vision, ResNetConfig | FastViTConfig):
        name = "vision_model.stages.{0}.blocks" if isinstance(vision, FastViTConfig) else "vision_model.layer{1}"
        stages = enumerate(vision.layers)
        return [text, *((f"vision_config.layers[{i}]", blocks, name.format(i, i + 1)) for i, blocks in stages)]
    return [text, ("vision_config.num_hidden_layers", vision.num_hidden_layers, "vision_model.encoder.layers")]


def _count_layers(names: Iterable[str]) -> dict[str, int]:
    """Return for each stack of layers that is in the file how many there are."""
    found = sorted({(match[1], int(match[2])) for name in names if (match := LAYER.match(name))})
    return {stack: len(list(layers)) for stack, layers in groupby(found, key=lambda layer: layer[0])}
