"""The record of a checkpoint's image preprocessing, read from CLIP's `preprocessor_config.json`.

The steps are those of transformers' CLIPImageProcessor, in its order: RGB, resize, centre crop, rescale, normalise. A
step that the file switches off is `None` here. `sharpzo_mlx.images.load` carries the steps out.

>>> PreprocessorConfig.from_dict({"size": 224, "crop_size": 224}).crop
(224, 224)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharpzo_mlx.errors import UserError, shown

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # Pillow's code
MOST_PIXELS = 2048  # of a side; CLIP's largest take 560, and a batch of pictures is in memory at once
LARGEST = 1e6  # of a mean, and of a standard deviation and its inverse


@dataclass(frozen=True)
class PreprocessorConfig:
    """The parameters of image preprocessing; sizes are in pixels.

    Attributes:
        resize: the shortest edge to resize to, or (height, width), or None for no resizing.
        crop: (height, width) of the centre crop, or None for none.
        resample: Pillow's code of the filter (3 is bicubic).
        rescale_factor: the factor of 8-bit values, or None for no rescaling.
        mean, std: of the three channels after rescaling, or None for no normalisation.
        do_convert_rgb: whether images are converted to RGB first.
    """

    resize: int | tuple[int, int] | None = 224
    crop: tuple[int, int] | None = (224, 224)
    resample: int = BICUBIC
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, float, float] | None = CLIP_MEAN
    std: tuple[float, float, float] | None = CLIP_STD
    do_convert_rgb: bool = True

    @classmethod
    def for_size(cls, size: int) -> PreprocessorConfig:
        """Return CLIP's own preprocessing for square images with sides of `size` pixels."""
        return cls(resize=size, crop=(size, size))

    @property
    def output_size(self) -> tuple[int, int] | None:
        """The (height, width) of every prepared image; None where it depends on the image's own shape."""
        if self.crop is not None:
            return self.crop
        return self.resize if isinstance(self.resize, tuple) else None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> PreprocessorConfig:
        """Read a `preprocessor_config.json`; fields that it leaves out have CLIP's defaults.

        Args:
            given: the parsed file; sizes may be numbers (the older spelling) or objects.

        Raises:
            UserError: a size, filter or number is not one that CLIP's processor takes, or is beyond every CLIP's.
        """
        normalised = _switch(given, "do_normalize")
        return cls(
            resize=_resize(_given(given, "size", 224)) if _switch(given, "do_resize") else None,
            crop=_height_width(_given(given, "crop_size", 224)) if _switch(given, "do_center_crop") else None,
            resample=_resample(_given(given, "resample", BICUBIC)),
            rescale_factor=_number(given, "rescale_factor", 1 / 255) if _switch(given, "do_rescale") else None,
            mean=_channels(given, "image_mean", CLIP_MEAN) if normalised else None,
            std=_channels(given, "image_std", CLIP_STD) if normalised else None,
            do_convert_rgb=_switch(given, "do_convert_rgb"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record in the file's spelling; `from_dict` reads it back to an equal record."""
        written: dict[str, Any] = {
            "do_convert_rgb": self.do_convert_rgb,
            "do_resize": self.resize is not None,
            "do_center_crop": self.crop is not None,
            "do_rescale": self.rescale_factor is not None,
            "do_normalize": self.mean is not None,
            "resample": self.resample,
        }
        if isinstance(self.resize, tuple):
            written["size"] = {"height": self.resize[0], "width": self.resize[1]}
        elif self.resize is not None:
            written["size"] = {"shortest_edge": self.resize}
        if self.crop is not None:
            written["crop_size"] = {"height": self.crop[0], "width": self.crop[1]}
        if self.rescale_factor is not None:
            written["rescale_factor"] = self.rescale_factor
        if self.mean is not None and self.std is not None:
            written |= {"image_mean": list(self.mean), "image_std": list(self.std)}
        return written


def _given(given: Mapping[str, Any], name: str, default: Any) -> Any:
    value = given.get(name)
    return default if value is None else value


def _switch(given: Mapping[str, Any], name: str) -> bool:
    value = _given(given, name, True)
    if value not in (0, 1) or isinstance(value, float):
        raise _refusal(name, value, "true or false")
    return bool(value)


def _refusal(name: str, value: Any, expected: str) -> UserError:
    return UserError(f"preprocessor_config.json: {name} is {shown(value)}; expected {expected}")


def _pixels(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PIXELS:
        raise _refusal(name, value, f"a number of pixels, 1 to {MOST_PIXELS}")
    return value


def _resize(size: Any) -> int | tuple[int, int]:
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return _pixels(size["shortest_edge"], "size.shortest_edge")
    if isinstance(size, Mapping):
        return _height_width(size, "size")
    return _pixels(size, "size")


def _height_width(size: Any, name: str = "crop_size") -> tuple[int, int]:
    if isinstance(size, Mapping):
        return _pixels(size.get("height"), f"{name}.height"), _pixels(size.get("width"), f"{name}.width")
    return _pixels(size, name), _pixels(size, name)


def _resample(code: Any) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or code not in range(6):
        raise _refusal("resample", code, "Pillow's code of a filter, 0 to 5")
    return int(code)


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    return _real(_given(given, name, default), name, 1 / LARGEST)


def _real(value: Any, name: str, least: float) -> float:
    """Return a number between `least` and `LARGEST`, which NaN and infinity are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= LARGEST:
        raise _refusal(name, value, f"a number from {least:g} to {LARGEST:g}")
    return float(value)


def _channels(given: Mapping[str, Any], name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    values = _given(given, name, default)
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise _refusal(name, values, "three numbers, one a channel")
    least = 1 / LARGEST if name == "image_std" else -LARGEST
    red, green, blue = (_real(value, name, least) for value in values)
    return red, green, blue
