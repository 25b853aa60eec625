"""Read and write a model folder: its configuration, and the weights of the towers that the caller names.

`model.safetensors` holds the weights under their attribute paths and in MLX's layout, so loading transforms nothing
and is strict: a weight that is missing, unused or of another shape is an error. The weights of a tower that the caller
did not name are not read. The others are evaluated when they are loaded, because a lazy array belongs to the thread
that made it. The file's metadata holds the weights' fingerprint.

>>> model = load_model("m", towers=("text",))  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.dtypes import STORED, computed_dtype, has_bfloat16
from sharpzo_mlx.clip.fingerprint import fingerprint_of, fingerprint_of_file
from sharpzo_mlx.clip.finite import all_finite
from sharpzo_mlx.clip.model import TOWERS, CLIPModel
from sharpzo_mlx.clip.safetensors_file import read_header, read_tensors
from sharpzo_mlx.clip.shapes import compare_sizes
from sharpzo_mlx.clip.tower_config import VisionConfig
from sharpzo_mlx.clip.vocabulary import read_json
from sharpzo_mlx.errors import UserError, notify, one_line, shown
from sharpzo_mlx.files import atomic_path, atomic_write

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
TOWER_PREFIXES = {
    "text": ("text_model.", "text_projection."),
    "vision": ("vision_model.", "visual_projection."),
}
SHARED, SUMMAND = "logit_scale", "logit_bias"
MAXIMUM_SCALE = 40.0  # of the logarithm; CLIP's is 4.6, and cosines times its exponential must not overflow
MAXIMUM_BIAS = 1e6  # SigLIP's is about -17
NAMED = 3  # how many weights an error names


def load_config(folder: str | Path) -> CLIPConfig:
    """Read the configuration of a model folder.

    Raises:
        UserError: the folder or its config.json is missing, or config.json describes no CLIP.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder; make one with `sharpzo-mlx convert`")
    try:
        return CLIPConfig.from_dict(read_json(folder / CONFIG))
    except UserError as error:
        message = str(error).replace("preprocessor_config.json: ", "config.json: preprocessor.")
        raise UserError(message if str(folder) in message else f"{folder}: {message}") from None


def load_model(folder: str | Path, towers: Sequence[str] = TOWERS, *, dtype: mx.Dtype | None = None) -> CLIPModel:
    """Load a model folder, strictly.

    Args:
        folder: a folder that `save_model` wrote.
        towers: "text", "vision" or both; only these are built, and only their weights are read.
        dtype: the dtype to cast floating weights to. None keeps the file's dtype, except that half precision
            becomes float32 where `sharpzo_mlx.clip.dtypes` says so: on the CPU, which is an order of magnitude faster
            there and no less exact; in a tower of convolutions; and in bfloat16 on a GPU that has no such type.

    Returns:
        The model, evaluated, for every thread; its layers are quantised where the file holds quantised weights.

    Raises:
        UserError: the folder is incomplete or damaged, its weights are not those that its config describes, or one
            of them holds NaN or infinity.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    model = build_model(load_config(folder), read_tensors(path), towers, dtype=dtype, where=path)
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, weight in weights.items():
        mx.eval(weight)  # one by one: only one weight at a time is in memory in the file's type and in another
        if not all_finite(weight):
            raise UserError(f"{path}: {name} holds NaN or infinity; the file is damaged: convert the checkpoint again")
    return model


def read_logit_scale(folder: str | Path) -> float:
    """Return the factor of cosines before the softmax, exp of the stored number, without reading a tower.

    Raises:
        UserError: the file is missing or damaged, lacks the number, or holds an impossible one.
    """
    path = Path(folder) / WEIGHTS
    scale = _read_number(path, SHARED)
    if not abs(scale) <= MAXIMUM_SCALE:
        raise UserError(f"{path}: {SHARED} is {scale:g}, which is no CLIP's; convert the checkpoint again")
    return math.exp(scale)


def read_logit_bias(folder: str | Path) -> float | None:
    """Return the summand of a SigLIP's logits, without reading a tower; None for a CLIP, which has none.

    Raises:
        UserError: the folder is incomplete or damaged, or the number is an impossible one.
    """
    if not load_config(folder).siglip:
        return None
    path = Path(folder) / WEIGHTS
    bias = _read_number(path, SUMMAND)
    if not abs(bias) <= MAXIMUM_BIAS:
        raise UserError(f"{path}: {SUMMAND} is {bias:g}, which is no SigLIP's; convert the checkpoint again")
    return bias


def _read_number(path: Path, name: str) -> float:
    tensors = read_tensors(path)
    if name not in tensors or tensors[name].size != 1:
        raise UserError(f"{path}: lacks {name}; convert the checkpoint again")
    return float(np.array(tensors[name].astype(mx.float32)).reshape(()))


def build_model(
    config: CLIPConfig,
    weights: Mapping[str, mx.array],
    towers: Sequence[str] = TOWERS,
    *,
    dtype: mx.Dtype | None = None,
    where: Path | None = None,
) -> CLIPModel:
    """Build a model from weights in memory, as strictly as `load_model` does from a folder.

    Args:
        config: the model's configuration, with its `quantization`.
        weights: attribute path -> array in MLX's layout; weights of towers that are not named are ignored.
        towers, dtype: see `load_model`.
        where: the file that an error names.

    Raises:
        UserError: the weights are not those that the config describes.
    """
    skipped = tuple(prefix for tower in TOWERS if tower not in towers for prefix in TOWER_PREFIXES[tower])
    chosen = {name: weight for name, weight in weights.items() if not name.startswith(skipped)}
    _compare_sizes(config, weights, where or Path(WEIGHTS))
    model = _prepare(config, chosen, towers, where or Path(WEIGHTS))
    dtypes = {name: dtype or _choose_dtype(name, weight, config) for name, weight in chosen.items()}
    model.load_weights([(name, _cast(weight, dtypes[name])) for name, weight in chosen.items()])
    if where and dtype is None and not has_bfloat16() and mx.bfloat16 in {one.dtype for one in chosen.values()}:
        notify(f"{where}: its bfloat16 weights are computed in float32, for this GPU has no bfloat16 of its own")
    model.eval()
    return model


def save_model(
    folder: str | Path, config: CLIPConfig, weights: Mapping[str, mx.array], tokenizer_json: str, card: str
) -> None:
    """Write a model folder; config.json comes last, so a folder that has one is whole.

    Args:
        folder: is made when it is missing; its files of the same names are replaced.
        config: the model's configuration, with its `quantization`.
        weights: attribute path -> array in MLX's layout; exactly the weights that the config describes.
        tokenizer_json: the result of `Tokenizer.to_json()`.
        card: the model card, Markdown.

    Raises:
        UserError: the weights are not those that the config describes.
    """
    folder = Path(folder)
    _compare_sizes(config, weights, folder)
    _prepare(config, weights, TOWERS, folder)
    metadata = {"format": "mlx", "fingerprint": fingerprint_of(config, weights)}
    with atomic_path(folder / WEIGHTS) as path:
        mx.save_safetensors(str(path), dict(sorted(weights.items())), metadata=metadata)
    atomic_write(folder / TOKENIZER, tokenizer_json)
    atomic_write(folder / CARD, card)
    atomic_write(folder / CONFIG, json.dumps(config.to_dict(), indent=4, sort_keys=True) + "\n")


def fingerprint(folder: str | Path) -> str:
    """Return the text that identifies a model's features, once it is certain that the weights are those it is of.

    Raises:
        UserError: the folder is incomplete or damaged, or holds other weights; see `fingerprint_of_file`.
    """
    return fingerprint_of_file(Path(folder) / WEIGHTS, load_config(folder))


def image_precision(folder: Path, config: CLIPConfig) -> str:
    """Return the types of the weights that images are encoded with on this device, such as "float16+float32"."""
    convolutional = not isinstance(config.vision, VisionConfig)
    dtypes = read_header(folder / WEIGHTS).dtypes
    stored = {STORED.get(dtype) for name, dtype in dtypes.items() if name.startswith(TOWER_PREFIXES["vision"])}
    computed = {str(computed_dtype(dtype, convolutional=convolutional)) for dtype in stored if dtype is not None}
    return "+".join(sorted(name.removeprefix("mlx.core.") for name in computed))


def _compare_sizes(config: CLIPConfig, weights: Mapping[str, mx.array], where: Path) -> None:
    try:
        compare_sizes(config, {name: weight.shape for name, weight in weights.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _prepare(config: CLIPConfig, weights: Mapping[str, mx.array], towers: Sequence[str], where: Path) -> CLIPModel:
    """Return the network without its weights, once it is certain that they are exactly its own.

    Nothing of the network is in memory yet, because MLX makes the first values of an array when they are asked for.
    """
    model = CLIPModel(config, towers)
    try:
        _quantise_like(model, config, weights)
    except ValueError as error:  # of MLX, for settings of quantisation that do not go together
        raise UserError(
            f"{where}: config.json: quantization: {shown(str(error))}; convert the checkpoint again"
        ) from None
    _check_weights(where, model, weights)
    return model


def _quantise_like(model: CLIPModel, config: CLIPConfig, weights: Mapping[str, mx.array]) -> None:
    """Quantise the layers whose scales are among the weights; a layer may have settings of its own."""
    settings = config.quantization
    if settings is None:
        return

    def chosen(path: str, module: nn.Module) -> bool | dict[str, Any]:
        own = settings.get(path)
        return (own if isinstance(own, dict) else True) if f"{path}.scales" in weights else False

    nn.quantize(
        model,
        settings.get("group_size", 64),
        settings.get("bits", 4),
        mode=settings.get("mode", "affine"),
        class_predicate=chosen,
    )


def _check_weights(path: Path, model: CLIPModel, weights: Mapping[str, mx.array]) -> None:
    expected = dict(tree_flatten(model.parameters()))
    missing = [name for name in expected if name not in weights]
    unused = [name for name in weights if name not in expected]
    there = [name for name in expected if name in weights]
    other = [name for name in there if weights[name].shape != expected[name].shape]
    kind = [name for name in there if _is_floating(weights[name]) != _is_floating(expected[name])]
    faults = {"lacks": missing, "has unused": unused, "has of another shape": other, "has of another type": kind}
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise UserError(
                f"{path}: {fault} {', '.join(one_line(name) for name in sorted(names)[:NAMED])}{more}; "
                "its config.json describes another model: convert the checkpoint again"
            )


def _choose_dtype(name: str, weight: mx.array, config: CLIPConfig) -> mx.Dtype:
    convolutional = not isinstance(config.vision, VisionConfig) and name.startswith(TOWER_PREFIXES["vision"])
    return computed_dtype(weight.dtype, convolutional=convolutional)


def _cast(weight: mx.array, dtype: mx.Dtype) -> mx.array:
    return weight.astype(dtype) if _is_floating(weight) else weight


def _is_floating(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))
