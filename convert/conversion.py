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
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.checkpoint import CARD, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import DEFAULT_MODEL, default_model_folder

from . import card, safetensors_file, torch_pickle
from .huggingface import to_mlx
from .output import fill, resolve
from .sources import Source, find

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
LOGIT_SCALE = "logit_scale"


@dataclass(frozen=True)
class ConvertReport:
    """What was made.

    Attributes:
        folder: where it is.
        source: what it was made from, as the user gave it.
        parameters: how many numbers the model has.
        dtype: of its weights.
        bytes_before, bytes_after: of the weights files.
    """

    folder: Path
    source: str
    parameters: int
    dtype: str
    bytes_before: int
    bytes_after: int


def convert(
    source: str | Path | None = None,
    output: str | Path | None = None,
    *,
    dtype: str | None = None,
    force: bool = False,
    progress: bool = False,
) -> ConvertReport:
    """Make a model folder from a CLIP checkpoint.

    Args:
        source: Hugging Face CLIP folder, a weights file in one, or a hub name; None is the default model.
        output: folder to make; None is the default model's place, or "<last part of source>-mlx" here.
        dtype: "float32", "float16" or "bfloat16"; None keeps the checkpoint's own.
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
    config = _config(found)
    tokenizer = Tokenizer.from_folder(found.folder).to_json()
    weights, ours = _weights(found, config, None if dtype is None else DTYPES[dtype])
    with fill(folder) as unfinished:
        save_model(unfinished, config, weights, tokenizer, _card(found, dtype, ours))
    return ConvertReport(
        folder=folder,
        source=str(DEFAULT_MODEL if source is None else source),
        parameters=sum(array.size for array in weights.values()),
        dtype=str(weights[_WIDEST].dtype).removeprefix("mlx.core."),
        bytes_before=sum(path.stat().st_size for path in found.weights),
        bytes_after=(folder / "model.safetensors").stat().st_size,
    )


_WIDEST = "text_model.embeddings.token_embedding.weight"


def _default_output(source: str | Path | None) -> Path:
    if source is None:
        return default_model_folder()
    path = Path(source).expanduser()
    name = path.resolve().name if path.exists() else path.name
    return Path(f"{name.removesuffix('.safetensors').removesuffix('.bin')}-mlx")


def _config(found: Source) -> CLIPConfig:
    try:
        config = CLIPConfig.from_dict(found.config)
    except UserError as error:
        raise UserError(f"{found.folder}: {error}") from error
    if not isinstance(found.config.get("preprocessor"), dict):
        logging.getLogger("sharpzo_mlx").warning(
            f"{found.folder}: no preprocessor_config.json; using CLIP's own preprocessing at "
            f"{config.vision.image_size} pixels"
        )
    return config


def _weights(found: Source, config: CLIPConfig, dtype: mx.Dtype | None) -> tuple[dict[str, mx.array], bool]:
    """The weights in our layout and of the wanted dtype, and whether the files are such already."""
    given, ours = _read(found.weights)
    if config.quantization is None:
        parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
        expected = {name: array.shape for name, array in parameters.items()}
        try:
            given = to_mlx(given, expected, channels_last=ours)
        except UserError as error:
            raise UserError(f"{found.weights[0]}: {error}") from error
    weights = {name: given[name] for name in sorted(given)}
    given.clear()
    for name in weights:
        try:
            weights[name] = settle(weights[name], name, dtype)
        except UserError as error:
            raise UserError(f"{found.weights[0]}: {error}") from error
    return weights, ours


def _read(paths: tuple[Path, ...]) -> tuple[dict[str, mx.array], bool]:
    """All tensors of all shards, and whether a file has our fingerprint."""
    weights: dict[str, mx.array] = {}
    ours = False
    for path in paths:
        if path.suffix == ".safetensors":
            shard, metadata = safetensors_file.read(path)
            ours |= "fingerprint" in metadata
        else:
            shard = torch_pickle.read(path)
        if twice := weights.keys() & shard.keys():
            raise UserError(f"{path}: {min(twice)} is in another shard too; download the checkpoint again")
        weights |= shard
    return weights, ours


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


def _card(found: Source, dtype: str | None, ours: bool) -> str:
    """A new card; but the card of our own folder is kept when its weights are."""
    own = found.folder / CARD
    if ours and dtype is None and own.is_file():
        return own.read_text("utf-8")
    return card.write(found.name, dtype=dtype, licence=found.licence, on_hub=found.on_hub)
