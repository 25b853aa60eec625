"""Take off what training loops put before the names of a CLIP's weights.

DataParallel adds `module.`, torch.compile `_orig_mod.`, Lightning the name of an attribute (`model.`), PEFT
`base_model.model.`, and they are put into each other. A CLIP has its logit scale beside its towers, so whatever stands
before that name is the wrapping.

>>> list(unwrap({"module.logit_scale": mx.array(4.6), "module.visual.proj": mx.zeros((2, 2))}))
['logit_scale', 'visual.proj']
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import mlx.core as mx

from sharpzo_mlx.errors import UserError, one_line

SCALE = "logit_scale"
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # of layers wrapped one by one
TOWERS = ("text_model.", "vision_model.", "visual.", "transformer.", "text.", "image_encoder.", "text_encoder.")
ADAPTER = (".lora_A.", ".lora_B.", ".lora_embedding_", ".base_layer.", ".modules_to_save.")
COUNTERS = ("n_averaged", "initted", "step")  # numbers beside averaged weights, of torch and of ema-pytorch
MERGE = "merge it into its base model first (merge_and_unload(), then save_pretrained), and convert that folder"


def unwrap(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Take off the prefix that the names of all weights share, and what wraps single layers.

    Args:
        weights: name -> tensor, as a file has them.

    Returns:
        The same tensors, without counters of averaging. Where the prefix leads to no CLIP, the names stay.

    Raises:
        UserError: a PEFT adapter is not merged, there are several models or weights of something else, or two weights
            would get one name; the message has no file name.
    """
    if any(part in name for name in weights for part in ADAPTER):
        raise UserError(f"a model with an adapter of PEFT inside: {MERGE}")
    plain = {name: _remove_inside(name) for name in weights if name not in COUNTERS or weights[name].size > 1}
    weights = {name: weights[name] for name in plain}
    _check_prefixes(plain.values())
    prefix = _find_prefix(plain.values())
    found = {plain[name].removeprefix(prefix): value for name, value in weights.items()}
    if len(found) < len(weights):
        raise UserError("two of its tensors differ in wrappers of their names alone; save the model without them")
    return found


def _remove_inside(name: str) -> str:
    for wrapper in INSIDE:
        name = name.replace(wrapper, "")
    return name.replace(".module.", ".")  # DataParallel around one tower; before all names it is part of the prefix


def _check_prefixes(names: Iterable[str]) -> None:
    """Refuse several models in one file, and a wrapped one beside weights of something else."""
    names = list(names)
    wrapped = sorted({name.removesuffix(SCALE) for name in names if name.endswith(f".{SCALE}")})
    if not wrapped or SCALE in names:
        return
    if len(wrapped) > 1:
        listed = ", ".join(one_line(one.rstrip("."), 40) for one in wrapped[:3])
        raise UserError(f"it holds several models ({listed}); save the one to use")
    if other := next((name for name in names if not name.startswith(wrapped[0])), None):
        raise UserError(
            f"its CLIP's names begin with {one_line(wrapped[0])!r}, and {one_line(other)!r} is of something else; save "
            "the CLIP's state dict alone"
        )


def _find_prefix(names: Iterable[str]) -> str:
    """Return what all names begin with and a CLIP's names stand behind, or an empty text."""
    names = list(names)
    scales = {name.removesuffix(SCALE) for name in names if name == SCALE or name.endswith(f".{SCALE}")}
    common = os.path.commonprefix(names)  # noqa: RUF071 (characters are meant)
    prefix = max((one for one in scales if common.startswith(one)), key=len, default=None)
    if prefix is None and not scales:
        prefix = common[: common.rfind(".") + 1]
        if common.startswith(TOWERS) or not any(name.removeprefix(prefix).startswith(TOWERS) for name in names):
            return ""
    return prefix or ""


def name_of_wrapping(before: Iterable[str], after: Iterable[str]) -> str:
    """Return what was taken off, for a notice; an empty text where nothing was."""
    first, unwrapped = next(iter(before), ""), next(iter(after), "")
    return "" if first == unwrapped else one_line(first.removesuffix(unwrapped) or "wrappers")
