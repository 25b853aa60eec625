"""The configuration of a CLIP checkpoint: the sizes of both towers, and how its images are prepared.

The fields have the names of CLIP's own `config.json`, and a field that a file leaves out has CLIP's default, so an
older or sparse file means here what it means elsewhere. A file that describes no CLIP, or something that these towers
cannot compute, is refused before anything is loaded; the error names the field.

>>> CLIPConfig.from_dict({"model_type": "clip", "text_config": {}, "vision_config": {}}).text.hidden_size
512
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeAlias, TypeVar

from sharpzo_mlx.clip.fastvit_config import FASTVIT, MOST_STAGES, FastViTConfig
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast")
RESNET = "clip_resnet_model"  # our `model_type` of a vision_config; Hugging Face has none for it
CONV_STEM = "clip_vision_conv_stem_model"  # ours too
MOST = {"num_hidden_layers": 200, "layers": 200, "vocab_size": 2**20, "image_size": 1024}
MOST |= {"max_position_embeddings": 2**13, "bos_token_id": 2**20, "eos_token_id": 2**20, "pad_token_id": 2**20}
MOST_OTHERS = 2**16  # of widths and all other whole numbers: far above every CLIP, and far below any memory
MOST_PATCHES = 2**14  # of an image
STEM_PATCH = 16  # pixels of a patch's side that a convolutional stem cuts
SMALLEST_EPS = 1e-12
BITS, GROUP_SIZES, MODES = (2, 3, 4, 5, 6, 8), (16, 32, 64, 128), ("affine", "mxfp4", "mxfp8", "nvfp4")
LEGACY_EOS = 2  # configs written before the id was corrected: the text ends at its largest id instead


@dataclass(frozen=True)
class TextConfig:
    """The sizes of the text tower; `causal` is false only for towers trained without CLIP's causal mask."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    vocab_size: int = 49408
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1
    causal: bool = True


@dataclass(frozen=True)
class VisionConfig:
    """The sizes of a ViT image tower; images and patches are square, in pixels."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def positions(self) -> int:
        """How many tokens it sees: the class token and one for each patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class ConvStemConfig(VisionConfig):
    """The sizes of a ViT whose patches three convolutions cut, as in MobileCLIP-B (`clip.conv_stem`)."""

    patch_size: int = 16


@dataclass(frozen=True)
class ResNetConfig:
    """The sizes of CLIP's modified ResNet as image tower; `layers` are the blocks of its four stages."""

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64  # channels behind the stem
    num_attention_heads: int = 32  # of the pooling
    image_size: int = 224
    num_channels: int = 3
    batch_norm_eps: float = 1e-5

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, which the pooling reads."""
        return 32 * self.width

    @property
    def positions(self) -> int:
        """How many tokens the pooling sees: the mean, and one for each pixel of the last stage (side: image / 32)."""
        return (self.image_size // 32) ** 2 + 1


ImageConfig: TypeAlias = VisionConfig | ResNetConfig | FastViTConfig
IMAGE_KINDS: dict[str, type[ImageConfig]] = {  # by the `model_type` of a vision_config
    "clip_vision_model": VisionConfig,
    CONV_STEM: ConvStemConfig,
    RESNET: ResNetConfig,
    FASTVIT: FastViTConfig,
}


@dataclass(frozen=True)
class CLIPConfig:
    """The configuration: both towers, the width of their joint space, image preprocessing and quantisation."""

    text: TextConfig
    vision: ImageConfig
    projection_dim: int
    preprocessor: PreprocessorConfig
    quantization: dict[str, Any] | None = None

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
        text = _read(TextConfig, _section(given, "text_config"), "text_config")
        vision = _read_vision(_section(given, "vision_config"))
        described = _section(given, "preprocessor")
        preprocessor = (
            PreprocessorConfig.from_dict(described) if described else PreprocessorConfig.for_size(vision.image_size)
        )
        projection = _value(given.get("projection_dim"), 512, "projection_dim")
        config = cls(text, vision, projection, preprocessor, _quantization(given.get("quantization")))
        _check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the `config.json` that `from_dict` reads back to an equal configuration."""
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
        if self.quantization is not None:
            written["quantization"] = self.quantization
        return written


def _refuse_other_models(given: Mapping[str, Any]) -> None:
    sections = [name for name in ("text_config", "vision_config") if given.get(name) or given.get(f"{name}_dict")]
    kind = given.get("model_type") or ("clip" if sections else "nothing it names")
    kind = one_line(kind) if isinstance(kind, str) else shown(kind)
    if kind in ("clip_vision_model", "clip_text_model"):
        tower = "image" if "vision" in kind else "text"
        raise UserError(f"config.json: only CLIP's {tower} tower; give a checkpoint that holds both towers")
    if kind != "clip":
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


def _read_vision(given: Mapping[str, Any]) -> ImageConfig:
    return _read(IMAGE_KINDS.get(str(given.get("model_type")), VisionConfig), given, "vision_config")


def _read(kind: type[Section], given: Mapping[str, Any], name: str) -> Section:
    values = {}
    for field in fields(kind):
        assert field.default is not MISSING
        values[field.name] = _value(given.get(field.name), field.default, f"{name}.{field.name}")
    return kind(**values)


def _value(given: Any, default: Any, name: str) -> Any:
    """Return a value of the default's type; null and absent mean the default, [n, n] means the square n."""
    if given is None:
        return default
    if isinstance(default, tuple):
        if not isinstance(given, (list, tuple)) or {type(item) for item in given[: MOST_STAGES + 1]} != {int}:
            raise UserError(f"config.json: {name} is {shown(given)}; expected whole numbers such as {default}")
        _check_range(f"the length of {name}", len(given), 2, MOST_STAGES)
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


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        expected = f"{least} or more" if value < least else f"{most} or less" if least < most else f"{most}"
        raise UserError(f"config.json: {name} is {shown(value)}; it must be {expected}")


def _check(config: CLIPConfig) -> None:
    for name, tower in (("text_config", config.text), ("vision_config", config.vision)):
        _check_tower(name, tower)
    vision = config.vision
    if isinstance(vision, FastViTConfig):
        vision.check()
    elif isinstance(vision, ResNetConfig):
        _check_range("the length of vision_config.layers", len(vision.layers), 4, 4)
        if vision.image_size < 32 or vision.width < 2 or vision.width % 2:
            raise UserError(
                f"config.json: vision_config has image_size {vision.image_size} and width {vision.width}; "
                "a ResNet needs 32 pixels or more and an even width"
            )
    elif vision.patch_size > vision.image_size:
        raise UserError(
            f"config.json: vision_config.patch_size is {vision.patch_size}, more than image_size, {vision.image_size}"
        )
    elif isinstance(vision, ConvStemConfig) and (vision.patch_size != STEM_PATCH or vision.hidden_size % 4):
        raise UserError(f"config.json: vision_config: a stem needs a patch_size of {STEM_PATCH} and a width of 4 n")
    if vision.positions > MOST_PATCHES + 1:
        raise UserError(
            f"config.json: vision_config cuts an image into {vision.positions - 1} patches, more than any CLIP"
        )
    _check_range("projection_dim", config.projection_dim, 1, MOST_OTHERS)
    if not config.text.causal and config.text.pad_token_id >= config.text.vocab_size:
        _check_range("text_config.pad_token_id", config.text.pad_token_id, 0, config.text.vocab_size - 1)
    produced = config.preprocessor.output_size
    if produced is not None and produced != (vision.image_size, vision.image_size):
        raise UserError(
            f"the preprocessor makes images of {produced[0]}x{produced[1]} pixels but the image tower takes "
            f"{vision.image_size}x{vision.image_size}; correct crop_size or image_size"
        )


def _check_tower(name: str, tower: TextConfig | ImageConfig) -> None:
    for field, value in asdict(tower).items():
        if field.endswith("_eps"):
            if not SMALLEST_EPS <= value < 1:
                raise UserError(f"config.json: {name}.{field} is {value}; it must lie between 0 and 1, as 1e-5 does")
        elif not isinstance(value, (str, bool)):
            least = 0 if field.endswith(("_id", "_stages")) or field == "num_hidden_layers" else 1
            for number in value if isinstance(value, tuple) else (value,):
                _check_range(f"{name}.{field}", number, least, MOST.get(field, MOST_OTHERS))
    if not isinstance(tower, TextConfig):
        _check_range(f"{name}.num_channels", tower.num_channels, 3, 3)
        _check_range(f"{name}.hidden_size", tower.hidden_size, 1, MOST_OTHERS)
    if isinstance(tower, FastViTConfig):
        return
    if tower.hidden_size % tower.num_attention_heads:
        raise UserError(
            f"config.json: {name}.hidden_size {tower.hidden_size} is not a multiple of its "
            f"num_attention_heads {tower.num_attention_heads}"
        )
    if not isinstance(tower, ResNetConfig) and tower.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"config.json: {name}.hidden_act is {shown(tower.hidden_act)}; supported are {', '.join(ACTIVATIONS)}"
        )
