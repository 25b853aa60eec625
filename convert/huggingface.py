"""From a Hugging Face CLIP's tensors to ours: a pure dict -> dict, strict, without effect on its own result.

The network's attribute tree is that checkpoint's key tree, so names stay. Two things change: buffers
that hold no weights are dropped (a closed list), and the patch convolution goes from [out, in, height,
width] to MLX's [out, height, width, in]. Every key must be used and every parameter must be given, or
the error says what the file is instead.

>>> to_mlx({"logit_scale": mx.array(4.6)}, {"logit_scale": ()})
{'logit_scale': array(4.6, dtype=float32)}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import mlx.core as mx

from sharpzo_mlx.errors import UserError

PATCHES = "vision_model.embeddings.patch_embedding.weight"
BUFFERS = frozenset({"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"})
BOTH_TOWERS = "give a checkpoint that holds both towers, such as openai/clip-vit-base-patch16"


def to_mlx(
    weights: Mapping[str, mx.array],
    expected: Mapping[str, tuple[int, ...]],
    *,
    channels_last: bool = False,
) -> dict[str, mx.array]:
    """Bring a checkpoint's tensors into the layout of `sharpzo_mlx.clip.model.CLIPModel`.

    Args:
        weights: by Hugging Face's names; the patch convolution in either layout.
        expected: name -> shape of every parameter, in MLX's layout.
        channels_last: how to read a patch convolution whose shape fits both layouts (3 x 3 patches).

    Returns:
        Exactly the expected names, sorted. Arrays are shared with the input, not copied.

    Raises:
        UserError: names are missing or unused, or a shape is another; the message has no file name.
    """
    given = {name: value for name, value in weights.items() if name not in BUFFERS or name in expected}
    _check_names(given.keys(), expected.keys())
    if PATCHES in given and not channels_last:
        given[PATCHES] = _channels_last(given[PATCHES], expected[PATCHES])
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise UserError(
                f"{name} has the shape {given[name].shape} but config.json asks for {shape}; "
                "the weights and config.json belong to different models: download both again"
            )
    return {name: given[name] for name in sorted(given)}


def _channels_last(patches: mx.array, expected: tuple[int, ...]) -> mx.array:
    """[out, in, h, w] -> [out, h, w, in], unless it can only be in that layout already."""
    if patches.ndim != 4:
        return patches
    out, *_, channels = expected
    if patches.shape == expected and patches.shape[1] != channels:
        return patches
    return patches.transpose(0, 2, 3, 1) if patches.shape[:2] == (out, channels) else patches


def _check_names(given: Collection[str], expected: Collection[str]) -> None:
    missing, unused = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unused:
        raise UserError(_other_model(given) or _difference(missing, unused))


def _other_model(given: Collection[str]) -> str | None:
    """What the file is, where its names tell."""

    def some(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in given)

    if some("visual.", "module.visual.", "transformer.resblocks."):
        return (
            "its tensors have OpenAI's or open_clip's own names; use the same model in Hugging Face's form, "
            "such as openai/clip-vit-base-patch16"
        )
    if some("vision_model.head.", "text_model.head.") or "logit_bias" in given:
        return "it is a SigLIP, not a CLIP; give a CLIP checkpoint, such as openai/clip-vit-base-patch16"
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
    return ", ".join(name[:80] for name in names[:2]) + (", ..." if len(names) > 2 else "")
