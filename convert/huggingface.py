"""Bring a Hugging Face CLIP's tensors into our layout: a pure function from dict to dict.

The network's attribute tree is that checkpoint's key tree, so names stay. Two things change: buffers that hold no
weights are dropped (a closed list), and convolutions go from [out, in, height, width] to MLX's [out, height, width,
in]. Every key must be used and every parameter must be given, or the error says what the file is instead. The function
changes nothing about its own result.

>>> to_mlx({"logit_scale": mx.array(4.6)}, {"logit_scale": ()})
{'logit_scale': array(4.6, dtype=float32)}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import mlx.core as mx

from sharpzo_mlx.errors import UserError, one_line

PATCHES = "vision_model.embeddings.patch_embedding.weight"
BUFFERS = frozenset({"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"})
TIMM_REMEDY = "use open_clip_model.safetensors of the same repository, which holds both towers"
BOTH_TOWERS = "give a checkpoint that holds both towers, such as openai/clip-vit-base-patch16"


def to_mlx(
    weights: Mapping[str, mx.array],
    expected: Mapping[str, tuple[int, ...]],
    *,
    channels_last: bool = False,
) -> dict[str, mx.array]:
    """Bring a checkpoint's tensors into the layout of `sharpzo_mlx.clip.model.CLIPModel`.

    Args:
        weights: Hugging Face's name -> tensor; all convolutions have one layout, either of the two.
        expected: name -> shape of every parameter, in MLX's layout.
        channels_last: the layout of a convolution whose shape fits both (3 x 3 patches).

    Returns:
        Exactly the expected names, sorted. Arrays are shared with the input, not copied.

    Raises:
        UserError: names are missing or unused, or a shape differs; the message has no file name.
    """
    given = {name: value for name, value in weights.items() if name not in BUFFERS or name in expected}
    _check_names(given.keys(), expected.keys())
    kernels = {name: shape for name, shape in expected.items() if len(shape) == 4}
    # one kernel that can only be channels last decides for those that could be either
    decided = any(given[name].shape == shape and shape[1] != shape[3] for name, shape in kernels.items())
    if not channels_last and not decided:
        given |= {name: _channels_last(given[name], shape) for name, shape in kernels.items()}
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise UserError(
                f"{name} has the shape {given[name].shape} but config.json asks for {shape}; "
                "the weights and config.json belong to different models: download both again"
            )
    return {name: given[name] for name in sorted(given)}


def _channels_last(kernel: mx.array, expected: tuple[int, ...]) -> mx.array:
    """Transpose [out, in, h, w] to [out, h, w, in]; other shapes stay, for the check that follows."""
    out, *_, channels = expected
    fits = kernel.ndim == 4 and kernel.shape[:2] == (out, channels)
    return kernel.transpose(0, 2, 3, 1) if fits else kernel


def _check_names(given: Collection[str], expected: Collection[str]) -> None:
    missing, unused = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unused:
        raise UserError(_other_model(given, expected) or _difference(missing, unused))


def _other_model(given: Collection[str], expected: Collection[str]) -> str | None:
    """Return what the file is instead of the model that is expected, as far as its names say so, or None."""

    def some(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in given)

    if some("text_decoder.", "text_model.decoder."):
        return "it is a CoCa, not a CLIP; give a CLIP checkpoint, such as openai/clip-vit-base-patch16"
    if some("blocks.", "patch_embed.", "cls_token", "attn_pool.", "stages.", "stem."):
        return f"it is timm's image tower alone; {TIMM_REMEDY}"
    if (some("vision_model.head.", "text_model.head.") or "logit_bias" in given) and "logit_bias" not in expected:
        return "it holds a SigLIP's weights, but config.json describes another model; download both again"
    if some("vision_model.") and not some("text_model."):
        return f"only CLIP's image tower; {BOTH_TOWERS}"
    if some("text_model.") and not some("vision_model."):
        return f"only CLIP's text tower; {BOTH_TOWERS}"
    if not some("text_model.", "vision_model."):
        example = min(given, default="nothing")
        return f"it is no CLIP (it holds {example[:80]!r}); give one, such as openai/clip-vit-base-patch16"
    return None


def _difference(missing: list[str], unused: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_examples(missing)})")
    if unused:
        parts.append(f"{len(unused)} are not of the CLIP that config.json describes ({_examples(unused)})")
    return f"{' and '.join(parts)}; config.json and the weights must be of one model: download both again"


def _examples(names: list[str]) -> str:
    return ", ".join(one_line(name) for name in names[:2]) + (", ..." if len(names) > 2 else "")
