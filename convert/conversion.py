"""Convert a CLIP checkpoint into a model folder: find, read, rename, cast, save; whole or not at all.

Arguments and the output's place are checked before anything is read or downloaded. Tensors are cast one
by one, so memory stays near the model's own size. The folder is made beside its place under a hidden
name, and renamed when it is complete; what stood there (with `force`) is removed last. Converting our
own folder changes nothing.

>>> convert("openai/clip-vit-base-patch16", "m").folder  # doctest: +SKIP
PosixPath('m')
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.checkpoint import CARD, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.safetensors_file import read_header, read_tensors
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import clip_vocabulary
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import DEFAULT_MODEL, default_model_folder

from . import card, catalog, npz, open_clip, torch_file
from .fidelity import Cosines, Model, compare_images, compare_texts
from .huggingface import to_mlx
from .output import fill, resolve
from .quantisation import Quantisation
from .sources import Source, find

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
LOGIT_SCALE = "logit_scale"
FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".npz")
FIRST_TOKEN = "!"  # number 0, with which OpenAI and open_clip fill a text up


@dataclass(frozen=True)
class ConvertReport:
    """What was made.

    Attributes:
        folder: where it is.
        source: what it was made from, as the user gave it.
        parameters: how many numbers the model has.
        dtype: of its weights.
        bytes_before, bytes_after: of the weights files.
        quantization: bits and group size, None where nothing is quantised.
        bits_per_weight: of all parameters together, quantised or not.
        text_cosines, image_cosines: of the features to those of the model before quantising; None where the tower
            was not quantised by this conversion.
    """

    folder: Path
    source: str
    parameters: int
    dtype: str
    bytes_before: int
    bytes_after: int
    quantization: dict[str, Any] | None
    bits_per_weight: float
    text_cosines: Cosines | None = None
    image_cosines: Cosines | None = None


def convert(
    source: str | Path | None = None,
    output: str | Path | None = None,
    *,
    dtype: str | None = None,
    quantise: Quantisation | None = None,
    force: bool = False,
    progress: bool = False,
) -> ConvertReport:
    """Make a model folder from a CLIP checkpoint.

    Args:
        source: a folder in Hugging Face's, open_clip's or MLX's layout, a weights file in one, an archive of
            OpenAI's, a hub name, or a short name such as RN50; None is the default model.
        output: folder to make; None is the default model's place, or "<last part of source>-mlx" here.
        dtype: "float32", "float16" or "bfloat16"; None keeps the checkpoint's own, or float32 where it mixes several.
        quantise: which matrices to quantise and to how many bits; None for none.
        force: replace an output that is a model folder of ours.
        progress: let downloads draw their bars.

    Returns:
        What was made.

    Raises:
        UserError: anything that the user can mend; nothing half-written stays.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    folder = resolve(Path(output) if output is not None else _default_output(source), force=force)
    found = find(DEFAULT_MODEL if source is None else source, progress=progress)
    config, weights, ours = _model(found, None if dtype is None else DTYPES[dtype])
    tokenizer = _tokenizer(found, config)
    if not config.text.causal:  # what fills a text up is seen by its words
        config = replace(config, text=replace(config.text, pad_token_id=tokenizer.pad_id))
    plain = Model(config, weights)
    made = plain if quantise is None else _quantised(found, plain, quantise)
    with fill(folder) as unfinished:
        save_model(unfinished, made.config, made.weights, tokenizer.to_json(), _card(found, dtype, quantise, ours))
    towers = quantise.towers if quantise else ()
    parameters = sum(array.size for name, array in weights.items() if not name.endswith((".scales", ".biases")))
    if config.quantization is not None:  # the packed words of a folder that was quantised before
        parameters = _unpacked(config)
    return ConvertReport(
        folder=folder,
        source=str(DEFAULT_MODEL if source is None else source),
        parameters=parameters,
        dtype=_name(made.weights[_WIDEST].dtype),
        bytes_before=sum(path.stat().st_size for path in found.weights),
        bytes_after=(folder / "model.safetensors").stat().st_size,
        quantization=made.config.quantization,
        bits_per_weight=8 * sum(array.nbytes for array in made.weights.values()) / parameters,
        text_cosines=compare_texts(plain, made, tokenizer) if "text" in towers else None,
        image_cosines=compare_images(plain, made) if "vision" in towers else None,
    )


_WIDEST = "text_model.embeddings.token_embedding.weight"


def _default_output(source: str | Path | None) -> Path:
    if source is None:
        return default_model_folder()
    path = Path(source).expanduser()
    if path.is_file():
        return Path(f"{path.stem if path.suffix in FILE_ENDINGS else path.name}-mlx")
    name = path.resolve().name if path.exists() else catalog.resolve(str(source)).rpartition("/")[2]
    return Path(f"{name}-mlx")


def _model(found: Source, dtype: mx.Dtype | None) -> tuple[CLIPConfig, dict[str, mx.array], bool]:
    """Configuration, weights in our layout and of the wanted dtype, and whether the files are such already."""
    config = _config(found, found.config) if found.config is not None else None
    given, ours = _read(found.weights, dtype)
    if config is None:
        config = _config(found, _config_of_archive(found, given))
    if open_clip.is_open_clip(given):
        given = open_clip.rename(given)
    return config, _weights(found, config, given, dtype=dtype, ours=ours), ours


def _config(found: Source, described: dict[str, Any]) -> CLIPConfig:
    try:
        config = CLIPConfig.from_dict(described)
    except UserError as error:
        raise UserError(f"{found.folder}: {error}") from error
    if not isinstance(described.get("preprocessor"), dict):
        logging.getLogger("sharpzo_mlx").warning(
            f"{found.folder}: no preprocessor_config.json; using CLIP's own preprocessing at "
            f"{config.vision.image_size} pixels"
        )
    return config


def _config_of_archive(found: Source, given: dict[str, mx.array]) -> dict[str, Any]:
    try:
        return open_clip.config_from_shapes({name: array.shape for name, array in given.items()})
    except UserError as error:
        raise UserError(f"{found.weights[0]}: {error}") from None


def _tokenizer(found: Source, config: CLIPConfig) -> Tokenizer:
    """The folder's own, or CLIP's where none belongs to the checkpoint."""
    if found.own_tokenizer:
        return Tokenizer.from_folder(found.folder)
    tokenizer = Tokenizer(clip_vocabulary(padding=FIRST_TOKEN))
    if config.text.vocab_size != tokenizer.eos_id + 1:
        raise UserError(
            f"{found.weights[0]}: a text tower of {config.text.vocab_size} tokens, not of CLIP's "
            f"{tokenizer.eos_id + 1}; give a folder with its tokenizer"
        )
    return tokenizer


def _quantised(found: Source, plain: Model, quantise: Quantisation) -> Model:
    if plain.config.quantization is not None:
        raise UserError(f"{found.folder}: is quantised already; quantise the original checkpoint")
    config = replace(plain.config, quantization=quantise.settings())
    return Model(config, quantise.apply(plain.weights))


def _unpacked(config: CLIPConfig) -> int:
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    return sum(array.size for array in parameters.values())


def _weights(
    found: Source, config: CLIPConfig, given: dict[str, mx.array], *, dtype: mx.Dtype | None, ours: bool
) -> dict[str, mx.array]:
    """The weights in our layout and of the wanted dtype; `given` is emptied on the way."""
    try:
        laid_out = given
        if config.quantization is None:
            parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
            expected = {name: array.shape for name, array in parameters.items()}
            laid_out = to_mlx(given, expected, channels_last=ours)
        weights = {name: laid_out[name] for name in sorted(laid_out)}
        laid_out.clear()
        given.clear()  # nothing else may hold a tensor, or none could be let go once it is cast
        common = _own_dtype(found, weights) if dtype is None else dtype
        for name in weights:  # the logit scale is no part of what has one dtype
            weights[name] = settle(weights[name], name, dtype if name == LOGIT_SCALE else common)
    except UserError as error:
        raise UserError(f"{found.weights[0]}: {error}") from error
    return weights


def _own_dtype(found: Source, weights: Mapping[str, mx.array]) -> mx.Dtype:
    """The one dtype of a checkpoint's weights; float32, which holds all of the others exactly, where they differ."""
    floating = (
        array.dtype
        for name, array in weights.items()
        if name != LOGIT_SCALE and mx.issubdtype(array.dtype, mx.floating)
    )
    dtypes = sorted(set(floating), key=str)
    if len(dtypes) == 1:
        return dtypes[0]
    if dtypes:
        names = " and ".join(_name(dtype) for dtype in dtypes)
        logging.getLogger("sharpzo_mlx").warning(
            f"{found.weights[0]}: mixes {names}; all become float32, exactly (--dtype float16 is half the size)"
        )
    return mx.float32


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def _read(paths: tuple[Path, ...], dtype: mx.Dtype | None) -> tuple[dict[str, mx.array], bool]:
    """All tensors of all shards, and whether a file has our fingerprint.

    Those of safetensors are lazy; others are brought to `dtype` one by one, so that they never are in memory at
    both precisions.
    """
    prepare = None if dtype is None else partial(narrow, dtype=dtype)
    weights: dict[str, mx.array] = {}
    ours = False
    for path in paths:
        if path.suffix == ".safetensors":
            shard = read_tensors(path)
            ours |= "fingerprint" in read_header(path).metadata
        else:
            shard = npz.read(path, prepare) if path.suffix == ".npz" else torch_file.read(path, prepare)
        if twice := weights.keys() & shard.keys():
            raise UserError(f"{path}: {min(twice)} is in another shard too; download the checkpoint again")
        weights |= shard
    return weights, ours


def narrow(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Cast a tensor as it is read, but leave to `settle` what does not fit, and to scalars their precision."""
    if array.size == 1 or not mx.issubdtype(array.dtype, mx.floating):
        return array
    cast = array.astype(dtype)
    return cast if mx.all(mx.isfinite(cast)).item() else array


def settle(array: mx.array, name: str, dtype: mx.Dtype | None) -> mx.array:
    """Cast one weight and evaluate it, so that its source can be let go.

    Args:
        array: any shape.
        name: of the weight; the logit scale stays float32, since its exponential scales every logit.
        dtype: None keeps the array's own.

    Raises:
        UserError: a NaN or infinity in the file or from the cast, or whole numbers where weights belong.
    """
    if not mx.issubdtype(array.dtype, mx.floating):
        if name.endswith((".weight", ".bias", LOGIT_SCALE)) and array.dtype != mx.uint32:  # uint32: quantised
            raise UserError(f"{name} holds {array.dtype}, not floating numbers; use the original checkpoint")
        return array
    wanted = array.dtype if dtype is None else mx.float32 if name == LOGIT_SCALE else dtype
    cast = array.astype(wanted)
    if mx.all(mx.isfinite(cast)).item():
        return cast
    if mx.all(mx.isfinite(array)).item():
        raise UserError(f"{name} has values beyond {wanted}'s range; choose --dtype bfloat16 or float32")
    raise UserError(f"{name} holds NaN or infinity; the file is damaged, download it again")


def _card(found: Source, dtype: str | None, quantise: Quantisation | None, ours: bool) -> str:
    """A new card; but the card of our own folder is kept when its weights are."""
    own = found.folder / CARD
    if ours and dtype is None and quantise is None and own.is_file():
        return own.read_text("utf-8")
    return card.write(found.name, dtype=dtype, quantise=quantise, licence=found.licence, on_hub=found.on_hub)
