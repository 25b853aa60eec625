"""The configuration of a CLIP or SigLIP checkpoint: the sizes of both towers, and how its images are prepared.

The fields have the names of the checkpoint's own `config.json`, and a field that a file leaves out has that library's
default, so an older or sparse file means here what it means elsewhere. A file that describes neither a CLIP nor a
SigLIP, or something that these towers cannot compute, is refused before anything is loaded; the error names the field.

>>> CLIPConfig.from_dict({"model_type": "clip", "text_config": {}, "vision_config": {}}).text.hidden_size
512
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from sharpzo_mlx.clip.config_checks import MOST_OTHERS, check_range, check_towers
from sharpzo_mlx.clip.fastvit_config import MOST_STAGES
from sharpzo_mlx.clip.tower_config import (
    IMAGE_KINDS,
    ImageConfig,
    SigLIPTextConfig,
    SigLIPVisionConfig,
    TextConfig,
    VisionConfig,
)
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

SIGLIP = "siglip"  # `model_type` of SigLIP, and of SigLIP 2 at fixed resolution
TOWERS_ALONE = ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model")
UNUSED_OF_SIGLIP = ("causal", "bos_token_id", "eos_token_id")  # the files hold CLIP's; the tokenizer knows the end
BITS, GROUP_SIZES, MODES = (2, 3, 4, 5, 6, 8), (16, 32, 64, 128), ("affine", "mxfp4", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class CLIPConfig:
    """The configuration: both towers, the width of their joint space, image preprocessing and quantisation."""

    text: TextConfig
    vision: ImageConfig
    projection_dim: int
    preprocessor: PreprocessorConfig
    quantization: dict[str, Any] | None = None

    @property
    def siglip(self) -> bool:
        """Whether it is a SigLIP, which has a summand of its logits and no projection of images."""
        return isinstance(self.text, SigLIPTextConfig)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> CLIPConfig:
        """Read a `config.json`, Hugging Face's or ours.

        Args:
            given: the parsed file. `text_config_dict` and `vision_config_dict`, which some old files hold
                beside `text_config` and `vision_config`, replace them as they do in transformers.

        Returns:
            The configuration, with CLIP's defaults for what the file leaves out.

        Raises:
            UserError: it describes no CLIP with towers that we have, or a field has an impossible value.
        """
        _refuse_other_models(given)
        siglip = given.get("model_type") == SIGLIP
        text = _read_text(_section(given, "text_config"), siglip)
        vision = _read_vision(_section(given, "vision_config"), siglip)
        described, size = _section(given, "preprocessor"), vision.image_size
        if siglip:
            preprocessor = PreprocessorConfig.from_dict(_squashed(described, size))
            projection = _read_width(given, vision)
        else:
            preprocessor = PreprocessorConfig.from_dict(described) if described else PreprocessorConfig.for_size(size)
            projection = _value(given.get("projection_dim"), 512, "projection_dim")
        quantization = _quantization(given.get("quantization"))
        check_towers(text, vision, projection, preprocessor.output_size)
        return cls(text, vision, projection, preprocessor, quantization)

    def to_dict(self) -> dict[str, Any]:
        """Return the `config.json` that `from_dict` reads back to an equal configuration."""
        if self.siglip:
            return self._siglip_dict()
        text = {"model_type": "clip_text_model", "projection_dim": self.projection_dim} | asdict(self.text)
        kind = next(name for name, kind in IMAGE_KINDS.items() if type(self.vision) is kind)
        vision = {"model_type": kind, "projection_dim": self.projection_dim} | asdict(self.vision)
        if self.text.causal:  # CLIP's rule, for which its own files have no field
            del text["causal"]
        written: dict[str, Any] = {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "text_config": text,
            "vision_config": vision,
            "preprocessor": self.preprocessor.to_dict(),
        }
        return self._with_quantization(written)

    def _siglip_dict(self) -> dict[str, Any]:
        text = {name: value for name, value in asdict(self.text).items() if name not in UNUSED_OF_SIGLIP}
        text |= {"model_type": "siglip_text_model", "projection_size": self.projection_dim}
        written: dict[str, Any] = {
            "architectures": ["SiglipModel"],
            "model_type": SIGLIP,
            "text_config": text,
            "vision_config": {"model_type": "siglip_vision_model"} | asdict(self.vision),
            "preprocessor": self.preprocessor.to_dict(),
        }
        return self._with_quantization(written)

    def _with_quantization(self, written: dict[str, Any]) -> dict[str, Any]:
        return written if self.quantization is None else written | {"quantization": self.quantization}


def _refuse_other_models(given: Mapping[str, Any]) -> None:
    sections = [name for name in ("text_config", "vision_config") if given.get(name) or given.get(f"{name}_dict")]
    kind = given.get("model_type") or ("clip" if sections else "nothing it names")
    kind = one_line(kind) if isinstance(kind, str) else shown(kind)
    if kind in TOWERS_ALONE:
        tower, name = "image" if "vision" in kind else "text", "SigLIP" if "siglip" in kind else "CLIP"
        raise UserError(f"config.json: only {name}'s {tower} tower; give a checkpoint that holds both towers")
    if kind in ("siglip2", "siglip2_vision_model", "siglip2_text_model"):
        raise UserError(
            "config.json: the model is a SigLIP 2 of the kind NaFlex (Siglip2Model), which is not supported; give one "
            "of fixed resolution, such as google/siglip2-base-patch16-224"
        )
    if kind not in ("clip", SIGLIP):
        raise UserError(f"config.json: the model is {kind}, not clip; give a CLIP checkpoint")
    if given.get("model_type") is None and len(sections) < 2:
        raise UserError(f"config.json: only {sections[0]}; give a CLIP checkpoint that holds both towers")


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = given.get(f"{name}_dict")
    section = given.get(name) if section is None else section
    if not isinstance(section or {}, Mapping):
        raise UserError(f"config.json: {name} is {shown(section)}; it must be an object of named values")
    return section or {}


Section = TypeVar("Section", bound=TextConfig | ImageConfig)


def _read_text(given: Mapping[str, Any], siglip: bool) -> TextConfig:
    if not siglip:
        return _read(TextConfig, given, "text_config")
    used = {name: value for name, value in given.items() if name not in UNUSED_OF_SIGLIP}
    return _read(SigLIPTextConfig, used, "text_config")


def _read_vision(given: Mapping[str, Any], siglip: bool) -> ImageConfig:
    if siglip:
        if given.get("vision_use_head") not in (None, True):
            raise UserError("config.json: vision_config.vision_use_head is false; give a SigLIP with its pooling head")
        return _read(SigLIPVisionConfig, given, "vision_config")
    return _read(IMAGE_KINDS.get(str(given.get("model_type")), VisionConfig), given, "vision_config")


def _read(kind: type[Section], given: Mapping[str, Any], name: str) -> Section:
    values = {}
    for field in fields(kind):
        assert field.default is not MISSING
        values[field.name] = _value(given.get(field.name), field.default, f"{name}.{field.name}")
    return kind(**values)


def _read_width(given: Mapping[str, Any], vision: ImageConfig) -> int:
    """Return the width of a SigLIP's features: its image tower's, to which the text tower's last product leads."""
    given = _section(given, "text_config")
    width: int = _value(given.get("projection_size"), vision.hidden_size, "text_config.projection_size")
    if width != vision.hidden_size:
        raise UserError(
            f"config.json: text_config.projection_size is {width}; it must be vision_config.hidden_size, "
            f"{vision.hidden_size}"
        )
    return width


def _squashed(described: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return a SigLIP's preprocessing with its library's defaults: squash to the size, no crop, -1 to 1."""
    half = [0.5, 0.5, 0.5]
    known: dict[str, Any] = {"size": {"height": size, "width": size}, "do_center_crop": False}
    known |= {"image_mean": half, "image_std": half}
    return known | {name: value for name, value in described.items() if value is not None}


def _value(given: Any, default: Any, name: str) -> Any:
    """Return a value of the default's type; null and absent mean the default, [n, n] means the square n."""
    if given is None:
        return default
    if isinstance(default, tuple):
        if not isinstance(given, (list, tuple)) or {type(item) for item in given[: MOST_STAGES + 1]} != {int}:
            raise UserError(f"config.json: {name} is {shown(given)}; expected whole numbers such as {default}")
        check_range(f"the length of {name}", len(given), 2, MOST_STAGES)
        return tuple(given)
    if isinstance(given, (list, tuple)) and given and all(item == given[0] for item in given):
        given = given[0]
    if isinstance(default, float) and type(given) is int and abs(given) <= MOST_OTHERS:
        given = float(given)
    if type(given) is not type(default):
        raise UserError(f"config.json: {name} is {shown(given)}; expected {type(default).__name__} such as {default!r}")
    return given


def _quantization(given: Any, name: str = "quantization") -> dict[str, Any] | None:
    """Return the settings of quantised layers; a layer may have an entry of its own, settings or true or false."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise UserError(f"config.json: {name} is {shown(given)}; it must be an object of named values")
    allowed = {"bits": BITS, "group_size": GROUP_SIZES, "mode": MODES}
    for field, value in given.items():
        if field in allowed:
            if isinstance(value, bool) or value not in allowed[field]:
                choices = ", ".join(map(str, allowed[field]))
                raise UserError(f"config.json: {name}.{field} is {shown(value)}; it must be one of {choices}")
        elif not isinstance(value, bool):
            _quantization(value if name == "quantization" else [], f"quantization.{one_line(field)}")
    return dict(given)
