"""Read a checkpoint's tensors and bring them to our layout and one dtype.

Tensors of safetensors files are lazy, and each is cast after its layout was changed. Tensors of other files are cast
as they are read. Each cast is evaluated at once, so that its source can be freed: memory stays near the model's size.

>>> settle(mx.array([1.0]), "text_projection.weight", mx.float16).dtype
mlx.core.float16
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.finite import all_finite
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.safetensors_file import read_header, read_tensors
from sharpzo_mlx.clip.shapes import compare_sizes
from sharpzo_mlx.errors import UserError, one_line

from . import npz, torch_file
from .huggingface import to_mlx

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
LOGIT_SCALE = "logit_scale"
LOGITS = (LOGIT_SCALE, "logit_bias")  # they scale and shift every logit: always float32


def name_of(dtype: mx.Dtype) -> str:
    """Return a dtype's name, such as "float32"."""
    return str(dtype).removeprefix("mlx.core.")


def read_files(paths: tuple[Path, ...], dtype: mx.Dtype | None) -> tuple[dict[str, mx.array], bool]:
    """Read all tensors of a checkpoint.

    Args:
        paths: the weights file, or its shards.
        dtype: the dtype to cast tensors to that are not lazy, so that none is ever in memory at both precisions;
            None keeps their own.

    Returns:
        Name -> tensor, and whether a file has our fingerprint.

    Raises:
        UserError: a file is missing, damaged or hostile, or two shards hold the same tensor.
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
            raise UserError(f"{path}: {one_line(min(twice))} is in another shard too; download the checkpoint again")
        weights |= shard
    return weights, ours


def bring_to_layout(
    given: dict[str, mx.array],
    config: CLIPConfig,
    *,
    dtype: mx.Dtype | None,
    ours: bool,
    where: Path,
    named: str = "",
) -> dict[str, mx.array]:
    """Bring a checkpoint's tensors to our layout and to one dtype.

    Args:
        given: Hugging Face's name -> tensor; emptied, so that each tensor can be freed once it is cast.
        config: the model's configuration; the tensors must be exactly its weights.
        dtype: the dtype of the result; None keeps the checkpoint's own, or takes float32 where it mixes several.
        ours: whether the tensors come from a model folder of ours.
        where: the file that errors and notices name.
        named: what has named the network, as for `compare_sizes`.

    Returns:
        Attribute path -> array, evaluated, sorted by name.

    Raises:
        UserError: the tensors are not those of the model, or hold NaN, infinity or whole numbers.
    """
    try:
        compare_sizes(config, {name: array.shape for name, array in given.items()}, named=named)
        laid_out = given
        if config.quantization is None:
            parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
            expected = {name: array.shape for name, array in parameters.items()}
            laid_out = to_mlx(given, expected, channels_last=ours)
        weights = {name: laid_out[name] for name in sorted(laid_out)}
        laid_out.clear()
        given.clear()  # nothing else may hold a tensor, or none could be freed once it is cast
        common = _common_dtype(weights, where) if dtype is None else dtype
        for name in weights:  # the logits' factor and summand keep a dtype of their own
            weights[name] = settle(weights[name], name, dtype if name in LOGITS else common)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return weights


def _common_dtype(weights: Mapping[str, mx.array], where: Path) -> mx.Dtype:
    """Return the one dtype of a checkpoint's weights, or float32, which holds all others exactly, where they differ."""
    floating = (
        array.dtype for name, array in weights.items() if name not in LOGITS and mx.issubdtype(array.dtype, mx.floating)
    )
    dtypes = sorted(set(floating), key=str)
    if len(dtypes) == 1:
        return dtypes[0]
    if dtypes:
        names = " and ".join(name_of(dtype) for dtype in dtypes)
        logging.getLogger("sharpzo_mlx").warning(
            f"{where}: mixes {names}; all become float32, exactly (--dtype float16 is half the size)"
        )
    return mx.float32


def narrow(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Cast a tensor as it is read; scalars, and values that do not fit, stay as they are for `settle`."""
    if array.size == 1 or not mx.issubdtype(array.dtype, mx.floating):
        return array
    cast = array.astype(dtype)
    return cast if all_finite(cast) else array


def settle(array: mx.array, name: str, dtype: mx.Dtype | None) -> mx.array:
    """Cast one weight and evaluate it, so that its source can be freed.

    Args:
        array: the weight, of any shape.
        name: the weight's name; the logits' factor and summand become float32.
        dtype: the dtype to cast to; None keeps the array's own.

    Raises:
        UserError: the file or the cast gives NaN or infinity, or the file has whole numbers where weights belong.
    """
    if not mx.issubdtype(array.dtype, mx.floating):
        if name.endswith((".weight", ".bias", ".probe", *LOGITS)) and array.dtype != mx.uint32:  # uint32: quantised
            raise UserError(f"{one_line(name)} holds {array.dtype}, not floating numbers; use the original checkpoint")
        return array
    wanted = array.dtype if dtype is None else mx.float32 if name in LOGITS else dtype
    cast = array.astype(wanted)
    if all_finite(cast):
        return cast
    if all_finite(array):
        raise UserError(f"{one_line(name)} has values beyond {wanted}'s range; choose --dtype bfloat16 or float32")
    raise UserError(f"{one_line(name)} holds NaN or infinity; the file is damaged, download it again")
