"""Convert a CLIP checkpoint into a model folder: find its files, read, rename and cast its tensors, save them.

Arguments and the output's place are checked before anything is read or downloaded. The folder is made beside its place
under a hidden name and renamed when it is complete, so it is whole or not there; a folder that it replaces (with
`force`) is removed last. Converting our own folder changes nothing.

>>> convert("openai/clip-vit-base-patch16", "m").folder  # doctest: +SKIP
PosixPath('m')
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
from mlx.utils import tree_flatten

from sharpzo_mlx import reading
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import CARD, WEIGHTS, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.siglip_tokenizer import read_tokenizer
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.tower_config import ResNetConfig
from sharpzo_mlx.clip.vocabulary import clip_vocabulary
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import DEFAULT_MODEL, default_model_folder, expand, models_folder, refuse_empty

from . import apple_names, card, kinds, mobileclip, open_clip_config, open_clip_names, siglip_names, wrapped_names
from .architectures import Told
from .fidelity import Cosines, Model, compare_images, compare_texts
from .layout import split_file
from .output import fill, resolve
from .quantisation import Quantisation
from .sources import NOTHING_TOLD, Source, find
from .weights import DTYPES, LOGIT_SCALE, bring_to_layout, name_of, read_files

Tensors: TypeAlias = dict[str, mx.array]
FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
MAXIMUM_CARD = 2**20  # bytes of a card that is kept
FIRST_TOKEN = "!"  # id 0, with which OpenAI and open_clip pad texts
WIDEST = "text_model.embeddings.token_embedding.weight"  # the weight whose dtype a report gives


@dataclass(frozen=True)
class ConvertReport:
    """The result of a conversion.

    Attributes:
        folder: the model folder.
        source: the checkpoint, as the user named it.
        parameters: how many numbers the model has.
        dtype: the dtype of its weights.
        bytes_before, bytes_after: sizes of the weights files.
        quantization: bits and group size; None where nothing is quantised.
        bits_per_weight: mean over all parameters, quantised or not.
        text_cosines, image_cosines: how near the features are to those of the model before quantising; None where this
            conversion did not quantise the tower.
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
    told: Told = NOTHING_TOLD,
    force: bool = False,
    progress: bool = False,
) -> ConvertReport:
    """Make a model folder from a CLIP checkpoint.

    Args:
        source: a folder in Hugging Face's, open_clip's or MLX's layout, a weights file in one, an archive of
            OpenAI's, a name on the hub, with a weights file's behind it if it has several, or a short name such as
            RN50; None is the default model.
        output: the folder to make; None is the place in the cache for a name, and "<last part of source>-mlx" in the
            current folder for a file or folder.
        dtype: "float32", "float16" or "bfloat16"; None keeps the checkpoint's own, or takes float32 where it mixes
            several.
        quantise: which matrices to quantise and to how many bits; None for none.
        told: the architecture and the activation of a training checkpoint, where no file beside it says them.
        force: replace an output that is a model folder of ours.
        progress: let downloads draw progress bars.

    Returns:
        A report of the model folder.

    Raises:
        UserError: the source or the output cannot be used; nothing half-written stays.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    refuse_empty(*(path for path in (source, output) if path is not None))
    folder = _choose_output(source, output, force=force)
    found = find(DEFAULT_MODEL if source is None else source, told=told, progress=progress)
    config, weights, ours = _model(found, None if dtype is None else DTYPES[dtype])
    quantise = _spare_convolutions(config, quantise)
    tokenizer = _tokenizer(found, config)
    if not config.text.causal:  # its words see the padding
        config = replace(config, text=replace(config.text, pad_token_id=tokenizer.pad_id))
    plain = Model(config, weights)
    made = plain if quantise is None else _quantised(found, plain, quantise)
    if terms := mobileclip.find_terms(config.vision, found.licence):
        notify(terms)
        found = replace(found, licence=mobileclip.LICENCE)
    with fill(folder, force=force) as unfinished:
        save_model(unfinished, made.config, made.weights, tokenizer.to_json(), _card(found, dtype, quantise, ours))
    towers = quantise.towers if quantise else ()
    parameters = _count_parameters(plain)
    return ConvertReport(
        folder=folder,
        source=str(DEFAULT_MODEL if source is None else source),
        parameters=parameters,
        dtype=name_of(made.weights[WIDEST].dtype),
        bytes_before=sum(path.stat().st_size for path in found.weights),
        bytes_after=(folder / WEIGHTS).stat().st_size,
        quantization=made.config.quantization,
        bits_per_weight=8 * sum(array.nbytes for array in made.weights.values()) / parameters,
        text_cosines=compare_texts(plain, made, tokenizer) if "text" in towers else None,
        image_cosines=compare_images(plain, made) if "vision" in towers else None,
    )


def default_output(source: str | Path | None) -> Path:
    """Return the folder that a conversion of `source` makes where the user names none.

    A name on the hub has its place in the cache, where `--model NAME` finds it; a file or folder gives its name to a
    folder in the current one.
    """
    if source is None:
        return default_model_folder()
    path = expand(source)
    if path.is_file():
        return Path(f"{path.stem if path.suffix in FILE_ENDINGS else path.name}-mlx")
    return Path(f"{path.resolve().name}-mlx") if path.exists() else catalog.place(split_file(str(source))[0])


def _choose_output(source: str | Path | None, output: str | Path | None, *, force: bool) -> Path:
    """Return the folder to make, once it is certain that it may be made."""
    if output is not None:
        return resolve(Path(output), force=force)
    folder = default_output(source)
    if source is not None and folder.parent == models_folder() and (folder / WEIGHTS).exists() and not force:
        name = split_file(str(source))[0]
        raise UserError(f"{source}: here already ({folder}); use it: --model {name}, or make it again with --force")
    return resolve(folder, force=force)


def _model(found: Source, dtype: mx.Dtype | None) -> tuple[CLIPConfig, dict[str, mx.array], bool]:
    """Read the configuration and the weights, in our layout and of one dtype; tell whether the files are ours."""
    config = _config(found, found.config) if found.config is not None else None
    # what is folded is read at its own precision: rounded branches would not add up to the rounded sum
    folded = mobileclip.may_be_one(found.weights[0]) if config is None else mobileclip.is_one(config.vision)
    given, ours = read_files(found.weights, None if folded else dtype)
    given = _unwrap(given, found.weights[0])
    if apple_names.has_apples_names(given):
        given = _rename(found, given, apple_names.rename)
    if config is None:
        config = _config(found, _config_of_archive(found, given))
    if config.siglip:
        given = siglip_names.rename(given)
    elif open_clip_names.has_open_clip_names(given):
        given = _rename(found, given, open_clip_names.rename)
    if not config.siglip:
        _drop_bias(given, found.weights[0])
    if (scale := given.get(LOGIT_SCALE)) is not None and scale.size == 1:  # of shape [1] where training was sharded
        given[LOGIT_SCALE] = scale.reshape(())
    where, named = found.weights[0], found.named
    return config, bring_to_layout(given, config, dtype=dtype, ours=ours, where=where, named=named), ours


def _unwrap(given: dict[str, mx.array], where: Path) -> dict[str, mx.array]:
    """Take off what wraps the names, with a notice, and refuse what the names say to be no CLIP."""
    try:
        plain = wrapped_names.unwrap(given)
        if words := kinds.describe_names(plain):
            raise UserError(words)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if wrapping := wrapped_names.name_of_wrapping(given, plain):
        notify(f"{where}: took {wrapping!r} off the names of its weights")
    return plain


def _drop_bias(given: dict[str, mx.array], where: Path) -> None:
    """Drop the bias of a CLIP that was trained with SigLIP's loss; a SigLIP keeps it, for the check that follows."""
    if "logit_bias" in given and "text_model.head.weight" not in given and "vision_model.head.probe" not in given:
        del given["logit_bias"]
        notify(
            f"{where}: a CLIP trained with SigLIP's loss; its logit_bias cancels out over the classes and is left out"
        )


def _config(found: Source, described: dict[str, Any]) -> CLIPConfig:
    try:
        config = CLIPConfig.from_dict(described)
    except UserError as error:
        raise UserError(f"{found.folder}: {error}") from error
    if not isinstance(described.get("preprocessor"), dict):
        kind = "SigLIP" if config.siglip else "CLIP"
        logging.getLogger("sharpzo_mlx").warning(
            f"{found.folder}: no preprocessor_config.json; using {kind}'s own preprocessing at "
            f"{config.vision.image_size} pixels"
        )
    return config


def _rename(found: Source, given: Tensors, rename: Callable[[Tensors], Tensors]) -> Tensors:
    try:
        return rename(given)
    except UserError as error:
        raise UserError(f"{found.weights[0]}: {error}") from None


def _config_of_archive(found: Source, given: dict[str, mx.array]) -> dict[str, Any]:
    shapes = {name: array.shape for name, array in given.items()}
    try:
        return mobileclip.config_from_shapes(shapes) or open_clip_config.config_from_shapes(shapes)
    except UserError as error:
        raise UserError(f"{found.weights[0]}: {error}") from None


def _tokenizer(found: Source, config: CLIPConfig) -> Tokenizer:
    """Return the folder's tokenizer, or CLIP's own where the checkpoint has none."""
    if found.own_tokenizer:
        return read_tokenizer(found.folder, config.text)
    openai = found.config is None or found.open_clip
    vocabulary = clip_vocabulary(padding=FIRST_TOKEN) if openai else clip_vocabulary()
    if config.siglip or config.text.vocab_size != len(vocabulary.tokens):
        raise UserError(
            f"{found.weights[0]}: no tokenizer.json beside it, and its text tower knows {config.text.vocab_size} "
            f"tokens, not CLIP's {len(vocabulary.tokens)}; give a folder with its tokenizer"
        )
    if not openai:
        notify(f"{found.folder}: no tokenizer; using CLIP's own vocabulary")
    return Tokenizer(replace(vocabulary, context_length=config.text.max_position_embeddings))


def _spare_convolutions(config: CLIPConfig, quantise: Quantisation | None) -> Quantisation | None:
    """Return the settings without the image tower where that is one of convolutions, without transformer layers."""
    kinds = {FastViTConfig: "FastViT", ResNetConfig: "ResNet"}
    kind = kinds.get(type(config.vision))
    if quantise is None or not quantise.vision or kind is None:
        return quantise
    notify(f"--quantize-vision: the image tower is a {kind}, whose convolutions are left alone")
    return replace(quantise, vision=False)


def _quantised(found: Source, plain: Model, quantise: Quantisation) -> Model:
    if plain.config.quantization is not None:
        raise UserError(f"{found.folder}: it is quantised already; quantise the original checkpoint")
    config = replace(plain.config, quantization=quantise.settings())
    return Model(config, quantise.apply(plain.weights))


def _count_parameters(model: Model) -> int:
    if model.config.quantization is None:
        return sum(array.size for array in model.weights.values())
    # the file holds packed words: count the numbers that they represent
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(model.config).parameters()))
    return sum(array.size for array in parameters.values())


def _card(found: Source, dtype: str | None, quantise: Quantisation | None, ours: bool) -> str:
    """Return a new card, or the card of our own folder where its weights stay as they are."""
    if ours and dtype is None and quantise is None:
        with suppress(OSError, ValueError):  # no card, or none that can be read
            return reading.read_text(found.folder / CARD, MAXIMUM_CARD)
    return card.write(found.name, dtype=dtype, quantise=quantise, licence=found.licence, on_hub=found.on_hub)
