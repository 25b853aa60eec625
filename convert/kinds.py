"""Tell what a folder or a checkpoint is that looks like a CLIP and is none that can be converted.

People hand in what their tools have written: an adapter, a folder of checkpoints, a sentence-transformers model, a
relative of CLIP with other towers. Each is named here, with what to do.

>>> describe_config({"model_type": "chinese_clip"})
'it is a Chinese-CLIP, whose text tower is a RoBERTa: not supported; give a CLIP, such as \
openai/clip-vit-base-patch16'
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError, one_line, shown

from . import training
from .wrapped_names import MERGE

ADAPTER, MODULES = "adapter_config.json", "modules.json"
ADAPTER_WEIGHTS = "adapter_model."
PIPELINE = "model_index.json"  # of diffusers
INNER = re.compile(r"\d+_CLIPModel")  # sentence-transformers' folder of a CLIP
STEP = re.compile(r"checkpoint-(\d+)")  # of transformers' Trainer
RUN = "checkpoints"  # of open_clip's training
INSTEAD = "not supported; give a CLIP, such as openai/clip-vit-base-patch16"
_INSTEAD = INSTEAD.partition("; ")[2]
_DESCRIBED = tuple(  # below a folder, or one of the hub's cache, those of checkpoints have one of these
    f"{above}*/{name}" for above in ("", "snapshots/") for name in ("config.json", "open_clip_config.json")
)
FIXED = "give one of fixed resolution, such as google/siglip2-base-patch16-224"

_CHINESE = f"it is a Chinese-CLIP, whose text tower is a RoBERTa: {INSTEAD}"
_WORLD = f"it is a MetaCLIP 2, whose text tower has XLM-V's vocabulary: {INSTEAD}"
_NAFLEX = f"it is a SigLIP 2 with NaFlex, which takes images of any shape: not supported; {FIXED}"
_EVA02 = f"it is an EVA02-CLIP, whose image tower has rotary positions and SwiGLU: {INSTEAD}"
_TYPES = {
    "siglip2": _NAFLEX,
    "chinese_clip": _CHINESE,
    "metaclip_2": _WORLD,
    "altclip": f"it is an AltCLIP, whose text tower is an XLM-RoBERTa: {INSTEAD}",
    "jina_clip": f"it is a Jina CLIP, whose image tower is EVA02's: {INSTEAD}",
    "clipseg": f"it is a CLIPSeg, which segments images: {INSTEAD}",
    "align": f"it is an ALIGN: {INSTEAD}",
    "groupvit": f"it is a GroupViT: {INSTEAD}",
    "blip": f"it is a BLIP: {INSTEAD}",
}


def describe_config(config: Mapping[str, Any]) -> str | None:
    """Return what a Hugging Face `config.json` describes in place of a CLIP, and what to do, or None."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _TYPES:
        return _TYPES[kind]
    packed = config.get("quantization_config")
    if isinstance(packed, Mapping) and "quantization" not in config:  # MLX's own tools write both
        by = one_line(str(packed.get("quant_method", "another library")))
        return f"its weights are quantised by {by}; convert the original checkpoint, with --quantize to make it small"
    return None


def describe_open_clip(description: Mapping[str, Any]) -> str | None:
    """Return what an `open_clip_config.json` describes that has a name of its own, and what to do, or None."""
    model = description.get("model_cfg")
    sections = [model.get(name) for name in ("vision_cfg", "text_cfg")] if isinstance(model, Mapping) else []
    named = [str(value).lower() for part in sections if isinstance(part, Mapping) for value in part.values()]
    kinds = {"naflex": _NAFLEX, "eva02": _EVA02, "xlm-v": _WORLD, "chinese-roberta": _CHINESE}
    return next((words for mark, words in kinds.items() if any(mark in value for value in named)), None)


def describe_names(names: Collection[str]) -> str | None:
    """Return what a file's tensors are of in place of a CLIP, where their names alone say it, or None."""
    if any(name.startswith("visual.blocks.") and (".mlp.w1." in name or ".rope" in name) for name in names):
        return _EVA02
    words = any(name.startswith(("bert.encoder.", "text_model.encoder.layer.")) for name in names)
    if words and any(name.startswith(("visual.", "vision_model.")) for name in names):
        return _CHINESE
    return None


def find_inner(names: Collection[str]) -> str | None:
    """Return the name of the folder inside a sentence-transformers folder that holds its CLIP, or None.

    Args:
        names: the names in the folder, or of all files of a repository.
    """
    if "config.json" in names and MODULES not in names:
        return None
    return min({top for name in names if INNER.fullmatch(top := name.partition("/")[0])}, default=None)


def refuse_folder(folder: Path, here: Collection[str]) -> None:
    """Refuse a folder without weights of a whole model, where it is of a kind that has a name.

    Raises:
        UserError: it is an adapter, a folder of checkpoints, or another model of sentence-transformers.
    """
    if ADAPTER in here:
        raise UserError(f"{folder}: {describe_adapter(folder / ADAPTER)}")
    steps = {int(match[1]): name for name in here if (match := STEP.fullmatch(name))}
    if steps:
        raise UserError(f"{folder}: checkpoints of a Trainer: name one of them, such as {folder / steps[max(steps)]}")
    saved = training.list_files({path.name for path in (folder / RUN).glob("*.*")})
    if saved:
        raise UserError(
            f"{folder}: a run of open_clip: name one of its checkpoints, such as {folder / RUN / saved[-1]}"
        )
    if PIPELINE in here:
        raise UserError(f"{folder}: a pipeline of diffusers, with CLIP's text tower at most; {_INSTEAD}")
    if "zero_to_fp32.py" in here or any(name.endswith(".distcp") for name in here):
        raise UserError(f"{folder}: shards of a training on GPUs; save them as one state dict (zero_to_fp32.py)")
    if MODULES in here:
        raise UserError(f"{folder}: a sentence-transformers model without a CLIP; {_INSTEAD}")
    described = (path.parent for mark in _DESCRIBED for path in folder.glob(mark))
    if inside := sorted({path for path in described if path.is_dir()}, key=lambda path: (path.stat().st_mtime, path)):
        raise UserError(f"{folder}: no checkpoint itself; name the folder of one, such as {inside[-1]}")


def describe_adapter(path: Path) -> str:
    """Return what to do with the adapter of PEFT that an `adapter_config.json` describes."""
    try:
        config = reading.read_json(path)
    except (OSError, ValueError):
        config = None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    of = f" of {one_line(base)}" if isinstance(base, str) and base else ""
    kind = config.get("peft_type") if isinstance(config, dict) else None
    named = f" ({shown(kind, 20)[1:-1]})" if isinstance(kind, str) else ""
    return f"an adapter of PEFT{named}{of}, no whole model: {MERGE}"
